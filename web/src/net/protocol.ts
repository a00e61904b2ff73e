// The protocol's words as types: what the server sends (docs/protocol.md, sections 2 and 4).

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type TraceStatus = "running" | "waiting" | "idle" | "completed" | "failed" | "stopped" | "lost";
export type GoalStatus = "pending" | "in_progress" | "completed" | "abandoned";

/** A sum over traces that would be higher is this, and marked. */
export const MAX_TOTAL = 1e14;

/** What model calls used; cached and reasoning tokens are parts of the input and the output. */
export interface Usage {
  input_tokens?: number;
  output_tokens?: number;
  cache_read_tokens?: number;
  cache_write_tokens?: number;
  reasoning_tokens?: number;
}

/** Sums. A cost of null is unknown: no message that counts had one. */
export interface Totals {
  total_messages: number;
  total_tokens: number;
  total_cost: number | null;
  usage?: Usage;
  saturated?: true;
}

/** What a trace has to do with another one. */
export interface Link {
  trace_id: string;
  message_id?: string | null;
  kind: string;
}

export interface Trace extends Totals {
  trace_id: string;
  task: string;
  agent_type: string;
  parent_trace_id: string | null;
  parent_goal_id: string | null;
  root_trace_id: string;
  status: TraceStatus;
  is_running: boolean;
  current_goal_id: string | null;
  first_event_id: number;
  last_event_id: number;
  tree_totals: Totals;
  created_at: string;
  updated_at: string;
  completed_at: string | null;
  started_at: string;
  ended_at: string | null;
  active_at: string;
  summary: string | null;
  error: Json;
  session_id: string | null;
  user_id: string | null;
  tags: string[];
  models: string[];
  links?: Link[];
  metadata: { [key: string]: Json };
  damaged?: string[]; // the names of its fields that can't be read
}

/** Whether of a run no times are known: then those of its import say nothing. */
export const hasNoTimes = (trace: { metadata?: { [key: string]: Json } } | undefined): boolean =>
  trace?.metadata?.times === "none";

export interface Stats {
  message_count: number;
  total_tokens: number;
  total_cost: number | null;
  preview: string;
  usage?: Usage;
}

export interface Goal {
  id: string;
  description: string;
  reason: string | null;
  parent_id: string | null;
  type: "normal" | "agent_call";
  status: GoalStatus;
  summary: string | null;
  self_stats: Stats;
  cumulative_stats: Stats;
  sub_trace_ids: string[];
  step_id?: string;
  started_at?: string | null;
  ended_at?: string | null;
}

export interface GoalTree {
  mission: string;
  current_id: string | null;
  goals: Goal[];
  as_of_event_id: number;
}

export interface SubTrace {
  trace_id: string;
  parent_goal_id: string | null;
  agent_type: string;
  task: string;
  status: TraceStatus;
  summary: string | null;
  error?: Json;
  stats: Totals;
  parent_step_id?: string;
  parent_message_id?: string;
  started_event_id: number;
  started_at?: string | null;
  ended_at?: string | null;
}

/** What a run does that is neither goal nor message: a node of a graph, a turn, a retry. */
export interface Step {
  id: string;
  name: string;
  kind: string;
  goal_id: string | null;
  step_id: string | null;
  message_id: string | null;
  status: "running" | "completed" | "failed" | "stopped";
  event_id: number; // that added it
  started_at: string;
  ended_at: string | null;
  input?: string | null;
  output?: string | null;
  error?: Json;
}

export interface PendingInput {
  request_id: string;
  question: string;
  options?: Json[] | null;
  schema?: Json;
  answerable?: "here" | "terminal";
  permission?: Json; // what an agent asks leave for
  resumable?: boolean;
  goal_id: string | null;
  expires_at: string | null;
  requested_at: string;
  cut?: string[]; // the keys whose values are previews
  damaged?: true; // it can't be read
}

export interface Message {
  message_id: string;
  role: string;
  content: Json;
  sequence: number;
  goal_id: string | null;
  description: string;
  status: "streaming" | "running" | "complete";
  tokens?: number;
  usage?: Usage;
  cost?: number;
  cost_source?: "given" | "priced";
  duration_ms?: number;
  started_at?: string;
  ended_at?: string | null;
  model?: string;
  agent?: string;
  counted?: false;
  step_id?: string;
  left?: boolean; // an agent went back to what was before it and on from there
  request?: Request;
  damaged?: true; // it can't be read: nothing but its ids is known
}

/** What a model call was asked. Items may be references (log/prompt.ts). */
export interface Request {
  params?: Json;
  params_of?: string;
  tools?: Json[];
  input?: Json[];
  digest?: string;
}

/** All of it, put together. `exact` is null where nothing says whether it is. */
export interface Prompt {
  params?: Json;
  tools?: Json[];
  input?: Json[];
  exact: boolean | null;
  lost: string[];
}

/** A stored event. Its payload depends on `event`, so it is read with care. */
export interface StoredEvent {
  event: string;
  event_id: number;
  trace_id: string;
  ts: string;
  occurred_at?: string;
  [key: string]: any;
}

/** A frame that is no stored event. */
export interface Frame {
  event: string;
  trace_id?: string;
  // The rest depends on `event`
  [key: string]: any;
}

/** The state in `connected` and `snapshot`, and what `GET /api/traces/{id}` answers. */
export interface Snapshot {
  trace: Trace;
  goal_tree: GoalTree;
  sub_traces: SubTrace[];
  pending_inputs: PendingInput[];
  steps?: Step[];
  in_flight?: number; // model calls that are not counted yet
  epoch?: string; // of the log
}

export const ENDED: ReadonlySet<string> = new Set(["completed", "failed", "stopped"]);
export const isEnded = (status: string): boolean => ENDED.has(status);

/** Big or binary content, which stands beside the log. */
export interface Reference {
  blob: string; // its SHA-256
  bytes: number;
  media_type: string;
  preview?: Json;
  [key: string]: Json | undefined;
}

/** Whether a value refers to content beside the log (protocol, section 2). */
export function isReference(value: unknown): value is Reference {
  if (!isObject(value)) return false;
  const { blob, bytes, media_type } = value;
  return (
    typeof blob === "string" &&
    typeof media_type === "string" &&
    Number.isInteger(bytes) &&
    (bytes as number) >= 0 &&
    /^[0-9a-f]{64}$/.test(blob)
  );
}

const MOST_LOOKED_AT = 5000; // values, for references in them

/** The references in a value, each content once: a picture may stand deep in a block. */
export function referencesIn(value: unknown): Reference[] {
  const found = new Map<string, Reference>();
  const waiting: unknown[] = [value];
  for (let n = 0; waiting.length && n < MOST_LOOKED_AT; n++) {
    const one = waiting.pop();
    if (isReference(one)) found.set(one.blob, one);
    else if (typeof one === "object" && one !== null) waiting.push(...Object.values(one).reverse());
  }
  return [...found.values()];
}

/** What rows and lists show of a value: of a reference its preview. */
export function previewed(value: Json | undefined): Json | undefined {
  if (!isReference(value)) return value;
  return typeof value.preview === "string" ? value.preview : value.media_type;
}

export function isObject(value: unknown): value is { [key: string]: Json } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
