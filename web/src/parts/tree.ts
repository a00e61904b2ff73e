// The rows of the goal tree: goals and the sub-agents they called, and what of it is folded and open. The waterfall has
// the same tree.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { app, closeLog, openLog } from "../app";
import type { TraceLog } from "../log/trace-log";
import type { TraceView } from "../log/view";
import { keep, kept } from "../net/places";
import type { Goal, SubTrace, Totals, TraceStatus } from "../net/protocol";

export const TREE = "tree"; // kept with the entry of the history

/** A place in the tree: a goal of a trace, or a whole trace. */
export interface Place {
  traceId: string;
  goalId: string | null;
}

export interface TreeRow {
  id: string;
  height: number;
  place: Place;
  depth: number;
  goal: Goal | null;
  sub: SubTrace | null;
  status: TraceStatus | null; // of a sub-trace
  totals: Totals | null; // of a sub-trace
  current: boolean;
  ended: boolean; // its trace has ended
  open: boolean | null; // null: nothing below
  errors: number; // in it and below
  nth: number; // its place, from 1, among
  siblings: TreeRow[];
}

export const samePlace = (a: Place, b: Place): boolean => a.traceId === b.traceId && a.goalId === b.goalId;

export interface TreeState {
  folded: Set<string>; // goals that are closed, as rows' ids
  opened: Set<string>; // sub-traces that are open
}

/** What is folded and open in the tree, also before the page was left. */
export function useTree(): [TreeState, (tree: TreeState) => void] {
  const [tree, setTree] = useState<TreeState>(() => {
    const { folded = [], opened = [] } = kept<Record<string, string[]>>(TREE) ?? {};
    return { folded: new Set(folded), opened: new Set(opened) };
  });
  return [
    tree,
    (to) => {
      setTree(to);
      keep(TREE, { folded: [...to.folded], opened: [...to.opened] });
    },
  ];
}

export function useOpenLogs(opened: Set<string>): Map<string, TraceLog> {
  const held = useRef(new Map<string, TraceLog>()).current;
  useMemo(() => {
    for (const id of opened) if (!held.has(id)) held.set(id, openLog(id));
    for (const id of [...held.keys()]) if (!opened.has(id) && held.delete(id)) closeLog(id);
  }, [opened]);
  useEffect(() => () => [...held.keys()].forEach(closeLog), []);
  return held;
}

export function foldAll(rows: TreeRow[]): Set<string> {
  return new Set(rows.filter((row) => row.goal && row.open !== null && row.depth >= 0).map((row) => row.id));
}

export function buildRows(log: TraceView, logs: Map<string, TraceView>, tree: TreeState): TreeRow[] {
  const rows: TreeRow[] = [];
  const seen = new Set<string>();

  function addSub(id: string, of: TraceView, depth: number, path: string): void {
    const sub = of.state?.subTraces.get(id);
    if (!sub || seen.has(id)) return;
    seen.add(id);
    const live = of.past ? undefined : app.traces.byId.get(id); // newer than the parent's copy
    const open = tree.opened.has(id);
    const inner = open ? logs.get(id) : undefined;
    const then = inner?.past ? inner.state : null; // newer than the parent's copy
    const rowId = `${path}/${id}`;
    rows.push({
      id: rowId,
      height: 0,
      depth,
      goal: null,
      sub,
      place: { traceId: id, goalId: null },
      current: false,
      ended: false,
      open,
      status: live?.status ?? then?.head.status ?? sub.status,
      totals: live?.tree_totals ?? then?.treeTotals() ?? sub.stats,
      errors: 0,
      nth: 0,
      siblings: [],
    });
    if (inner?.state) addTrace(inner, depth + 1, rowId);
  }

  function addTrace(of: TraceView, depth: number, path: string): void {
    const state = of.state!;
    const placed = new Set<string>();
    const errors = errorsOf(of);
    function addGoal(id: string, level: number): void {
      const goal = state.goals.get(id)!;
      const children = state.children.get(id) ?? [];
      const subs = goal.sub_trace_ids;
      const rowId = `${path}#${id}`;
      const open = children.length || subs.length ? !tree.folded.has(rowId) : null;
      rows.push({
        id: rowId,
        height: 0,
        depth: level,
        goal,
        sub: null,
        place: { traceId: of.id, goalId: id },
        current: state.head.current_goal_id === id && !state.ended,
        ended: state.ended || state.head.status === "lost",
        open,
        status: null,
        totals: null,
        errors: errors.get(id) ?? 0,
        nth: 0,
        siblings: [],
      });
      for (const sub of subs) placed.add(sub);
      if (open === false) return;
      for (const sub of subs) addSub(sub, of, level + 1, path);
      for (const child of children) addGoal(child, level + 1);
    }
    for (const id of state.children.get(null) ?? []) addGoal(id, depth);
    for (const sub of state.subTraces.values()) if (!placed.has(sub.trace_id)) addSub(sub.trace_id, of, depth, path);
  }

  if (log.state) addTrace(log, 0, "");
  placeAmongSiblings(rows);
  return rows;
}

/** Number the rows among their siblings: not all rows are drawn, so a screen reader can't count them. */
function placeAmongSiblings(rows: TreeRow[]): void {
  const open: TreeRow[][] = []; // siblings so far, by depth
  for (const row of rows) {
    open.length = row.depth + 1;
    open[row.depth] ??= [];
    const siblings = open[row.depth]!;
    siblings.push(row);
    row.nth = siblings.length;
    row.siblings = siblings;
  }
}

/** Failed calls and failed sub-agents of each goal, those below it included. */
export function errorsOf(log: TraceView): Map<string, number> {
  const sums = new Map<string, number>();
  const add = (id: string | null | undefined) => {
    for (; id; id = log.state!.goals.get(id)?.parent_id) sums.set(id, (sums.get(id) ?? 0) + 1);
  };
  for (const item of log.rows.items) if (item.error && item.message) add(item.goalId);
  for (const sub of log.state!.subTraces.values()) {
    const status = (log.past ? undefined : app.traces.byId.get(sub.trace_id)?.status) ?? sub.status;
    if (status === "failed" || status === "lost") add(sub.parent_goal_id);
  }
  return sums;
}
