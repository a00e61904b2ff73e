// Updates of one message that stand behind a hole. They are applied in order once the events of the hole are here.
//
// Rule 1: until then the message is shown with all updates that are known.
// Rule 2: an update is applied once to the message that is kept and once to the message that is shown, so that the
//         cost of a text that streams on behind a hole does not grow with its length.

import type { Message, StoredEvent } from "../net/protocol";

type Apply = (message: Message, event: StoredEvent) => Message;

export class HeldUpdates {
  #updates: StoredEvent[] = []; // in order
  #added: StoredEvent[] = []; // not sorted in yet
  #shown: Message | undefined; // `base` with the updates up to `shownTo`
  #shownTo = 0;
  #fresh = false; // whether `apply` has something new to give

  /** `base` is the message after its update `upTo`; undefined while the message itself was not read. */
  constructor(
    private base: Message | undefined,
    private upTo: number,
  ) {}

  get empty(): boolean {
    return !this.#updates.length && !this.#added.length;
  }

  add(event: StoredEvent): void {
    this.#added.push(event);
  }

  /** The message was read, as it was added with event `eventId`. */
  begin(base: Message, eventId: number): void {
    this.base = base;
    this.upTo = eventId;
    this.#shown = undefined;
    this.#fresh = true;
  }

  /** The message as shown is out of date: it is made from `base` again. */
  showAgain(): void {
    this.#shown = undefined;
  }

  /**
   * Keep the updates before event `end`, where the next hole is. Gives the message with all updates and the last of
   * them, or null where there is nothing new to show.
   */
  apply(end: number, one: Apply): { message: Message; last: StoredEvent } | null {
    if (!this.base) return null;
    this.#sortIn();
    const last = this.#updates.at(-1);
    let n = 0;
    for (; n < this.#updates.length && this.#updates[n]!.event_id < end; n++) {
      const event = this.#updates[n]!;
      if (event.event_id <= this.upTo) continue;
      this.base = one(this.base, event);
      this.upTo = event.event_id;
    }
    this.#updates.splice(0, n);
    if (!last || !this.#fresh) return null;
    this.#fresh = false;
    const goesOn = this.#shown !== undefined && this.#shownTo > this.upTo;
    let message = goesOn ? this.#shown! : this.base;
    const from = goesOn ? this.#shownTo : this.upTo;
    let at = this.#updates.length;
    while (at > 0 && this.#updates[at - 1]!.event_id > from) at--;
    for (; at < this.#updates.length; at++) message = one(message, this.#updates[at]!);
    this.#shown = message;
    this.#shownTo = last.event_id;
    return { message, last };
  }

  #sortIn(): void {
    const added = this.#added;
    this.#added = [];
    const known = this.#updates.length;
    const before: StoredEvent[] = []; // updates that belong before the end
    for (const event of added) {
      if (event.event_id > (this.#updates.at(-1)?.event_id ?? 0)) this.#updates.push(event);
      else before.push(event);
    }
    if (before.length) {
      const all = [...this.#updates, ...before].sort((a, b) => a.event_id - b.event_id);
      this.#updates = all.filter((event, i) => event.event_id !== all[i - 1]?.event_id);
      this.#shown = undefined;
    }
    this.#fresh ||= this.#updates.length > known;
  }
}
