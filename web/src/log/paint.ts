// Work gathered and done once before a paint: events that arrive between two paints cost one change of the page.

const waiting = new Set<() => void>();
let scheduled = false;
let timer: ReturnType<typeof setTimeout> | undefined;

/** Run `work` before the next paint, once however often it is asked for. */
export function beforePaint(work: () => void): void {
  waiting.add(work);
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(run);
  timer = setTimeout(run, 500); // a hidden tab paints nothing, and must not gather work without end
}

function run(): void {
  if (!scheduled) return;
  scheduled = false;
  clearTimeout(timer);
  const todo = [...waiting];
  waiting.clear();
  for (const work of todo) work();
}
