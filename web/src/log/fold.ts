// The fold: a trace's state, and how one stored event changes it. The rules are those of tracewatch/model/state.py.
//
// Rule 1: only stored events are applied, and only their own values are put in; the server has decided the rest.
// Rule 2: values inside a state (goals, messages, sub-traces, questions) are replaced, never changed in place, so that
//         a part that keeps one can see whether it is still the same. The state itself is changed in place.
// Rule 3: an event that was applied before changes nothing.
// Rule 4: times are those of what happened: `occurred_at`, else `ts`. Nothing ends before it started.
// Rule 5: a sum of costs is null while no message with a cost was counted in it. Stored events have numbers only.

import {
  type Goal,
  type GoalTree,
  isEnded,
  isObject,
  isReference,
  type Json,
  type Link,
  MAX_TOTAL,
  type Message,
  type PendingInput,
  previewed,
  type Snapshot,
  type Step,
  type StoredEvent,
  type SubTrace,
  type Totals,
  type Trace,
  type TraceStatus,
  type Usage,
} from "../net/protocol";

const SERVER_EVENTS = new Set([
  "sub_trace_started",
  "sub_trace_completed",
  "sub_trace_left",
  "input_provided",
  "input_expired",
  "cancel_requested",
]);
const AFFECTED = ["status", "self_stats", "cumulative_stats"] as const;
const FIRST_LINE = /^[ \t\r\n]*([^\r\n]{0,200})/u;
const TOOL_NAME_LENGTH = 128;
const MAX_MODELS = 20;
const PARTS = ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"] as const;

export type Head = Omit<Trace, "tree_totals" | "is_running" | "started_at" | "active_at"> & {
  started_at: string | null; // null: nothing has happened yet
  active_at: string | null;
};

export class State {
  head: Head;
  leaseAlive = true;
  goals = new Map<string, Goal>();
  children = new Map<string | null, string[]>(); // in display order; null: the roots
  subTraces = new Map<string, SubTrace>();
  pendingInputs = new Map<string, PendingInput>(); // open questions, oldest first
  steps = new Map<string, Step>();
  cancelRequested: { reason: Json; by: Json } | null = null; // a cancel that is not yet acknowledged
  messages = new Map<string, Message>();

  constructor(trace: Partial<Trace> & { trace_id: string }) {
    const fresh: Omit<Head, "trace_id"> = {
      task: "",
      agent_type: "agent",
      parent_trace_id: null,
      parent_goal_id: null,
      root_trace_id: trace.trace_id,
      status: "running",
      current_goal_id: null,
      first_event_id: 1,
      last_event_id: 0,
      total_messages: 0,
      total_tokens: 0,
      total_cost: null,
      created_at: "",
      updated_at: "",
      completed_at: null,
      started_at: null,
      ended_at: null,
      active_at: null,
      summary: null,
      error: null,
      session_id: null,
      user_id: null,
      tags: [],
      models: [],
      metadata: {},
    };
    const { tree_totals: _tree, is_running: running, ...head } = trace;
    this.head = { ...fresh, ...head };
    if (this.head.last_event_id < this.head.first_event_id) {
      this.head.active_at = null; // nothing has happened yet
      if (this.head.started_at === this.head.created_at) this.head.started_at = null;
    }
    this.leaseAlive = running ?? true;
  }

  /** The state of a `connected` or `snapshot` frame whose goal tree is put together. */
  static fromSnapshot(frame: Snapshot, messages?: Map<string, Message>): State {
    const state = new State(frame.trace);
    state.head.last_event_id = frame.goal_tree.as_of_event_id;
    state.head.current_goal_id = frame.goal_tree.current_id;
    const children = new Map<string | null, string[]>();
    for (const goal of frame.goal_tree.goals) {
      state.goals.set(goal.id, goal);
      const siblings = children.get(goal.parent_id);
      if (siblings) siblings.push(goal.id);
      else children.set(goal.parent_id, [goal.id]);
    }
    state.children = children;
    for (const sub of frame.sub_traces) state.subTraces.set(sub.trace_id, sub);
    for (const asked of frame.pending_inputs) state.pendingInputs.set(asked.request_id, asked);
    for (const step of frame.steps ?? []) state.steps.set(step.id, step);
    if (messages) state.messages = messages;
    return state;
  }

