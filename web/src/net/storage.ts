// Small values that the browser keeps. Where it keeps nothing (a private window, a page from a file), they hold until
// the page is left.

import { signal } from "@preact/signals";

/** Becomes true where the browser did not keep a value: it holds until the page is left. */
export const unkept = signal(false);

const storage = (tabOnly: boolean): Storage => (tabOnly ? sessionStorage : localStorage);

/** The value kept under a key, or null. A value for this tab only is found in no other tab and on no later day. */
export function stored(key: string, tabOnly = false): string | null {
  try {
    return storage(tabOnly).getItem(key);
  } catch {
    return null;
  }
}

/** Keep a value under a key; null forgets it. */
export function store(key: string, value: string | null, tabOnly = false): void {
  try {
    if (value === null) storage(tabOnly).removeItem(key);
    else storage(tabOnly).setItem(key, value);
  } catch {
    unkept.value ||= value !== null;
  }
}

/** Whether the browser keeps values at all. */
export function keepsValues(): boolean {
  try {
    return Boolean(storage(true));
  } catch {
    return false;
  }
}
