import "./page";
import { describe, expect, test, vi } from "vitest";
import { TraceLog } from "../src/log/trace-log";
import type { StoredEvent } from "../src/net/protocol";
import type { Socket } from "../src/net/socket";
import { eventAt, momentAt } from "../src/time/axis";
import { laneTopsOf } from "../src/time/draw";
import { covered, fallRows, findRow, ownTime } from "../src/time/fall";
import { TimeLine } from "../src/time/line";
import type { Span } from "../src/time/spans";

vi.mock("../src/net/api", () => ({ fetchEvents: async () => ({ events: [] }), fetchTrace: async () => ({}) }));

const T = Date.parse("2026-11-20T08:00:00.000Z");
const ts = (second: number) => new Date(T + second * 1000).toISOString();
const at = (second: number) => T + second * 1000;
const none = { folded: new Set<string>(), opened: new Set<string>(), stepped: new Set<string>() };

let next = 0;
const event = (name: string, second: number, more: object): StoredEvent => ({
  event: name,
  event_id: ++next,
  trace_id: "t",
  ts: ts(second),
  affected_goals: [],
  ...more,
});
const stats = { message_count: 0, total_tokens: 0, total_cost: null, preview: "" };
const goal = (id: string, second: number, more = {}) =>
  event("goal_added", second, {
    goal: {
      ...{ id, description: id, reason: null, parent_id: null, type: "normal", status: "in_progress", summary: null },
      ...{ self_stats: stats, cumulative_stats: stats, sub_trace_ids: [], ...more },
    },
  });
const message = (id: string, second: number, more = {}) =>
  event("message_added", second, {
    message: {
      ...{ message_id: id, sequence: next, role: "tool", content: { tool_name: id }, goal_id: null },
      ...{ description: id, status: "running", ...more },
    },
  });
const update = (id: string, second: number, more: object) =>
  event("message_updated", second, { message_id: id, ...more });

function opened(events: () => StoredEvent[], trace = {}): TraceLog {
  next = 0;
  const log = new TraceLog("t", {} as Socket);
  log.frame({
    event: "connected",
    cursor: "e.0",
    current_event_id: 0,
    trace: {
      ...{ trace_id: "t", status: "running", is_running: true, last_event_id: 0, first_event_id: 1, updated_at: "" },
      ...trace,
    },
    goal_tree: { goals: [], current_id: null, as_of_event_id: 0 },
    sub_traces: [],
    pending_inputs: [],
  });
  for (const one of events()) log.event(one);
  log.lost(); // puts in what waits for a frame
  return log;
}

const rowsOf = (log: TraceLog, folds = none) => fallRows(log, new Map(), folds, () => undefined);
const short = (log: TraceLog, folds = none) =>
  rowsOf(log, folds).map(({ depth, kind, goal, item, sub, step }) => {
    const name = goal?.id ?? step?.name ?? sub?.trace_id ?? item!.message?.message_id ?? item!.event!.question;
    return `${"  ".repeat(depth)}${kind} ${name}`;
  });

const run = () => [
  goal("a", 0),
  message("one", 1, { goal_id: "a", role: "assistant", status: "streaming", content: "" }),
  update("one", 3, { append: "Hello" }),
  update("one", 4, { append: " you" }),
  update("one", 5, { patch: { status: "complete" } }),
  goal("b", 6, { parent_id: "a" }),
  event("step_added", 6, {
    step: { id: "n", name: "node", kind: "node", goal_id: "b", step_id: null, message_id: null, status: "running" },
  }),
  message("two", 7, { goal_id: "b", step_id: "n" }),
  event("sub_trace_started", 8, { sub_trace_id: "s", parent_goal_id: "a", agent_type: "tester", task: "test" }),
  event("input_requested", 9, { request_id: "q", question: "Go on?", goal_id: "a" }),
  message("three", 10, {}),
  goal("c", 11, { status: "pending" }),
];