  get ended(): boolean {
    return isEnded(this.head.status);
  }

  treeTotals(): Totals {
    const { total_messages, total_tokens, total_cost } = this.head;
    const sums: Totals = { total_messages, total_tokens, total_cost };
    let usage = this.head.usage;
    let over = false;
    for (const sub of this.subTraces.values()) {
      sums.total_messages += sub.stats.total_messages ?? MAX_TOTAL;
      sums.total_tokens += sub.stats.total_tokens ?? MAX_TOTAL;
      sums.total_cost = summedCost(sums.total_cost, sub.stats.total_cost);
      usage = summedUsage(usage, sub.stats.usage);
      over ||= sub.stats.saturated === true;
    }
    for (const key of ["total_messages", "total_tokens", "total_cost"] as const)
      if (!((key === "total_cost" ? (sums.total_cost ?? 0) : sums[key]) < MAX_TOTAL)) {
        sums[key] = MAX_TOTAL;
        over = true;
      }
    if (usage) sums.usage = usage;
    return over ? { ...sums, saturated: true } : sums;
  }

  /** `Trace`, the summary. */
  trace(): Trace {
    const open = this.head.status === "running" || this.head.status === "waiting";
    const { started_at, active_at, created_at } = this.head;
    const times = { started_at: started_at ?? created_at, active_at: active_at ?? created_at };
    return { ...this.head, ...times, tree_totals: this.treeTotals(), is_running: open && this.leaseAlive };
  }

  /** `GoalTree`: goals depth first. */
  goalTree(): GoalTree {
    const { task, current_goal_id, last_event_id } = this.head;
    return { mission: task, current_id: current_goal_id, goals: this.goalsInOrder(), as_of_event_id: last_event_id };
  }

  goalsInOrder(): Goal[] {
    const ordered: Goal[] = [];
    const waiting = [...(this.children.get(null) ?? [])].reverse();
    while (waiting.length) {
      const id = waiting.pop()!;
      ordered.push(this.goals.get(id)!);
      const below = this.children.get(id);
      if (below) for (let i = below.length - 1; i >= 0; i--) waiting.push(below[i]!);
    }
    return ordered;
  }
}

/** Change `state` by one stored event. */
export function applyInto(state: State, event: StoredEvent): void {
  const { head } = state;
  if (event.event_id <= head.last_event_id) return;
  head.last_event_id = event.event_id;
  head.updated_at = event.ts;
  const when = timeOf(event);
  head.started_at ??= when;
  if (event.status !== "lost" && (head.active_at === null || head.active_at < when)) head.active_at = when;
  if (byRecorder(event) && !(event.event === "trace_status_changed" && event.status === "lost")) {
    state.leaseAlive = true; // a recorder's event says that it is alive
  }
  if (head.status === "lost" && byRecorder(event)) {
    head.status = state.pendingInputs.size ? "waiting" : "running";
  }
  const handler = HANDLERS[event.event];
  if (handler && Object.hasOwn(HANDLERS, event.event)) handler(state, event);
}

/** Whether it is a recorder's: of the server's events one, an answer that was given at the recorder's terminal. */
const byRecorder = (event: StoredEvent): boolean =>
  !SERVER_EVENTS.has(event.event) || (event.event === "input_provided" && event.by === "terminal");

/** The time at which it happened: by the recorder's clock if that is known, else when it was appended. */
export const timeOf = (event: StoredEvent): string => event.occurred_at ?? event.ts;

const later = (one: string, other: string | null | undefined): string => (other && other > one ? other : one);

function affect(state: State, event: StoredEvent, costed = false): void {
  const { moved } = event; // then stats say themselves whether their cost is known
  for (const change of event.affected_goals ?? []) {
    const goal = state.goals.get(change.goal_id);
    if (!goal) continue;
    const after: Record<string, unknown> = { ...goal };
    for (const key of AFFECTED) if (key in change) after[key] = change[key];
    for (const key of ["self_stats", "cumulative_stats"] as const) {
      if (!(key in change)) continue;
      const { cost_known: known, ...stats } = change[key];
      const cost = knownCost(stats.total_cost, moved ? null : goal[key].total_cost, moved ? known : costed);
      if (moved || cost !== stats.total_cost) after[key] = { ...stats, total_cost: cost };
    }
    state.goals.set(goal.id, timed(goal, after as unknown as Goal, timeOf(event)));
  }
}

