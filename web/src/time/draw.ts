// Draws the time panel: lanes with what happened and, below them, the overview of the whole run.
//
// Rule: a lane that is folded draws three rows. Goals further down are not drawn; tools and agents that have no row of
//       their own are summed in the last one, as high as there are many at once.

import { count, duration } from "../format";
import type { Zoom } from "./axis";
import { apart, type TimeLine } from "./line";
import { LANES, type Lane, ROWS, type Span } from "./spans";

export const GUTTER = 54; // px, for the lanes' names
const HEIGHTS: Record<Lane, number> = { goals: 13, agents: 9, text: 9, tools: 9 }; // px, of a row
const LANE_GAP = 5;
export const MAP = 20; // px, height of the overview

/** Where a lane is drawn. */
export interface LanePlace {
  top: number; // px
  rows: number; // that are drawn, of
  used: number;
}

/** Where the lanes are drawn: only those with something in them. */
export interface LaneTops {
  lanes: Map<Lane, LanePlace>;
  height: number; // px, of them all
}

export function laneTopsOf(spans: readonly Span[], open: ReadonlySet<Lane>): LaneTops {
  const used = new Map<Lane, number>();
  for (const span of spans) if (span.row + 1 > (used.get(span.lane) ?? 0)) used.set(span.lane, span.row + 1);
  const lanes = new Map<Lane, LanePlace>();
  let bottom = 5;
  for (const lane of LANES) {
    const all = used.get(lane);
    if (!all) continue;
    const rows = open.has(lane) ? all : Math.min(all, ROWS[lane]);
    lanes.set(lane, { top: bottom, rows, used: all });
    bottom += rows * HEIGHTS[lane] + LANE_GAP;
  }
  return { lanes, height: bottom + 10 };
}

export interface Picture {
  spans: readonly Span[];
  line: TimeLine;
  lanes: LaneTops;
  zoom: Zoom;
  at: number | null; // ms: where the page stands, if not now
  over: Span | null;
  now: number; // ms; what goes on ends there
}

const endOf = (span: Span, now: number): number => (span.on ? Math.max(span.from, now) : span.to);

/** Whether a span has no row of its own: it is summed in the last one, or folded. */
const isOver = (span: Span, { rows, used }: LanePlace): boolean =>
  used > rows && span.row >= rows - (span.lane === "goals" ? 0 : 1);

type Colours = Record<
  "text" | "dim" | "faint" | "line" | "accent" | "accent-soft" | "red" | "amber" | "green" | "sunk",
  string
>;

function coloursOf(canvas: HTMLCanvasElement): Colours {
  const style = getComputedStyle(canvas);
  const names = ["text", "dim", "faint", "line", "accent", "accent-soft", "red", "amber", "green", "sunk"] as const;
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)])) as Colours;
}

function sized(canvas: HTMLCanvasElement, height: number): CanvasRenderingContext2D {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const to = canvas.getContext("2d")!;
  to.setTransform(ratio, 0, 0, ratio, 0, 0);
  to.clearRect(0, 0, width, height);
  return to;
}

