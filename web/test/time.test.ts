import "./page";
import { describe, expect, test, vi } from "vitest";
import type { Item } from "../src/log/rows";
import { TraceLog } from "../src/log/trace-log";
import { timesOf } from "../src/log/words";
import type { StoredEvent } from "../src/net/protocol";
import type { Socket } from "../src/net/socket";
import { TimeLine } from "../src/time/line";
import { Player } from "../src/time/player";
import { type Span, spansOf } from "../src/time/spans";

vi.mock("../src/net/api", () => ({ fetchEvents: async () => ({ events: [] }), fetchTrace: async () => ({}) }));

const span = (from: number, to: number, more: Partial<Span> = {}): Span => ({
  lane: "tools",
  row: 0,
  from,
  to,
  id: 1,
  label: "",
  goalId: null,
  look: "plain",
  ...more,
});

describe("the time line", () => {
  test("keeps work as long as it was, and cuts idle time short", () => {
    const line = new TimeLine([span(0, 60_000), span(3_660_000, 3_720_000)]);
    expect(line.gaps.map((gap) => gap.ms)).toEqual([3_600_000]);
    expect(line.place(0)).toBe(0);
    expect(line.place(3_720_000)).toBe(1);
    expect(line.place(60_000)).toBeGreaterThan(0.45);
    expect(line.place(60_000)).toBeCloseTo(1 - line.place(3_660_000), 10);
  });

  test("leads from a time to its place and back", () => {
    const line = new TimeLine([span(0, 1000), span(1500, 9000), span(500_000, 503_000)]);
    for (const ms of [0, 400, 1200, 5000, 9000, 500_000, 501_234]) expect(line.time(line.place(ms))).toBeCloseTo(ms, 3);
    let before = -1;
    for (let ms = 0; ms <= 503_000; ms += 500) {
      expect(line.place(ms)).toBeGreaterThanOrEqual(before);
      before = line.place(ms);
    }
  });

  test("of nothing, of one moment and of moments only has no end of the world in it", () => {
    for (const spans of [[], [span(5, 5)], [span(5, 5), span(6, 6)], [span(0, 0), span(1e9, 1e9)]]) {
      const line = new TimeLine(spans);
      for (const ms of [-1, 0, 5, 1e9, 2e9]) expect(Number.isFinite(line.place(ms))).toBe(true);
    }
  });
});

test("spans: tools that overlap get rows of their own, what failed and what runs looks so", () => {
  const log = new TraceLog("t", {} as Socket);
  const trace = {
    trace_id: "t",
    status: "running",
    is_running: true,
    last_event_id: 0,
    first_event_id: 1,
    updated_at: "",
  };
  const ts = (second: number) => new Date(second * 1000).toISOString();
  const call = (id: number, at: number, more: object, content = {}) => ({
    event: "message_added",
    event_id: id,
    trace_id: "t",
    ts: ts(at),
    affected_goals: [],
    message: {
      message_id: `m${id}`,
      sequence: id,
      role: "tool",
      content: { tool_name: "grep", ...content },
      goal_id: null,
      description: "grep",
      status: "complete",
      ...more,
    },
  });
  const frames = [
    {
      event: "connected",
      cursor: "e.0",
      current_event_id: 0,
      trace,
      goal_tree: { goals: [], current_id: null, as_of_event_id: 0 },
      sub_traces: [],
      pending_inputs: [],
    },
    call(1, 10, { duration_ms: 5000 }),
    call(2, 12, { duration_ms: 4000 }),
    call(3, 20, { duration_ms: 1000 }, { error: "no" }),
    call(4, 30, { status: "running" }),
    { event: "input_requested", event_id: 5, trace_id: "t", ts: ts(31), request_id: "r", question: "?" },
  ];
  for (const frame of frames) "event_id" in frame ? log.event(frame as StoredEvent) : log.frame(frame);
  log.lost(); // puts in what waits for a frame
  const spans = spansOf(log, 40_000);
  expect(spans.map(({ lane, row, from, to, look }) => [lane, row, from / 1000, to / 1000, look])).toEqual([
    ["tools", 0, 5, 10, "plain"], // what comes complete has ended then
    ["tools", 1, 8, 12, "plain"],
    ["tools", 0, 19, 20, "failed"],
    ["tools", 0, 30, 40, "running"],
    ["text", 0, 31, 40, "waiting"],
  ]);
});

