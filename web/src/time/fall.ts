// The rows of the waterfall: the goal tree with what was done for each goal below it, in the order in which it began.
// Pure.
//
// Rule 1: a goal holds what names it: its messages, questions, sub-agents and the goals below it.
// Rule 2: steps are counted on the row that holds them. Where they are unfolded there, they hold what names them.
// Rule 3: a row's own time is its duration without the goals and sub-agents below it.
// Rule 4: a row that has not changed is the same object as before, so that it is not drawn again.

import { type Item, STEP_MS } from "../log/rows";
import type { TraceLog } from "../log/trace-log";
import type { Goal, Step, SubTrace, Totals, TraceStatus } from "../net/protocol";
import { endOf, goesOn, timesOf } from "./spans";

export type Kind = "goal" | "agent" | "call" | "tool" | "said" | "question" | "event" | "step";

export interface FallRow {
  id: string;
  height: number;
  depth: number;
  kind: Kind;
  log: TraceLog;
  goal: Goal | null;
  sub: SubTrace | null;
  status: TraceStatus | null; // of a sub-agent
  step: Step | null;
  item: Item | null; // of a message, a question or another event
  version: number; // of the item
  from: number; // ms; NaN: it has no time
  to: number | null; // null: it goes on
  first: number | null; // ms: when a model's answer began to come
  below: Stretch[]; // when goals and sub-agents below it were at work
  tokens: number;
  cost: number | null;
  open: boolean | null; // null: nothing below
  steps: number; // that it holds
  bad: number; // of them failed
  stepped: boolean; // they are unfolded
  ended: boolean; // the run does not go on
  nth: number; // its place, from 1, among
  siblings: number;
}

export type Stretch = [from: number, to: number | null];

export interface Folds {
  folded: ReadonlySet<string>; // rows that are closed
  opened: ReadonlySet<string>; // sub-agents that are open
  stepped: ReadonlySet<string>; // rows whose steps are shown
}

/** What is known elsewhere of a sub-agent, newer than what its parent says. */
export type Live = (traceId: string) => { status: TraceStatus; tree_totals: Totals } | undefined;

/** `logs` are those of the sub-agents that are open. */
export function fallRows(log: TraceLog, logs: ReadonlyMap<string, TraceLog>, folds: Folds, live: Live): FallRow[] {
  const rows: FallRow[] = [];
  const seen = new Set<string>([log.id]);
  if (log.state) addTrace(log, 0, "");
  return rows;

  function addTrace(of: TraceLog, depth: number, path: string): void {
    if (of.state) new Trace(of, path, { rows, folds, live, logs, addSub }).under(null, depth, path);
  }

  function addSub(sub: SubTrace, depth: number, rowId: string): void {
    if (seen.has(sub.trace_id)) return;
    seen.add(sub.trace_id);
    const inner = logs.get(sub.trace_id);
    if (inner?.state) addTrace(inner, depth + 1, rowId);
  }
}

interface All {
  rows: FallRow[];
  folds: Folds;
  live: Live;
  logs: ReadonlyMap<string, TraceLog>;
  addSub: (sub: SubTrace, depth: number, rowId: string) => void;
}

/** A row that is not in the list yet, in the order of its beginning. */
interface Child {
  from: number;
  add: (depth: number, nth: number, siblings: number) => void;
}

class Trace {
  private readonly on: boolean;
  private readonly end: number; // ms; of a run that does not go on
  private readonly items = new Map<string | null, Item[]>(); // by goal
  private readonly subs = new Map<string | null, SubTrace[]>(); // by goal
  private readonly steps = new Map<string | null, Step[]>(); // by goal
  private readonly called = new Map<string, SubTrace[]>(); // by the message that called them

  constructor(
    private readonly log: TraceLog,
    private readonly path: string,
    private readonly all: All,
  ) {
    const state = log.state!;
    this.on = goesOn(log);
    this.end = endOf(log, ((log.position ?? 0) + 1) * STEP_MS);
    const goalOf = (id: string | null | undefined) => (id && state.goals.has(id) ? id : null);
    for (const item of log.rows.items) if (hasBar(item)) push(this.items, goalOf(item.goalId), item);
    for (const sub of state.subTraces.values()) {
      push(this.subs, goalOf(sub.parent_goal_id), sub);
      if (sub.parent_message_id) push(this.called, sub.parent_message_id, sub);
    }
    for (const step of state.steps.values()) push(this.steps, goalOf(step.goal_id), step);
  }

  /** Add what stands below a goal; below none: what the run itself did. */
  under(goalId: string | null, depth: number, rowId: string): void {
    const children: Child[] = [];
    const steps = this.steps.get(goalId) ?? [];
    const stepped = this.all.folds.stepped.has(rowId) ? new Map(steps.map((step) => [step.id, step])) : null;
    const inSteps = new Map<string, Child[]>();
    const put = (stepId: string | null | undefined, child: Child) =>
      stepId && stepped?.has(stepId) ? push(inSteps, stepId, child) : children.push(child);
    for (const item of this.items.get(goalId) ?? []) put(item.message?.step_id, this.ofItem(item));
    for (const sub of this.subs.get(goalId) ?? []) put(sub.parent_step_id, this.ofSub(sub));
    const { goals, children: below } = this.log.state!;
    for (const id of below.get(goalId) ?? []) put(goals.get(id)!.step_id, this.ofGoal(goals.get(id)!));
    for (const step of stepped?.values() ?? []) put(step.step_id, this.ofStep(step, inSteps));
    addAll(children, depth);
  }

