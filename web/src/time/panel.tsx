// The time panel: the run as an overview in lanes, below it all of it with errors and questions, and the slider, which
// shows the whole page as it was at any moment and plays on from there.
//
// Rule: lanes, overview, slider and the waterfall have one axis (axis.ts). The slider stands below the overview, its
//       thumb at the playhead.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { say } from "../app";
import { count, duration, timeOfDay, visible } from "../format";
import type { Replay } from "../log/replay";
import { STEP_MS } from "../log/rows";
import type { TraceLog } from "../log/trace-log";
import { everyTwo } from "../parts/clock";
import { useKeys } from "../parts/keys";
import { theme } from "../parts/theme";
import { axisOf, eventAt, momentAt, moveBy, nowOf, showAll, WHOLE, zoomBy, zoom as zoomed, zoomTo } from "./axis";
import { drawFall, drawMap, laneTopsOf, MAP, type Picture, placeAt, spanAt } from "./draw";
import { Player, SPEEDS, type Speed } from "./player";
import type { Lane, Span } from "./spans";

const FINE = 10_000; // steps of the slider
const CLICK = 4; // px that a pointer moves in a click

interface PanelProps {
  log: TraceLog; // as it is now
  axisLog: TraceLog; // whose time line it is: of a sub-agent that of the run around it, where the page shows that
  replay: Replay | null; // as it was
  at: number | null; // the event that the page stands at; null: now
  setAt: (eventId: number | null) => void;
  choose: (span: Span) => void;
  hide: () => void;
}

