// Export of a trace with its sub-traces: as lines that `tracewatch import` takes, or as one page that opens offline.
// The forms are those of `tracewatch export`.

import { ApiError, fetchContent, fetchLines, fetchTemplate, fetchTrace } from "../net/api";
import { type Reference, referencesIn, type StoredEvent, type Trace } from "../net/protocol";

const PLACE = "<!-- traces -->"; // in the template
const LINE_BYTES = 768 * 1024; // of a content, in a line
const PAGE_BYTES = 16 * 1024 * 1024; // of all contents in a page that is one file
const NAMES = '"blob":"';

/** The fields that an import needs; of a trimmed trace, also the state with which its log begins. */
async function header(trace: Trace, lines: string): Promise<object> {
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
  // When it began its first event says, unless that was given
  const first = lines ? (JSON.parse(lines.slice(0, lines.indexOf("\n"))) as StoredEvent) : null;
  if (first_event_id === 1 && trace.started_at !== (first ? (first.occurred_at ?? first.ts) : created_at))
    Object.assign(kept, { started_at: trace.started_at });
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

/** The stored events as lines, each content before the first event that names it, as far as there is `room`. */
async function withContents(trace: Trace, text: string, room = { bytes: Number.POSITIVE_INFINITY }): Promise<string[]> {
  if (!text.includes(NAMES)) return [text];
  const parts: string[] = [];
  const told = new Set<string>();
  for (const line of text.split("\n")) {
    for (const ref of line.includes(NAMES) ? referencesIn(JSON.parse(line)) : []) {
      if (told.has(ref.blob) || ref.bytes > room.bytes) continue;
      told.add(ref.blob);
      room.bytes -= ref.bytes;
      parts.push(...(await contentLines(trace.trace_id, ref)));
    }
    if (line) parts.push(`${line}\n`);
  }
  return parts;
}

async function contentLines(traceId: string, ref: Reference): Promise<string[]> {
  const data = new Uint8Array(await (await fetchContent(traceId, ref.blob)).arrayBuffer());
  const lines: string[] = [];
  for (let offset = 0; !offset || offset < data.length; offset += LINE_BYTES) {
    const said = { sha256: ref.blob, bytes: data.length, media_type: ref.media_type, offset };
    lines.push(`${JSON.stringify({ blob: { ...said, data: base64(data.subarray(offset, offset + LINE_BYTES)) } })}\n`);
  }
  return lines;
}

function base64(data: Uint8Array): string {
  let text = "";
  for (let at = 0; at < data.length; at += 8190) text += btoa(String.fromCharCode(...data.subarray(at, at + 8190)));
  return text;
}

export async function exportLines(traceId: string): Promise<void> {
  const parts: BlobPart[] = [];
  for await (const { trace } of subtree(traceId)) {
    const lines = await fetchLines(trace.trace_id, trace.first_event_id - 1);
    parts.push(`${JSON.stringify({ trace: await header(trace, lines) })}\n`, ...(await withContents(trace, lines)));
  }
  save(new Blob(parts, { type: "application/x-ndjson" }), `${traceId}.ndjson`);
}

export async function exportPage(traceId: string): Promise<void> {
  const template = await fetchTemplate();
  const at = template.indexOf(PLACE);
  if (at < 0) throw new Error("this server's viewer can't be exported");
  // In JSON a < stands in texts only, where it may be escaped. So no text can end the element
  const safe = (text: string) => text.replaceAll("<", "\\u003c");
  const parts: BlobPart[] = [template.slice(0, at)];
  const room = { bytes: PAGE_BYTES };
  for await (const { trace, goal_tree, sub_traces, pending_inputs, steps } of subtree(traceId)) {
    const lines = await fetchLines(trace.trace_id, trace.first_event_id - 1);
    const snapshot = { trace, goal_tree, sub_traces, pending_inputs, steps };
    const head = safe(`${JSON.stringify({ trace: await header(trace, lines), snapshot })}\n`);
    parts.push(head, ...(await withContents(trace, lines, room)).map(safe));
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
