// A trace as a page shows it: as it is now (`TraceLog`), or as it was after one of its events (`Replay`).

import type { ReadonlySignal, Signal } from "@preact/signals";
import type { State } from "./fold";
import type { Reader } from "./reader";
import type { Rows } from "./rows";

/** How near the page is to the trace. */
export type Phase =
  | { kind: "loading" }
  | { kind: "catching_up"; left: number }
  | { kind: "live" }
  | { kind: "gone"; code: string; message: string };

export interface TraceView {
  readonly id: string;
  readonly past: boolean; // whether this is the trace as it was
  readonly rows: Rows;
  readonly reader: Reader; // reads the rows that are missing
  readonly state: State | null; // null until there is a snapshot
  readonly position: number | null; // the last event taken
  readonly first: number; // the first event of the log
  readonly lastEventAt: string;
  readonly version: ReadonlySignal<number>; // counts the paints for which something changed: read it to be drawn again
  readonly phase: ReadonlySignal<Phase>;
  readonly gapSeen: Signal<number>; // the row of the last gap that was on the screen
}

/** A goal and all below it. */
export function withBelow(log: TraceView, goalId: string): Set<string> {
  const all = new Set([goalId]);
  for (const id of all) for (const child of log.state?.children.get(id) ?? []) all.add(child);
  return all;
}
