// All traces, live: the list, its open questions, and the current goal and activity of each trace.
//
// Rule 1: the socket's list brings the newest traces and every change; the older traces are read in pages. Of two
//         states of a trace the newer wins.
// Rule 2: all of it is of one history. Where the log is another (restored from a backup, replaced), nothing of the one
//         before is kept, whatever ids it has.

import { computed, signal } from "@preact/signals";
import { fetchInputs, fetchTrace, fetchTraces, type OpenInput } from "../net/api";
import type { Frame, Trace } from "../net/protocol";
import type { Socket } from "../net/socket";
import { passed, serverNow } from "../net/time";
import { type Filter, without } from "./filter";
import { beforePaint } from "./paint";

const MOST_TRACES = 20_000;
const FIRST = 200;
const INPUTS_MS = 1_000; // between two requests for open questions, while a trace that waits goes on appending
const SPARK_MS = 5_000; // one bar of a sparkline
const SPARK_BARS = 12;

/** How many events a trace grew by, per SPARK_MS, as seen by this page. */
export interface Activity {
  slot: number; // of the last bar
  bars: number[];
}

export class Traces {
  readonly byId = new Map<string, Trace>();
  epoch = ""; // the history of all that is known
  readonly version = signal(0);
  readonly currentVersion = signal(0); // counts changes of `current`
  readonly loaded = signal(false);
  readonly whole = signal(false); // whether the older ones were read as well
  readonly partial = signal(false); // whether there are more than it reads
  readonly found = signal<{ text: string; ids: ReadonlySet<string> } | null>(null); // what has the text of a filter
  readonly refused = signal<string | null>(null); // why the server does not show the list
  readonly inputs = signal<OpenInput[]>([]);
  readonly current = new Map<string, { goalId: string; words: string }>(); // what traces are doing now
  readonly activity = new Map<string, Activity>();
  #queue: Frame[] = [];
  #asking = new Set<string>();
  #waitingKey = "";
  #waitingIds = "";
  #inputsAsked = -INPUTS_MS; // ms; when open questions were last asked for
  #inputsLater: ReturnType<typeof setTimeout> | undefined;
  readonly #since = passed();

  constructor(socket: Pick<Socket, "watchList">) {
    socket.watchList({ limit: FIRST }, (frame) => {
      this.#queue.push(frame);
      beforePaint(this.#flush);
    });
  }

  readonly all = computed(() => {
    this.version.value;
    return [...this.byId.values()];
  });

  get(id: string): Trace | undefined {
    this.version.value;
    return this.byId.get(id);
  }

  #flush = (): void => {
    const queue = this.#queue;
    this.#queue = [];
    for (const frame of queue) {
      this.#begin(frame.epoch);
      if (frame.event === "traces") {
        this.refused.value = null;
        for (const trace of frame.traces as Trace[]) this.#put(trace, false);
        void this.#readRest();
      } else if (frame.event === "trace_changed") this.#put(frame.trace as Trace, true);
      else if (frame.event === "trace_deleted") this.byId.delete(frame.trace_id!);
      else this.refused.value = String(frame.message ?? frame.code);
    }
    this.version.value++;
    void this.refreshInputs();
  };

