// The time by the server's clock, as a signal that ticks once a second while the page is visible and a part of it shows
// the time. The marks of runs beat with it (`.beat` in base.css).

import { computed, signal } from "@preact/signals";
import { serverNow, timeSet } from "../net/time";

let timer: ReturnType<typeof setTimeout> | undefined;

export const now = signal(serverNow(), {
  watched: start,
  unwatched() {
    clearTimeout(timer);
    timer = undefined;
  },
});

/** Counts every two, and every five seconds: for parts that are expensive to draw. */
export const everyTwo = computed(() => Math.floor(now.value / 2000));
export const everyFive = computed(() => Math.floor(now.value / 5000));

function start(): void {
  now.value = serverNow();
  if (document.hidden) return;
  document.documentElement.classList.toggle("beat", Math.floor(now.value / 1000) % 2 > 0);
  timer = setTimeout(start, 1000 - (now.peek() % 1000));
}

timeSet.subscribe(() => {
  if (timer !== undefined) now.value = serverNow();
});

/** The reader's day; it changes where days change in the reader's time zone. */
export const today = computed(() => new Date(now.value).toDateString());

if (typeof document !== "undefined") {
  document.addEventListener("visibilitychange", () => {
    if (timer !== undefined || !document.hidden) {
      clearTimeout(timer);
      if (!document.hidden) start();
    }
  });
}