test("a run without times is drawn by its steps", () => {
  const log = new TraceLog("t", {} as Socket);
  const trace = { trace_id: "t", status: "completed", last_event_id: 0, first_event_id: 1, updated_at: "" };
  const said = (id: number) => ({
    event: "message_added",
    event_id: id,
    trace_id: "t",
    ts: "2026-11-20T08:00:00.000Z",
    affected_goals: [],
    message: {
      message_id: `m${id}`,
      sequence: id,
      role: id % 2 ? "user" : "tool",
      content: id % 2 ? "?" : { tool_name: "grep" },
      goal_id: "g",
      description: "",
      status: "complete",
    },
  });
  log.frame({
    event: "connected",
    cursor: "e.0",
    current_event_id: 0,
    trace: { ...trace, metadata: { format: "tau-bench", times: "none" } },
    goal_tree: { goals: [], current_id: null, as_of_event_id: 0 },
    sub_traces: [],
    pending_inputs: [],
  });
  for (const id of [1, 2, 3]) log.event(said(id) as unknown as StoredEvent);
  log.lost();
  expect(log.rows.items.map((item) => item.at)).toEqual(["", "", ""]);
  expect(spansOf(log, 9e12).map(({ lane, row, from, to }) => [lane, row, from, to])).toEqual([
    ["text", 0, 1000, 2000],
    ["tools", 0, 2000, 3000],
    ["text", 0, 3000, 4000],
  ]);
  expect(log.rows.goalTimes.get("g")).toEqual({ from: 1000, to: 3000 });
  expect(new TimeLine(spansOf(log, 9e12)).gaps).toEqual([]);
});

test("what was delivered late says so, and an end before its start is drawn as none", () => {
  const at = "2026-11-20T08:00:00.000Z";
  const item = { at, stored: "2026-11-20T08:01:02.000Z" } as Item;
  expect(timesOf(item)[1]).toBe("delivered 1 min later");
  for (const stored of [undefined, at, "2026-11-20T08:00:04.000Z", "2026-11-20T07:00:00.000Z"])
    expect(timesOf({ ...item, stored })).toHaveLength(1);
  expect(timesOf({ ...item, at: "" })).toEqual([]);
});

describe("replay", () => {
  const at = (second: number, id = second): StoredEvent => ({
    event: "x",
    event_id: id,
    trace_id: "t",
    ts: new Date(second * 1000).toISOString(),
  });
  const ids = (events: StoredEvent[]) => events.map((event) => event.event_id);
  const player = (speed: 1 | 10) => new Player({} as never, speed, () => undefined);

  test("gives events when their time has come", () => {
    const one = player(1);
    const events = [at(0, 1), at(1, 2), at(2, 3)];
    expect(ids(one.due(events, 10))).toEqual([1]);
    expect(ids(one.due(events.slice(1), 200))).toEqual([]);
    for (let i = 0; i < 3; i++) one.due(events.slice(1), 250);
    expect(ids(one.due(events.slice(1), 250))).toEqual([2]);
  });

  test("nobody waits long for a pause to end", () => {
    const one = player(1);
    expect(ids(one.due([at(0, 1)], 10))).toEqual([1]);
    let waited = 0;
    while (!one.due([at(7200, 2)], 100).length) waited += 100;
    expect(waited).toBeGreaterThan(1000);
    expect(waited).toBeLessThan(2000);
  });

  test("ten times as fast takes a tenth of the time", () => {
    const one = player(10);
    one.due([at(0, 1)], 0);
    let waited = 0;
    while (!one.due([at(10, 2)], 50).length) waited += 50;
    expect(waited).toBeGreaterThan(800);
    expect(waited).toBeLessThan(1100);
  });
});
