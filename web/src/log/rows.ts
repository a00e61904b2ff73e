// The messages and events of one trace, in order, as far as they were read: rows, and holes where events were not read
// yet.
//
// Rule 1: every event of the log up to the last taken is in a row, in the state, or in a hole. A hole is a row as
//         well.
// Rule 2: holes are filled from any side, in pages without gaps in them, and give the very same messages as reading
//         from the beginning: updates that stand behind a hole are held, and put in after the events of the hole.
// Rule 3: at most MOST_BYTES are kept. Rows that are far from the screen are cut to their beginning (`light`), and
//         read again when they come onto the screen. At most MOST_ROWS are kept; then the oldest become a hole again.

import { hasNoTimes, isEnded, isObject, type Message, type StoredEvent } from "../net/protocol";
import { addedMessage, applyInto, type State, timeOf, updatedMessage } from "./fold";
import { HeldUpdates } from "./held";
import { shortened, sizeOf } from "./size";

export const MOST_BYTES = 48_000_000; // of texts and other contents
const HEAVY = 1_000; // bytes; smaller rows are never cut
const NEAR = 60; // rows around those on the screen that are never cut
const MOST_ROWS = 100_000;
const DROP_AT_ONCE = 10_000;
const LATE_MS = 60_000;
export const STEP_MS = 1_000; // of a run without times: its events are one after the other

/** A row: a message with all its updates, an event of another kind, a hole, or a gap in the log. */
export interface Item {
  id: number; // the event_id of the event it began with
  message: Message | null;
  event: StoredEvent | null; // of a row that is not a message
  gap?: string; // words about the events that are lost here
  hole?: number; // the last event not read yet; `id` is the first
  loose?: boolean; // it comes and goes: the list takes another row as its anchor
  at: string; // when it happened; "" where the run has no times of its own
  stored?: string; // when it was appended
  updatedAt: string;
  lastId: number; // the event_id of its last update
  goalId: string | null;
  error: boolean;
  version: number; // counts its updates
  live: number; // performance.now() when it arrived live; 0 for the past
  height: number; // as measured by the list; 0 while unknown
  size: number; // bytes, roughly
  light?: boolean; // cut, or perhaps not complete: read again when it comes onto the screen
  cut?: boolean; // only its beginning is here
  open?: boolean; // unfolded, or folded, by hand
}

// Events without rows of their own: the goal tree, the header or the messages they change show them
const SILENT = new Set([
  "goal_added",
  "goal_updated",
  "message_added",
  "message_updated",
  "step_added",
  "step_updated",
  "input_provided",
  "input_expired",
]);
const OURS = new Set([
  ...["trace_completed", "trace_status_changed", "sub_trace_started", "sub_trace_completed", "sub_trace_left"],
  ...["input_requested", "cancel_requested", "trace_updated", "trace_parent_changed", "error"],
]);
// Of what a run belongs to, the header and its panel say how it stands. Only another task is news among the messages
const ABOUT = new Set(["agent_type", "tags", "session_id", "user_id", "links", "metadata", "started_at"]);
const COMMON = new Set(["event", "event_id", "trace_id", "ts", "occurred_at", "affected_goals"]);
const isAboutOnly = (event: StoredEvent): boolean =>
  event.event === "trace_updated" && Object.keys(event).every((key) => ABOUT.has(key) || COMMON.has(key));

/** Whether an event that has a row is of a recorder's own kind. */
export const isCustom = (name: string): boolean => !OURS.has(name);
const NO_ROW = {
  message: null,
  event: null,
  at: "",
  updatedAt: "",
  goalId: null,
  error: false,
  version: 0,
  live: 0,
  height: 0,
  size: 0,
};

/** When it was, in ms; of what has no time its place among the steps. */
export const momentOf = (at: string, id: number): number => (at ? Date.parse(at) : id * STEP_MS);