export function drawFall(canvas: HTMLCanvasElement, picture: Picture): void {
  const { spans, line, lanes, zoom, at, over, now } = picture;
  const { height } = lanes;
  const to = sized(canvas, height);
  const colours = coloursOf(canvas);
  const width = canvas.clientWidth - GUTTER - 8;
  const x = (ms: number) => GUTTER + ((line.place(ms) - zoom.from) / (zoom.to - zoom.from)) * width;
  to.font = "10px system-ui, sans-serif";
  to.textBaseline = "top";
  for (const [lane, { top, used, rows }] of lanes.lanes) {
    to.fillStyle = colours.faint;
    if (used <= Math.min(rows, ROWS[lane])) to.fillText(lane, 14, top - 1); // else a button that says so
  }
  to.save();
  to.beginPath();
  to.rect(GUTTER, 0, width + 8, height);
  to.clip();
  const ends = new Map<number, number>(); // by y: what is drawn up to there
  const labels = new Map<number, number>(); // by y: where the last label ends
  for (const pass of ["rest", "marked"] as const) {
    for (const span of spans) {
      const marked = span.look === "failed" || span.look === "waiting" || span.look === "running";
      const place = lanes.lanes.get(span.lane)!;
      if (marked !== (pass === "marked") || isOver(span, place)) continue;
      const left = x(span.from);
      const right = x(endOf(span, now));
      if (right < GUTTER - 2 || left > GUTTER + width + 2) continue;
      const y = place.top + span.row * HEIGHTS[span.lane];
      const goal = span.lane === "goals";
      const wide = Math.max(1.5, right - left);
      if (pass === "rest" && left + wide < (ends.get(y) ?? 0) + 0.5) continue; // hidden behind what is there
      to.fillStyle = goal
        ? colours["accent-soft"]
        : {
            failed: colours.red,
            waiting: colours.amber,
            running: colours.accent,
            quiet: colours.faint,
            plain: span.lane === "text" ? colours.faint : colours.dim,
          }[span.look];
      to.globalAlpha = span === over || goal ? 1 : 0.8;
      to.fillRect(left, y, wide > 3 ? wide - 0.5 : wide, HEIGHTS[span.lane] - 2);
      if (goal && (span.look === "running" || span === over)) {
        to.fillStyle = colours.accent;
        to.fillRect(left, y + HEIGHTS.goals - 3, wide, 1);
      }
      ends.set(y, left + wide);
      const start = Math.max(left, GUTTER) + 3;
      if (goal && right - start > 50 && start > (labels.get(y) ?? 0)) {
        to.globalAlpha = 1;
        to.fillStyle = colours.text;
        const words = clip(to, span.label, right - start - 4);
        to.fillText(words, start, y + 0.5);
        labels.set(y, start + to.measureText(words).width + 6);
      }
    }
  }
  to.globalAlpha = 1;
  drawSums(to, picture, colours, x, GUTTER + width);
  to.font = "10px system-ui, sans-serif";
  for (const gap of apart(line.gaps, (90 / width) * (zoom.to - zoom.from))) {
    const left = GUTTER + ((gap.at - zoom.from) / (zoom.to - zoom.from)) * width;
    if (left < GUTTER || left > GUTTER + width) continue;
    const words = `// ${duration(gap.ms)} idle`;
    to.fillStyle = colours.faint;
    to.fillText(words, left - to.measureText(words).width / 2, height - 11);
  }
  if (at !== null) {
    to.fillStyle = colours.accent;
    to.fillRect(x(at) - 0.75, 0, 1.5, height);
  }
  to.restore();
}

/** The spans without rows of their own: how many there are at once, in the last row of their lane. */
function drawSums(
  to: CanvasRenderingContext2D,
  { spans, lanes, now }: Picture,
  colours: Colours,
  x: (ms: number) => number,
  end: number,
): void {
  for (const [lane, place] of lanes.lanes) {
    if (lane === "goals" || place.used <= place.rows) continue;
    const changes: [ms: number, by: number][] = [];
    const failed: number[] = [];
    for (const span of spans) {
      if (span.lane !== lane || !isOver(span, place)) continue;
      changes.push([span.from, 1], [endOf(span, now), -1]);
      if (span.look === "failed") failed.push(span.from);
    }
    changes.sort((a, b) => a[0] - b[0] || b[1] - a[1]);
    let most = 1;
    changes.reduce((n, [, by]) => {
      most = Math.max(most, n + by);
      return n + by;
    }, 0);
    const tall = HEIGHTS[lane] - 2;
    const top = place.top + (place.rows - 1) * HEIGHTS[lane];
    let n = 0;
    changes.forEach(([ms, by], i) => {
      n += by;
      const next = changes[i + 1];
      if (!n || !next) return;
      const [left, right] = [Math.max(GUTTER, x(ms)), Math.min(end, x(next[0]))];
      if (right <= left) return;
      const high = Math.max(2, (n / most) * tall);
      to.fillStyle = colours.dim;
      to.fillRect(left, top + tall - high, Math.max(1, right - left), high);
      const words = `+${count(n)}`;
      if (right - left < to.measureText(words).width + 6 || high < tall - 1) return;
      to.fillStyle = colours.sunk;
      to.font = "8px system-ui, sans-serif";
      to.fillText(words, left + 3, top - 0.5);
    });
    to.fillStyle = colours.red;
    for (const ms of failed) to.fillRect(x(ms), top, 2, tall);
  }
}

