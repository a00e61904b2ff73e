// What an entry of the browser's history remembers of its page: where a list was scrolled to, what was unfolded. So
// going back, forward, reloading and duplicating a tab show it as it was.
//
// Rule 1: it is kept in memory at once, and a moment later in the entry itself, which outlasts the page. Browsers
//         allow only so many changes of an entry in a time.
// Rule 2: a new entry remembers nothing: a link to the list shows its beginning.

import { signal } from "@preact/signals";
import type { Json } from "./protocol";

type Kept = { [name: string]: Json };
interface Entry {
  key: string;
  kept: Kept;
}

const WRITE_MS = 400;

const entries = new Map<string, Kept>();
let current = read();
/** The entry that is shown, by a name of its own. */
export const entry = signal(current.key);
let timer: ReturnType<typeof setTimeout> | undefined;

function read(): Entry {
  const state = typeof history === "undefined" ? null : (history.state as Entry | null);
  if (typeof state?.key !== "string") return { key: newKey(), kept: {} };
  return { key: state.key, kept: entries.get(state.key) ?? state.kept ?? {} };
}

function newKey(): string {
  return Math.random().toString(36).slice(2);
}

/** What the entry remembers under a name. */
export const kept = <T extends Json>(name: string): T | undefined => current.kept[name] as T | undefined;

/** Remember a value with the entry; null forgets it. */
export function keep(name: string, value: Json): void {
  if (JSON.stringify(current.kept[name] ?? null) === JSON.stringify(value)) return;
  current.kept = { ...current.kept, [name]: value };
  entries.set(current.key, current.kept);
  timer ??= setTimeout(write, WRITE_MS);
}

function write(): void {
  clearTimeout(timer);
  timer = undefined;
  if (typeof history === "undefined") return;
  try {
    history.replaceState(current, "");
  } catch {
    // too many in too short a time: it is written with the next change
  }
}

/** Change the address: in a new entry, or in this one, which goes on remembering. */
export function visit(href: string, how: "push" | "replace"): void {
  if (how === "push") {
    if (timer !== undefined) write();
    current = { key: newKey(), kept: {} };
    history.pushState(current, "", href);
    entry.value = current.key;
  } else history.replaceState(current, "", href);
}

/** The browser has gone to another entry. */
export function arrived(): void {
  clearTimeout(timer);
  current = read();
  // It may have been left before it was written
  timer = entries.has(current.key) ? setTimeout(write, WRITE_MS) : undefined;
  entry.value = current.key;
}

if (typeof window !== "undefined") window.addEventListener("pagehide", () => timer !== undefined && write());