  /** What comes now is of the history `epoch`. */
  #begin(epoch: string | undefined): void {
    if (epoch === undefined || epoch === this.epoch) return;
    const other = this.epoch !== "";
    this.epoch = epoch;
    if (!other) return;
    this.byId.clear();
    this.activity.clear();
    this.current.clear();
    this.inputs.value = [];
    this.#waitingKey = this.#waitingIds = "";
    this.loaded.value = this.whole.value = false;
  }

  #put(trace: Trace, live: boolean): void {
    const before = this.byId.get(trace.trace_id);
    if (before && before.last_event_id > trace.last_event_id && before.created_at === trace.created_at) return;
    // Of events that this page did not see arrive, it knows their number, and the time of the last
    const grown = trace.last_event_id - (before?.last_event_id ?? 0);
    if (live) this.#note(trace.trace_id, grown, serverNow());
    else this.#note(trace.trace_id, before ? grown : 1, Date.parse(trace.updated_at));
    this.byId.set(trace.trace_id, trace);
  }

  #note(id: string, events: number, at: number): void {
    const now = Math.floor(serverNow() / SPARK_MS);
    const bar = SPARK_BARS - 1 - Math.max(0, now - Math.floor(at / SPARK_MS));
    if (events <= 0 || !(bar >= 0)) return;
    let seen = this.activity.get(id);
    if (!seen) {
      seen = { slot: now, bars: new Array(SPARK_BARS).fill(0) };
      this.activity.set(id, seen);
    }
    shift(seen, now);
    seen.bars[bar]! += events;
  }

  /** The number of bars whose whole time this page has seen. */
  get known(): number {
    return Math.min(SPARK_BARS, Math.ceil((passed() - this.#since) / SPARK_MS));
  }

  /** The bars of a trace up to now; null where it has been still for a minute. */
  bars(id: string, at: number): number[] | null {
    const seen = this.activity.get(id);
    if (!seen) return null;
    shift(seen, Math.floor(at / SPARK_MS));
    if (seen.bars.some(Boolean)) return seen.bars;
    this.activity.delete(id);
    return null;
  }

  async #readRest(): Promise<void> {
    let token: string | undefined;
    const before = new Set(this.byId.keys());
    const { epoch } = this;
    try {
      do {
        const page = await fetchTraces(token);
        if (page.epoch !== undefined && page.epoch !== this.epoch) break; // its list is on its way
        for (const trace of page.traces) before.delete(trace.trace_id);
        const isNew = page.traces.some((trace) => !this.byId.has(trace.trace_id));
        for (const trace of page.traces) this.#put(trace, false);
        this.loaded.value = true;
        if (isNew) this.version.value++;
        token = page.next_page_token ?? undefined;
      } while (token && this.byId.size < MOST_TRACES);
      this.partial.value = token !== undefined;
      if (!token && before.size && epoch === this.epoch) {
        for (const id of before) this.byId.delete(id); // deleted while nobody told this page
        this.version.value++;
      }
    } catch {
      // The socket's list is there; the rest comes with the next reconnect
    }
    this.loaded.value = this.whole.value = true;
  }

  /** Ask the server which traces pass a filter: for its text, and where there are more than this page has read. */
  async find({ conditions, sought, faults }: Filter, text: string): Promise<void> {
    const asked = faults.reduceRight((left, fault) => without(left, fault), text);
    if (!sought.length && !(this.partial.peek() && conditions.length)) return;
    const page = await fetchTraces(undefined, [["filter", asked]]).catch(() => null);
    if (!page || page.epoch !== this.epoch) return;
    for (const trace of page.traces) if (!this.byId.has(trace.trace_id)) this.#put(trace, false);
    this.found.value = { text, ids: new Set(page.traces.map((trace) => trace.trace_id)) };
    this.version.value++;
  }

  /** Ask for the open questions again if waiting traces have changed: at once if others wait, else once a second. */
  async refreshInputs(): Promise<void> {
    const waiting = [...this.byId.values()].filter((trace) => trace.status === "waiting");
    const key = waiting.map((trace) => `${trace.trace_id}@${trace.last_event_id}`).join();
    if (key === this.#waitingKey) return;
    const ids = waiting.map((trace) => trace.trace_id).join();
    const wait = ids === this.#waitingIds ? this.#inputsAsked + INPUTS_MS - passed() : 0;
    if (wait > 0) {
      this.#inputsLater ??= setTimeout(() => {
        this.#inputsLater = undefined;
        void this.refreshInputs();
      }, wait);
      return;
    }
    this.#waitingKey = key;
    this.#waitingIds = ids;
    this.#inputsAsked = passed();
    if (!waiting.length) {
      this.inputs.value = [];
      return;
    }
    try {
      const { inputs, epoch } = await fetchInputs();
      if (epoch !== undefined && epoch !== this.epoch) return;
      if (this.#waitingKey === key) this.inputs.value = inputs;
    } catch {
      if (this.#waitingKey === key) this.inputs.value = await inputsOf(waiting);
    }
  }

  /** The words of a running trace's current goal, read when first asked for and whenever the trace has another goal. */
  currentGoal(trace: Trace): string | null {
    const goalId = trace.current_goal_id;
    if (goalId === null) return null;
    const known = this.current.get(trace.trace_id);
    if (known?.goalId !== goalId) this.#readCurrent(trace.trace_id);
    return known?.words ?? null;
  }

  #readCurrent(id: string): void {
    if (this.#asking.has(id) || this.#asking.size >= 4) return;
    this.#asking.add(id);
    fetchTrace(id)
      .then(({ goal_tree, epoch }) => {
        if (epoch !== undefined && epoch !== this.epoch) return;
        const goal = goal_tree.goals.find((one) => one.id === goal_tree.current_id);
        this.current.set(id, { goalId: goal?.id ?? "", words: goal?.description ?? "" });
      })
      .catch(() => undefined)
      .finally(() => {
        // Again after a second at the soonest: goals may change faster than anybody reads
        setTimeout(() => this.#asking.delete(id), 1000);
        beforePaint(this.#changed);
      });
  }

  #changed = (): void => {
    this.currentVersion.value++;
  };
}

function shift(seen: Activity, slot: number): void {
  const by = slot - seen.slot;
  if (by <= 0) return;
  seen.slot = slot;
  seen.bars = by >= SPARK_BARS ? new Array(SPARK_BARS).fill(0) : [...seen.bars.slice(by), ...new Array(by).fill(0)];
}

async function inputsOf(waiting: Trace[]): Promise<OpenInput[]> {
  const found: OpenInput[] = [];
  for (const trace of waiting.slice(0, 20)) {
    try {
      const { pending_inputs } = await fetchTrace(trace.trace_id);
      found.push(...pending_inputs.map((asked) => ({ ...asked, trace_id: trace.trace_id })));
    } catch {
      // gone meanwhile
    }
  }
  return found;
}
