// The time, as a signal that ticks once a second while the page is looked at and something shows it.

import { signal } from "@preact/signals";

let timer: ReturnType<typeof setTimeout> | undefined;

export const now = signal(Date.now(), {
  watched: start,
  unwatched() {
    clearTimeout(timer);
    timer = undefined;
  },
});

function start(): void {
  now.value = Date.now();
  if (document.hidden) return;
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
