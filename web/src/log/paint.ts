// Work gathered and done once per frame: whatever arrives between two paints costs one change of the page.

const waiting = new Set<() => void>();
let scheduled = false;
let timer: ReturnType<typeof setTimeout> | undefined;

/** Run `work` before the next paint, once however often it is asked for. */
export function nextFrame(work: () => void): void {
  waiting.add(work);
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(run);
  timer = setTimeout(run, 500); // a hidden tab has no frames, and must not gather without end
}

function run(): void {
  if (!scheduled) return;
  scheduled = false;
  clearTimeout(timer);
  const todo = [...waiting];
  waiting.clear();
  for (const work of todo) work();
}
