// What stands behind the bars of the waterfall: the columns' heads, the axis with its ticks and pauses, the playhead,
// and what the pointer does there.
//
// Rule: the wheel scrolls the rows. On the axis, with Ctrl or where all rows are in view it zooms, around the pointer;
//       sideways it moves the part that is shown. A span that is dragged is looked at closer; the playhead's head is
//       dragged to another moment.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { clock, duration, timeOfDay } from "../format";
import { STEP_MS } from "../log/rows";
import type { TraceLog } from "../log/trace-log";
import { axisOf, beat, moveBy, nowOf, showAll, type Zoom, zoomBy, zoomTo } from "./axis";
import { apart, type TimeLine } from "./line";

const CLICK = 4; // px that a pointer moves in a click
const TICK = 86; // px between two ticks
const GAP_WORDS = 110; // px, of the words of a pause

interface FieldProps {
  log: TraceLog;
  line: TimeLine;
  zoom: Zoom;
  playhead: number | null; // ms
  goTo: (ms: number) => void;
  few: boolean; // the rows fit: a wheel has nothing to scroll
  children: preact.ComponentChildren;
}

export const percent = (place: number, zoom: Zoom): number => ((place - zoom.from) / (zoom.to - zoom.from)) * 100;

export function Field({ log, line, zoom, playhead, goTo, few, children }: FieldProps) {
  const box = useRef<HTMLDivElement>(null);
  const lane = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(600);
  const [marked, setMarked] = useState<[number, number] | null>(null); // places
  const drag = useRef<{ x: number; place: number; head: boolean; moved: boolean } | null>(null);
  const timeless = log.rows.timeless;

  useLayoutEffect(() => {
    const look = () => {
      const scroller = box.current?.querySelector<HTMLElement>(".scroll");
      box.current?.style.setProperty("--bar", `${scroller ? scroller.offsetWidth - scroller.clientWidth : 0}px`);
      setWidth(lane.current?.clientWidth ?? 600);
    };
    const observer = new ResizeObserver(look);
    observer.observe(lane.current!);
    look();
    return () => observer.disconnect();
  }, []);

  const placeOf = (event: MouseEvent): number => {
    const { left, width: wide } = lane.current!.getBoundingClientRect();
    return zoom.from + Math.max(0, Math.min(1, (event.clientX - left) / wide)) * (zoom.to - zoom.from);
  };
  const inLane = (event: MouseEvent) => event.clientX >= lane.current!.getBoundingClientRect().left;
  const wheel = (event: WheelEvent) => {
    if (!inLane(event)) return;
    const axis = (event.target as Element).closest(".axis") !== null;
    const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (event.ctrlKey || event.metaKey || event.altKey || ((axis || few) && !sideways)) {
      event.preventDefault();
      zoomBy(Math.exp(event.deltaY * (event.ctrlKey ? 0.006 : 0.0025)), placeOf(event));
    } else if (sideways) {
      event.preventDefault();
      moveBy((event.deltaX || event.deltaY) / width);
    }
  };
  useEffect(() => {
    // Not passive: the browser would zoom the page, or go back
    const element = box.current!;
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  });

  const down = (event: PointerEvent) => {
    if (event.button || !inLane(event) || (event.target as Element).closest("button")) return;
    const head = (event.target as Element).closest(".head") !== null;
    drag.current = { x: event.clientX, place: placeOf(event), head, moved: false };
  };
  const move = (event: PointerEvent) => {
    const from = drag.current;
    if (!from) return;
    if (!event.buttons) return up();
    if (!from.moved && Math.abs(event.clientX - from.x) < CLICK) return;
    if (!from.moved) box.current!.setPointerCapture(event.pointerId);
    from.moved = true;
    if (from.head) goTo(line.time(placeOf(event)));
    else setMarked([from.place, placeOf(event)]);
  };
  const up = () => {
    if (drag.current?.moved && marked) zoomTo(...marked);
    drag.current = null;
    setMarked(null);
  };
  const ticks = useMemo(
    () => line.ticks(zoom.from, zoom.to, Math.max(2, Math.floor(width / TICK))),
    [line, zoom, width],
  );
  const gaps = line.gaps.filter(({ at }) => at > zoom.from && at < zoom.to);
  const said = apart(gaps, (GAP_WORDS / width) * (zoom.to - zoom.from));
  return (
    <div ref={box} class="field" onPointerDown={down} onPointerMove={move} onPointerUp={up} onPointerCancel={up}>
      <div class="lanehead">
        <Columns />
        <div
          class="axis"
          ref={lane}
          title="Drag or turn the wheel to look closer; 0 for all of it"
          onDblClick={showAll}
        >
          {ticks.map(({ at, ms }) => (
            <span key={ms} class="tick num" style={{ left: `${percent(at, zoom)}%` }}>
              {timeless ? `#${Math.round((line.from + ms) / STEP_MS)}` : elapsed(ms, ticks)}
            </span>
          ))}
          {said.map(({ at, ms }) => (
            <span key={`gap ${at}`} class="gap num" style={{ left: `${percent(at, zoom)}%` }}>
              {"//"} {duration(ms)} idle {"//"}
            </span>
          ))}
        </div>
      </div>
      <div class="grid" aria-hidden="true">
        {ticks.map(({ at, ms }) => (
          <i key={ms} style={{ left: `${percent(at, zoom)}%` }} />
        ))}
        {gaps.map(({ at }) => (
          <i key={`gap ${at}`} class="cut" style={{ left: `${percent(at, zoom)}%` }} />
        ))}
        {marked && (
          <i
            class="marked"
            style={{
              left: `${percent(Math.min(...marked), zoom)}%`,
              width: `${Math.abs(percent(marked[1], zoom) - percent(marked[0], zoom))}%`,
            }}
          />
        )}
      </div>
      {children}
      <Playhead log={log} line={line} zoom={zoom} at={playhead} />
    </div>
  );
}

