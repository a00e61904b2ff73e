// Work gathered and done once before a paint: events that arrive between two paints cost one change of the page.
//
// Rule: a hidden tab paints nothing, and browsers let its timers wait, up to a minute. What arrives drives it instead,
//       so that the tab's title says at once what needs a person.

const HIDDEN_MS = 500;
const waiting = new Set<() => void>();
let scheduled = false;
let done = 0; // performance.now() of the last run
let timer: ReturnType<typeof setTimeout> | undefined;

/** Run `work` before the next paint, once however often it is asked for. */
export function beforePaint(work: () => void): void {
  waiting.add(work);
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(run);
  if (document.hidden && performance.now() - done > HIDDEN_MS) queueMicrotask(run);
  else timer = setTimeout(run, HIDDEN_MS); // it must not gather work without end
}

function run(): void {
  if (!scheduled) return;
  scheduled = false;
  clearTimeout(timer);
  done = performance.now();
  const todo = [...waiting];
  waiting.clear();
  for (const work of todo) work();
}
