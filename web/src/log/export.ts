// Export of a trace with its sub-traces: as lines that `tracewatch import` takes, or as one page that opens offline.
// The forms are those of `tracewatch export`.

import { ApiError, fetchLines, fetchTemplate, fetchTrace } from "../net/api";
import type { Trace } from "../net/protocol";

const PLACE = "<!-- traces -->"; // in the template

/** The fields that an import needs; of a trimmed trace, also the state with which its log begins. */
async function header(trace: Trace): Promise<object> {
  const {
    trace_id,
    task,
    agent_type,
    parent_trace_id,
    parent_goal_id,
    root_trace_id,
    created_at,
    metadata,
    first_event_id,
    last_event_id,
  } = trace;
  const kept = {
    trace_id,
    task,
    agent_type,
    parent_trace_id,
    parent_goal_id,
    root_trace_id,
    created_at,
    metadata,
    first_event_id,
    last_event_id,
    ...(trace.session_id && { session_id: trace.session_id }),
    ...(trace.user_id && { user_id: trace.user_id }),
    ...(trace.tags.length && { tags: trace.tags }),
    ...(trace.links && { links: trace.links }),
  };
  return first_event_id > 1 ? { ...kept, base: base(await fetchTrace(trace_id, first_event_id - 1)) } : kept;
}

function base({
  trace,
  goal_tree,
  sub_traces,
  pending_inputs,
  steps,
  in_flight,
}: Awaited<ReturnType<typeof fetchTrace>>): object {
  const {
    status,
    current_goal_id,
    updated_at,
    completed_at,
    summary,
    error,
    total_messages,
    total_tokens,
    total_cost,
    usage,
    models,
    started_at,
    ended_at,
    active_at,
  } = trace;
  return {
    ...{ status, current_goal_id, updated_at, completed_at, summary, error, total_messages, total_tokens, total_cost },
    ...{ ...(usage && { usage }), models, started_at, ended_at, active_at },
    ...{ goals: goal_tree.goals, sub_traces, pending_inputs, steps, in_flight }, // the last two are seldom there
  };
}

/** The trace and its sub-traces, to any depth, each behind its parent. */
async function* subtree(traceId: string): AsyncGenerator<Awaited<ReturnType<typeof fetchTrace>>> {
  const snapshot = await fetchTrace(traceId);
  yield snapshot;
  for (const sub of snapshot.sub_traces) {
    try {
      yield* subtree(sub.trace_id);
    } catch (error) {
      // A parent's log goes on naming a sub-trace that was deleted
      if (!(error instanceof ApiError && error.status === 404)) throw error;
    }
  }
}

export async function exportLines(traceId: string): Promise<void> {
  const parts: BlobPart[] = [];
  for await (const { trace } of subtree(traceId))
    parts.push(
      `${JSON.stringify({ trace: await header(trace) })}\n`,
      await fetchLines(trace.trace_id, trace.first_event_id - 1),
    );
  save(new Blob(parts, { type: "application/x-ndjson" }), `${traceId}.ndjson`);
}

export async function exportPage(traceId: string): Promise<void> {
  const template = await fetchTemplate();
  const at = template.indexOf(PLACE);
  if (at < 0) throw new Error("this server's viewer can't be exported");
  // In JSON a < stands in texts only, where it may be escaped. So no text can end the element
  const safe = (text: string) => text.replaceAll("<", "\\u003c");
  const parts: BlobPart[] = [template.slice(0, at)];
  for await (const { trace, goal_tree, sub_traces, pending_inputs, steps } of subtree(traceId)) {
    const first = { trace: await header(trace), snapshot: { trace, goal_tree, sub_traces, pending_inputs, steps } };
    parts.push(safe(`${JSON.stringify(first)}\n`), safe(await fetchLines(trace.trace_id, trace.first_event_id - 1)));
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
