// Draws the time panel: the waterfall and, below it, the overview of the whole run.

import { duration } from "../format";
import { LANES, type Lane, type Span, type TimeLine } from "./spans";

export const GUTTER = 54; // px, for the lanes' names
const HEIGHTS: Record<Lane, number> = { goals: 13, agents: 9, text: 9, tools: 9 }; // px, of a row
const LANE_GAP = 5;
export const MAP = 20; // px, height of the overview

/** Where the lanes are drawn: only those with something in them. */
export interface LaneTops {
  tops: Map<Lane, number>;
  height: number; // px, of the whole waterfall
}

export function laneTopsOf(spans: readonly Span[]): LaneTops {
  const rows = new Map<Lane, number>();
  for (const span of spans) if (span.row + 1 > (rows.get(span.lane) ?? 0)) rows.set(span.lane, span.row + 1);
  const tops = new Map<Lane, number>();
  let bottom = 5;
  for (const lane of LANES) {
    const used = rows.get(lane);
    if (!used) continue;
    tops.set(lane, bottom);
    bottom += used * HEIGHTS[lane] + LANE_GAP;
  }
  return { tops, height: bottom + 10 };
}

export interface Zoom {
  from: number; // places on the time line, 0…1
  to: number;
}

export interface Picture {
  spans: readonly Span[];
  line: TimeLine;
  lanes: LaneTops;
  zoom: Zoom;
  at: number | null; // ms: where the page stands, if not now
  over: Span | null;
}

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
  const { spans, line, lanes, zoom, at, over } = picture;
  const { tops, height } = lanes;
  const to = sized(canvas, height);
  const colours = coloursOf(canvas);
  const width = canvas.clientWidth - GUTTER - 8;
  const x = (ms: number) => GUTTER + ((line.place(ms) - zoom.from) / (zoom.to - zoom.from)) * width;
  to.font = "10px system-ui, sans-serif";
  to.textBaseline = "top";
  for (const [lane, top] of tops) {
    to.fillStyle = colours.faint;
    to.fillText(lane, 14, top - 1);
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
      if (marked !== (pass === "marked")) continue;
      const left = x(span.from);
      const right = x(span.to);
      if (right < GUTTER - 2 || left > GUTTER + width + 2) continue;
      const y = tops.get(span.lane)! + span.row * HEIGHTS[span.lane];
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
  to.font = "10px system-ui, sans-serif";
  for (const gap of line.gaps) {
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
  const { tops } = picture.lanes;
  const lane = LANES.findLast((name) => tops.has(name) && py >= tops.get(name)! - 2);
  if (!lane || px < GUTTER) return null;
  const row = Math.max(0, Math.floor((py - tops.get(lane)!) / HEIGHTS[lane]));
  const { line, zoom } = picture;
  const x = (ms: number) => GUTTER + ((line.place(ms) - zoom.from) / (zoom.to - zoom.from)) * inner;
  let best: Span | null = null;
  let distance = 5;
  for (const span of picture.spans) {
    if (span.lane !== lane || span.row !== row) continue;
    const away = px < x(span.from) ? x(span.from) - px : px > x(span.to) ? px - x(span.to) : 0;
    if (away < distance) [best, distance] = [span, away];
  }
  return best;
}

/** The place on the time line under a point of a canvas of that width. */
export function placeAt(zoom: Zoom, px: number, width: number): number {
  const inside = Math.max(0, Math.min(1, (px - GUTTER) / (width - GUTTER - 8)));
  return zoom.from + inside * (zoom.to - zoom.from);
}