/** `goal`, which is the caller's own, with the times that follow from its status. */
function timed(before: Goal | null, goal: Goal, when: string): Goal {
  const ended = goal.status === "completed" || goal.status === "abandoned";
  if (!before) {
    goal.started_at ??= goal.status === "pending" ? null : when;
    goal.ended_at ??= ended ? when : null;
  } else if (goal.status !== before.status) {
    if (ended) goal.ended_at = later(when, goal.started_at);
    else {
      goal.ended_at = null;
      goal.started_at ||= when;
    }
  }
  return goal;
}

function currentAfter(state: State, started: string | null): string | null {
  const current = state.head.current_goal_id;
  if (started !== null) return started;
  if (current === null || state.goals.get(current)?.status === "in_progress") return current;
  let goal = state.goals.get(current);
  while (goal && goal.parent_id !== null) {
    goal = state.goals.get(goal.parent_id);
    if (goal?.status === "in_progress") return goal.id;
  }
  return null;
}

function goalAdded(state: State, event: StoredEvent): void {
  const { after_id: afterId, ...goal } = event.goal as Goal & { after_id?: string };
  if (state.goals.has(goal.id) || (goal.parent_id !== null && !state.goals.has(goal.parent_id))) return;
  for (const key of ["self_stats", "cumulative_stats"] as const)
    if (!goal[key].total_cost) goal[key] = { ...goal[key], total_cost: null };
  state.goals.set(goal.id, timed(null, goal, timeOf(event)));
  const siblings = state.children.get(goal.parent_id);
  const place = afterId == null ? -1 : (siblings?.indexOf(afterId) ?? -1);
  if (!siblings) state.children.set(goal.parent_id, [goal.id]);
  else if (place < 0) siblings.push(goal.id);
  else siblings.splice(place + 1, 0, goal.id);
  affect(state, event);
  let started = goal.status === "in_progress" ? goal.id : null;
  if (started === null) {
    for (const change of event.affected_goals ?? []) {
      // nearest first
      if (change.status === "in_progress" && state.goals.has(change.goal_id)) {
        started = change.goal_id;
        break;
      }
    }
  }
  state.head.current_goal_id = currentAfter(state, started);
}

function goalUpdated(state: State, event: StoredEvent): void {
  const goal = state.goals.get(event.goal_id);
  if (!goal) return;
  const started = event.patch.status === "in_progress" && goal.status !== "in_progress";
  if (event.moved) {
    const { children } = state;
    children.set(
      goal.parent_id,
      children.get(goal.parent_id)!.filter((id) => id !== goal.id),
    );
    children.set(event.patch.parent_id, [...(children.get(event.patch.parent_id) ?? []), goal.id]);
  }
  state.goals.set(goal.id, timed(goal, { ...goal, ...event.patch }, timeOf(event)));
  affect(state, event);
  state.head.current_goal_id = currentAfter(state, started ? goal.id : null);
}

function messageAdded(state: State, event: StoredEvent): void {
  const message = addedMessage(event);
  const { head } = state;
  state.messages.set(message.message_id, message);
  if (message.counted !== false) head.total_messages += 1; // else it is a model call, and nothing of it has come yet
  head.total_tokens = plus(head.total_tokens, message.tokens ?? 0);
  head.total_cost = summedCost(head.total_cost, message.cost ?? null);
  if (message.usage) head.usage = summedUsage(head.usage, message.usage);
  used(head, message.model);
  affect(state, event, message.cost !== undefined);
}

function used(head: Head, model: string | undefined): void {
  if (model && head.models.length < MAX_MODELS && !head.models.includes(model)) head.models = [...head.models, model];
}