  private push(row: Omit<FallRow, "log" | "height" | "ended">): void {
    const now = row as FallRow;
    now.log = this.log;
    now.height = 0;
    now.ended = !this.on;
    this.all.rows.push(now);
  }

  private ofItem(item: Item): Child {
    const { from, updated } = timesOf(item);
    return {
      from,
      add: (depth, nth, siblings) => {
        const { message } = item;
        const calls = message ? this.called.get(message.message_id) : undefined;
        const known = calls ? undefined : rowsOf.get(item);
        if (
          known?.version === item.version &&
          known.depth === depth &&
          known.ended === !this.on &&
          known.log === this.log &&
          known.siblings === siblings &&
          known.nth === nth
        ) {
          this.all.rows.push(known);
          return;
        }
        const question = item.event?.event === "input_requested";
        const open = question && this.log.state!.pendingInputs.has(item.event!.request_id);
        const running = message ? message.status !== "complete" : open;
        const answer = question && this.log.rows.outcomes.get(item.event!.request_id);
        const answered = answer ? Math.max(from, item.at ? Date.parse(answer.ts) : answer.event_id * STEP_MS) : from;
        const begins = message ? this.log.rows.begins.get(message.message_id) : undefined;
        this.push({
          ...NOTHING,
          id: `${this.path}@${item.id}`,
          depth,
          kind: question ? "question" : kindOf(item),
          item,
          version: item.version,
          from,
          to: running ? (this.on ? null : Math.max(from, this.end)) : question ? answered : updated,
          first: begins && item.at && message!.role !== "tool" ? Date.parse(begins.occurred_at ?? begins.ts) : null,
          below: calls?.map((sub) => this.stretchOf(sub)) ?? [],
          tokens: message?.tokens ?? 0,
          cost: message?.cost ?? null,
          nth,
          siblings,
        });
        rowsOf.set(item, this.all.rows.at(-1)!);
      },
    };
  }

  private stretchOf(sub: SubTrace): Stretch {
    const timeless = this.log.rows.timeless;
    const from = timeless ? sub.started_event_id * STEP_MS : Date.parse(sub.started_at ?? "");
    const status = this.all.live(sub.trace_id)?.status ?? sub.status;
    const open = status === "running" || status === "waiting" || status === "idle";
    if (open && this.on) return [from, null];
    if (timeless) return [from, from + STEP_MS];
    return [from, Math.max(from, open ? this.end : Date.parse(sub.ended_at ?? "") || from)];
  }

  private ofSub(sub: SubTrace): Child {
    const [from, to] = this.stretchOf(sub);
    return {
      from,
      add: (depth, nth, siblings) => {
        const live = this.all.live(sub.trace_id);
        const totals = live?.tree_totals ?? sub.stats;
        const open = this.all.folds.opened.has(sub.trace_id);
        const steps = [...(this.all.logs.get(sub.trace_id)?.state?.steps.values() ?? [])].filter((one) => !one.goal_id);
        const rowId = `${this.path}/${sub.trace_id}`;
        this.push({
          ...NOTHING,
          id: rowId,
          depth,
          kind: "agent",
          sub,
          status: live?.status ?? sub.status,
          from,
          to,
          tokens: totals.total_tokens ?? 0,
          cost: totals.total_cost,
          open,
          ...stepsOf(steps, this.all.folds.stepped.has(rowId)),
          nth,
          siblings,
        });
        if (open) this.all.addSub(sub, depth, rowId);
      },
    };
  }

  private timesOf(goal: Goal): Stretch {
    const { rows } = this.log;
    const seen = rows.goalTimes.get(goal.id);
    const running = goal.status === "in_progress";
    if (rows.timeless || !goal.started_at) {
      if (!seen) return [Number.NaN, Number.NaN];
      return [seen.from, running && this.on ? null : seen.to];
    }
    const from = Date.parse(goal.started_at);
    if (running) return [from, this.on ? null : Math.max(from, this.end)];
    return [from, Math.max(from, Date.parse(goal.ended_at ?? "") || (seen?.to ?? from))];
  }

