// One trace as this page knows it, live: the folded state, and the rows of messages and events, in order.
//
// Rule 1: it opens with the snapshot and the newest events; the reader reads the older ones.
// Rule 2: events are taken only in order. After a hole or a repeat the trace is subscribed to again, from the last
//         event that was taken.
// Rule 3: events that arrive between two paints are put in together. The events of a reconnect are put in when all of
//         them are here.

import { signal } from "@preact/signals";
import { count, timeOfDay } from "../format";
import { ApiError, fetchEvents } from "../net/api";
import { type Frame, type GoalTree, hasNoTimes, type Snapshot, type StoredEvent } from "../net/protocol";
import type { Socket, Subscriber } from "../net/socket";
import { State } from "./fold";
import { beforePaint } from "./paint";
import { Reader, type Source, type Where } from "./reader";
import { type Item, Rows } from "./rows";
import type { Phase, TraceView } from "./view";

const OPENING_EVENTS = 200;
const PAGE_EVENTS = 1000;
const PAGE_BYTES = 1_000_000;
const MOST_HELD = 5_000; // events of a reconnect that are held back for one paint, and
const HELD_MS = 1_500; // how long
const RECOVERED_SHOWN_MS = 6_000;

export class TraceLog implements TraceView, Subscriber, Source {
  readonly rows = new Rows();
  readonly version = signal(0);
  readonly phase = signal<Phase>({ kind: "loading" });
  readonly gapSeen = signal(0);
  readonly recovered = signal(0); // events recovered by the last reconnect, for a few seconds
  readonly past = false;
  state: State | null = null;
  position: number | null = null;
  epoch = "";
  lastEventAt = "";
  closed = false;

