// Export: as lines that `tracewatch import` takes, or as one page that opens offline. The same forms as the command line's.

import { fetchLines, fetchTemplate, fetchTrace } from "./api";
import type { Trace } from "./types";

const PLACE = "<!-- traces -->"; // in the template

function header(trace: Trace): object {
  const { trace_id, task, agent_type, parent_trace_id, parent_goal_id, root_trace_id, created_at, metadata, first_event_id } = trace;
  return { trace_id, task, agent_type, parent_trace_id, parent_goal_id, root_trace_id, created_at, metadata, first_event_id };
}

/** The trace and its sub-traces, to any depth, each behind its parent. */
async function* subtree(traceId: string): AsyncGenerator<Awaited<ReturnType<typeof fetchTrace>>> {
  const snapshot = await fetchTrace(traceId);
  yield snapshot;
  for (const sub of snapshot.sub_traces) yield* subtree(sub.trace_id);
}

export async function exportLines(traceId: string): Promise<void> {
  const parts: BlobPart[] = [];
  for await (const { trace } of subtree(traceId)) parts.push(`${JSON.stringify({ trace: header(trace) })}\n`, await fetchLines(trace.trace_id));
  save(new Blob(parts, { type: "application/x-ndjson" }), `${traceId}.ndjson`);
}

export async function exportPage(traceId: string): Promise<void> {
  const template = await fetchTemplate();
  const at = template.indexOf(PLACE);
  if (at < 0) throw new Error("this server's viewer can't be exported");
  // In JSON a < stands in texts only, where it may be written so; thus nothing in them ends the element
  const safe = (text: string) => text.replaceAll("<", "\\u003c");
  const parts: BlobPart[] = [template.slice(0, at)];
  for await (const { trace, goal_tree, sub_traces, pending_inputs } of subtree(traceId)) {
    const first = { trace: header(trace), snapshot: { trace, goal_tree, sub_traces, pending_inputs } };
    parts.push(safe(`${JSON.stringify(first)}\n`), safe(await fetchLines(trace.trace_id)));
  }
  parts.push(template.slice(at + PLACE.length));
  save(new Blob(parts, { type: "text/html" }), `${traceId}.html`);
}

function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