  private ofGoal(goal: Goal): Child {
    const [from, to] = this.timesOf(goal);
    return {
      from,
      add: (depth, nth, siblings) => {
        const rowId = `${this.path}#${goal.id}`;
        const { goals, children } = this.log.state!;
        const within = children.get(goal.id) ?? [];
        const subs = this.subs.get(goal.id) ?? [];
        const steps = this.steps.get(goal.id) ?? [];
        const any =
          within.length || subs.length || this.items.has(goal.id) || steps.length || goal.self_stats.message_count;
        const open = any ? !this.all.folds.folded.has(rowId) : null;
        const { total_tokens, total_cost } = goal.cumulative_stats;
        this.push({
          ...NOTHING,
          id: rowId,
          depth,
          kind: "goal",
          goal,
          from,
          to,
          below: [...within.map((id) => this.timesOf(goals.get(id)!)), ...subs.map((sub) => this.stretchOf(sub))],
          tokens: total_tokens,
          cost: total_cost,
          open,
          ...stepsOf(steps, this.all.folds.stepped.has(rowId)),
          nth,
          siblings,
        });
        if (open) this.under(goal.id, depth + 1, rowId);
      },
    };
  }

  private ofStep(step: Step, inSteps: ReadonlyMap<string, Child[]>): Child {
    const timeless = this.log.rows.timeless;
    const from = timeless ? step.event_id * STEP_MS : Date.parse(step.started_at);
    const end = timeless ? from + STEP_MS : Date.parse(step.ended_at ?? "");
    return {
      from,
      add: (depth, nth, siblings) => {
        const rowId = `${this.path}~${step.id}`;
        const within = inSteps.get(step.id) ?? [];
        const open = within.length ? !this.all.folds.folded.has(rowId) : null;
        this.push({
          ...NOTHING,
          id: rowId,
          depth,
          kind: "step",
          step,
          from,
          to: step.status === "running" ? (this.on ? null : Math.max(from, this.end)) : Math.max(from, end || from),
          open,
          nth,
          siblings,
        });
        if (open) addAll(within, depth + 1);
      },
    };
  }
}

const NOTHING = {
  goal: null,
  sub: null,
  status: null,
  step: null,
  item: null,
  version: 0,
  first: null,
  below: [],
  tokens: 0,
  cost: null,
  open: null,
  steps: 0,
  bad: 0,
  stepped: false,
};
const rowsOf = new WeakMap<Item, FallRow>();

const stepsOf = (steps: Step[], stepped: boolean) => ({
  steps: steps.length,
  bad: steps.reduce((n, step) => n + (step.status === "failed" ? 1 : 0), 0),
  stepped,
});

/** In the order of their beginning; what has no time comes last, as it stands. */
function addAll(children: Child[], depth: number): void {
  const key = (from: number) => (Number.isNaN(from) ? Infinity : from);
  let sorted = true;
  for (let i = 1; i < children.length && sorted; i++) sorted = key(children[i - 1]!.from) <= key(children[i]!.from);
  if (!sorted) children.sort((a, b) => key(a.from) - key(b.from) || 0);
  children.forEach((child, i) => {
    child.add(depth, i + 1, children.length);
  });
}

function push<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const values = map.get(key);
  if (values) values.push(value);
  else map.set(key, [value]);
}

function hasBar(item: Item): boolean {
  if (item.message) return true;
  if (!item.event) return false;
  if (item.event.event === "input_requested") return true;
  return item.error && !item.event.event.startsWith("sub_trace_") && item.event.event !== "trace_completed";
}

function kindOf({ message }: Item): Kind {
  if (!message) return "event";
  if (message.role === "tool") return "tool";
  return message.role === "assistant" || message.model || message.request || message.usage ? "call" : "said";
}

/** Of a duration in ms what is not covered by stretches. Those that go on end at `now`. */
export function ownTime(from: number, to: number, below: readonly Stretch[], now: number): number {
  let own = to - from;
  for (const [a, b] of covered(from, to, below, now)) own -= b - a;
  return Math.max(0, own);
}

/** The stretches between two times, in order, those that overlap as one. */
export function covered(from: number, to: number, below: readonly Stretch[], now: number): [number, number][] {
  const found: [number, number][] = [];
  const sorted = below
    .map(([a, b]): [number, number] => [Math.max(from, a), Math.min(to, b ?? now)])
    .filter(([a, b]) => b > a)
    .sort((a, b) => a[0] - b[0]);
  for (const [a, b] of sorted) {
    const last = found.at(-1);
    if (last && a <= last[1]) last[1] = Math.max(last[1], b);
    else found.push([a, b]);
  }
  return found;
}

/** The row of an event, also of one that changed a message or began a step, or of a goal; -1 where it is folded. */
export function findRow(rows: readonly FallRow[], log: TraceLog, event: number | null, goalId: string | null): number {
  const item = event === null ? undefined : log.rows.itemOfEvent(event);
  return rows.findIndex(
    (row) =>
      row.log === log &&
      (event === null
        ? goalId !== null && row.goal?.id === goalId
        : row.step?.event_id === event || (row.item !== null && row.item === item)),
  );
}

/** The rows that have to be open for a row of a goal to be there. */
export function pathTo(log: TraceLog, path: string, goalId: string | null): string[] {
  const ids: string[] = [];
  for (let goal = log.state?.goals.get(goalId ?? ""); goal; goal = log.state?.goals.get(goal.parent_id ?? ""))
    ids.push(`${path}#${goal.id}`);
  return ids;
}