export class Rows {
  items: Item[] = [];
  goalTimes = new Map<string, { from: number; to: number }>(); // ms; work on goals, as far as events were seen
  outcomes = new Map<string, StoredEvent>(); // how questions were closed, by request_id
  ends = new Map<string, StoredEvent>(); // how sub-agents ended, by sub_trace_id: shown in the row in which they began
  begins = new Map<string, StoredEvent>(); // with which a message that streams got its first content, by message_id
  kinds = new Map<string, number>(); // how many rows there are of each kind of custom event
  bytes = 0; // of the rows that are kept
  unread = 0; // events in holes
  mostBytes = MOST_BYTES;
  timeless = false; // no times of this run are known
  read = { events: 0, bytes: 0 }; // in all, to know the size of an event
  holes: Item[] = []; // rows of `items`
  readonly messages = new Map<string, Message>(); // as shown; the fold's own where there is one
  #byMessage = new Map<string, Item>();
  #asked = new Map<string, Item>(); // rows of questions, by request_id
  #subs = new Map<string, Item>(); // rows of sub-agents, by sub_trace_id: of their begin, else of their end
  #later = new Map<string, HeldUpdates>(); // by message_id
  #late = ""; // the time of the last recorder's event, if it came long after it happened
  #looked: readonly [number, number] = [Infinity, Infinity]; // ids of the first and last row on the screen
  #updatedLater = new Set<string>(); // messages that were dropped, and whose updates were not

  // --- events ---

  /** The next event at the end: into `state`, unless its snapshot has the event already, and into the rows. */
  take(event: StoredEvent, state: State, live: number): void {
    const before = event.event === "message_updated" ? this.messages.get(event.message_id) : undefined;
    this.timeless ||= hasNoTimes(state.head);
    if (event.event_id > state.head.last_event_id) applyInto(state, event);
    // A snapshot has no messages
    if (event.event === "message_added") this.messages.set(event.message.message_id, addedMessage(event));
    this.append(event, live, before);
  }

