// How often the page asks the server: not once for each row, each paint or each event.

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Reader } from "../src/log/reader";
import { Rows } from "../src/log/rows";
import { Traces } from "../src/log/traces";
import type { Frame, StoredEvent, Trace } from "../src/net/protocol";
import { paint } from "./page";

const { asked, log } = vi.hoisted(() => ({ asked: [] as string[], log: [] as { event_id: number }[] }));
vi.mock("../src/net/api", () => ({
  ApiError: Error,
  async fetchEvents(_id: string, since: string, limit: number) {
    asked.push(`events ${since} ${limit}`);
    return { events: log.filter((event) => event.event_id > Number(since)).slice(0, limit) };
  },
  async fetchInputs() {
    asked.push("inputs");
    return { inputs: [] };
  },
  async fetchTraces() {
    return { traces: [], next_page_token: null };
  },
}));

beforeEach(() => {
  asked.length = log.length = 0;
});

const ts = "2026-11-20T08:00:00.000Z";
const noted = (event_id: number): StoredEvent => ({
  event: "note",
  event_id,
  trace_id: "t",
  ts,
  text: "x".repeat(5000),
});

test("rows of events that were cut are read again many at a time", async () => {
  const events = Array.from({ length: 400 }, (_, i) => noted(i + 1));
  log.push(...events);
  const rows = new Rows();
  rows.mostBytes = 100_000;
  for (const event of events) rows.append(event, 0, undefined);
  rows.keepWithin();
  const far = rows.items.slice(0, 300);
  expect(far.every((item) => item.light)).toBe(true);
  const changed = vi.fn();
  const source = { id: "t", phase: { peek: () => ({ kind: "live" }) }, cursor: String, changed };
  rows.mostBytes = 100_000_000;
  new Reader(rows, source as never).look(far, far[0]);
  await vi.waitFor(() => {
    paint();
    expect(changed).toHaveBeenCalled();
  });
  expect(far.some((item) => item.light)).toBe(false);
  expect(far.map((item) => (item.event as StoredEvent).text.length)).toEqual(far.map(() => 5000));
  expect(asked).toEqual(["events 0 200", "events 200 100"]);
});

describe("open questions are asked for", () => {
  beforeEach(() => void vi.useFakeTimers({ now: 1_000_000 }));
  afterEach(() => void vi.useRealTimers());

  const trace = (trace_id: string, last_event_id: number): Trace =>
    ({ trace_id, status: "waiting", last_event_id, updated_at: ts, created_at: ts }) as Trace;

  test("at once when another trace waits, and once a second while one that waits goes on", async () => {
    let tell: (frame: Frame) => void = () => undefined;
    new Traces({ watchList: (_query: object, frame: typeof tell) => (tell = frame) } as never);
    const say = async (changed: Trace) => {
      tell({ event: "trace_changed", trace: changed });
      await vi.advanceTimersByTimeAsync(20); // to the next paint
    };
    for (let id = 1; id <= 20; id++) {
      await say(trace("a", id));
      await vi.advanceTimersByTimeAsync(80);
    }
    const inputs = () => asked.filter((one) => one === "inputs").length;
    expect(inputs()).toBeLessThanOrEqual(3);
    await vi.advanceTimersByTimeAsync(1000);
    const before = inputs();
    await say(trace("a", 21)); // after a while in which nothing was asked for
    await say(trace("b", 1)); // at once
    expect(inputs()).toBe(before + 2);
  });
});
