// The time, by the server's clock: ages and durations are right where this machine's clock is not.
//
// Rule: frames tell the server's time. Between them time goes on by the browser's count of what has passed, which no
//       setting of a clock changes. It may stand still while the machine sleeps; the next frame puts that right.

import { signal } from "@preact/signals";

const JUMP_MS = 500; // a difference that is told to what shows the time

let offset: number | null = null; // ms between the server's time and the count of what has passed

/** Counts how often the time was set to another. */
export const timeSet = signal(0);

/** Milliseconds that have passed since some moment, whatever is done to clocks. */
export const passed = (): number => performance.now();

/** The server's time, in ms; until it has told it, that of this machine. */
export const serverNow = (): number => (offset === null ? Date.now() : offset + passed());

/** The server says what time it is, as its frames and answers do in `ts`. */
export function tellTime(ts: string): void {
  const time = Date.parse(ts);
  if (Number.isNaN(time)) return;
  const before = serverNow();
  offset = time - passed();
  if (Math.abs(time - before) > JUMP_MS) timeSet.value++;
}

/** Notices that this machine's clock was set, or that the machine has slept. */
export class Sleeps {
  #wall = Date.now();
  #passed = passed();

  /** As `jumped`, which then still tells it. */
  peek(): number {
    return Date.now() - this.#wall - (passed() - this.#passed);
  }

  /** How far, in ms, this machine's clock has gone in another way than time, since this was last asked. */
  jumped(): number {
    const by = this.peek();
    this.#wall = Date.now();
    this.#passed = passed();
    return by;
  }
}