/** The message of a stored `message_added`, with what follows from it: its times and the source of its cost. */
export function addedMessage(event: StoredEvent): Message {
  const message = { ...(event.message as Message) };
  const when = timeOf(event);
  if (message.cost !== undefined) message.cost_source ??= "given";
  if (message.status !== "complete") {
    message.started_at ??= when;
    message.ended_at ??= null;
    return message;
  }
  const ended = message.ended_at || when;
  message.started_at ||= before(ended, message.duration_ms);
  message.ended_at = later(ended, message.started_at);
  return message;
}

/** The time `ms` milliseconds before `time`. Nothing runs for 30 years: with a longer duration it is `time`. */
function before(time: string, ms: number | undefined): string {
  if (!ms || ms > 1e12) return time;
  const moment = Date.parse(time) - Math.ceil(ms);
  return moment >= YEAR_1 ? new Date(moment).toISOString() : time;
}
const YEAR_1 = Date.parse("0001-01-01T00:00:00.000Z");

function messageUpdated(state: State, event: StoredEvent): void {
  const message = state.messages.get(event.message_id);
  if (message) state.messages.set(event.message_id, updatedMessage(message, event));
  const costed = event.patch?.cost !== undefined;
  if (event.totals) {
    const { total_messages, total_tokens, total_cost, usage } = event.totals as Totals;
    state.head.total_messages = plus(total_messages, 0);
    state.head.total_tokens = plus(total_tokens, 0);
    state.head.total_cost = knownCost(total_cost, state.head.total_cost, costed);
    if (usage) state.head.usage = Object.keys(usage).length ? usage : undefined;
  }
  used(state.head, event.patch?.model);
  affect(state, event, costed);
}

/** A message after a `message_updated`: the text appended first, then the patch. */
export function updatedMessage(message: Message, event: StoredEvent): Message {
  const after: Message = { ...message };
  const { append, patch } = event;
  if (typeof append === "string" && typeof after.content === "string") after.content += append;
  Object.assign(after, patch);
  if (event.counted) delete after.counted;
  if (patch?.cost !== undefined && patch.cost_source === undefined) after.cost_source = "given";
  if (after.status !== message.status && patch?.ended_at === undefined)
    after.ended_at = after.status === "complete" ? timeOf(event) : null;
  if (after.ended_at) after.ended_at = later(after.ended_at, after.started_at);
  const onlyMore = !patch || !("content" in patch || "description" in patch || "role" in patch);
  if (onlyMore && lineComplete.has(message)) {
    lineComplete.add(after);
    return after;
  }
  // A description that was derived from the content follows it: a text that is streamed begins with half a word
  if (patch?.description === undefined && (message.description === "" || message.description === describe(message))) {
    after.description = describe(after);
  }
  const { content } = after;
  if (after.description && typeof content === "string" && firstLine(content).length < content.length)
    lineComplete.add(after);
  return after;
}

// Messages that have a description and a complete first line: appended text can change neither. Their description is
// not made again, because a text that streams would be read from its beginning to its end at each piece of it.
const lineComplete = new WeakSet<Message>();

/** The text up to the end of its first line that is not blank, as far as a description goes. */
const firstLine = (text: string): string => FIRST_LINE.exec(text)![0];

/** A message in one line: a tool's name, else the first non-blank line of its text, at most 200 characters. */
export function describe(message: Message): string {
  if (message.role === "tool") {
    const tool = toolName(message);
    if (tool) return tool;
  }
  let content: Json | undefined = message.content;
  if (Array.isArray(content)) {
    content = content.map(textOf).find((text) => text !== undefined);
  } else if (isObject(content)) {
    content = textOf(content);
  }
  const first = typeof content === "string" ? FIRST_LINE.exec(content) : null;
  return first ? first[1]!.replace(/[ \t]+$/, "") : "";
}

/** The text of a part of a message: its `text`, or the preview of content that stands beside the log. */
function textOf(part: Json): string | undefined {
  if (!isObject(part)) return undefined;
  const text = previewed(isReference(part) ? part : part.text);
  return typeof text === "string" ? text : undefined;
}

/** The tool that a tool message is about, or null. */
export function toolName(message: Message): string | null {
  if (message.role !== "tool") return null;
  const { content } = message;
  if (isObject(content)) {
    for (const key of ["tool_name", "name"]) {
      const name = content[key];
      if (typeof name === "string" && name) return codePoints(name, TOOL_NAME_LENGTH);
    }
  }
  return codePoints(message.description ?? "", TOOL_NAME_LENGTH) || null;
}

