// Small things that look the same everywhere: the mark of a state, numbers, times, sparklines.

import { computed, type Signal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { ago, agoLasts, clock, cost, count, counted, duration, fullTime, short } from "../format";
import { now, timed } from "./clock";

export type Mark =
  | "running"
  | "waiting"
  | "idle"
  | "completed"
  | "failed"
  | "stopped"
  | "lost"
  | "pending"
  | "abandoned"
  | "in_progress"
  | "unfinished";

const WORDS: Record<Mark, string> = {
  running: "running",
  in_progress: "in progress",
  waiting: "waiting for an answer",
  idle: "idle: its user's turn",
  completed: "completed",
  failed: "failed",
  stopped: "stopped",
  lost: "lost: its recorder vanished",
  pending: "pending",
  abandoned: "abandoned",
  unfinished: "not finished: the run has ended",
};

// Drawn, not typed: glyphs of these shapes differ too much between fonts. 14 × 14, currentColor.
const SHAPES: Record<string, string> = {
  running: "M7 1.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11Zm0 1.4v8.2a4.1 4.1 0 0 1 0-8.2Z",
  unfinished: "M7 1.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11Zm0 1.4v8.2a4.1 4.1 0 0 1 0-8.2Z",
  completed: "M11.9 3.3 5.6 10.9 2 7.6l.95-1.05 2.5 2.3 5.35-6.45Z",
  failed: "m3.2 2.2 3.8 3.8 3.8-3.8 1 1L8 7l3.8 3.8-1 1L7 8l-3.8 3.8-1-1L6 7 2.2 3.2Z",
  stopped: "M3 3h8v8H3Z",
  lost: "M8 .8 2.6 8h3.2L5 13.2 11.4 6H7.6Z",
  pending: "M7 2.2a4.8 4.8 0 1 0 0 9.6 4.8 4.8 0 0 0 0-9.6Zm0 1.2a3.6 3.6 0 1 1 0 7.2 3.6 3.6 0 0 1 0-7.2Z",
  abandoned:
    "M7 2.2a4.8 4.8 0 1 0 0 9.6 4.8 4.8 0 0 0 0-9.6Zm2.6 2.3L4.5 9.6a3.6 3.6 0 0 1 5.1-5.1Zm.9.9" +
    "a3.6 3.6 0 0 1-5.1 5.1Z",
  waiting:
    "M7 1.2a5.8 5.8 0 1 0 0 11.6A5.8 5.8 0 0 0 7 1.2ZM6.4 9.4h1.3v1.3H6.4Z" +
    "M7 3.2c1.4 0 2.4.8 2.4 2.1 0 1.6-1.7 1.7-1.7 3.1H6.4c0-1.9 1.6-2.1 1.6-3.1 " +
    "0-.5-.4-.8-1-.8-.7 0-1.1.4-1.1 1.1H4.6c0-1.5 1-2.4 2.4-2.4Z",
};

/** The class attribute of an element: the names that are not false. */
export const classes = (...names: (string | false)[]): string => names.filter(Boolean).join(" ");

export function StateMark({ state, quiet }: { state: Mark; quiet?: boolean }) {
  const shape = state === "in_progress" ? "running" : state === "idle" ? "pending" : state;
  return (
    <svg
      class={`mark is-${shape}`}
      viewBox="0 0 14 14"
      width="14"
      height="14"
      role="img"
      aria-label={quiet ? undefined : WORDS[state]}
      aria-hidden={quiet}
    >
      <title>{WORDS[state]}</title>
      <path d={SHAPES[shape]} fill-rule="evenodd" />
    </svg>
  );
}

// Ticking words are signals in the page: a tick that does not change the words does not change the page
const ticking = (words: (at: number) => string) => computed(() => words(now.value));
// The whole time is made only when the pointer asks for it: lists have many times
const titled = (event: Event) =>
  ((event.currentTarget as HTMLTimeElement).title = fullTime((event.currentTarget as HTMLTimeElement).dateTime));

/** How long ago, ticking. */
export function Ago({ ts, as = (words) => words }: { ts: string; as?: (words: string) => string }) {
  const words = useMemo(() => {
    const at = Date.parse(ts);
    return Number.isNaN(at) ? "" : timed((time) => [as(ago(time - at)), time + agoLasts(time - at)]);
  }, [ts]);
  return (
    <time dateTime={ts} onPointerEnter={titled}>
      {words}
    </time>
  );
}

/** The time since `from`, ticking until there is an end. */
export function Lasting({ from, to, exact }: { from: string; to: string | null; exact?: boolean }) {
  const words = useMemo(() => {
    const begun = Date.parse(from);
    if (to) return duration(Math.max(0, Date.parse(to) - begun)); // two clocks
    return ticking((time) => {
      const ms = time - begun;
      return exact ? clock(ms) : ms < 60_000 ? `${Math.max(0, Math.floor(ms / 1000))} s` : duration(ms);
    });
  }, [from, to, exact]);
  return <>{words}</>;
}

const UNREADABLE = "It is damaged in the database; `tracewatch doctor` says how";

/** The mark of what can't be read as it was stored: fields of a run, a message, a question. */
export function Damaged({ fields }: { fields?: string[] }) {
  const what = fields ? `Not as it was stored: ${fields.join(", ")}. ` : "";
  return (
    <small class="badge failed" title={`${what}${UNREADABLE}`}>
      damaged
    </small>
  );
}

export function Tokens({ n }: { n: number }) {
  return (
    <span class="num" title={`${count(n)} tokens`}>
      {n ? short(n) : <i class="none">–</i>}
    </span>
  );
}

export function Cost({ dollars }: { dollars: number | null }) {
  return (
    <span class="num" title={dollars === null ? "Not known" : `$${dollars}`}>
      {dollars === null ? <i class="none">–</i> : cost(dollars)}
    </span>
  );
}

/** Bars for the events of the last minute; the line below them is as long as this page has looked: `known` bars. */
export function Spark({ bars, known }: { bars: number[]; known: number }) {
  const most = Math.max(...bars, 4);
  const path = bars.map((n, i) => (n ? `M${i * 5 + 2} 14v${-Math.max(1.5, (n / most) * 13)}` : "")).join("");
  const sum = bars.reduce((a, b) => a + b, 0);
  const span = known < bars.length ? `${known * 5} s, as long as this page has looked` : "minute";
  const words = `${counted(sum, "event")} in the last ${span}`;
  return (
    <svg class="spark" viewBox="0 0 60 14" width="60" height="14" role="img" aria-label={words}>
      <title>{words}</title>
      <path d={`M${60 - known * 5} 13.5H60`} class="base" />
      <path d={path} />
    </svg>
  );
}

export function Live({ of }: { of: Signal<string> }) {
  return (
    <div class="unseen" role="status" aria-live="polite">
      {of}
    </div>
  );
}
