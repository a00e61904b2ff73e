// One trace as this page knows it: the folded state, and what was said, in order.
//
// Rule 1: it opens with the snapshot and the newest events; older ones are read backwards in pages afterwards, and
//         give the very same messages, because updates of messages not yet known wait for them.
// Rule 2: events are taken only in order. A hole or a repeat asks again from the last one that was taken.
// Rule 3: what arrives is put in once per frame, whatever its number.
// Rule 4: at most MOST_ITEMS are kept; then the oldest go, and can be read again.

import { signal } from "@preact/signals";
import { fetchEvents } from "./api";
import { applyInto, isObject, State, updatedMessage } from "./fold";
import { nextFrame } from "./frame";
import type { Frame, Socket, Subscriber } from "./socket";
import { isEnded } from "./types";
import type { GoalTree, Message, Snapshot, StoredEvent } from "./types";

const OPENING_EVENTS = 1000;
const PAGE = 1000;
const MOST_ITEMS = 100_000;
const DROP_AT_ONCE = 10_000;
const LATE_MS = 60_000;
const RECOVERED_SHOWN_MS = 6_000;

/** A row of what was said: a message with all its updates, or an event that is none. */
export interface Item {
  id: number; // the event_id of the event it began with
  message: Message | null;
  event: StoredEvent | null; // of a row that is no message
  gap?: string; // what is missing here
  at: string; // when it happened
  updatedAt: string;
  lastId: number; // the event_id of its last update
  goalId: string | null;
  error: boolean;
  version: number; // counts its updates
  live: number; // performance.now() of when it was seen happening; 0 for the past
  height: number; // as measured by the list; 0 while unknown
  open?: boolean; // unfolded, or folded, by hand
}

export type Phase =
  | { kind: "loading" }
  | { kind: "catching_up"; left: number }
  | { kind: "live" }
  | { kind: "gone"; code: string; message: string };

// Shown by the goal tree, the header or the messages they change, not as rows of their own
const SILENT = new Set(["goal_added", "goal_updated", "message_added", "message_updated", "input_provided", "input_expired"]);

export class TraceLog implements Subscriber {
  readonly version = signal(0); // counts the frames in which something changed
  readonly phase = signal<Phase>({ kind: "loading" });
  readonly history = signal<"partial" | "loading" | "complete" | "failed">("partial");
  readonly recovered = signal(0); // events recovered by the last reconnect, for a few seconds
  state: State | null = null;
  items: Item[] = [];
  position: number | null = null; // the last event taken
  epoch = "";
  oldest = 0; // the first event that `items` has seen
  lastEventAt = "";
  goalTimes = new Map<string, { from: number; to: number }>(); // ms; when goals were worked on, as far as events were seen
  readonly past: boolean = false; // whether this is the trace as it was
  outcomes = new Map<string, StoredEvent>(); // how questions were closed, by request_id

  protected messages = new Map<string, Message>();
  protected byMessage = new Map<string, Item>();
  private early = new Map<string, StoredEvent[]>(); // updates of messages that are further back, oldest first
  protected asked = new Map<string, Item>(); // rows of questions, by request_id
  private queue: (StoredEvent | Frame)[] = [];
  private tree: { frame: Frame; goals: GoalTree["goals"] } | null = null; // a goal tree that comes in parts
  private target = 0; // the head when this catching up began
  private wanted = false; // whether the history is wanted
  private late = ""; // the time of the last recorder's event, if it came long after it happened
  private most = MOST_ITEMS;
  private reconnected = false;
  private closed = false;

  constructor(readonly id: string, protected readonly socket: Pick<Socket, "subscribe" | "unsubscribe" | "resubscribe"> | null) {}

  open(): void {
    this.socket?.subscribe(this.id, this);
  }

  close(): void {
    this.closed = true;
    this.socket?.unsubscribe(this.id);
  }

  // --- what the socket says ---

  ask() {
    this.queue = [];
    this.tree = null;
    const since = this.position === null ? `-${OPENING_EVENTS}` : this.epoch ? `${this.epoch}.${this.position}` : String(this.position);
    return { trace_id: this.id, since_event_id: since };
  }

  event(event: StoredEvent): void {
    this.queue.push(event);
    nextFrame(this.flush);
  }

  frame(frame: Frame): void {
    this.queue.push(frame);
    nextFrame(this.flush);
  }