const STEP = ["name", "kind", "goal_id", "step_id", "message_id", "status"] as const;
const STEP_TOO = ["started_at", "ended_at", "input", "output", "error"] as const; // where they are given

function stepAdded(state: State, event: StoredEvent): void {
  const { step } = event;
  if (state.steps.has(step.id)) return;
  const added: Record<string, unknown> = { id: step.id, event_id: event.event_id };
  for (const key of STEP) added[key] = step[key];
  for (const key of STEP_TOO) if (step[key] != null) added[key] = step[key];
  state.steps.set(step.id, timedStep(added as unknown as Step, event));
}

function stepUpdated(state: State, event: StoredEvent): void {
  const step = state.steps.get(event.step_id);
  if (!step) return;
  const { patch } = event;
  const after: Record<string, unknown> = { ...step };
  for (const key of [...STEP, ...STEP_TOO]) if (key in patch) after[key] = patch[key];
  if (after.status !== step.status && !("ended_at" in patch)) after.ended_at = null;
  state.steps.set(step.id, timedStep(after as unknown as Step, event));
}

/** `step`, which is the caller's own, with the times that follow from its status. */
function timedStep(step: Step, event: StoredEvent): Step {
  step.started_at ||= step.ended_at || timeOf(event);
  step.ended_at = step.status === "running" ? null : later(step.ended_at || timeOf(event), step.started_at);
  return step;
}

function subTraceStarted(state: State, event: StoredEvent): void {
  const id: string = event.sub_trace_id;
  state.subTraces.set(id, {
    trace_id: id,
    parent_goal_id: event.parent_goal_id,
    agent_type: event.agent_type,
    task: event.task,
    status: "running",
    summary: null,
    error: null,
    stats: { total_messages: 0, total_tokens: 0, total_cost: null },
    ...(event.parent_step_id && { parent_step_id: event.parent_step_id }),
    ...(event.parent_message_id && { parent_message_id: event.parent_message_id }),
    started_event_id: event.event_id,
    started_at: event.started_at ?? timeOf(event),
    ended_at: null,
  });
  const goal = event.parent_goal_id === null ? undefined : state.goals.get(event.parent_goal_id);
  if (goal && !goal.sub_trace_ids.includes(id)) {
    state.goals.set(goal.id, { ...goal, sub_trace_ids: [...goal.sub_trace_ids, id] });
  }
}

function subTraceCompleted(state: State, event: StoredEvent): void {
  const sub = state.subTraces.get(event.sub_trace_id);
  if (!sub) return;
  const { cost_known: known, ...stats } = event.stats as Totals & { cost_known?: true };
  if (!stats.total_cost && !known) stats.total_cost = null;
  const started = event.started_at ?? sub.started_at;
  state.subTraces.set(sub.trace_id, {
    ...sub,
    status: event.status,
    summary: event.summary,
    error: event.error ?? null,
    stats,
    started_at: started,
    ended_at: later(event.ended_at ?? timeOf(event), started),
  });
}

function subTraceLeft(state: State, event: StoredEvent): void {
  const sub = state.subTraces.get(event.sub_trace_id);
  state.subTraces.delete(event.sub_trace_id);
  const goal = state.goals.get(sub?.parent_goal_id ?? "");
  if (goal)
    state.goals.set(goal.id, { ...goal, sub_trace_ids: goal.sub_trace_ids.filter((id) => id !== event.sub_trace_id) });
}

function traceParentChanged({ head }: State, event: StoredEvent): void {
  for (const key of ["parent_trace_id", "parent_goal_id", "root_trace_id"] as const) head[key] = event[key];
}

function traceUpdated(state: State, event: StoredEvent): void {
  const { head } = state;
  for (const key of ["task", "agent_type", "session_id", "user_id", "started_at", "tags"] as const)
    if (key in event) Object.assign(head, { [key]: event[key] });
  for (const link of (event.links ?? []) as Link[]) {
    const same = (other: Link) =>
      other.kind === link.kind &&
      other.trace_id === link.trace_id &&
      (other.message_id ?? null) === (link.message_id ?? null);
    const links = head.links ?? [];
    if (links.length < 100 && !links.some(same)) head.links = [...links, link];
  }
  if (event.metadata) head.metadata = { ...head.metadata, ...event.metadata };
  if (head.ended_at) head.ended_at = later(head.ended_at, head.started_at);
}