export function TimePanel({ log, axisLog, replay, at, setAt, choose, hide }: PanelProps) {
  const fall = useRef<HTMLCanvasElement>(null);
  const map = useRef<HTMLCanvasElement>(null);
  const [over, setOver] = useState<{ span: Span; x: number } | null>(null);
  const [open, setOpen] = useState<ReadonlySet<Lane>>(new Set());
  const [speed, setSpeed] = useState<Speed>(1);
  const [playing, setPlaying] = useState(false);
  const axis = axisOf(axisLog).value;
  const zoom = zoomed.value;
  const player = useRef<Player | null>(null);
  const first = log.first;
  const last = log.position ?? 0;
  log.version.value;
  replay?.version.value;
  theme.value;
  const tick = axis.goesOn ? everyTwo.value : 0;

  const shownAt = at === null ? last : (replay?.position ?? at);
  const stepFrom = playing ? shownAt : (at ?? last); // pressed twice before the page stands there
  const steps = log.rows.timeless;
  const playhead = at === null ? null : playheadOf(log, replay, at);
  const now = nowOf(axisLog);
  const lanes = laneTopsOf(axis.spans, open);
  const picture: Picture = { ...axis, lanes, zoom, at: playhead, over: over?.span ?? null, now };
  const current = useRef(picture);
  current.current = picture;

  useEffect(() => showAll, [axisLog]);
  useLayoutEffect(() => {
    drawFall(fall.current!, picture);
    drawMap(map.current!, picture);
  }, [axis, zoom, playhead, over?.span, open, theme.value, tick]);
  useEffect(() => {
    const observer = new ResizeObserver(() => {
      if (!fall.current || !map.current) return;
      drawFall(fall.current, current.current);
      drawMap(map.current, current.current);
    });
    observer.observe(fall.current!);
    return () => observer.disconnect();
  }, []);

  function stop(): void {
    player.current?.stop();
    player.current = null;
    setPlaying(false);
    if (replay?.position) setAt(replay.position);
  }
  function play(): void {
    if (playing) return stop();
    if (!replay) setAt(first); // from the beginning; the effect below starts it once the replay is there
    setPlaying(true);
  }
  useEffect(() => {
    if (!playing || !replay) return;
    const mine = new Player(replay, speed, (ended) => {
      setPlaying(false);
      if (ended) setAt(null);
      else say("The events to replay could not be read", true);
    });
    player.current = mine;
    mine.start();
    return () => mine.stop();
  }, [playing, replay]);
  useLayoutEffect(() => {
    if (at === null) setPlaying(false); // back to now by the link above
  }, [at]);
  useEffect(() => {
    if (player.current) player.current.speed = speed;
  }, [speed]);

  const scrub = (to: number) => {
    if (playing) {
      player.current?.stop();
      setPlaying(false);
    }
    setAt(to >= last ? null : Math.max(first, to));
  };
  useKeys("Time", [
    { keys: "[", does: "One event back", run: () => scrub(stepFrom - 1) },
    { keys: "]", does: "One event on", run: () => scrub(stepFrom + 1) },
    { keys: "P", does: "Play on from here", run: play },
    { keys: ".", does: "Back to now", run: () => scrub(last) },
    { keys: "0", does: "Show all of the time line", run: showAll },
  ]);

  /** Stand at a place of the line. */
  const scrubTo = (place: number) => scrub(eventAt(log, axis.line.time(place)) ?? last);
  const drag = useRef<number | null>(null); // where the pointer went down, px
  const width = () => fall.current!.clientWidth;
  const onWheel = (event: WheelEvent) => {
    if (!event.ctrlKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY) && !event.shiftKey) return;
    event.preventDefault();
    if (event.ctrlKey) zoomBy(Math.exp(event.deltaY * 0.004), placeAt(zoom, event.offsetX, width()));
    else moveBy((event.deltaX || event.deltaY) / width());
  };
  const foldable = [...lanes.lanes].filter(([lane, { used, rows }]) => used > rows || open.has(lane));

  return (
    <section class="time" aria-label="Time">
      <div class="falls">
        <canvas
          ref={fall}
          class="fall"
          style={{ height: `${lanes.height}px` }}
          role="img"
          aria-label={`Overview of ${count(axis.spans.length)} goals, messages, tools and agents`}
          onWheel={onWheel}
          onPointerDown={(event) => {
            drag.current = event.offsetX;
            event.currentTarget.setPointerCapture(event.pointerId);
          }}
          onPointerMove={(event) => {
            if (drag.current !== null && event.buttons) {
              if (Math.abs(event.offsetX - drag.current) < CLICK) return;
              drag.current = -Infinity; // it is no click any more
              setOver(null);
              scrubTo(placeAt(zoom, event.offsetX, width()));
              return;
            }
            const span = spanAt(current.current, event.offsetX, event.offsetY, width());
            if (span !== over?.span) setOver(span && { span, x: event.offsetX });
          }}
          onPointerUp={(event) => {
            const clicked = drag.current !== null && drag.current !== -Infinity;
            drag.current = null;
            const span = clicked && spanAt(current.current, event.offsetX, event.offsetY, width());
            if (span) choose(span);
          }}
          onPointerLeave={() => setOver(null)}
        />
        {foldable.map(([lane, { top, used, rows }]) => (
          <button
            key={lane}
            class="unfold link"
            style={{ top: `${top - 3}px` }}
            aria-expanded={open.has(lane)}
            title={open.has(lane) ? `Fold the ${lane}` : `${count(used - rows)} more rows of ${lane}`}
            onClick={() => setOpen(new Set([...open, lane].filter((one) => one !== lane || !open.has(lane))))}
          >
            {lane}
          </button>
        ))}
      </div>
      {over && <Tip steps={steps} now={now} span={over.span} x={over.x} width={fall.current?.clientWidth ?? 800} />}
      <canvas
        ref={map}
        class="map"
        style={{ height: `${MAP}px` }}
        role="img"
        aria-label="All of it; drag to look closer, double-click for the whole"
        title="Drag to look closer, double-click for the whole"
        onPointerDown={(event) => {
          drag.current = placeAt(WHOLE, event.offsetX, width());
          event.currentTarget.setPointerCapture(event.pointerId);
        }}
        onPointerMove={(event) => {
          if (drag.current === null) return;
          const to = placeAt(WHOLE, event.offsetX, width());
          if (Math.abs(to - drag.current) > 0.004) zoomTo(drag.current, to);
        }}
        onPointerUp={() => (drag.current = null)}
        onDblClick={showAll}
      />
      <input
        type="range"
        class="clock"
        min={0}
        max={FINE}
        value={Math.round(FINE * axis.line.place(playhead ?? now))}
        aria-label="After which event"
        aria-valuetext={`event ${shownAt} of ${last}`}
        onInput={(event) => scrubTo(Number(event.currentTarget.value) / FINE)}
        onKeyDown={(event) => {
          const to = {
            ArrowLeft: stepFrom - 1,
            ArrowDown: stepFrom - 1,
            ArrowRight: stepFrom + 1,
            ArrowUp: stepFrom + 1,
            PageDown: stepFrom - 20,
            PageUp: stepFrom + 20,
            Home: first,
            End: last,
          }[event.key];
          if (to === undefined) return;
          event.preventDefault();
          scrub(to);
        }}
      />
      <div class="scrub">
        <button
          class="quiet icon"
          aria-label={playing ? "Pause" : "Play"}
          title={playing ? "Pause (P)" : "Play from here (P)"}
          onClick={play}
        >
          <svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">
            <path
              fill="currentColor"
              d={playing ? "M2.500 1.500h2.500v9H2.500ZM7 1.500h2.500v9H7Z" : "M3 1.200v9.600L10.500 6Z"}
            />
          </svg>
        </button>
        <select
          aria-label="Speed"
          value={speed}
          onChange={(event) => setSpeed(Number(event.currentTarget.value) as Speed)}
        >
          {SPEEDS.map((n) => (
            <option key={n} value={n}>
              {n}×
            </option>
          ))}
        </select>
        <span class="grow" />
        <span class="num where">
          {playhead !== null && !steps && `${timeOfDay(new Date(playhead).toISOString())} · `}event {count(shownAt)}
          {at !== null && <span class="dim"> of {count(last)}</span>}
        </span>
        {(zoom.from > 0 || zoom.to < 1) && (
          <button class="quiet" title="Show all of it (0)" onClick={showAll}>
            Whole run
          </button>
        )}
        <button class="quiet icon" aria-label="Hide time" title="Hide (W)" onClick={hide}>
          ✕
        </button>
      </div>
    </section>
  );
}

/** The moment at which the page stands, in ms: the latest at which anything had happened by then. */
function playheadOf(log: TraceLog, replay: Replay | null, at: number): number | null {
  if (log.rows.timeless) return at * STEP_MS;
  const active = Date.parse(replay?.state?.head.active_at ?? "");
  return Number.isNaN(active) ? momentAt(log, at) : active;
}

function Tip(props: { steps: boolean; now: number; span: Span; x: number; width: number }) {
  const { steps, now, span, x, width } = props;
  const side = x > width * 0.6 ? { right: `${width - x + 8}px` } : { left: `${x + 10}px` };
  return (
    <div class="tip" style={side}>
      <b class="words">{visible(span.label.slice(0, 160))}</b>
      <span class="num dim">
        {steps
          ? `step ${count(Math.floor(span.from / STEP_MS))}`
          : `${timeOfDay(new Date(span.from).toISOString())} · ${span.on ? "so far " : ""}${duration(
              (span.on ? now : span.to) - span.from,
            )}`}
      </span>
    </div>
  );
}
