// The name under which one answers and cancels here, for whoever reads it later. Known to this browser only.

import { signal } from "@preact/signals";

const KEY = "tracewatch.name";
const NOBODY = "viewer";

export const me = signal(stored());

function stored(): string {
  try {
    return localStorage.getItem(KEY)?.trim() || NOBODY;
  } catch {
    return NOBODY;
  }
}

export function callMe(name: string): void {
  me.value = name.trim().slice(0, 256) || NOBODY;
  try {
    localStorage.setItem(KEY, me.value);
  } catch {
    // it holds until the page is left
  }
}
