// The spans of work of a run: what the time panel draws. Pure.

import { toolName } from "../log/fold";
import { type Item, momentOf, STEP_MS } from "../log/rows";
import type { TraceView } from "../log/view";
import type { SubTrace } from "../net/protocol";

export type Lane = "goals" | "agents" | "text" | "tools";
export const LANES: Lane[] = ["goals", "agents", "text", "tools"];
export type Stretch = [from: number, to: number]; // ms

export interface Span {
  lane: Lane;
  row: number; // within its lane
  from: number; // ms
  to: number;
  id: number; // the event that its row began with; 0 for goals
  label: string;
  goalId: string | null;
  look: "quiet" | "plain" | "running" | "failed" | "waiting";
  on?: true; // it goes on
}

/** Rows of a lane that is folded. */
export const ROWS: Record<Lane, number> = { goals: 3, agents: 3, text: 1, tools: 3 };
const MOST_ROWS = 60; // of one that is not

interface Times {
  version: number;
  from: number;
  updated: number;
}

const known = new WeakMap<Item, Times>(); // parsing times takes longer than all the rest

export function timesOf(item: Item): Times {
  let times = known.get(item);
  if (times?.version !== item.version) {
    const { started_at, ended_at } = item.at ? (item.message ?? {}) : {};
    const from = started_at ? Date.parse(started_at) : momentOf(item.at, item.id);
    const last = ended_at ? Date.parse(ended_at) : momentOf(item.updatedAt, item.lastId + 1);
    times = { version: item.version, from, updated: Math.max(from, last) };
    known.set(item, times);
  }
  return times;
}

/** Whether something of a run goes on: what it does, or that it waits. */
export function goesOn(log: TraceView): boolean {
  const { state } = log;
  return state !== null && ["running", "waiting"].includes(state.head.status) && state.leaseAlive && !log.past;
}

/** The last moment of a run that does not go on, in ms. */
export function endOf(log: TraceView, now: number): number {
  if (log.rows.timeless) return now;
  return Date.parse(log.state!.head.active_at ?? log.lastEventAt) || now;
}

/** The spans of a trace; those that still go on end at `now`. */
export function spansOf(log: TraceView, now: number): Span[] {
  const { state } = log;
  if (!state) return [];
  const ended = !goesOn(log);
  const last = ended ? endOf(log, now) : now;
  const spans: Span[] = [];
  for (const goal of state.goalsInOrder()) {
    const time = log.rows.goalTimes.get(goal.id);
    if (!time) continue;
    const running = goal.status === "in_progress" && !ended;
    spans.push({
      lane: "goals",
      row: depthOf(goal.id, log),
      from: time.from,
      to: running ? last : time.to,
      id: 0,
      label: goal.description,
      goalId: goal.id,
      look: running ? "running" : "quiet",
      ...(running && { on: true }),
    });
  }
  for (const sub of state.subTraces.values()) spans.push(ofSub(sub, log, last, ended));
  for (const item of log.rows.items) {
    const { from, updated } = timesOf(item);
    if (Number.isNaN(from)) continue;
    if (item.message) {
      const tool = item.message.role === "tool";
      const running = item.message.status !== "complete";
      const to = running ? Math.max(from, last) : updated;
      const look = item.error ? "failed" : running && !ended ? "running" : "plain";
      spans.push({
        lane: tool ? "tools" : "text",
        row: 0,
        from,
        to,
        id: item.id,
        label: tool ? (toolName(item.message) ?? "tool") : `${item.message.role}: ${item.message.description}`,
        goalId: item.goalId,
        look,
        ...(running && !ended && { on: true }),
      });
      continue;
    }
    const event = item.event;
    if (!event) continue;
    if (event.event === "input_requested") {
      const answer = log.rows.outcomes.get(event.request_id);
      const open = !answer && state.pendingInputs.has(event.request_id);
      const to = answer ? (item.at ? Date.parse(answer.ts) : answer.event_id * STEP_MS) : open ? last : from;
      spans.push({
        lane: "text",
        row: 0,
        from,
        to: Math.max(from, to),
        id: item.id,
        label: `question: ${event.question}`,
        goalId: item.goalId,
        look: "waiting",
        ...(open && { on: true }),
      });
    } else if (item.error && !event.event.startsWith("sub_trace_")) {
      spans.push({
        lane: "text",
        row: 0,
        from,
        to: from,
        id: item.id,
        label: event.event,
        goalId: item.goalId,
        look: "failed",
      });
    }
  }
  pack(spans, "tools");
  pack(spans, "agents");
  return spans;
}

function ofSub(sub: SubTrace, { rows }: TraceView, last: number, ended: boolean): Span {
  const over = ended || (sub.status !== "running" && sub.status !== "waiting");
  const from = rows.timeless ? sub.started_event_id * STEP_MS : Date.parse(sub.started_at ?? "") || last;
  const end = rows.timeless ? from + STEP_MS : Date.parse(sub.ended_at ?? "") || last;
  return {
    lane: "agents",
    row: 0,
    from,
    to: Math.max(from, over ? end : last),
    id: sub.started_event_id,
    label: `${sub.agent_type}: ${sub.task}`,
    goalId: sub.parent_goal_id,
    look: sub.status === "failed" || sub.status === "lost" ? "failed" : over ? "plain" : "running",
    ...(!over && { on: true }),
  };
}

/** When what was not read yet happened, and steps: time that is no pause, but has no span. */
export function unseenOf(log: TraceView): Stretch[] {
  const found: Stretch[] = [];
  if (!log.state) return found;
  const { items, timeless } = log.rows;
  const begun = log.state.head.started_at;
  items.forEach((item, i) => {
    if (item.hole === undefined || timeless) return;
    const before = items[i - 1];
    const after = items[i + 1];
    const from = before ? timesOf(before).from : Date.parse(begun ?? "");
    const to = after ? timesOf(after).from : endOf(log, Number.NaN);
    if (to > from) found.push([from, to]);
  });
  if (timeless) return found;
  for (const step of log.state.steps.values()) {
    const [from, to] = [Date.parse(step.started_at), Date.parse(step.ended_at ?? step.started_at)];
    if (to >= from) found.push([from, to]);
  }
  return found;
}

function depthOf(id: string, log: TraceView): number {
  let depth = 0;
  for (let goal = log.state!.goals.get(id); goal && goal.parent_id !== null && depth < MOST_ROWS; depth++)
    goal = log.state!.goals.get(goal.parent_id);
  return depth;
}

/** Put spans of a lane that overlap into rows of their own. */
function pack(spans: Span[], lane: Lane): void {
  const ends: number[] = [];
  const inLane = spans.filter((span) => span.lane === lane);
  if (lane === "agents") inLane.sort((a, b) => a.from - b.from);
  for (const span of inLane) {
    let row = ends.findIndex((end) => end <= span.from);
    if (row < 0) row = Math.min(ends.length, MOST_ROWS - 1);
    span.row = row;
    ends[row] = Math.max(ends[row] ?? -Infinity, span.to);
  }
}
