// The time panel: the run as a waterfall, an overview with errors and questions, and the scrubber, which shows the
// whole page as it was after any event and plays on from there.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { say } from "../app";
import { count, duration, timeOfDay, visible } from "../format";
import type { Replay } from "../log/replay";
import { STEP_MS } from "../log/rows";
import type { TraceLog } from "../log/trace-log";
import { serverNow } from "../net/time";
import { everyTwo } from "../parts/clock";
import { useKeys } from "../parts/keys";
import { theme } from "../parts/theme";
import { drawFall, drawMap, type LaneTops, laneTopsOf, MAP, type Picture, placeAt, spanAt, type Zoom } from "./draw";
import { Player, SPEEDS, type Speed } from "./player";
import { type Span, spansOf, TimeLine } from "./spans";

const REFRESH_MS = 700; // between two looks at what is new, or
const SHARE = 50; // so many times the time that one look takes
const MOST_TICKING = 5_000; // rows; in longer runs, spans that go on do not grow by themselves
const WHOLE: Zoom = { from: 0, to: 1 };

interface PanelProps {
  log: TraceLog; // as it is now
  replay: Replay | null; // as it was
  at: number | null; // the event that the page stands at; null: now
  setAt: (eventId: number | null) => void;
  choose: (span: Span) => void;
  hide: () => void;
}

export function TimePanel({ log, replay, at, setAt, choose, hide }: PanelProps) {
  const fall = useRef<HTMLCanvasElement>(null);
  const map = useRef<HTMLCanvasElement>(null);
  const [zoom, setZoom] = useState<Zoom>(WHOLE);
  const [over, setOver] = useState<{ span: Span; x: number } | null>(null);
  const [speed, setSpeed] = useState<Speed>(1);
  const [playing, setPlaying] = useState(false);
  const spans = useSpans(log);
  const player = useRef<Player | null>(null);
  const first = log.first;
  const last = log.position ?? 0;
  log.version.value;
  replay?.version.value;
  theme.value;

  const shownAt = at === null ? last : (replay?.position ?? at);
  const time = at === null ? null : Date.parse(replay?.state?.head.updated_at ?? "");
  const found = at === null ? undefined : log.rows.itemOfEvent(shownAt);
  const row = found?.hole === undefined ? found : undefined;
  // Imported runs were appended at once: the time at which things happened counts
  const steps = log.rows.timeless;
  const playhead =
    at === null ? null : steps ? at * STEP_MS : row ? Date.parse(row.at) : Number.isNaN(time) ? null : time;
  const picture: Picture = { ...spans, zoom, at: playhead, over: over?.span ?? null };
  const current = useRef(picture);
  current.current = picture;

  useLayoutEffect(() => {
    drawFall(fall.current!, picture);
    drawMap(map.current!, picture);
  }, [spans, zoom, playhead, over?.span, theme.value]);
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
    { keys: "[", does: "One event back", run: () => scrub(shownAt - 1) },
    { keys: "]", does: "One event on", run: () => scrub(shownAt + 1) },
    { keys: "P", does: "Play on from here", run: play },
    { keys: ".", does: "Back to now", run: () => scrub(last) },
  ]);

  const drag = useRef<number | null>(null);
  const width = () => fall.current!.clientWidth;
  const onWheel = (event: WheelEvent) => {
    if (!event.ctrlKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY) && !event.shiftKey) return;
    event.preventDefault();
    const span = zoom.to - zoom.from;
    if (event.ctrlKey) {
      const middle = placeAt(zoom, event.offsetX, width());
      const next = Math.min(1, Math.max(0.002, span * Math.exp(event.deltaY * 0.004)));
      const from = Math.max(0, Math.min(1 - next, middle - ((middle - zoom.from) / span) * next));
      setZoom({ from, to: from + next });
    } else {
      const from = Math.max(0, Math.min(1 - span, zoom.from + ((event.deltaX || event.deltaY) / width()) * span));
      setZoom({ from, to: from + span });
    }
  };

  return (
    <section class="time" aria-label="Time">
      <div class="falls">
        <canvas
          ref={fall}
          class="fall"
          style={{ height: `${spans.lanes.height}px` }}
          role="img"
          aria-label={`Waterfall of ${count(spans.spans.length)} goals, messages, tools and sub-agents`}
          onWheel={onWheel}
          onPointerMove={(event) => {
            const span = spanAt(current.current, event.offsetX, event.offsetY, width());
            if (span !== over?.span) setOver(span && { span, x: event.offsetX });
          }}
          onPointerLeave={() => setOver(null)}
          onClick={(event) => {
            const span = spanAt(current.current, event.offsetX, event.offsetY, width());
            if (span) choose(span);
          }}
        />
        {over && <Tip steps={steps} span={over.span} x={over.x} width={fall.current?.clientWidth ?? 800} />}
      </div>
      <canvas
        ref={map}
        class="map"
        style={{ height: `${MAP}px` }}
        role="img"
        aria-label="Overview; drag to look closer, double-click for the whole"
        title="Drag to look closer, double-click for the whole"
        onPointerDown={(event) => {
          drag.current = placeAt(WHOLE, event.offsetX, width());
          event.currentTarget.setPointerCapture(event.pointerId);
        }}
        onPointerMove={(event) => {
          if (drag.current === null) return;
          const to = placeAt(WHOLE, event.offsetX, width());
          if (Math.abs(to - drag.current) > 0.004)
            setZoom({ from: Math.min(drag.current, to), to: Math.max(drag.current, to) });
        }}
        onPointerUp={() => (drag.current = null)}
        onDblClick={() => setZoom(WHOLE)}
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
        <input
          type="range"
          min={first}
          max={Math.max(first, last)}
          value={shownAt}
          aria-label="After which event"
          aria-valuetext={`event ${shownAt} of ${last}`}
          onInput={(event) => scrub(Number(event.currentTarget.value))}
        />
        <span class="num where">
          event {count(shownAt)}
          {at !== null && <span class="dim"> of {count(last)}</span>}
        </span>
        {(zoom.from > 0 || zoom.to < 1) && (
          <button class="quiet" onClick={() => setZoom(WHOLE)}>
            Whole run
          </button>
        )}
        <button class="quiet icon" aria-label="Hide time" title="Hide (w)" onClick={hide}>
          ✕
        </button>
      </div>
    </section>
  );
}

