// Plays a trace on from where a replay stands, at 1× to 100×.
//
// Rule: time passes as it did in the run, but no pause takes longer than MOST_PAUSE_MS.

import type { Replay } from "../log/replay";
import type { StoredEvent } from "../net/protocol";

export const SPEEDS = [1, 2, 5, 10, 30, 100] as const;
export type Speed = (typeof SPEEDS)[number];

const MOST_PAUSE_MS = 1500;
const MOST_EVENTS = 400; // for one paint

export class Player {
  #stopped = false;
  #clock = NaN; // ms, in the run's time
  #before = 0;

  constructor(
    private readonly replay: Replay,
    public speed: Speed,
    private readonly over: (ended: boolean) => void,
  ) {}

  start(): void {
    this.#before = performance.now();
    void this.#run();
  }

  stop(): void {
    this.#stopped = true;
  }

  async #run(): Promise<void> {
    try {
      while (!this.#stopped) {
        const now = await new Promise<number>((done) => requestAnimationFrame(done));
        if (this.#stopped) return;
        if (this.replay.position === null) continue; // it is not there yet
        const events = await this.replay.upcoming();
        if (this.#stopped) return;
        if (!events.length) return this.over(true);
        this.replay.play(this.due(events, now - this.#before));
        this.#before = now;
      }
    } catch {
      if (!this.#stopped) this.over(false);
    }
  }

  /** The events whose time has come after another `ms`. */
  due(events: readonly StoredEvent[], ms: number): StoredEvent[] {
    if (Number.isNaN(this.#clock)) this.#clock = timeOf(events[0]!);
    this.#clock += Math.min(ms, 250) * this.speed; // a tab that was hidden does not catch up
    const due: StoredEvent[] = [];
    for (const event of events) {
      const time = timeOf(event);
      // An event before the clock's time (another clock, or late) is due at once
      if (time > this.#clock) {
        if (due.length || time - this.#clock < MOST_PAUSE_MS * this.speed) break;
        this.#clock = time - MOST_PAUSE_MS * this.speed;
        break;
      }
      due.push(event);
      if (due.length >= MOST_EVENTS) break;
    }
    return due;
  }
}

const timeOf = (event: StoredEvent): number => Date.parse(event.occurred_at ?? event.ts);