describe("the rows of the waterfall", () => {
  test("stand below what they belong to, in the order of their beginning", () => {
    expect(short(opened(run))).toEqual([
      "goal a",
      "  call one",
      "  goal b",
      "    tool two",
      "  agent s",
      "  question Go on?",
      "tool three",
      "goal c",
    ]);
  });

  test("steps are counted on their goal, and hold what names them where they are unfolded", () => {
    const log = opened(run);
    expect(rowsOf(log).find((row) => row.goal?.id === "b")).toMatchObject({ steps: 1, bad: 0, stepped: false });
    const rows = short(log, { ...none, stepped: new Set(["#b"]) });
    expect(rows.slice(2, 5)).toEqual(["  goal b", "    step node", "      tool two"]);
    expect(short(log, { ...none, stepped: new Set(["#b"]), folded: new Set(["~n"]) })).not.toContain("      tool two");
    expect(short(log, { ...none, folded: new Set(["#a"]) })).toEqual(["goal a", "tool three", "goal c"]);
  });

  test("have their real times: what goes on has no end, a model's first token is known", () => {
    const log = opened(run);
    const by = new Map(rowsOf(log).map((row) => [row.goal?.id ?? row.item?.message?.message_id ?? row.kind, row]));
    expect(by.get("one")).toMatchObject({ from: at(1), to: at(5), first: at(3) });
    expect(by.get("two")).toMatchObject({ from: at(7), to: null });
    expect(by.get("question")).toMatchObject({ from: at(9), to: null });
    expect(by.get("c")!.from).toBeNaN();
    const a = by.get("a")!;
    expect(a).toMatchObject({ from: at(0), to: null });
    expect(ownTime(a.from, at(20), a.below, at(20))).toBe(6_000); // until goal b began
  });

  test("of a run that ended end with it, and say that they go on no more", () => {
    const log = opened(() => [...run(), event("trace_completed", 12, { status: "failed", error: "no" })]);
    const rows = rowsOf(log);
    expect(rows.every((row) => row.ended)).toBe(true);
    expect(rows[0]).toMatchObject({ to: at(12) });
    expect(rows.find((row) => row.item?.message?.message_id === "two")).toMatchObject({ to: at(12) });
  });

  test("are the same objects while nothing of them has changed", () => {
    const log = opened(run);
    const [before, after] = [rowsOf(log), rowsOf(log)];
    expect(after.filter((row) => row.item).every((row) => before.includes(row))).toBe(true);
    log.event(update("two", 14, { patch: { status: "complete" } }));
    log.lost();
    const again = rowsOf(log).find((row) => row.item?.message?.message_id === "two")!;
    expect(before).not.toContain(again);
    expect(again.to).toBe(at(14));
  });

  test("are found by an event, also by one that changed a message", () => {
    const log = opened(run);
    const rows = rowsOf(log);
    expect(rows[findRow(rows, log, 4, null)]!.item!.message!.message_id).toBe("one");
    expect(rows[findRow(rows, log, null, "b")]!.goal!.id).toBe("b");
    expect(findRow(rows, log, null, null)).toBe(-1);
  });
});

test("what overlaps is covered once", () => {
  const below: [number, number | null][] = [
    [10, 30],
    [20, 40],
    [90, null],
  ];
  expect(covered(0, 100, below, 200).flat()).toEqual([10, 40, 90, 100]);
  expect(ownTime(0, 100, below.slice(0, 2), 0)).toBe(70);
});

const span = (from: number, to: number, more: Partial<Span> = {}): Span => ({
  ...{ lane: "tools", row: 0, from, to, id: 1, label: "", goalId: null, look: "plain" },
  ...more,
});

describe("the time line of a run that goes on", () => {
  test("what grows grows, and nothing else moves, while somebody is waited for too", () => {
    const spans = [span(0, 8_000), span(8_000, 8_000, { look: "waiting", on: true, lane: "text" })];
    const line = new TimeLine(spans, 9_000);
    expect(line.until).toBeGreaterThanOrEqual(10_000);
    expect(line.place(9_000)).toBeLessThan(line.place(9_500));
    const later = new TimeLine(spans, 9_900);
    for (const ms of [0, 4_000, 8_000, 9_000, 9_900]) expect(later.place(ms)).toBeCloseTo(line.place(ms), 9);
  });

  test("a long wait is cut at its beginning, and goes on growing", () => {
    const spans = [span(0, 60_000)];
    const hour = 3_600_000;
    const line = new TimeLine(spans, hour);
    expect(line.gaps).toHaveLength(1);
    expect(line.gaps[0]!.ms).toBeGreaterThan(hour * 0.9);
    expect(line.place(60_000)).toBeGreaterThan(0.3); // the work can still be seen
    expect(new TimeLine(spans, hour + 5_000).place(hour + 5_000)).not.toBe(line.place(hour));
  });

  test("has ticks at round times, none in a pause, and never too many", () => {
    const line = new TimeLine([span(0, 60_000), span(3_660_000, 3_720_000)]);
    for (const [from, to] of [
      [0, 1],
      [0.2, 0.3],
      [0.4999, 0.5001],
    ] as const) {
      const ticks = line.ticks(from, to, 10);
      expect(ticks.length).toBeLessThanOrEqual(20);
      for (const { at: place } of ticks) expect(place >= from && place <= to).toBe(true);
    }
    const all = line.ticks(0, 1, 10).map(({ ms }) => ms);
    expect(all).toContain(20_000);
    expect(all.some((ms) => ms > 60_000 && ms < 3_660_000)).toBe(false);
    expect(all.every((ms) => ms % 20_000 === 0)).toBe(true);
  });
});

test("moments follow the events, and lead back to them", () => {
  const log = opened(() => [
    message("one", 0, { status: "complete" }),
    { ...message("late", 5, { status: "complete" }), occurred_at: ts(-3) },
    message("two", 10),
    update("two", 20, { patch: { status: "complete" } }),
  ]);
  expect([1, 2, 3, 4].map((id) => momentAt(log, id))).toEqual([at(0), at(0), at(10), at(20)]);
  expect(eventAt(log, at(-9))).toBe(1);
  expect([0, 9, 10, 15].map((second) => eventAt(log, at(second)))).toEqual([2, 2, 3, 3]);
});

test("a lane that is folded has three rows, and one that is not has all", () => {
  const spans = [0, 1, 2, 3, 4].map((row) => span(0, 9, { lane: "agents", row }));
  expect(laneTopsOf(spans, new Set()).lanes.get("agents")).toMatchObject({ rows: 3, used: 5 });
  expect(laneTopsOf(spans, new Set(["agents"])).lanes.get("agents")).toMatchObject({ rows: 5, used: 5 });
});
