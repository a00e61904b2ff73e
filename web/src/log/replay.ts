// A trace as it was after any of its events, and on from there.
//
// Rule 1: goals, sub-traces and questions come from the server's fold at that event. Rows are those of the live log
//         where they have not changed since; the others are built again from their events.
// Rule 2: going forward folds the events between; going back asks the server.

import { fetchEvents, fetchTrace } from "../net/api";
import type { StoredEvent } from "../net/protocol";
import { State } from "./fold";
import { type Item, TraceLog } from "./trace-log";

const PAGE = 1000;
const FORWARD = 1500; // events that are folded rather than asking for another snapshot
const MOST_BACK = 10_000; // events read again for rows that have changed since

export class Replay extends TraceLog {
  override readonly past = true;
  private ahead: StoredEvent[] = []; // events after the position, read already
  private seeking = 0;

  constructor(protected readonly source: TraceLog) {
    super(source.id, null);
    this.phase.value = { kind: "live" };
    this.history.value = "complete";
  }

  override open(): void {}
  override close(): void {
    this.seeking++;
  }
  override async readHistory(): Promise<void> {}

  override get first(): number {
    return this.source.first;
  }

  get last(): number {
    return this.source.position ?? 0;
  }

  /** Show the trace as it was after `eventId`. A later call wins. */
  async seek(eventId: number): Promise<void> {
    const mine = ++this.seeking;
    const to = Math.max(this.first - 1, Math.min(eventId, this.last));
    if (this.position !== null && to === this.position) return;
    if (this.state && this.position !== null && to > this.position && to - this.position <= FORWARD) {
      await this.forward(to, mine);
      return;
    }
    const [snapshot, rows] = await Promise.all([fetchTrace(this.id, to), this.rowsAt(to)]);
    if (mine !== this.seeking) return;
    this.begin_(State.fromSnapshot(snapshot), rows, to);
  }

  override async reach(eventId: number): Promise<boolean> {
    const [before, state] = [this.position, this.state];
    if (!(await this.source.reach(eventId))) return false;
    const rows = before === null ? [] : await this.rowsAt(before);
    if (state && before !== null && this.position === before && this.state === state) this.begin_(state, rows, before);
    return true;
  }

  /** What is read, is read into the log as it is now. */
  protected override async readPage(hole: Item, where: "start" | "end" | number): Promise<boolean> {
    return this.reach(where === "start" ? hole.id : where === "end" ? hole.hole! : where);
  }

  /** The events after the position, as many as are at hand; reads on where few are left. */
  async upcoming(): Promise<StoredEvent[]> {
    if (!this.ahead.length && this.position !== null && this.position < this.last) {
      const at = this.position;
      const { events } = await fetchEvents(this.id, at, PAGE);
      if (this.position === at) this.ahead = events;
    }
    return this.ahead;
  }

  private async forward(to: number, mine: number): Promise<void> {
    while (this.position! < to) {
      const events = await this.upcoming();
      if (mine !== this.seeking || !events.length) return;
      this.play(events.filter((event) => event.event_id <= to));
    }
  }

  /** Apply the next events. */
  play(events: StoredEvent[]): void {
    for (const event of events) if (event.event_id === this.position! + 1) this.take(event, 0);
    this.ahead = this.ahead.filter((event) => event.event_id > this.position!);
    this.version.value++;
  }

  private begin_(state: State, rows: Item[], at: number): void {
    this.state = state;
    this.position = at;
    this.ahead = [];
    this.clear();
    this.holes = rows.filter((row) => row.hole !== undefined);
    this.unread = this.holes.reduce((sum, hole) => sum + hole.hole! - hole.id + 1, 0);
    this.items = rows;
    this.goalTimes = new Map(this.source.goalTimes);
    this.outcomes = new Map([...this.source.outcomes].filter(([, event]) => event.event_id <= at));
    for (const row of rows) {
      if (row.event?.event === "input_requested") this.asked.set(row.event.request_id, row);
      if (!row.message) continue;
      this.messages.set(row.message.message_id, row.message);
      this.byMessage.set(row.message.message_id, row);
    }
    state.messages = this.messages;
    this.lastEventAt = state.head.updated_at;
    this.version.value++;
  }

  /** The rows as they were: copies, since folding on changes them. */
  private async rowsAt(at: number): Promise<Item[]> {
    await this.source.reach(at);
    const rows = this.source.items.filter((item) => item.id <= at).map((item) => ({ ...item, live: 0 }));
    const last = rows.at(-1);
    if (last?.hole !== undefined) last.hole = Math.min(last.hole, at);
    const changed = rows.filter((row) => row.message && row.lastId > at);
    if (!changed.length) return rows;
    const from = Math.max(changed[0]!.id, at - MOST_BACK);
    const builder = new Builder(this.id);
    for (let since = from - 1; since < at; ) {
      const { events } = await fetchEvents(this.id, since, Math.min(PAGE, at - since));
      if (!events.length) break;
      builder.feed(events);
      since = events.at(-1)!.event_id;
    }
    const byId = new Map(rows.map((row) => [row.id, row]));
    for (const built of builder.items) {
      const row = byId.get(built.id);
      if (row && row.lastId > at) Object.assign(row, built, { height: 0, open: row.open, version: built.version });
    }
    return rows;
  }
}

/** Folds a stretch of events into rows. */
class Builder extends TraceLog {
  constructor(id: string) {
    super(id, null);
    this.state = new State({ trace_id: id });
  }
  feed(events: StoredEvent[]): void {
    for (const event of events) this.take(event, 0);
  }
}
