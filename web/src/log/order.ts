// The rows of the list of traces: which, and in which order.
//
// Rule: while somebody points at the list or reads in it, its order is held: rows change in place, but none moves,
//       none comes and none goes. What has come meanwhile is counted.

import type { Trace } from "../net/protocol";

export interface ListRow {
  id: string;
  height: number;
  trace: Trace;
  depth: number;
  below: number; // sub-traces
  open: boolean;
  troubles: number; // failed or lost sub-traces
  asking: number; // waiting sub-traces
  gone: boolean; // deleted meanwhile
}

export type Sort = "created" | "activity" | "messages" | "tokens" | "cost" | "duration";

function earlier(one: string, other: string): string {
  if (one < other) return one;
  return other;
}

export const SORTS: Record<Sort, (trace: Trace, at: number) => number | string> = {
  // Times of one form sort as their texts do. A run keeps its place when its first event comes, long after it was made
  created: (t) => earlier(t.started_at, t.created_at),
  activity: (t) => t.active_at,
  messages: (t) => t.tree_totals.total_messages,
  tokens: (t) => t.tree_totals.total_tokens,
  cost: (t) => t.tree_totals.total_cost ?? -1,
  duration: (t, at) =>
    (t.ended_at ? Date.parse(t.ended_at) : t.is_running ? at : Date.parse(t.active_at)) - Date.parse(t.started_at),
};

export interface Choice {
  test: ((trace: Trace) => boolean) | null;
  sort: Sort;
  up: boolean;
  flat: boolean;
  open: ReadonlySet<string>;
}

/** The order of the traces at the moment at which it was held, and which of them passed the filter. */
export type Held = ReadonlyMap<string, { trace: Trace; passed: boolean }>;

/** Hold the order as it is now. */
export function hold(all: readonly Trace[], choice: Choice, at: number): Held {
  const passes = passing(all, choice);
  const order = sorted(all, choice.sort, choice.up, at);
  return new Map(order.map((trace) => [trace.trace_id, { trace, passed: passes(trace) }]));
}

/** What is shown: what passes the filter and, where sub-agents are grouped, what is above that. */
function passing(all: readonly Trace[], { test, flat }: Choice): (trace: Trace) => boolean {
  if (!test || flat) return test ?? (() => true);
  const known = new Map(all.map((trace) => [trace.trace_id, trace]));
  const shown = new Set<string>();
  for (const trace of all) {
    if (!test(trace)) continue;
    for (let one: Trace | undefined = trace; one && !shown.has(one.trace_id); ) {
      shown.add(one.trace_id);
      one = one.parent_trace_id === null ? undefined : known.get(one.parent_trace_id);
    }
  }
  return (trace) => shown.has(trace.trace_id);
}

/** The rows, and how many more there would be if the order were not held. `at` is now, in ms. */
export function rowsOf(
  all: readonly Trace[],
  choice: Choice,
  held: Held | null,
  at: number,
): { rows: ListRow[]; more: number } {
  const { test, sort, up, flat } = choice;
  const passes = passing(all, choice);
  if (!held) {
    const order = sorted(all, sort, up, at).filter(passes);
    return { rows: flat ? order.map((t) => rowOf(t, 0)) : grouped(order, choice), more: 0 };
  }
  const now = new Map(all.map((trace) => [trace.trace_id, trace]));
  const order = [...held].filter(([, { passed }]) => passed).map(([id, { trace }]) => now.get(id) ?? trace);
  const rows = flat ? order.map((t) => rowOf(t, 0)) : grouped(order, choice);
  for (const row of rows) row.gone = !now.has(row.id);
  let more = 0;
  for (const trace of all) {
    const known = held.get(trace.trace_id);
    if (known?.passed || !passes(trace)) continue;
    // Below a run that is closed there is nothing to see
    if (flat || test || trace.parent_trace_id === null || !now.has(trace.parent_trace_id)) more++;
    else if (!known && choice.open.has(trace.parent_trace_id)) more++;
  }
  return { rows, more };
}

function sorted(all: readonly Trace[], sort: Sort, up: boolean, at: number): Trace[] {
  const key = SORTS[sort];
  const keyed = all.map((trace) => [key(trace, at), trace] as const);
  const by = up ? 1 : -1;
  keyed.sort((a, b) => (a[0] < b[0] ? -by : a[0] > b[0] ? by : a[1].trace_id < b[1].trace_id ? 1 : -1));
  return keyed.map(([, trace]) => trace);
}

const rowOf = (trace: Trace, depth: number): ListRow => ({
  id: trace.trace_id,
  height: 0,
  trace,
  depth,
  below: 0,
  open: false,
  troubles: 0,
  asking: 0,
  gone: false,
});

/** Rows with sub-traces below their parents, where those are open: all that a filter has left. */
function grouped(order: readonly Trace[], { open, test }: Choice): ListRow[] {
  const ids = new Set(order.map((trace) => trace.trace_id));
  const below = new Map<string, Trace[]>();
  const roots: Trace[] = [];
  for (const trace of order) {
    const parent = trace.parent_trace_id;
    if (parent === null || !ids.has(parent)) roots.push(trace);
    else if (below.has(parent)) below.get(parent)!.push(trace);
    else below.set(parent, [trace]);
  }
  const rows: ListRow[] = [];
  const sums = (id: string): [number, number, number] => {
    let [n, bad, asking] = [0, 0, 0];
    for (const child of below.get(id) ?? []) {
      const inner = sums(child.trace_id);
      n += 1 + inner[0];
      bad += inner[1] + (child.status === "failed" || child.status === "lost" ? 1 : 0);
      asking += inner[2] + (child.status === "waiting" ? 1 : 0);
    }
    return [n, bad, asking];
  };
  const add = (trace: Trace, depth: number) => {
    const one = rowOf(trace, depth);
    if (below.has(trace.trace_id)) [one.below, one.troubles, one.asking] = sums(trace.trace_id);
    one.open = one.below > 0 && (test !== null || open.has(trace.trace_id));
    rows.push(one);
    if (one.open)
      for (const child of [...below.get(trace.trace_id)!].sort((a, b) => (a.started_at < b.started_at ? -1 : 1)))
        add(child, depth + 1);
  };
  for (const trace of roots) add(trace, 0);
  return rows;
}
