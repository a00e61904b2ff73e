// The content of the time panel: spans of work, and a time line on which idle time takes little room. Pure.

import { toolName } from "../log/fold";
import { type Item, momentOf, STEP_MS } from "../log/rows";
import type { TraceView } from "../log/view";

export type Lane = "goals" | "agents" | "text" | "tools";
export const LANES: Lane[] = ["goals", "agents", "text", "tools"];

export interface Span {
  lane: Lane;
  row: number; // within its lane
  from: number; // ms
  to: number;
  id: number; // the event that its row began with; 0 for goals
  label: string;
  goalId: string | null;
  look: "quiet" | "plain" | "running" | "failed" | "waiting";
}

export const ROWS: Record<Lane, number> = { goals: 3, agents: 3, text: 1, tools: 3 };

interface Times {
  version: number;
  from: number;
  updated: number;
}

const known = new WeakMap<Item, Times>(); // parsing times takes longer than all the rest

function timesOf(item: Item): Times {
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

/** The spans of a trace; those that still go on end at `now`. */
export function spansOf(log: TraceView, now: number): Span[] {
  const { state } = log;
  if (!state) return [];
  const ended = state.ended || log.past;
  const end = log.rows.timeless ? ((log.position ?? 0) + 1) * STEP_MS : now;
  const last = ended ? Date.parse(log.rows.items.at(-1)?.updatedAt ?? log.lastEventAt) || end : end;
  const spans: Span[] = [];
  for (const goal of state.goalsInOrder()) {
    const time = log.rows.goalTimes.get(goal.id);
    if (!time) continue;
    const running = goal.status === "in_progress" && !ended;
    spans.push({
      lane: "goals",
      row: Math.min(depthOf(goal.id, log), ROWS.goals - 1),
      from: time.from,
      to: running ? last : time.to,
      id: 0,
      label: goal.description,
      goalId: goal.id,
      look: running ? "running" : "quiet",
    });
  }
  const agents = new Map<string, Span>();
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
      });
      continue;
    }
    const event = item.event;
    if (!event) continue;
    if (event.event === "sub_trace_started") {
      const sub = state.subTraces.get(event.sub_trace_id);
      const over = sub && sub.status !== "running" && sub.status !== "waiting";
      const span: Span = {
        lane: "agents",
        row: 0,
        from,
        to: last,
        id: item.id,
        label: `${event.agent_type}: ${event.task}`,
        goalId: item.goalId,
        look: sub?.status === "failed" || sub?.status === "lost" ? "failed" : over ? "plain" : "running",
      };
      agents.set(event.sub_trace_id, span);
      spans.push(span);
    } else if (event.event === "sub_trace_completed") {
      const span = agents.get(event.sub_trace_id);
      if (span) span.to = Math.max(span.from, from);
    } else if (event.event === "input_requested") {
      const answer = log.rows.outcomes.get(event.request_id);
      const to = answer
        ? item.at
          ? Date.parse(answer.ts)
          : answer.event_id * STEP_MS
        : state.pendingInputs.has(event.request_id)
          ? last
          : from;
      spans.push({
        lane: "text",
        row: 0,
        from,
        to: Math.max(from, to),
        id: item.id,
        label: `question: ${event.question}`,
        goalId: item.goalId,
        look: "waiting",
      });
    } else if (item.error) {
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

function depthOf(id: string, log: TraceView): number {
  let depth = 0;
  for (let goal = log.state!.goals.get(id); goal && goal.parent_id !== null && depth < 5; depth++)
    goal = log.state!.goals.get(goal.parent_id);
  return depth;
}

/** Put spans of a lane that overlap into rows of their own, as far as there are rows. */
function pack(spans: Span[], lane: Lane): void {
  const ends = new Array<number>(ROWS[lane]).fill(-Infinity);
  for (const span of spans) {
    if (span.lane !== lane) continue;
    let row = ends.findIndex((end) => end <= span.from);
    if (row < 0) row = ends.indexOf(Math.min(...ends));
    span.row = row;
    ends[row] = Math.max(ends[row]!, span.to);
  }
}

/** A time line from 0 to 1 on which stretches where nothing happens are cut short. */
export class TimeLine {
  readonly gaps: { at: number; ms: number }[] = []; // `at`: the place of its middle on the line
  #times: number[] = [];
  #places: number[] = [];

  constructor(spans: readonly Span[]) {
    const busy = union(spans.filter((span) => span.lane !== "goals" && span.look !== "waiting"));
    if (!busy.length) busy.push(...union(spans));
    if (!busy.length) busy.push([0, 1]);
    const active = busy.reduce((sum, [from, to]) => sum + to - from, 0);
    const idle = busy.slice(1).map(([from], i) => from - busy[i]![1]);
    // A pause is idle time if it is longer than 5 s and than a part of the work itself
    const limit = Math.max(5_000, active * 0.04);
    const shown = (ms: number) => (ms > limit ? limit * 0.5 : ms);
    const total = active + idle.reduce((sum, ms) => sum + shown(ms), 0) || 1;
    let at = 0;
    busy.forEach(([from, to], i) => {
      if (i > 0) {
        const ms = idle[i - 1]!;
        if (ms > limit) this.gaps.push({ at: (at + shown(ms) / 2) / total, ms });
        at += shown(ms);
      }
      this.#times.push(from, to);
      this.#places.push(at / total, (at + to - from) / total);
      at += to - from;
    });
  }

  /** Where a time is on the line. */
  place(ms: number): number {
    return between(ms, this.#times, this.#places);
  }

  /** The time at a place. */
  time(place: number): number {
    return between(place, this.#places, this.#times);
  }
}

function union(spans: readonly Span[]): [number, number][] {
  const sorted = [...spans].sort((a, b) => a.from - b.from);
  const busy: [number, number][] = [];
  for (const { from, to } of sorted) {
    const last = busy.at(-1);
    if (last && from <= last[1] + 50) last[1] = Math.max(last[1], to);
    else busy.push([from, Math.max(to, from)]);
  }
  return busy;
}

function between(x: number, xs: number[], ys: number[]): number {
  if (x <= xs[0]!) return ys[0]!;
  if (x >= xs.at(-1)!) return ys.at(-1)!;
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle]! <= x) low = middle;
    else high = middle;
  }
  const width = xs[high]! - xs[low]!;
  return width ? ys[low]! + ((x - xs[low]!) / width) * (ys[high]! - ys[low]!) : ys[low]!;
}
