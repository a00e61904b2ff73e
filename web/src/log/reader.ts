// Reads the rows of a trace that are missing: the events of holes, page by page, and rows that were cut.
//
// Rule 1: one page of a trace is read at a time. The rows on the screen and the target of a link come first; the
//         others follow from the end backwards, until MOST_READ bytes have been read.
// Rule 2: a message that was read again is put in only if it has not changed meanwhile.

import { type ReadonlySignal, signal } from "@preact/signals";
import { fetchEvents, fetchMessage, fetchMessages } from "../net/api";
import { beforePaint } from "./paint";
import type { Item, Rows } from "./rows";
import type { Phase } from "./view";

const MOST_READ = 64_000_000; // bytes that are read without being asked for
const FIRST_LINKS_MS = 100; // wait, so that the target of a link is read first
const MOST_AGAIN = 200; // messages or events in one request for rows that were cut

/** Where in a hole a page is read: at its beginning, at its end, or around an event. */
export type Where = "start" | "end" | number;

/** The trace whose rows are read. */
export interface Source {
  readonly id: string;
  readonly phase: ReadonlySignal<Phase>;
  /** The position behind an event, as the server takes it. */
  cursor(eventId: number): string;
  /** Read a page of a hole into the rows. False if it can't be read. */
  readPage(hole: Item, where: Where): Promise<boolean>;
  /** Something of the rows has changed. */
  changed(): void;
}

export class Reader {
  readonly history = signal<"partial" | "loading" | "complete" | "failed">("partial"); // how much was read of it
  wanted = false; // whether the whole history is wanted
  #filling: Promise<unknown> | null = null; // the page that is being read
  #healing = new Set<Item>();
  #closed = false;

  constructor(
    private readonly rows: Rows,
    private readonly source: Source,
  ) {}

  close(): void {
    this.#closed = true;
  }

  /** Read the older events, page by page, until all are here or MOST_READ bytes are. */
  async readHistory(): Promise<void> {
    const { rows } = this;
    this.wanted = true;
    if (this.history.peek() === "loading" || this.source.phase.peek().kind !== "live") return;
    if (rows.unread) {
      this.history.value = "loading";
      await new Promise((done) => setTimeout(done, FIRST_LINKS_MS));
    }
    while (rows.unread && rows.read.bytes < MOST_READ && !this.#closed) {
      this.history.value = "loading";
      if (this.#filling) await this.#filling;
      else if (!(await this.#fill(rows.holes.at(-1)!, "end"))) {
        this.history.value = "failed";
        return;
      }
      await new Promise((done) => setTimeout(done, document.hidden ? 100 : 8));
    }
    this.history.value = rows.unread ? "partial" : "complete";
    this.source.changed();
  }

  /** Read the event and those around it, but not those in between. False if it can't be read. */
  async reach(eventId: number): Promise<boolean> {
    while (this.#filling) await this.#filling;
    const hole = this.rows.holeAt(eventId);
    return !hole || this.#fill(hole, eventId);
  }

  /** Read the message and the rows around it. Gives the event it was added with, or 0 if it can't be read. */
  async reachMessage(messageId: string): Promise<number> {
    const named = /^m(\d{1,15})$/.exec(messageId); // the server names messages after their events
    const eventId = named ? Number(named[1]) : (await fetchMessage(this.source.id, messageId)).event_id;
    return (await this.reach(eventId)) ? eventId : 0;
  }

  /** Read the newest messages of a goal. */
  async reachGoal(goalId: string): Promise<void> {
    const { messages } = await fetchMessages(this.source.id, { goalId, limit: 1 });
    if (messages.length) await this.reachMessage(messages[0]!.message_id);
  }

  /** These rows are drawn, and `top` is the first on the screen: read what is missing of them. */
  look(drawn: readonly Item[], top: Item | undefined): void {
    if (!drawn.length) return;
    this.rows.lookedAt(drawn[0]!.id, drawn.at(-1)!.id);
    if (this.source.phase.peek().kind === "gone") return;
    const hole = drawn.find((item) => item.hole !== undefined);
    if (hole && !this.#filling && this.history.peek() !== "failed")
      void this.#fill(hole, top && top.id > hole.id ? "end" : "start");
    const light = drawn.filter((item) => item.light && !this.#healing.has(item));
    if (light.length) void this.#heal(light);
  }

  #fill(hole: Item, where: Where): Promise<boolean> {
    const reading = this.source.readPage(hole, where).finally(() => {
      this.#filling = null;
      beforePaint(this.#changed);
    });
    this.#filling = reading;
    return reading;
  }

  /** Read rows again that were cut. */
  async #heal(rows: Item[]): Promise<void> {
    for (const row of rows) this.#healing.add(row);
    const versions = new Map(rows.map((row) => [row, row.version]));
    const unchanged = (row: Item) => versions.get(row) === row.version;
    try {
      await this.#healMessages(
        rows.filter((row) => row.message),
        unchanged,
      );
      await this.#healEvents(rows.filter((row) => row.event));
    } catch {
      // the rows stay as they are, and are read again the next time they are drawn
    }
    for (const row of rows) this.#healing.delete(row);
    beforePaint(this.#changed);
  }

  async #healMessages(rows: Item[], unchanged: (row: Item) => boolean): Promise<void> {
    if (!rows.length) return;
    const sequences = rows.map((row) => row.message!.sequence);
    const [first, last] = [Math.min(...sequences), Math.max(...sequences)];
    const limit = Math.min(MOST_AGAIN, last - first + 1);
    const { messages } = await fetchMessages(this.source.id, { before: last + 1, limit });
    const byId = new Map(messages.map((message) => [message.message_id, message]));
    for (const row of rows) {
      const message = byId.get(row.message!.message_id);
      if (message && unchanged(row)) this.rows.whole(row, message, null);
    }
  }

  /** Events never change. One request is for as many of the rows as stand near each other. */
  async #healEvents(rows: Item[]): Promise<void> {
    let left = rows;
    while (left.length) {
      const [first, last] = [left[0]!.id, left.at(-1)!.id];
      const limit = Math.min(MOST_AGAIN, last - first + 1);
      const { events } = await fetchEvents(this.source.id, this.source.cursor(first - 1), limit);
      const byId = new Map(events.map((event) => [event.event_id, event]));
      const upTo = events.at(-1)?.event_id ?? first;
      for (const row of left) {
        const event = byId.get(row.id);
        if (event) this.rows.whole(row, null, event);
      }
      left = left.filter((row) => row.id > Math.max(first, upTo));
    }
  }

  #changed = (): void => this.source.changed();
}