function clip(to: CanvasRenderingContext2D, text: string, width: number): string {
  const most = Math.floor(width / 5);
  let words = text.length > most ? `${text.slice(0, most)}…` : text;
  while (words.length > 2 && to.measureText(words).width > width) words = `${words.slice(0, -3)}…`;
  return words;
}

export function drawMap(canvas: HTMLCanvasElement, picture: Picture): void {
  const { spans, line, zoom, at } = picture;
  const to = sized(canvas, MAP);
  const colours = coloursOf(canvas);
  const width = canvas.clientWidth - GUTTER - 8;
  const columns = new Float32Array(Math.max(1, Math.ceil(width / 3)));
  const put = (ms: number) => Math.min(columns.length - 1, Math.floor(line.place(ms) * columns.length));
  for (const span of spans) if (span.lane !== "goals") columns[put(span.from)]! += 1;
  const most = columns.reduce((a, b) => Math.max(a, b), 1);
  to.fillStyle = colours.faint;
  columns.forEach((n, i) => {
    if (n)
      to.fillRect(
        GUTTER + i * 3,
        MAP - 3 - Math.max(1, (Math.sqrt(n) / Math.sqrt(most)) * (MAP - 8)),
        2,
        Math.max(1, (Math.sqrt(n) / Math.sqrt(most)) * (MAP - 8)),
      );
  });
  for (const span of spans) {
    if (span.look !== "failed" && span.look !== "waiting") continue;
    to.fillStyle = span.look === "failed" ? colours.red : colours.amber;
    to.fillRect(GUTTER + line.place(span.from) * width - 1, 0, 2, MAP - 3);
  }
  to.fillStyle = colours.line;
  to.fillRect(GUTTER, MAP - 2, width, 1);
  if (zoom.from > 0 || zoom.to < 1) {
    to.fillStyle = colours.accent;
    to.globalAlpha = 0.16;
    to.fillRect(GUTTER + zoom.from * width, 0, (zoom.to - zoom.from) * width, MAP);
    to.globalAlpha = 1;
  }
  if (at !== null) {
    to.fillStyle = colours.accent;
    to.fillRect(GUTTER + line.place(at) * width - 0.75, 0, 1.5, MAP);
  }
}

/** The span under a point of the waterfall. */
export function spanAt(picture: Picture, px: number, py: number, width: number): Span | null {
  const inner = width - GUTTER - 8;
  const { lanes } = picture.lanes;
  const lane = LANES.findLast((name) => lanes.has(name) && py >= lanes.get(name)!.top - 2);
  if (!lane || px < GUTTER) return null;
  const place = lanes.get(lane)!;
  const row = Math.max(0, Math.floor((py - place.top) / HEIGHTS[lane]));
  const { line, zoom, now } = picture;
  const x = (ms: number) => GUTTER + ((line.place(ms) - zoom.from) / (zoom.to - zoom.from)) * inner;
  let best: Span | null = null;
  let distance = 5;
  for (const span of picture.spans) {
    if (span.lane !== lane) continue;
    if (isOver(span, place) ? lane === "goals" || row < place.rows - 1 : span.row !== row) continue;
    const [left, right] = [x(span.from), x(endOf(span, now))];
    const away = px < left ? left - px : px > right ? px - right : 0;
    if (away < distance) [best, distance] = [span, away];
  }
  return best;
}

/** The place on the time line under a point of a canvas of that width. */
export function placeAt(zoom: Zoom, px: number, width: number): number {
  const inside = Math.max(0, Math.min(1, (px - GUTTER) / (width - GUTTER - 8)));
  return zoom.from + inside * (zoom.to - zoom.from);
}
