// Which failed and lost runs need a person: those of the last day that nobody has looked at or put away in this
// browser.
//
// Rule 1: a sub-agent's failure stands under its root, and only while the root has not completed: a run that got over
//         the failure needs nobody. Imported runs are history and need nobody either.
// Rule 2: a failure that was looked at is remembered with its time, so that a run that fails again is shown again.

import { signal } from "@preact/signals";
import type { Trace } from "../net/protocol";
import { store, stored } from "../net/storage";

const KEY = "tracewatch.seen";
const MOST = 1000; // remembered
const RECENT_MS = 24 * 3600_000;

export interface Trouble {
  root: Trace;
  failed: Trace[]; // the root itself first if it is one of them, then the newest
}

const read = (): Set<string> => {
  try {
    return new Set(JSON.parse(stored(KEY) ?? "[]") as string[]);
  } catch {
    return new Set();
  }
};

/** The failures that were looked at, here and in other tabs. */
export const seen = signal<ReadonlySet<string>>(read());
if (typeof window !== "undefined")
  window.addEventListener("storage", (event) => {
    if (event.key === KEY) seen.value = read();
  });

const isTrouble = (trace: Trace): boolean => trace.status === "failed" || trace.status === "lost";
const keyOf = (trace: Trace): string => `${trace.trace_id} ${trace.completed_at ?? trace.updated_at}`;

/** Whether this failure was looked at. */
export const isSeen = (trace: Trace): boolean => seen.value.has(keyOf(trace));

/** Remember that these were looked at. */
export function markSeen(traces: Iterable<Trace>): void {
  const keys = [...traces]
    .filter(isTrouble)
    .map(keyOf)
    .filter((key) => !seen.peek().has(key));
  if (!keys.length) return;
  const kept = [...seen.peek(), ...keys].slice(-MOST);
  seen.value = new Set(kept);
  store(KEY, JSON.stringify(kept));
}

/** The runs that need a person, the newest first. */
export function troubles(all: readonly Trace[], looked: ReadonlySet<string>, at: number): Trouble[] {
  const since = new Date(at - RECENT_MS).toISOString();
  const found = all.filter(
    (trace) => isTrouble(trace) && trace.updated_at > since && !trace.metadata?.format && !looked.has(keyOf(trace)),
  );
  if (!found.length) return [];
  const byId = new Map(all.map((trace) => [trace.trace_id, trace]));
  const groups = new Map<string, Trouble>();
  for (const trace of found.sort((a, b) => (a.updated_at < b.updated_at ? 1 : -1))) {
    const root = byId.get(trace.root_trace_id) ?? trace;
    if (root !== trace && (root.status === "completed" || root.status === "stopped")) continue;
    const group = groups.get(root.trace_id);
    if (!group) groups.set(root.trace_id, { root, failed: [trace] });
    else if (trace === root) group.failed.unshift(trace);
    else group.failed.push(trace);
  }
  return [...groups.values()];
}