  /** The next event at the end. The fold has had it already; `before` is the message it updates, before it. */
  append(event: StoredEvent, live: number, before: Message | undefined): void {
    const item = this.#toItem(event, live);
    if (item) this.items.push(item);
    else if (event.event === "message_updated") {
      this.#update(event, live, before);
      if (this.#later.has(event.message_id)) this.#settle(event.message_id, live);
    }
  }

  /** Put in the events `from` to `to`, all of one hole. False if the hole has changed meanwhile. */
  insert(hole: Item, events: readonly StoredEvent[], from: number, to: number): boolean {
    const at = this.items.indexOf(hole);
    if (at < 0 || from < hole.id || to > hole.hole!) return false;
    const late = this.#late;
    const page: Item[] = [];
    for (const event of events) {
      const item = this.#toItem(event, 0);
      if (!item) continue;
      page.push(item);
      if (!item.message) continue;
      this.messages.set(item.message.message_id, item.message);
      this.#later.get(item.message.message_id)?.begin(item.message, item.id);
    }
    this.#late = late;
    const before = from > hole.id ? [holeRow(hole.id, from - 1)] : [];
    const after = to < hole.hole! ? [holeRow(to + 1, hole.hole!)] : [];
    this.#replace(at, at + 1, [...before, ...page, ...after]);
    this.#joinSubs(page);
    for (const event of events)
      if (event.event === "message_updated") this.#update(event, 0, this.messages.get(event.message_id));
    for (const id of [...this.#later.keys()]) this.#settle(id);
    for (const { message } of page) {
      if (message && ((this.unread && message.status !== "complete") || this.#updatedLater.delete(message.message_id)))
        this.#byMessage.get(message.message_id)!.light = true;
    }
    if (!this.unread) this.#later.clear();
    this.#cutTheFar();
    return true;
  }

  #toItem(event: StoredEvent, live: number): Item | null {
    const item = this.#rowOf(event, live);
    this.read.events++;
    this.read.bytes += item?.size ?? 100;
    this.bytes += item?.size ?? 0;
    return item;
  }

  #rowOf(event: StoredEvent, live: number): Item | null {
    this.#noteGoals(event);
    if (event.event === "input_provided" || event.event === "input_expired") {
      this.outcomes.set(event.request_id, event);
      const asked = this.#asked.get(event.request_id);
      if (asked) asked.version++;
    }
    const at = this.#timeOf(event);
    const ids = { id: event.event_id, lastId: event.event_id };
    const base = { ...ids, at, stored: event.ts, updatedAt: at, version: 0, live, height: 0 };
    if (event.event === "message_added") {
      const message = addedMessage(event);
      const item: Item = {
        ...base,
        message,
        event: null,
        goalId: message.goal_id,
        error: isError(message),
        size: sizeOf(message.content),
      };
      this.#byMessage.set(message.message_id, item);
      return item;
    }
    if (SILENT.has(event.event) || isAboutOnly(event)) return null;
    if (event.event === "sub_trace_completed" && this.#endSub(event, live)) return null;
    const failed = event.event === "error" || event.status === "failed" || event.status === "lost";
    const item: Item = {
      ...base,
      message: null,
      event,
      goalId: event.goal_id ?? event.parent_goal_id ?? null,
      error: failed,
      size: sizeOf(event as never),
    };
    if (isCustom(event.event)) this.kinds.set(event.event, (this.kinds.get(event.event) ?? 0) + 1);
    else if (event.event === "input_requested") this.#asked.set(event.request_id, item);
    else if (event.event === "sub_trace_completed") this.#subs.set(event.sub_trace_id, item);
    else if (event.event === "sub_trace_started") this.#beginSub(item);
    else if (isEnded(event.status)) for (const asked of this.#asked.values()) asked.version++;
    return item;
  }

  /** A sub-agent has ended. False where the row of its begin is not here: then the end has a row, until it is. */
  #endSub(event: StoredEvent, live: number): boolean {
    this.ends.set(event.sub_trace_id, event);
    const begun = this.#subs.get(event.sub_trace_id);
    if (begun?.event?.event !== "sub_trace_started") return false;
    this.#showEnd(begun);
    if (live) begun.live = live;
    return true;
  }

  /** The row of a sub-agent's begin: it says how it ended, if it has. */
  #beginSub(item: Item): void {
    this.#showEnd(item);
    const id = item.event!.sub_trace_id as string;
    if (!this.#subs.has(id)) this.#subs.set(id, item);
  }

  #showEnd(item: Item): void {
    const end = this.ends.get(item.event!.sub_trace_id);
    item.version++;
    item.lastId = Math.max(item.id, end?.event_id ?? 0);
    item.updatedAt = end && item.at ? timeOf(end) : item.at;
    item.error = end?.status === "failed" || end?.status === "lost";
  }

  /** Rows of ends go where the rows of their begins have been read. */
  #joinSubs(page: Item[]): void {
    for (const item of page) {
      if (item.event?.event !== "sub_trace_started") continue;
      const id = item.event.sub_trace_id as string;
      const other = this.#subs.get(id);
      this.#subs.set(id, item);
      const at = other && other !== item ? this.items.indexOf(other) : -1;
      if (at < 0) continue;
      this.bytes -= other!.size;
      this.#replace(at, at + 1, []);
    }
  }

  /** How the question of a row was closed, or its sub-agent has ended. */
  outcomeOf({ event }: Item): StoredEvent | undefined {
    return event?.event === "sub_trace_started"
      ? this.ends.get(event.sub_trace_id)
      : this.outcomes.get(event?.request_id);
  }

  #update(event: StoredEvent, live: number, before: Message | undefined): void {
    const id = event.message_id as string;
    const begin = this.begins.get(id);
    if (event.append !== undefined && (!begin || event.event_id < begin.event_id)) this.begins.set(id, event);
    const item = this.#byMessage.get(id);
    const held = this.#later.get(id);
    if (item && !held && !this.#holeBetween(item.id, event.event_id)) {
      if (event.event_id > item.lastId) this.#show(item, updated(before!, event, item), event, live);
      return;
    }
    if (!item && !this.unread) return; // its beginning was trimmed
    const behind = held ?? new HeldUpdates(item && before, item?.lastId ?? 0);
    behind.add(event);
    this.#later.set(id, behind);
  }

  /** Put in the updates of a message that stand behind no hole any more; show the others already, as far as can be. */
  #settle(id: string, live = 0): void {
    const held = this.#later.get(id)!;
    const item = this.#byMessage.get(id);
    if (!item) return;
    if (item.cut) held.showAgain();
    const end = this.holes.find((hole) => hole.id > item.id)?.id ?? Infinity;
    const now = held.apply(end, (message, event) => updated(message, event, item));
    if (now) this.#show(item, now.message, now.last, live);
    if (held.empty) this.#later.delete(id);
  }

