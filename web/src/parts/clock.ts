// The time by the server's clock, as signals that change only when what is shown of it would be another, and only
// while the page is visible and a part of it shows them.
//
// Rule: one timer for all of them, for the earliest whole second at which one of them is another. So the age of a run
//       that ended an hour ago is looked at once in an hour, and a page on which nothing runs does nothing.

import { computed, type ReadonlySignal, signal } from "@preact/signals";
import { serverNow, timeSet } from "../net/time";

const MOST_MS = 15 * 60_000; // for zones that change, and timers that end too late

interface Shown {
  due: number; // ms of the server's time
  look: (time: number) => void;
}

const shown = new Set<Shown>();
let timer: ReturnType<typeof setTimeout> | undefined;
let planned = Infinity; // the moment that the timer is for
const hidden = () => typeof document !== "undefined" && document.hidden;

/** What `at` gives for the time, in ms: the value, and the moment at which it will be another. */
export function timed<T>(at: (time: number) => [value: T, until: number]): ReadonlySignal<T> {
  const own: Shown = {
    due: 0,
    look(time) {
      const [value, until] = at(time);
      own.due = Math.ceil(until / 1000) * 1000;
      current.value = value;
    },
  };
  const current = signal(at(serverNow())[0], {
    watched() {
      own.look(serverNow());
      shown.add(own);
      if (own.due < planned) plan(own.due);
    },
    unwatched: () => void shown.delete(own),
  });
  return current;
}

function plan(due: number): void {
  if (hidden()) return;
  clearTimeout(timer);
  planned = due;
  timer = setTimeout(look, Math.max(0, Math.min(MOST_MS, Math.ceil(due - serverNow()))));
}

/** Look at what may have changed; `all`: also at the rest, as the time was set, or nobody looked for a while. */
function look(all = false): void {
  clearTimeout(timer);
  planned = Infinity;
  const time = serverNow();
  let next = Infinity;
  for (const one of [...shown]) {
    if (all || one.due <= time) one.look(time);
    next = Math.min(next, one.due);
  }
  if (shown.size) plan(next);
}

timeSet.subscribe(() => shown.size && look(true));
if (typeof document !== "undefined") {
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return look(true);
    clearTimeout(timer);
    planned = Infinity;
  });
}

/** Ticks once a second. The marks of runs beat with it (`.beat` in base.css). */
export const now = timed((time) => {
  const second = Math.floor(time / 1000);
  if (typeof document !== "undefined") document.documentElement.classList.toggle("beat", second % 2 > 0);
  return [time, (second + 1) * 1000];
});

/** Counts every two, and every five seconds: for parts that are expensive to draw. */
export const everyTwo = computed(() => Math.floor(now.value / 2000));
export const everyFive = timed((time) => [Math.floor(time / 5000), (Math.floor(time / 5000) + 1) * 5000]);

/** The reader's day; it changes where days change in the reader's time zone. */
export const today = timed((time) => {
  const day = new Date(time);
  const next = new Date(day.getFullYear(), day.getMonth(), day.getDate() + 1).getTime();
  return [day.toDateString(), Math.min(next, time + MOST_MS)];
});