/** The spans and their time line, looked at again now and then while the run goes on. */
function useSpans(log: TraceLog): Drawn {
  const [kept, setKept] = useState(() => make(log));
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const cost = useRef(0); // ms; of the last look
  const version = log.version.value;
  const ticking = !log.state?.ended && log.rows.items.length <= MOST_TICKING;
  useEffect(() => {
    timer.current ??= setTimeout(
      () => {
        timer.current = undefined;
        const start = performance.now();
        setKept(make(log));
        cost.current = performance.now() - start;
      },
      Math.max(REFRESH_MS, cost.current * SHARE),
    );
  }, [version, log]);
  useEffect(
    () => (ticking ? everyTwo.subscribe(() => timer.current ?? setKept(make(log))) : undefined),
    [log, ticking],
  );
  useEffect(() => {
    setKept(make(log));
    return () => {
      clearTimeout(timer.current);
      timer.current = undefined;
    };
  }, [log]);
  return kept;
}

interface Drawn {
  spans: Span[];
  line: TimeLine;
  lanes: LaneTops;
}

function make(log: TraceLog): Drawn {
  const spans = spansOf(log, serverNow());
  return { spans, line: new TimeLine(spans), lanes: laneTopsOf(spans) };
}

function Tip({ steps, span, x, width }: { steps: boolean; span: Span; x: number; width: number }) {
  const side = x > width * 0.6 ? { right: `${width - x + 8}px` } : { left: `${x + 10}px` };
  return (
    <div class="tip" style={side}>
      <b class="words">{visible(span.label.slice(0, 160))}</b>
      <span class="num dim">
        {steps
          ? `step ${count(Math.floor(span.from / STEP_MS))}`
          : `${timeOfDay(new Date(span.from).toISOString())} · ${span.look === "running" ? "so far " : ""}${duration(
              span.to - span.from,
            )}`}
      </span>
    </div>
  );
}
