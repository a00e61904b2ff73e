// One trace as this page knows it: the folded state, and what was said, in order.
//
// Rule 1: it opens with the snapshot and the newest events; the others are read in pages, from the end backwards until
//         there are MOST_READ bytes, and at once where somebody looks or a link leads.
// Rule 2: events are taken only in order. A hole or a repeat asks again from the last one that was taken.
// Rule 3: events that arrive between two paints are put in together. The events of a reconnect are put in when all of
//         them are here.

import { signal } from "@preact/signals";
import { count, timeOfDay } from "../format";
import { ApiError, fetchEvents, fetchMessage, fetchMessages } from "../net/api";
import type { Frame, GoalTree, Message, Snapshot, StoredEvent } from "../net/protocol";
import type { Socket, Subscriber } from "../net/socket";
import { applyInto, State } from "./fold";
import { nextFrame } from "./paint";
import { type Item, Rows } from "./rows";

export { type Item, isError } from "./rows";

const OPENING_EVENTS = 200;
const MOST_READ = 64_000_000; // bytes that are read without being asked for
const FIRST_LINKS_MS = 100; // where a link leads is read first
const PAGE_EVENTS = 1000;
const PAGE_BYTES = 1_000_000;
const MOST_HELD = 5_000; // events of a reconnect that are held back for one paint, and
const HELD_MS = 1_500; // how long
const RECOVERED_SHOWN_MS = 6_000;

export type Phase =
  | { kind: "loading" }
  | { kind: "catching_up"; left: number }
  | { kind: "live" }
  | { kind: "gone"; code: string; message: string };

export class TraceLog extends Rows implements Subscriber {
  readonly version = signal(0); // counts the frames in which something changed
  readonly phase = signal<Phase>({ kind: "loading" });
  readonly history = signal<"partial" | "loading" | "complete" | "failed">("partial");
  readonly gapSeen = signal(0); // the row of the last gap that somebody saw
  readonly recovered = signal(0); // events recovered by the last reconnect, for a few seconds
  state: State | null = null;
  position: number | null = null; // the last event taken
  epoch = "";
  lastEventAt = "";
  readonly past: boolean = false; // whether this is the trace as it was

  private queue: (StoredEvent | Frame)[] = [];
  private tree: { frame: Frame; goals: GoalTree["goals"] } | null = null; // a goal tree that comes in parts
  private target = 0; // the head when this catching up began
  private wanted = false; // whether the history is wanted
  private filling: Promise<unknown> | null = null; // the page that is being read
  private healing = new Set<Item>();
  private reconnected = false;
  private holding: ReturnType<typeof setTimeout> | undefined;
  closed = false;

  constructor(
    readonly id: string,
    protected readonly socket: Pick<Socket, "subscribe" | "unsubscribe" | "resubscribe"> | null,
  ) {
    super();
  }

