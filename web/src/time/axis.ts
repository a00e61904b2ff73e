// The one axis that the waterfall, the time panel and its slider have: the time line of a run, looked at again now and
// then while the run goes on, the part of it that is shown, and the events by their moments.
//
// Rule: the moment of an event is the latest time at which anything had happened by then, as `active_at` of the fold.
//       So moments follow the events, also those of runs that came late or out of order.

import { effect, type ReadonlySignal, signal } from "@preact/signals";
import { momentOf, STEP_MS } from "../log/rows";
import type { TraceLog } from "../log/trace-log";
import type { TraceView } from "../log/view";
import { serverNow } from "../net/time";
import { everyTwo } from "../parts/clock";
import { AHEAD_MS, TimeLine } from "./line";
import { goesOn, type Span, spansOf, timesOf, unseenOf } from "./spans";

const REFRESH_MS = 300; // between two looks at what is new, or
const SHARE = 50; // so many times the time that one look takes
const BEAT_MS = 250;

/** A part of the line. */
export interface Zoom {
  from: number; // places on the time line, 0…1
  to: number;
}
export const WHOLE: Zoom = { from: 0, to: 1 };
const LEAST = 0.0005;
export const zoom = signal<Zoom>(WHOLE);

/** Show `times` as much of the line, with the place that is `at` where it is. */
export function zoomBy(times: number, at: number): void {
  const { from, to } = zoom.peek();
  const width = Math.min(1, Math.max(LEAST, (to - from) * times));
  const begin = Math.max(0, Math.min(1 - width, at - ((at - from) / (to - from)) * width));
  zoom.value = width === 1 ? WHOLE : { from: begin, to: begin + width };
}

export function showAll(): void {
  zoom.value = WHOLE;
}

/** Move the part that is shown, by a share of itself. */
export function moveBy(share: number): void {
  const { from, to } = zoom.peek();
  const begin = Math.max(0, Math.min(1 - (to - from), from + share * (to - from)));
  zoom.value = { from: begin, to: begin + to - from };
}

/** Show what lies between two places. */
export function zoomTo(one: number, other: number): void {
  const [from, to] = [Math.min(one, other), Math.max(one, other)];
  if (to - from >= LEAST) zoom.value = { from, to };
}

export interface Axis {
  readonly spans: Span[];
  readonly line: TimeLine;
  readonly goesOn: boolean;
}

/** Now, in ms; of a run without times the step that comes next. */
export const nowOf = (log: TraceView): number =>
  log.rows.timeless ? ((log.position ?? 0) + 1) * STEP_MS : serverNow();

function made(log: TraceLog): Axis {
  const on = goesOn(log);
  const spans = spansOf(log, nowOf(log));
  return { spans, line: new TimeLine(spans, on ? nowOf(log) : null, unseenOf(log)), goesOn: on };
}

const axes = new WeakMap<TraceLog, ReadonlySignal<Axis>>();

/** The axis of a run, for as long as something shows it. */
export function axisOf(log: TraceLog): ReadonlySignal<Axis> {
  const known = axes.get(log);
  if (known) return known;
  const axis = watched(log);
  axes.set(log, axis);
  return axis;
}

function watched(log: TraceLog): ReadonlySignal<Axis> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let cost = 0; // ms; of the last look
  const stops: (() => void)[] = [];
  const look = () => {
    clearTimeout(timer);
    timer = undefined;
    const start = performance.now();
    axis.value = made(log);
    cost = performance.now() - start;
  };
  const later = () => {
    if (!axis.peek().spans.length) return look(); // the first of it is here
    timer ??= setTimeout(look, Math.max(REFRESH_MS, cost * SHARE));
  };
  const axis = signal(made(log), {
    watched() {
      look();
      const version = log.version.peek();
      stops.push(log.version.subscribe((now) => now !== version && later()));
      const ahead = () => {
        if (!axis.value.goesOn) return; // then nothing ticks
        everyTwo.value;
        if (nowOf(log) + AHEAD_MS > axis.peek().line.until) look();
      };
      stops.push(effect(ahead));
    },
    unwatched() {
      clearTimeout(timer);
      timer = undefined;
      for (const stop of stops.splice(0)) stop();
    },
  });
  return axis;
}

/** Counts four times a second while something that grows is shown and the page is visible. */
export const beat: ReadonlySignal<number> = signal(0, {
  watched() {
    beating = setInterval(() => {
      if (typeof document === "undefined" || !document.hidden) (beat as { value: number }).value++;
    }, BEAT_MS);
  },
  unwatched: () => clearInterval(beating),
});
let beating: ReturnType<typeof setInterval> | undefined;

// --- events and moments ---

interface Moments {
  version: number;
  times: number[]; // ms, never less than those before
  ids: number[];
}
const known = new WeakMap<TraceView, Moments>();

function momentsOf(log: TraceView): Moments {
  const before = known.get(log);
  if (before?.version === log.version.peek()) return before;
  const points: [id: number, ms: number][] = [];
  for (const item of log.rows.items) {
    if (item.hole !== undefined || item.gap) continue;
    const { updated } = timesOf(item);
    points.push([item.id, momentOf(item.at, item.id)]);
    if (item.lastId > item.id) points.push([item.lastId, updated]);
  }
  points.sort((a, b) => a[0] - b[0]);
  const moments: Moments = { version: log.version.peek(), times: [], ids: [] };
  let latest = -Infinity;
  for (const [id, ms] of points) {
    if (Number.isNaN(ms)) continue;
    latest = Math.max(latest, ms);
    moments.ids.push(id);
    moments.times.push(latest);
  }
  known.set(log, moments);
  return moments;
}

/** The last event at a moment, as far as is known; null for now. */
export function eventAt(log: TraceView, ms: number): number | null {
  const { times, ids } = momentsOf(log);
  const last = log.position ?? 0;
  if (!times.length) return null;
  const after = times.findIndex((time) => time > ms);
  if (after < 0) return ms >= nowOf(log) || !goesOn(log) ? null : last;
  if (after === 0) return Math.max(log.first, Math.min(ids[0]!, last));
  // Between two events that are known stand some of which only the numbers are
  const [from, to] = [times[after - 1]!, times[after]!];
  const share = to > from ? (ms - from) / (to - from) : 0;
  return ids[after - 1]! + Math.floor((ids[after]! - ids[after - 1]! - 1) * share);
}

/** The moment of an event, in ms, as far as is known. */
export function momentAt(log: TraceView, eventId: number): number | null {
  const { times, ids } = momentsOf(log);
  const after = ids.findIndex((id) => id > eventId);
  const at = after < 0 ? ids.length - 1 : after - 1;
  return times[Math.max(0, at)] ?? null;
}