  lost(): void {
    this.flush();
    this.reconnected = this.position !== null;
  }

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
    this.forgetTheOldest();
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
        const whole = { ...this.tree.frame, goal_tree: { mission, current_id, as_of_event_id, goals: this.tree.goals } };
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
        this.phase.value = { kind: "live" };
        if (this.wanted) void this.readHistory();
        return;
      case "heartbeat":
        // A subscription that is dead behind a live socket: its head is ahead of what was sent
        if (this.phase.peek().kind === "live" && frame.current_event_id > (this.position ?? 0)) this.socket?.resubscribe(this.id);
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
      if (!this.items.length) this.oldest = this.position! + 1;
      this.lastEventAt = snapshot.trace.updated_at;
    }
    this.state.leaseAlive = snapshot.trace.is_running || !["running", "waiting"].includes(snapshot.trace.status);
    for (const sub of snapshot.sub_traces) if (this.state.subTraces.has(sub.trace_id)) this.state.subTraces.set(sub.trace_id, sub);
    this.phase.value = { kind: "catching_up", left: Math.max(0, this.target - this.position!) };
  }

  private gap(frame: Frame): void {
    const from = (this.position ?? 0) + 1;
    if (frame.reason === "reset" || frame.reason === "ahead") {
      this.messages = new Map();
      this.byMessage.clear();
      this.early.clear();
      this.items = [];
    }
    const words = {
      trimmed: `Events ${from} to ${frame.first_event_id - 1} have been trimmed from the log`,
      reset: "The log was restored from a backup: what was here is another history, this is the present one",
      ahead: "The log is shorter than what this page had seen: this is what it holds",
    }[frame.reason as "trimmed"];
    this.position = frame.resume_event_id;
    this.items.push({
      id: frame.resume_event_id + 0.5, message: null, event: null, gap: words ?? `Events are missing here (${frame.reason})`,
      at: this.lastEventAt, updatedAt: this.lastEventAt, lastId: 0, goalId: null, error: true, version: 0, live: 0, height: 0,
    });
    if (frame.reason !== "trimmed") this.oldest = frame.first_event_id;
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
    if (event.event_id > state.head.last_event_id) applyInto(state, event);
    else this.applyMessage(event); // the snapshot has the rest of it already
    const item = this.toItem(event, live);
    if (item) this.items.push(item);
    else if (event.event === "message_updated") this.refresh(event, live);
  }

  private applyMessage(event: StoredEvent): void {
    if (event.event === "message_added") this.messages.set(event.message.message_id, event.message);
    else if (event.event === "message_updated") {
      const message = this.messages.get(event.message_id);
      if (message) this.messages.set(event.message_id, updatedMessage(message, event));
    }
  }

  private toItem(event: StoredEvent, live: number): Item | null {
    this.noteGoals(event);
    if (event.event === "input_provided" || event.event === "input_expired") {
      this.outcomes.set(event.request_id, event);
      const asked = this.asked.get(event.request_id);
      if (asked) asked.version++;
    }
    const at = this.timeOf(event);
    const base = { id: event.event_id, lastId: event.event_id, at, updatedAt: at, version: 0, live, height: 0 };
    if (event.event === "message_added") {
      const message = event.message as Message;
      const item: Item = { ...base, message, event: null, goalId: message.goal_id, error: isError(message) };
      this.byMessage.set(message.message_id, item);
      return item;
    }
    if (SILENT.has(event.event)) return null;
    const failed = event.event === "error" || event.status === "failed" || event.status === "lost";
    const item: Item = { ...base, message: null, event, goalId: event.goal_id ?? event.parent_goal_id ?? null, error: failed };
    if (event.event === "input_requested") this.asked.set(event.request_id, item);
    else if (isEnded(event.status)) for (const asked of this.asked.values()) asked.version++;
    return item;
  }

  /** When an event happened. What the server writes among events that came late, or from an import, happened with them. */
  private timeOf(event: StoredEvent): string {
    if (event.occurred_at) {
      this.late = Date.parse(event.ts) - Date.parse(event.occurred_at) > LATE_MS ? event.occurred_at : "";
      return event.occurred_at;
    }
    return this.late || event.ts;
  }

  private noteGoals(event: StoredEvent): void {
    const time = Date.parse(this.timeOf(event));
    const note = (id: unknown) => {
      if (typeof id !== "string") return;
      const seen = this.goalTimes.get(id);
      if (!seen) this.goalTimes.set(id, { from: time, to: time });
      else if (time < seen.from) seen.from = time;
      else if (time > seen.to) seen.to = time;
    };
    if (event.event === "goal_updated") note(event.goal_id);
    else if (event.event === "goal_added") event.goal.status !== "pending" && note(event.goal.id);
    else if (event.event === "message_added") note(event.message.goal_id);
    else if (event.event === "message_updated" && event.patch) note(event.goal_id);
    for (const change of event.affected_goals ?? []) if (change.status) note(change.goal_id);
  }

  private refresh(event: StoredEvent, live: number): void {
    const item = this.byMessage.get(event.message_id);
    if (!item) {
      if (this.history.peek() === "complete") return;
      const updates = this.early.get(event.message_id);
      if (updates) updates.push(event);
      else this.early.set(event.message_id, [event]);
      return;
    }
    item.message = this.messages.get(event.message_id) ?? item.message;
    item.updatedAt = this.timeOf(event);
    item.lastId = event.event_id;
    item.error = isError(item.message!);
    item.version++;
    if (live && event.patch) item.live = live;
  }

  // --- the past ---

  /** Read what came before, page by page, until all is here or there are too many. */
  async readHistory(): Promise<void> {
    this.wanted = true;
    if (this.history.peek() === "loading" || this.phase.peek().kind !== "live") return;
    while (this.oldest > this.first && this.items.length < this.most && !this.closed) {
      this.history.value = "loading";
      const before = this.oldest;
      const since = Math.max(this.first - 1, before - 1 - PAGE);
      try {
        const page = await fetchEvents(this.id, since, before - 1 - since);
        if (this.oldest !== before || this.closed) continue; // a gap came between
        this.takeOlder(page.events.filter((event) => event.event_id < before), since + 1);
      } catch {
        this.history.value = "failed";
        return;
      }
      await new Promise((done) => setTimeout(done, document.hidden ? 100 : 8));
    }
    if (this.oldest <= this.first) {
      this.history.value = "complete";
      this.early.clear();
    } else this.history.value = "partial";
    this.version.value++;
  }

  /** Let more than usual be kept: somebody asked for what was let go. */
  async readMore(): Promise<void> {
    this.most += DROP_AT_ONCE;
    await this.readHistory();
  }

  /** Whether all of the past is here that will be without asking. */
  get settled(): boolean {
    return this.history.value === "complete" || this.history.value === "failed" || this.items.length >= this.most;
  }

  get first(): number {
    return this.state?.head.first_event_id ?? 1;
  }

  private takeOlder(events: StoredEvent[], oldest: number): void {
    const page: Item[] = [];
    for (const event of events) {
      this.applyMessage(event);
      const item = this.toItem(event, 0);
      if (item) page.push(item);
      else if (event.event === "message_updated") {
        if (this.byMessage.has(event.message_id)) this.refresh(event, 0);
        else {
          // Older than the updates that wait already
          const waiting = this.early.get(event.message_id);
          const at = waiting?.findIndex((other) => other.event_id > event.event_id) ?? -1;
          if (!waiting) this.early.set(event.message_id, [event]);
          else waiting.splice(at < 0 ? waiting.length : at, 0, event);
        }
      }
    }
    for (const { message } of page) {
      if (!message) continue;
      for (const update of this.early.get(message.message_id) ?? []) {
        this.applyMessage(update);
        this.refresh(update, 0);
      }
      this.early.delete(message.message_id);
    }
    this.items = page.concat(this.items);
    this.oldest = oldest;
    nextFrame(this.changed);
  }

  private changed = (): void => {
    this.version.value++;
  };

  private forgetTheOldest(): void {
    if (this.items.length <= this.most + DROP_AT_ONCE) return;
    const gone = this.items.slice(0, this.items.length - this.most);
    this.items = this.items.slice(gone.length);
    for (const { message } of gone) {
      if (!message) continue;
      this.messages.delete(message.message_id);
      this.byMessage.delete(message.message_id);
    }
    this.oldest = Math.floor(this.items[0]!.id);
    this.early.clear();
    this.history.value = "partial";
  }

  itemOfMessage(messageId: string): Item | undefined {
    return this.byMessage.get(messageId);
  }

  /** The row that shows an event: its own, that of the message it updated, or the nearest before it. */
  itemOfEvent(eventId: number): Item | undefined {
    let low = 0;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.items[middle]!.id <= eventId) low = middle + 1;
      else high = middle;
    }
    return this.items[low - 1];
  }
}

/** Whether a message says that something failed. */
export function isError(message: Message): boolean {
  const { content } = message;
  if (isObject(content)) {
    if (content.error !== undefined && content.error !== null && content.error !== false) return true;
    if (content.is_error === true) return true;
  }
  const more = message as unknown as Record<string, unknown>;
  return message.role === "error" || more.is_error === true || (more.error !== undefined && more.error !== null && more.error !== false);
}