  #show(item: Item, message: Message, event: StoredEvent, live: number): void {
    this.messages.set(message.message_id, message);
    const size = sizeOf(message.content);
    this.bytes += size - item.size;
    Object.assign(item, {
      message,
      size,
      updatedAt: this.#timeOf(event),
      lastId: Math.max(item.lastId, event.event_id),
      error: isError(message),
      goalId: message.goal_id,
    });
    item.version++;
    if (live && event.patch) item.live = live;
  }

  #holeBetween(from: number, to: number): boolean {
    return this.holes.some((hole) => hole.id > from && hole.id < to);
  }

  /** When an event happened. The server's events among events that came late, or from an import, happened with them. */
  #timeOf(event: StoredEvent): string {
    if (this.timeless) return "";
    if (event.occurred_at) {
      this.#late = Date.parse(event.ts) - Date.parse(event.occurred_at) > LATE_MS ? event.occurred_at : "";
      return event.occurred_at;
    }
    return this.#late || event.ts;
  }

  #noteGoals(event: StoredEvent): void {
    const time = momentOf(this.#timeOf(event), event.event_id);
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

  // --- holes and gaps ---

  /** Forget all rows. */
  clear(): void {
    this.items = [];
    this.holes = [];
    this.messages.clear();
    this.#byMessage.clear();
    this.#later.clear();
    this.#asked.clear();
    this.#subs.clear();
    this.kinds.clear();
    this.ends.clear();
    this.#updatedLater.clear();
    this.outcomes.clear();
    this.begins.clear();
    this.goalTimes.clear();
    this.bytes = this.unread = 0;
  }

  /** Put a hole at the end: events `from` to `to` are in the log and were not read. */
  skip(from: number, to: number): void {
    if (to < from) return;
    this.#replace(this.items.length, this.items.length, [holeRow(from, to)]);
  }

  /** Put in a row that says what is lost behind event `after`. */
  lose(after: number, words: string, at: string): void {
    const row: Item = { ...NO_ROW, id: after + 0.5, lastId: 0, gap: words, at, updatedAt: at, error: true };
    const place = this.#indexAfter(after);
    this.#replace(place, place, [row]);
  }

  /** Replace all rows. The times of goals, and the outcomes of questions up to event `at`, are those of `source`. */
  load(items: Item[], source: Rows, at: number): void {
    this.clear();
    this.#replace(0, 0, items);
    this.goalTimes = new Map(source.goalTimes);
    this.begins = source.begins;
    this.outcomes = new Map([...source.outcomes].filter(([, event]) => event.event_id <= at));
    this.ends = new Map([...source.ends].filter(([, event]) => event.event_id <= at));
    for (const item of items) {
      if (item.event && isCustom(item.event.event))
        this.kinds.set(item.event.event, (this.kinds.get(item.event.event) ?? 0) + 1);
      if (item.event?.event === "sub_trace_started") this.#beginSub(item);
      if (item.event?.event === "input_requested") this.#asked.set(item.event.request_id, item);
      if (!item.message) continue;
      this.messages.set(item.message.message_id, item.message);
      this.#byMessage.set(item.message.message_id, item);
    }
  }

  /** Replace some rows, in a new array: an array that was given out only ever grows at its end. */
  #replace(start: number, stop: number, rows: Item[]): void {
    this.items = this.items.slice(0, start).concat(rows, this.items.slice(stop));
    this.holes = this.items.filter((item) => item.hole !== undefined);
    this.unread = this.holes.reduce((sum, hole) => sum + hole.hole! - hole.id + 1, 0);
  }

  /** The log begins with event `first` now: older events that were not read are lost. */
  trim(first: number): void {
    for (const hole of this.holes.filter((one) => one.id < first)) {
      const to = Math.min(hole.hole!, first - 1);
      const at = this.items.indexOf(hole);
      this.#replace(at, at + 1, hole.hole! >= first ? [holeRow(first, hole.hole!)] : []);
      this.lose(
        to,
        `Events ${hole.id} to ${to} have been trimmed from the log`,
        this.items[at]?.at || this.items[at + 1]?.at || "",
      );
    }
  }

  holeAt(eventId: number): Item | undefined {
    const item = this.itemOfEvent(eventId);
    return item?.hole !== undefined && item.hole >= eventId ? item : undefined;
  }

  /** The rows on the screen, by id: they are not cut and not dropped. */
  lookedAt(first: number, last: number): void {
    this.#looked = [first, last];
  }

  /** Cut or drop rows until no more than the limits are kept. */
  keepWithin(): void {
    this.#cutTheFar();
    if (this.items.length <= MOST_ROWS + DROP_AT_ONCE) return;
    // The oldest are dropped; where somebody reads those, the ones between there and the end
    const reading = this.#indexAfter(this.#looked[1]);
    const start =
      this.#indexAfter(this.#looked[0]) > DROP_AT_ONCE + NEAR
        ? 0
        : Math.min(reading + NEAR, this.items.length - 2 * DROP_AT_ONCE);
    this.drop(start, start + DROP_AT_ONCE);
  }

  private drop(start: number, stop: number): void {
    const gone = this.items.slice(start, stop);
    const first = Math.ceil(gone[0]!.id);
    const last = Math.ceil(this.items[stop]!.id) - 1;
    for (const item of gone) {
      this.bytes -= item.size;
      if (item.event && isCustom(item.event.event))
        this.kinds.set(item.event.event, this.kinds.get(item.event.event)! - 1);
      if (item.event && this.#subs.get(item.event.sub_trace_id) === item) this.#subs.delete(item.event.sub_trace_id);
      if (!item.message) continue;
      this.messages.delete(item.message.message_id);
      this.#byMessage.delete(item.message.message_id);
      if (this.#later.delete(item.message.message_id) || item.lastId > last)
        this.#updatedLater.add(item.message.message_id);
    }
    this.#replace(start, stop, [holeRow(first, last)]);
  }

  #cutTheFar(): void {
    if (this.bytes <= this.mostBytes) return;
    const { items } = this;
    const [from, to] = [this.#indexAfter(this.#looked[0]) - NEAR, this.#indexAfter(this.#looked[1]) + NEAR];
    let low = 0;
    let high = items.length - NEAR / 3; // the newest come onto the screen next
    while (this.bytes > this.mostBytes * 0.75 && (low < from || high > to)) {
      this.#cut(from - low >= high - to ? items[low++]! : items[--high]!);
      if (low >= high) break;
    }
  }

  #cut(item: Item): void {
    if (item.size <= HEAVY || item.cut) return;
    if (item.message) {
      item.message = { ...item.message, content: shortened(item.message.content) };
      this.messages.set(item.message.message_id, item.message);
    } else if (item.event) item.event = shortened(item.event as never) as unknown as StoredEvent;
    else return;
    const size = sizeOf(item.message ? item.message.content : (item.event as never));
    this.bytes += size - item.size;
    item.size = size;
    item.light = item.cut = true;
    item.version++;
  }

  /** Put the whole content into a row that was cut. */
  whole(item: Item, message: Message | null, event: StoredEvent | null): void {
    if (message) this.messages.set(message.message_id, message);
    const size = sizeOf(message ? message.content : (event as never));
    this.bytes += size - item.size;
    Object.assign(item, { message, event, size, light: false, cut: false });
    if (message) item.error = isError(message);
    item.version++;
  }

  // --- finding ---

  itemOfMessage(messageId: string): Item | undefined {
    return this.#byMessage.get(messageId);
  }

  /** The row that shows an event: its own, that of the message it updated, its hole, or the nearest before. */
  itemOfEvent(eventId: number): Item | undefined {
    const near = this.items[this.#indexAfter(eventId) - 1];
    if (near?.id === eventId || near?.lastId === eventId) return near;
    for (const end of this.ends.values()) if (end.event_id === eventId) return this.#subs.get(end.sub_trace_id) ?? near;
    return near;
  }

  #indexAfter(id: number): number {
    let low = 0;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.items[middle]!.id <= id) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

const holeRow = (from: number, to: number): Item => ({ ...NO_ROW, id: from, hole: to, loose: true, lastId: to });

/** A message after an update. If it was cut, text is not appended, since its end is not here. */
function updated(message: Message, event: StoredEvent, item: Item): Message {
  return updatedMessage(message, item.cut && event.append !== undefined ? { ...event, append: undefined } : event);
}

/** Whether a message says that something failed. */
export function isError(message: Message): boolean {
  const { content } = message;
  if (isObject(content)) {
    if (content.error !== undefined && content.error !== null && content.error !== false) return true;
    if (content.is_error === true) return true;
  }
  const more = message as unknown as Record<string, unknown>;
  return (
    message.damaged === true ||
    message.role === "error" ||
    more.is_error === true ||
    (more.error !== undefined && more.error !== null && more.error !== false)
  );
}