  readonly reader = new Reader(this.rows, this);
  #queue: (StoredEvent | Frame)[] = [];
  #tree: { frame: Frame; goals: GoalTree["goals"] } | null = null; // a snapshot that comes in parts
  #target = 0; // the head when this catching up began
  #reconnected = false;
  #holding: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly id: string,
    private readonly socket: Pick<Socket, "subscribe" | "unsubscribe" | "resubscribe">,
  ) {}

  open(): void {
    this.socket.subscribe(this.id, this);
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.#holding);
    this.reader.close();
    this.socket.unsubscribe(this.id);
  }

  // --- from the socket ---

  ask() {
    this.#queue = [];
    this.#tree = null;
    const since = this.position === null ? `-${OPENING_EVENTS}` : this.cursor(this.position);
    return { trace_id: this.id, since_event_id: since, nulls: 1 };
  }

  cursor(eventId: number): string {
    return this.epoch ? `${this.epoch}.${eventId}` : String(eventId);
  }

  event(event: StoredEvent): void {
    this.#queue.push(event);
    if (!this.#reconnected || this.#queue.length >= MOST_HELD) beforePaint(this.#flush);
  }

  frame(frame: Frame): void {
    if (frame.event === "heartbeat" && !this.#queue.length) return this.#control(frame); // changes nothing on the page
    this.#queue.push(frame);
    if (this.#reconnected && frame.event === "connected") {
      this.phase.value = { kind: "catching_up", left: Math.max(0, frame.current_event_id - (this.position ?? 0)) };
      clearTimeout(this.#holding);
      this.#holding = setTimeout(this.#holdNoMore, HELD_MS);
    } else if (!this.#reconnected || frame.event === "caught_up" || frame.event === "error") beforePaint(this.#flush);
  }

  lost(): void {
    this.#flush();
    if (this.position === null) return;
    this.#reconnected = true;
    if (this.phase.peek().kind === "live") this.phase.value = { kind: "catching_up", left: 0 };
  }

  #holdNoMore = (): void => {
    this.#reconnected = false;
    beforePaint(this.#flush);
  };

  #flush = (): void => {
    if (this.closed || !this.#queue.length) return;
    const queue = this.#queue;
    this.#queue = [];
    const live = this.phase.peek().kind === "live" ? performance.now() : 0;
    for (const frame of queue) {
      if (typeof frame.event_id !== "number") this.#control(frame as Frame);
      else if (this.position !== null && frame.event_id === this.position + 1) this.#take(frame as StoredEvent, live);
      else {
        this.socket.resubscribe(this.id); // a hole or a repeat
        break;
      }
    }
    if (this.phase.peek().kind === "catching_up") {
      this.phase.value = { kind: "catching_up", left: Math.max(0, this.#target - (this.position ?? 0)) };
    }
    this.rows.keepWithin();
    this.version.value++;
  };

  #control(frame: Frame): void {
    switch (frame.event) {
      case "connected":
      case "snapshot":
        if (frame.goal_tree) this.#begin(frame, frame as unknown as Snapshot);
        else this.#tree = { frame, goals: [] };
        return;
      case "snapshot_part": // before the goals
        if (!this.#tree) return;
        for (const name of ["sub_traces", "pending_inputs", "steps"])
          if (frame[name]) this.#tree.frame[name] = [...(this.#tree.frame[name] ?? []), ...frame[name]];
        return;
      case "goal_tree_part": {
        if (!this.#tree) return;
        this.#tree.goals.push(...(frame.goals as GoalTree["goals"]));
        if (frame.part !== frame.parts) return;
        const { mission, current_id, as_of_event_id } = frame as unknown as GoalTree;
        const whole = {
          ...this.#tree.frame,
          goal_tree: { mission, current_id, as_of_event_id, goals: this.#tree.goals },
        };
        this.#begin(this.#tree.frame, whole as unknown as Snapshot);
        this.#tree = null;
        return;
      }
      case "gap":
        this.#gap(frame);
        return;
      case "fell_behind":
        this.#target = frame.current_event_id;
        this.phase.value = { kind: "catching_up", left: this.#target - (this.position ?? 0) };
        return;
      case "caught_up":
        if (this.#reconnected && frame.replayed > 0) this.#announce(frame.replayed);
        this.#reconnected = false;
        clearTimeout(this.#holding);
        this.phase.value = { kind: "live" };
        if (this.reader.wanted) void this.reader.readHistory();
        return;
      case "heartbeat":
        // The trace has more events than the socket has brought: the subscription is dead behind a live socket
        if (this.phase.peek().kind === "live" && frame.current_event_id > (this.position ?? 0))
          this.socket.resubscribe(this.id);
        return;
      case "error":
        if (frame.command) return; // answers a command, and closes nothing
        this.phase.value = { kind: "gone", code: frame.code ?? "error", message: frame.message ?? "" };
    }
  }

  #begin(frame: Frame, snapshot: Snapshot): void {
    const [epoch, position] = String(frame.cursor).split(".") as [string, string];
    this.#target = frame.current_event_id;
    if (frame.event === "snapshot" || this.state === null) {
      this.epoch = epoch;
      this.state = State.fromSnapshot(snapshot, this.rows.messages);
      this.rows.timeless = hasNoTimes(this.state.head);
      this.position = frame.resume_event_id ?? Number(position);
      if (!this.rows.items.length) this.rows.skip(this.first, this.position!);
      this.lastEventAt = snapshot.trace.updated_at;
    }
    this.#begins(snapshot.trace.first_event_id);
    this.state.leaseAlive = snapshot.trace.is_running || !["running", "waiting"].includes(snapshot.trace.status);
    for (const sub of snapshot.sub_traces)
      if (this.state.subTraces.has(sub.trace_id)) this.state.subTraces.set(sub.trace_id, sub);
    this.phase.value = { kind: "catching_up", left: Math.max(0, this.#target - this.position!) };
  }

  #gap(frame: Frame): void {
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
    if (frame.reason === "trimmed") this.#begins(first);
    else {
      this.rows.clear();
      this.rows.skip(first, resume);
    }
    this.position = resume;
    this.rows.lose(resume, words ?? `Events are missing here (${frame.reason})`, this.lastEventAt);
    this.reader.history.value = "partial";
  }

  #announce(events: number): void {
    this.recovered.value = events;
    setTimeout(() => (this.recovered.value = 0), RECOVERED_SHOWN_MS);
  }

  // --- events ---

  #take(event: StoredEvent, live: number): void {
    this.position = event.event_id;
    this.lastEventAt = event.ts;
    this.rows.take(event, this.state!, live);
  }

  // --- for the reader ---

  async readPage(hole: Item, where: Where): Promise<boolean> {
    const { rows } = this;
    const mean = rows.read.bytes / (rows.read.events || 1) || 200;
    let size = Math.round(Math.min(PAGE_EVENTS, Math.max(20, PAGE_BYTES / mean)));
    try {
      for (;;) {
        let from = hole.id;
        if (where === "end") from = Math.max(hole.id, hole.hole! - size + 1);
        else if (where !== "start") from = Math.max(hole.id, where - Math.floor(size / 3));
        const to = Math.min(hole.hole!, from + size - 1);
        const { events } = await fetchEvents(this.id, this.cursor(from - 1), to - from + 1);
        const last = events.at(-1)?.event_id;
        if (this.closed || last === undefined) return false;
        // The server cuts a page that has many bytes: then it does not reach to the end of the hole, or to the event
        if (last < to && (where === "end" || (typeof where === "number" && last < where))) {
          size = Math.max(1, Math.floor(events.length * 0.7));
          continue;
        }
        rows.insert(hole, events, from, last);
        return true;
      }
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 410) return false;
      if (error.code === "trimmed" && error.facts.first_event_id) this.#begins(error.facts.first_event_id as number);
      else this.socket.resubscribe(this.id); // another history: the socket will say so
      return true;
    }
  }

  changed(): void {
    this.version.value++;
  }

  get first(): number {
    return this.state?.head.first_event_id ?? 1;
  }

  #begins(first: number): void {
    if (this.state) this.state.head.first_event_id = first;
    this.rows.trim(first);
  }
}
