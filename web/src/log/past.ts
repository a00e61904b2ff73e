// All traces of a page as they were at one moment: the moment of the event at which one of them, the main one, is
// shown.
//
// Rule 1: the moment is a time of the server's clock, which stamps the events of all traces. For imported runs, whose
//         events were all appended at once, it is the time at which an event happened. The other traces stand after
//         the last event they had at that moment.
// Rule 2: a trace is shown as it is now until it can be shown as it was.

import { effect } from "@preact/signals";
import { fetchEvents, fetchTrace } from "../net/api";
import type { Json, StoredEvent } from "../net/protocol";
import { Replay } from "./replay";
import type { TraceLog } from "./trace-log";
import type { TraceView } from "./view";

const PAGE = 200; // events; a range of so many is read, a larger one is halved
const PROBE = 20; // events read to find one with a time

type Metadata = { readonly [key: string]: Json | undefined };
const isImported = (metadata: Metadata | undefined): boolean => typeof metadata?.format === "string";

/** When an event was, if it says so. */
const when = (event: StoredEvent, imported: boolean): string | undefined =>
  imported ? (event.occurred_at as string | undefined) : event.ts;

/** How many of the events were at `moment`. */
function reached(events: readonly StoredEvent[], moment: string, imported: boolean): number {
  const at = events.findIndex((event) => (when(event, imported) ?? "") > moment);
  return at < 0 ? events.length : at;
}

/** The last event of a trace at `moment`, of those behind `low` and before `high`; `low` if there is none. */
export async function eventAt(
  traceId: string,
  moment: string,
  imported: boolean,
  low: number,
  high: number,
): Promise<number> {
  while (high - low > 1) {
    const probe = high - low > PAGE + 1;
    const from = probe ? (low + high) >> 1 : low + 1;
    const { events } = await fetchEvents(traceId, from - 1, Math.min(probe ? PROBE : PAGE, high - from));
    if (!events.length) return low;
    if (probe) {
      const one = events.find((event) => when(event, imported) !== undefined);
      if (one && when(one, imported)! > moment) high = from;
      else low = one?.event_id ?? events.at(-1)!.event_id;
      continue;
    }
    const n = reached(events, moment, imported);
    if (n < events.length) return low + n;
    low = events.at(-1)!.event_id;
  }
  return low;
}

const timeOf = (view: TraceView): string =>
  (isImported(view.state?.head.metadata) && view.rows.items.at(-1)?.at) || view.lastEventAt;

/** Moves the replay of one trace to the moment at which another trace is shown. */
class Companion {
  readonly replay: Replay;
  #moment = "";
  #going = false;

  constructor(private readonly log: TraceLog) {
    this.replay = new Replay(log);
  }

  /** Show the trace as it was at `moment`. A later call wins. */
  async goTo(moment: string): Promise<void> {
    this.#moment = moment;
    if (this.#going) return;
    this.#going = true;
    try {
      let to = "";
      while (to !== this.#moment) {
        to = this.#moment;
        await this.#arrive(to);
      }
    } finally {
      this.#going = false;
    }
  }

  async #arrive(moment: string): Promise<void> {
    const { replay } = this;
    const { state, position, first, last } = replay;
    const imported = isImported((state ?? this.log.state)?.head.metadata);
    const find = (low: number, high: number) => eventAt(replay.id, moment, imported, low, high);
    if (!state || position === null || (position >= first && timeOf(replay) > moment)) {
      return replay.seek(await find(first - 1, (position ?? last) + 1));
    }
    const events = await replay.upcoming();
    const n = reached(events, moment, imported);
    if (n) replay.play(events.slice(0, n));
    // All that was read is before the moment: the rest of the way is long
    if (n && n === events.length) await replay.seek(await find(replay.position!, replay.last + 1));
  }
}

/** The traces of a page, all at the moment at which the main one is shown. */
export class Past {
  #others = new Map<TraceLog, Companion>();
  readonly #stop: () => void;

  constructor(
    private readonly main: Replay,
    private readonly failed: (error: Error) => void,
  ) {
    this.#stop = effect(() => {
      main.version.value;
      for (const [log, other] of this.#others) {
        if (log.closed) this.#others.delete(log);
        else this.#move(other);
      }
    });
  }

  close(): void {
    this.#stop();
    for (const other of this.#others.values()) other.replay.close();
  }

  #move(other: Companion): void {
    other.goTo(timeOf(this.main)).catch(this.failed);
  }

  /** A trace as it was, or as it is where that is not known yet. */
  of(log: TraceLog): TraceView {
    if (log.id === this.main.id) return this.main.state ? this.main : log;
    let other = this.#others.get(log);
    if (!other && this.main.state && log.phase.value.kind === "live") {
      other = new Companion(log);
      this.#others.set(log, other);
      this.#move(other);
    }
    other?.replay.version.value;
    return other?.replay.state ? other.replay : log;
  }

  /** Where another trace stood: an event, the first if it had none yet. */
  async eventOf(traceId: string): Promise<number> {
    const { trace } = await fetchTrace(traceId);
    const first = trace.first_event_id;
    return Math.max(
      first,
      await eventAt(traceId, timeOf(this.main), isImported(trace.metadata), first - 1, trace.last_event_id + 1),
    );
  }
}