/** How long after the beginning a tick is: as fine as the ticks are. */
function elapsed(ms: number, ticks: { ms: number }[]): string {
  const step = ticks.length > 1 ? ticks[1]!.ms - ticks[0]!.ms : 1000;
  if (step < 1000 && ms < 60_000) return ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(step < 100 ? 2 : 1)} s`;
  return ms < 60_000 ? `${Math.round(ms / 1000)} s` : clock(ms);
}

/** The line at which the page stands, to be dragged by its head. */
function Playhead({ log, line, zoom, at }: { log: TraceLog; line: TimeLine; zoom: Zoom; at: number | null }) {
  const on = axisOf(log).value.goesOn;
  if (at === null && on) beat.value; // it moves
  const place = percent(line.place(at ?? (on ? nowOf(log) : line.until)), zoom);
  if (place > 100.01 || (place < 0 && at === null)) return null;
  const time = at === null || log.rows.timeless ? "" : timeOfDay(new Date(at).toISOString());
  const shift = place > 94 ? "-100%" : place < 6 ? "0" : "-50%";
  return (
    <div class="playheads">
      {at !== null && <div class="later" style={{ left: `${Math.max(0, place)}%` }} />}
      <div class={at === null ? "playhead now" : "playhead"} style={{ left: `${place}%` }}>
        <span class="head num" title="Drag it: the page as it was" style={{ transform: `translateX(${shift})` }}>
          {at === null ? (on ? "now" : "end") : time}
        </span>
      </div>
    </div>
  );
}

function Columns() {
  return (
    <div class="columns">
      <span class="grow" />
      <span class="num" title="From its beginning to its end">
        took
      </span>
      <span class="num own" title="Without the goals and sub-agents below it">
        own
      </span>
      <span class="num tok" title="Tokens, with those below it">
        tok
      </span>
      <span class="num usd" title="Cost, with those below it">
        $
      </span>
    </div>
  );
}
