// The time, as a signal that ticks once a second while the page is visible and a part of it shows the time. The marks
// of runs beat with it (`.beat` in base.css).

import { computed, signal } from "@preact/signals";

let timer: ReturnType<typeof setTimeout> | undefined;

export const now = signal(Date.now(), {
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
  now.value = Date.now();
  if (document.hidden) return;
  document.documentElement.classList.toggle("beat", Math.floor(now.value / 1000) % 2 > 0);
  timer = setTimeout(start, 1000 - (Date.now() % 1000));
}

if (typeof document !== "undefined") {
  document.addEventListener("visibilitychange", () => {
    if (timer !== undefined || !document.hidden) {
      clearTimeout(timer);
      if (!document.hidden) start();
    }
  });
}