  open(): void {
    this.socket?.subscribe(this.id, this);
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.holding);
    this.socket?.unsubscribe(this.id);
  }

  // --- what the socket says ---

  ask() {
    this.queue = [];
    this.tree = null;
    const since = this.position === null ? `-${OPENING_EVENTS}` : this.cursor(this.position);
    return { trace_id: this.id, since_event_id: since };
  }

  private cursor(eventId: number): string {
    return this.epoch ? `${this.epoch}.${eventId}` : String(eventId);
  }

  event(event: StoredEvent): void {
    this.queue.push(event);
    if (!this.reconnected || this.queue.length >= MOST_HELD) nextFrame(this.flush);
  }

  frame(frame: Frame): void {
    if (frame.event === "heartbeat" && !this.queue.length) return this.control(frame); // nothing to draw
    this.queue.push(frame);
    if (this.reconnected && frame.event === "connected") {
      this.phase.value = { kind: "catching_up", left: Math.max(0, frame.current_event_id - (this.position ?? 0)) };
      clearTimeout(this.holding);
      this.holding = setTimeout(this.holdNoMore, HELD_MS);
    } else if (!this.reconnected || frame.event === "caught_up" || frame.event === "error") nextFrame(this.flush);
  }

  lost(): void {
    this.flush();
    if (this.position === null) return;
    this.reconnected = true;
    if (this.phase.peek().kind === "live") this.phase.value = { kind: "catching_up", left: 0 };
  }

  private holdNoMore = (): void => {
    this.reconnected = false;
    nextFrame(this.flush);
  };

  private flush = (): void => {
    if (this.closed || !this.queue.length) return;
    const queue = this.queue;
    this.queue = [];
    const live = this.phase.peek().kind === "live" ? performance.now() : 0;
    for (const frame of queue) {
      if (typeof frame.event_id !== "number") this.control(frame as Frame);
      else if (this.position !== null && frame.event_id === this.position + 1) this.take(frame as StoredEvent, live);
      else {
        this.socket?.resubscribe(this.id); // a hole or a repeat
        break;
      }
    }
    if (this.phase.peek().kind === "catching_up") {
      this.phase.value = { kind: "catching_up", left: Math.max(0, this.target - (this.position ?? 0)) };
    }
    this.keepWithin();
    this.version.value++;
  };

  private control(frame: Frame): void {
    switch (frame.event) {
      case "connected":
      case "snapshot":
        if (frame.goal_tree) this.begin(frame, frame as unknown as Snapshot);
        else this.tree = { frame, goals: [] };
        return;
      case "goal_tree_part": {
        if (!this.tree) return;
        this.tree.goals.push(...(frame.goals as GoalTree["goals"]));
        if (frame.part !== frame.parts) return;
        const { mission, current_id, as_of_event_id } = frame as unknown as GoalTree;
        const whole = {
          ...this.tree.frame,
          goal_tree: { mission, current_id, as_of_event_id, goals: this.tree.goals },
        };
        this.begin(this.tree.frame, whole as unknown as Snapshot);
        this.tree = null;
        return;
      }
      case "gap":
        this.gap(frame);
        return;
      case "fell_behind":
        this.target = frame.current_event_id;
        this.phase.value = { kind: "catching_up", left: this.target - (this.position ?? 0) };
        return;
      case "caught_up":
        if (this.reconnected && frame.replayed > 0) this.announce(frame.replayed);
        this.reconnected = false;
        clearTimeout(this.holding);
        this.phase.value = { kind: "live" };
        if (this.wanted) void this.readHistory();
        return;
      case "heartbeat":
        // A subscription that is dead behind a live socket: its head is ahead of what was sent
        if (this.phase.peek().kind === "live" && frame.current_event_id > (this.position ?? 0))
          this.socket?.resubscribe(this.id);
        return;
      case "error":
        if (frame.command) return; // answers a command, and closes nothing
        this.phase.value = { kind: "gone", code: frame.code ?? "error", message: frame.message ?? "" };
    }
  }

  private begin(frame: Frame, snapshot: Snapshot): void {
    const [epoch, position] = String(frame.cursor).split(".") as [string, string];
    this.target = frame.current_event_id;
    if (frame.event === "snapshot" || this.state === null) {
      this.epoch = epoch;
      this.state = State.fromSnapshot(snapshot, this.messages);
      this.position = frame.resume_event_id ?? Number(position);
      if (!this.items.length) this.skip(this.first, this.position!);
      this.lastEventAt = snapshot.trace.updated_at;
    }
    this.begins(snapshot.trace.first_event_id);
    this.state.leaseAlive = snapshot.trace.is_running || !["running", "waiting"].includes(snapshot.trace.status);
    for (const sub of snapshot.sub_traces)
      if (this.state.subTraces.has(sub.trace_id)) this.state.subTraces.set(sub.trace_id, sub);
    this.phase.value = { kind: "catching_up", left: Math.max(0, this.target - this.position!) };
  }

  private gap(frame: Frame): void {
    const seen = this.position ?? 0;
    const { first_event_id: first, resume_event_id: resume } = frame;
    const until = this.lastEventAt ? ` up to ${timeOfDay(this.lastEventAt)}` : "";
    const words = {
      trimmed: `Events ${seen + 1} to ${first - 1} have been trimmed from the log before this page had them`,
      reset:
        `The log was replaced or restored from a backup. The ${count(seen)} events this page had seen${until} ` +
        "belong to another history; what follows is what the log holds now",
      ahead:
        `The log ends at event ${count(resume)}, and this page had seen ${count(seen)}${until}: ` +
        "it was set back. This is what it holds",
    }[frame.reason as "trimmed"];
    if (frame.reason === "trimmed") this.begins(first);
    else {
      this.clear();
      this.skip(first, resume);
    }
    this.position = resume;
    this.lose(resume, words ?? `Events are missing here (${frame.reason})`, this.lastEventAt);
    this.history.value = "partial";
  }

  private announce(events: number): void {
    this.recovered.value = events;
    setTimeout(() => (this.recovered.value = 0), RECOVERED_SHOWN_MS);
  }

  // --- events ---

  protected take(event: StoredEvent, live: number): void {
    this.position = event.event_id;
    this.lastEventAt = event.ts;
    const state = this.state!;
    const before = event.event === "message_updated" ? this.messages.get(event.message_id) : undefined;
    if (event.event_id > state.head.last_event_id) applyInto(state, event);
    // else the snapshot has it already, but for messages
    if (event.event === "message_added") this.messages.set(event.message.message_id, event.message as Message);
    this.append(event, live, before);
  }

  // --- the past ---

  /** Read what came before, page by page, until all is here or it is much. */
  async readHistory(): Promise<void> {
    this.wanted = true;
    if (this.history.peek() === "loading" || this.phase.peek().kind !== "live") return;
    if (this.unread) {
      this.history.value = "loading";
      await new Promise((done) => setTimeout(done, FIRST_LINKS_MS));
    }
    while (this.unread && this.read.bytes < MOST_READ && !this.closed) {
      this.history.value = "loading";
      if (this.filling) await this.filling;
      else if (!(await this.fill(this.holes.at(-1)!, "end"))) {
        this.history.value = "failed";
        return;
      }
      await new Promise((done) => setTimeout(done, document.hidden ? 100 : 8));
    }
    this.history.value = this.unread ? "partial" : "complete";
    this.version.value++;
  }

  /** Have the event, and what stands around it, whatever is not read between. False if it can't be read. */
  async reach(eventId: number): Promise<boolean> {
    while (this.filling) await this.filling;
    const hole = this.holeAt(eventId);
    return !hole || this.fill(hole, eventId);
  }

  /** Have the message, and what stands around it: the event it was added with, or 0. */
  async reachMessage(messageId: string): Promise<number> {
    const named = /^m(\d{1,15})$/.exec(messageId); // a message the server named says where it is
    const eventId = named ? Number(named[1]) : (await fetchMessage(this.id, messageId)).event_id;
    return (await this.reach(eventId)) ? eventId : 0;
  }

  /** Have the newest messages of a goal. */
  async reachGoal(goalId: string): Promise<void> {
    const { messages } = await fetchMessages(this.id, { goalId, limit: 1 });
    if (messages.length) await this.reachMessage(messages[0]!.message_id);
  }

  /** These rows are drawn, and `top` is the first one sees: what is missing of them is read. */
  look(drawn: readonly Item[], top: Item | undefined): void {
    if (!drawn.length) return;
    this.lookedAt(drawn[0]!.id, drawn.at(-1)!.id);
    if (this.phase.peek().kind === "gone") return;
    const hole = drawn.find((item) => item.hole !== undefined);
    if (hole && !this.filling && this.history.peek() !== "failed")
      void this.fill(hole, top && top.id > hole.id ? "end" : "start");
    const light = drawn.filter((item) => item.light && !this.healing.has(item));
    if (light.length) void this.heal(light);
  }

  /** Read a page of a hole: its beginning, its end, or around an event. False if it can't be read. */
  protected fill(hole: Item, where: "start" | "end" | number): Promise<boolean> {
    const reading = this.readPage(hole, where).finally(() => {
      this.filling = null;
      nextFrame(this.changed);
    });
    this.filling = reading;
    return reading;
  }

  protected async readPage(hole: Item, where: "start" | "end" | number): Promise<boolean> {
    let size = Math.round(
      Math.min(PAGE_EVENTS, Math.max(20, PAGE_BYTES / (this.read.bytes / (this.read.events || 1) || 200))),
    );
    try {
      for (;;) {
        const from =
          where === "end"
            ? Math.max(hole.id, hole.hole! - size + 1)
            : where === "start"
              ? hole.id
              : Math.max(hole.id, where - Math.floor(size / 3));
        const to = Math.min(hole.hole!, from + size - 1);
        const { events } = await fetchEvents(this.id, this.cursor(from - 1), to - from + 1);
        const last = events.at(-1)?.event_id;
        if (this.closed || last === undefined) return false;
        // A page is cut where it has many bytes: then not all that stands before the hole's end is in it
        if (last < to && (where === "end" || (typeof where === "number" && last < where))) {
          size = Math.max(1, Math.floor(events.length * 0.7));
          continue;
        }
        this.insert(hole, events, from, last);
        return true;
      }
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 410) return false;
      if (error.code === "trimmed" && error.facts.first_event_id) this.begins(error.facts.first_event_id as number);
      else this.socket?.resubscribe(this.id); // another history: the socket will say so
      return true;
    }
  }

  /** Read rows again that were cut. */
  private async heal(rows: Item[]): Promise<void> {
    for (const row of rows) this.healing.add(row);
    const versions = rows.map((row) => row.version);
    try {
      const said = rows.filter((row) => row.message);
      if (said.length) {
        const sequences = said.map((row) => row.message!.sequence);
        const [first, last] = [Math.min(...sequences), Math.max(...sequences)];
        const { messages } = await fetchMessages(this.id, { before: last + 1, limit: Math.min(200, last - first + 1) });
        const byId = new Map(messages.map((message) => [message.message_id, message]));
        for (const row of said) {
          const message = byId.get(row.message!.message_id);
          if (message && versions[rows.indexOf(row)] === row.version) this.whole(row, message, null);
        }
      }
      for (const row of rows.filter((one) => one.event)) {
        const { events } = await fetchEvents(this.id, this.cursor(row.id - 1), 1);
        if (events[0]?.event_id === row.id) this.whole(row, null, events[0]);
      }
    } catch {
      // they stay as they are, and are asked for again when they are drawn again
    }
    for (const row of rows) this.healing.delete(row);
    nextFrame(this.changed);
  }

  protected changed = (): void => {
    this.version.value++;
  };

  /** Whether all of the past is here that will be without asking. */
  get settled(): boolean {
    return this.history.value === "complete" || this.history.value === "failed" || this.read.bytes >= MOST_READ;
  }

  get first(): number {
    return this.state?.head.first_event_id ?? 1;
  }

  private begins(first: number): void {
    if (this.state) this.state.head.first_event_id = first;
    this.trim(first);
  }
}