function setStatus(state: State, event: StoredEvent): void {
  let status = event.status as TraceStatus;
  if (isEnded(status)) return end(state, event);
  if (state.ended) {
    if (status === "lost" || status === "idle") return; // late: leaves an ended trace's status alone
    Object.assign(state.head, { completed_at: null, ended_at: null, summary: null, error: null });
    state.cancelRequested = null;
  }
  if (status !== "lost") status = state.pendingInputs.size ? "waiting" : status;
  state.head.status = status;
}

function end(state: State, event: StoredEvent): void {
  if (state.ended) return;
  state.head.status = event.status;
  state.head.completed_at = event.ts;
  state.head.ended_at = later(timeOf(event), state.head.started_at);
  state.head.summary = typeof event.summary === "string" ? event.summary : null;
  state.head.error = event.error ?? null;
  state.cancelRequested = null;
  state.pendingInputs.clear();
}

function inputRequested(state: State, event: StoredEvent): void {
  if (state.ended) return;
  const { event: _event, event_id: _id, trace_id: _trace, occurred_at: _at, ts, ...asked } = event;
  state.pendingInputs.set(event.request_id, { ...asked, requested_at: ts } as unknown as PendingInput);
  if (state.head.status === "running" || state.head.status === "idle") state.head.status = "waiting";
}

function inputClosed(state: State, event: StoredEvent): void {
  if (!state.pendingInputs.delete(event.request_id)) return;
  if (!state.pendingInputs.size && state.head.status === "waiting") state.head.status = "running";
}

function cancelRequested(state: State, event: StoredEvent): void {
  if (!state.ended) state.cancelRequested = { reason: event.reason ?? null, by: event.by ?? null };
}

const HANDLERS: Record<string, (state: State, event: StoredEvent) => void> = {
  goal_added: goalAdded,
  goal_updated: goalUpdated,
  message_added: messageAdded,
  message_updated: messageUpdated,
  step_added: stepAdded,
  step_updated: stepUpdated,
  sub_trace_started: subTraceStarted,
  sub_trace_completed: subTraceCompleted,
  trace_status_changed: setStatus,
  trace_completed: end,
  sub_trace_left: subTraceLeft,
  trace_updated: traceUpdated,
  trace_parent_changed: traceParentChanged,
  input_requested: inputRequested,
  input_provided: inputClosed,
  input_expired: inputClosed,
  cancel_requested: cancelRequested,
};

function codePoints(text: string, most: number): string {
  return text.length <= most ? text : [...text.slice(0, most * 2)].slice(0, most).join("");
}

/** A sum with one thing more: it stops at MAX_TOTAL. One that is null is of an old log, and had overflowed. */
const plus = (total: number | null, more: number): number =>
  total === null ? MAX_TOTAL : Math.min(total + more, MAX_TOTAL);

/** The sum of costs after an event that says `written`; null there is of an old log, and had overflowed. */
function knownCost(written: number | null, before: number | null, costed: boolean): number | null {
  if (written === null) return MAX_TOTAL;
  return !written && before === null && !costed ? null : Math.min(written, MAX_TOTAL);
}

/** The sum of two costs, of which each may be unknown. */
export function summedCost(one: number | null, other: number | null): number | null {
  if (one === null || other === null) return one ?? other;
  return Math.max(0, round10(plus(one, other))); // differences of floats may miss zero
}

/** The sum of what was used, each part by itself. */
export function summedUsage(one: Usage | undefined, other: Usage | undefined): Usage | undefined {
  const sum: Usage = {};
  for (const part of PARTS) {
    const count = (one?.[part] ?? 0) + (other?.[part] ?? 0);
    if (count > 0) sum[part] = count; // parts of 0 are left out
  }
  return Object.keys(sum).length ? sum : undefined;
}

/** Sums of costs have 10 decimals. */
export function round10(value: number): number {
  return Math.round(value * 1e10) / 1e10;
}
