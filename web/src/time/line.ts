// A time line from 0 to 1 on which stretches where nothing happens are cut short, and the ticks of its axis. Pure.
//
// Rule 1: work is as long as it was. A pause is cut short where it is longer than 5 s and than a part of the work.
// Rule 2: while the run goes on the line ends behind now, at a length that has few values: what runs grows towards the
//         end, and nothing else moves until it is there. What happens meanwhile is no pause, also where all of it is to
//         wait: only where it has lasted longer than all the work before, its beginning is cut.

import type { Span, Stretch } from "./spans";

const PAUSE_MS = 5_000;
const PAUSE_SHARE = 0.04; // of the work
const STEP = 1.25; // between two lengths of a line that goes on
export const AHEAD_MS = 2_500; // at least, of the end of a line that goes on
const LEAST_MS = 10_000; // of a line that goes on
const WAIT_MS = 60_000; // that is never cut from a wait that goes on

/** A pause that is cut short: where its middle is on the line, how long it was, and when. */
export interface Gap {
  at: number;
  ms: number;
  from: number; // ms
  to: number;
}

/** Of places in order those that are at least so far from one another. */
export function apart<T extends { at: number }>(places: readonly T[], least: number): T[] {
  const kept: T[] = [];
  for (const one of places) if (!kept.length || one.at - kept.at(-1)!.at >= least) kept.push(one);
  return kept;
}

/** The next length of a line that goes on. */
const lengthFor = (ms: number): number =>
  LEAST_MS * STEP ** Math.max(0, Math.ceil(Math.log(ms / LEAST_MS) / Math.log(STEP)));

export class TimeLine {
  readonly gaps: Gap[] = [];
  readonly until: number; // ms; the time at its end
  #times: number[] = [];
  #places: number[] = [];

  /** `now`: of a run that goes on. `more`: work that has no span. */
  constructor(spans: readonly Span[], now: number | null = null, more: readonly Stretch[] = []) {
    const work = spans.filter((span) => span.lane !== "goals" && span.look !== "waiting");
    const busy = union([...work.map(stretchOf), ...more]);
    if (!busy.length) busy.push(...union(spans.map(stretchOf)));
    if (!busy.length) busy.push(now === null ? [0, 1] : [now, now]);
    const begun = busy.reduce((sum, [from, to]) => sum + to - from, 0);
    if (now !== null) goOn(busy, begun, now);
    const active = busy.reduce((sum, [from, to]) => sum + to - from, 0);
    const idle = busy.slice(1).map(([from], i) => from - busy[i]![1]);
    const limit = Math.max(PAUSE_MS, (now === null ? active : lengthFor(active)) * PAUSE_SHARE);
    const shown = (ms: number) => (ms > limit ? limit * 0.5 : ms);
    const length = active + idle.reduce((sum, ms) => sum + shown(ms), 0) || 1;
    const total = now === null ? length : lengthFor(length + AHEAD_MS);
    let at = 0;
    busy.forEach(([from, to], i) => {
      if (i > 0) {
        const ms = idle[i - 1]!;
        if (ms > limit) this.gaps.push({ at: (at + shown(ms) / 2) / total, ms, from: busy[i - 1]![1], to: from });
        at += shown(ms);
      }
      this.#times.push(from, to);
      this.#places.push(at / total, (at + to - from) / total);
      at += to - from;
    });
    this.until = this.#times.at(-1)! + total - length;
    if (now !== null) {
      this.#times.push(this.until);
      this.#places.push(1);
    }
  }

  /** The time at its beginning, in ms. */
  get from(): number {
    return this.#times[0]!;
  }

  /** Where a time is on the line. */
  place(ms: number): number {
    return between(ms, this.#times, this.#places);
  }

  /** The time at a place. */
  time(place: number): number {
    return between(place, this.#places, this.#times);
  }

  /** The ticks between two places, `most` at most: their places, and how long they are after the line's beginning. */
  ticks(from: number, to: number, most: number): { at: number; ms: number }[] {
    const found: { at: number; ms: number }[] = [];
    const [first, last] = [this.time(from), this.time(to)];
    const begin = this.from;
    let whole = 0; // ms between the two places, without what is cut
    const parts = this.#parts(first, last);
    for (const [a, b] of parts) whole += b - a;
    const step = niceStep(whole / Math.max(1, most));
    const least = (to - from) / most / 2;
    for (const [a, b] of parts) {
      for (let ms = Math.ceil((a - begin) / step) * step; ms <= b - begin && found.length < 4 * most; ms += step) {
        const at = this.place(begin + ms);
        const near = this.gaps.some((gap) => Math.abs(gap.at - at) < least);
        if (!near && at >= from && at <= to && at - (found.at(-1)?.at ?? -1) >= least) found.push({ at, ms });
      }
    }
    return found;
  }

  /** The stretches of the line between two times: what is cut lies between two of them. */
  #parts(first: number, last: number): Stretch[] {
    const parts: Stretch[] = [];
    let from = this.from;
    for (const gap of this.gaps) {
      parts.push([from, gap.from]);
      from = gap.to;
    }
    parts.push([from, this.until]);
    return parts.map(([a, b]): Stretch => [Math.max(a, first), Math.min(b, last)]).filter(([a, b]) => b >= a);
  }
}

/** Put in what goes on now, behind the last work: whole, or with its beginning cut. */
function goOn(busy: Stretch[], worked: number, now: number): void {
  const last = busy.at(-1)!;
  const ms = now - last[1];
  if (ms <= 0) return;
  const most = Math.max(WAIT_MS, lengthFor(worked));
  if (ms <= most) last[1] = now;
  else busy.push([now - most / 2 - (ms % (most / 2)), now]); // cut in steps: in between it grows
}

const STEPS = [
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500], // ms
  ...[1, 2, 5, 10, 20, 30].map((s) => s * 1000),
  ...[1, 2, 5, 10, 20, 30].map((m) => m * 60_000),
  ...[1, 2, 3, 6, 12, 24, 48, 96, 240].map((h) => h * 3_600_000),
];
const niceStep = (ms: number): number => STEPS.find((step) => step >= ms) ?? Math.ceil(ms / 864e5) * 864e5;

const stretchOf = ({ from, to }: Span): Stretch => [from, to];

function union(all: Stretch[]): Stretch[] {
  const sorted = all.sort((a, b) => a[0] - b[0]);
  const busy: Stretch[] = [];
  for (const [from, to] of sorted) {
    const last = busy.at(-1);
    if (last && from <= last[1] + 50) last[1] = Math.max(last[1], to);
    else busy.push([from, Math.max(to, from)]);
  }
  return busy;
}

function between(x: number, xs: number[], ys: number[]): number {
  if (x <= xs[0]!) return ys[0]!;
  if (x >= xs.at(-1)!) return ys.at(-1)!;
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle]! <= x) low = middle;
    else high = middle;
  }
  const width = xs[high]! - xs[low]!;
  return width ? ys[low]! + ((x - xs[low]!) / width) * (ys[high]! - ys[low]!) : ys[low]!;
}
