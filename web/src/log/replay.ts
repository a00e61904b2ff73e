// A trace as it was after any of its events, and on from there.
//
// Rule 1: goals, sub-traces and questions come from the server's fold at that event. Rows are those of the live log
//         where they have not changed since; the others are built again from their events.
// Rule 2: going forward folds the events between; going back asks the server.

import { signal } from "@preact/signals";
import { fetchEvents, fetchTrace } from "../net/api";
import type { StoredEvent } from "../net/protocol";
import { State } from "./fold";
import { Reader, type Source, type Where } from "./reader";
import { type Item, Rows } from "./rows";
import type { TraceLog } from "./trace-log";
import type { Phase, TraceView } from "./view";

const PAGE = 1000;
const FORWARD = 1500; // events that are folded rather than asking for another snapshot
const MOST_BACK = 10_000; // events read again for rows that have changed since

export class Replay implements TraceView, Source {
  readonly id: string;
  readonly past = true;
  readonly rows = new Rows();
  readonly version = signal(0);
  readonly phase = signal<Phase>({ kind: "live" });
  readonly gapSeen = signal(0);
  state: State | null = null;
  position: number | null = null;
  lastEventAt = "";
  readonly reader = new Reader(this.rows, this);
  #ahead: StoredEvent[] = []; // events after the position, read already
  #seeking = 0;

  constructor(private readonly source: TraceLog) {
    this.id = source.id;
    this.reader.history.value = "complete"; // it is read with the history of the source
  }

  close(): void {
    this.#seeking++;
  }

  get first(): number {
    return this.source.first;
  }

  get last(): number {
    return this.source.position ?? 0;
  }

  /** Show the trace as it was after `eventId`. A later call wins. */
  async seek(eventId: number): Promise<void> {
    const mine = ++this.#seeking;
    const to = Math.max(this.first - 1, Math.min(eventId, this.last));
    if (this.position !== null && to === this.position) return;
    if (this.state && this.position !== null && to > this.position && to - this.position <= FORWARD) {
      await this.#forward(to, mine);
      return;
    }
    const [snapshot, rows] = await Promise.all([fetchTrace(this.id, to), this.#rowsAt(to)]);
    if (mine !== this.#seeking) return;
    this.#begin(State.fromSnapshot(snapshot), rows, to);
  }

  // --- for the reader: what is missing is read into the live log, and the rows are taken from there ---

  cursor(eventId: number): string {
    return this.source.cursor(eventId);
  }

  async readPage(hole: Item, where: Where): Promise<boolean> {
    const [before, state] = [this.position, this.state];
    const eventId = where === "start" ? hole.id : where === "end" ? hole.hole! : where;
    if (!(await this.source.reader.reach(eventId))) return false;
    const rows = before === null ? [] : await this.#rowsAt(before);
    if (state && before !== null && this.position === before && this.state === state) this.#begin(state, rows, before);
    return true;
  }

  changed(): void {
    this.version.value++;
  }

  // --- forward ---

  /** The events after the position that were read already; where there are none, the next page. */
  async upcoming(): Promise<StoredEvent[]> {
    if (!this.#ahead.length && this.position !== null && this.position < this.last) {
      const at = this.position;
      const { events } = await fetchEvents(this.id, at, PAGE);
      if (this.position === at) this.#ahead = events;
    }
    return this.#ahead;
  }

  async #forward(to: number, mine: number): Promise<void> {
    while (this.position! < to) {
      const events = await this.upcoming();
      if (mine !== this.#seeking || !events.length) return;
      this.play(events.filter((event) => event.event_id <= to));
    }
  }

  /** Apply the next events. */
  play(events: StoredEvent[]): void {
    for (const event of events) {
      if (event.event_id !== this.position! + 1) continue;
      this.position = event.event_id;
      this.lastEventAt = event.ts;
      this.rows.take(event, this.state!, 0);
    }
    this.#ahead = this.#ahead.filter((event) => event.event_id > this.position!);
    this.version.value++;
  }

  #begin(state: State, rows: Item[], at: number): void {
    this.state = state;
    this.position = at;
    this.#ahead = [];
    this.rows.load(rows, this.source.rows, at);
    state.messages = this.rows.messages;
    this.lastEventAt = state.head.updated_at;
    this.version.value++;
  }

  /** The rows as they were: copies, since folding on changes them. */
  async #rowsAt(at: number): Promise<Item[]> {
    await this.source.reader.reach(at);
    const rows = this.source.rows.items.filter((item) => item.id <= at).map((item) => ({ ...item, live: 0 }));
    const last = rows.at(-1);
    if (last?.hole !== undefined) last.hole = Math.min(last.hole, at);
    const changed = rows.filter((row) => row.message && row.lastId > at);
    if (!changed.length) return rows;
    const byId = new Map(rows.map((row) => [row.id, row]));
    for (const built of await this.#builtAgain(Math.max(changed[0]!.id, at - MOST_BACK), at)) {
      const row = byId.get(built.id);
      if (row && row.lastId > at) Object.assign(row, { light: false, cut: false }, built, { open: row.open });
    }
    return rows;
  }

  /** Rows made of nothing but the events `from` to `to`. */
  async #builtAgain(from: number, to: number): Promise<Item[]> {
    const rows = new Rows();
    const state = new State({ trace_id: this.id });
    state.messages = rows.messages;
    for (let since = from - 1; since < to; ) {
      const { events } = await fetchEvents(this.id, since, Math.min(PAGE, to - since));
      if (!events.length) break;
      for (const event of events) rows.take(event, state, 0);
      since = events.at(-1)!.event_id;
    }
    return rows.items;
  }
}
