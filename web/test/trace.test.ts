import { beforeEach, describe, expect, test, vi } from "vitest";
import { TraceLog } from "../src/log/trace-log";
import type { Frame, Snapshot, StoredEvent } from "../src/net/protocol";
import type { Socket } from "../src/net/socket";
import { paint } from "./page";

const { pages, ApiError } = vi.hoisted(() => ({
  pages: [] as (unknown[] | Error)[],
  ApiError: class extends Error {
    constructor(
      readonly status: number,
      readonly code: string,
      message: string,
      readonly details: unknown[],
      readonly retryAfterS: number,
      readonly facts: object,
    ) {
      super(message);
    }
  },
}));
vi.mock("../src/net/api", () => ({
  ApiError,
  async fetchEvents() {
    const page = pages.shift() ?? [];
    if (page instanceof Error) throw page;
    return { events: page };
  },
}));

const calls: string[] = [];
const socket = {
  subscribe: () => calls.push("subscribe"),
  unsubscribe: () => calls.push("unsubscribe"),
  resubscribe: () => calls.push("resubscribe"),
} as unknown as Socket;

let log: TraceLog;
beforeEach(() => {
  calls.length = pages.length = 0;
  log = new TraceLog("t", socket);
  log.open();
});

const ts = "2026-11-20T08:00:00.000Z";
const stored = (event_id: number, event: string, payload: object): StoredEvent => ({
  event,
  event_id,
  trace_id: "t",
  ts,
  ...payload,
});
const said = (event_id: number, message_id = `m${event_id}`, content: unknown = `text ${event_id}`): StoredEvent =>
  stored(event_id, "message_added", {
    affected_goals: [],
    message: {
      message_id,
      sequence: event_id,
      role: "assistant",
      content,
      goal_id: null,
      description: "x",
      status: "complete",
    },
  });
const appended = (event_id: number, message_id: string, append: string): StoredEvent =>
  stored(event_id, "message_updated", { message_id, append, affected_goals: [] });

function connected(
  since: number,
  head: number,
  more: Partial<Snapshot> & { event?: string; epoch?: string } = {},
): Frame {
  const { event = "connected", epoch = "e1", ...rest } = more;
  const trace = {
    trace_id: "t",
    task: "a task",
    status: "running",
    is_running: true,
    last_event_id: head,
    first_event_id: 1,
    current_goal_id: null,
  };
  return {
    event,
    trace_id: "t",
    cursor: `${epoch}.${since}`,
    current_event_id: head,
    first_event_id: 1,
    trace,
    goal_tree: { mission: "", current_id: null, goals: [], as_of_event_id: head },
    sub_traces: [],
    pending_inputs: [],
    ...rest,
  };
}
const caughtUp = (replayed: number): Frame => ({ event: "caught_up", trace_id: "t", replayed });
const texts = () =>
  log.rows.items.map((item) =>
    item.message
      ? item.message.content
      : item.hole !== undefined
        ? `${item.id}-${item.hole}?`
        : (item.gap ?? item.event!.event),
  );

function feed(...frames: (Frame | StoredEvent)[]): void {
  for (const frame of frames)
    typeof frame.event_id === "number" ? log.event(frame as StoredEvent) : log.frame(frame as Frame);
  paint();
}

test("what arrives between two frames is one change of the page", () => {
  const before = log.version.value;
  feed(connected(0, 3), said(1), said(2), said(3), caughtUp(3));
  expect(log.version.value).toBe(before + 1);
  expect(texts()).toEqual(["text 1", "text 2", "text 3"]);
  expect(log.phase.value.kind).toBe("live");
});

test("events that the snapshot has already are rows, and not counted twice", () => {
  feed(connected(1, 3), said(2, "a"), appended(3, "a", "!"), caughtUp(2));
  expect(texts()).toEqual(["1-1?", "text 2!"]);
  expect(log.state!.head.last_event_id).toBe(3);
  feed(appended(4, "a", "?"));
  expect(texts()).toEqual(["1-1?", "text 2!?"]);
});

test("a reconnect asks from the cursor, keeps what is there and says what was recovered", () => {
  feed(connected(0, 1), said(1), caughtUp(1));
  expect(log.ask().since_event_id).toBe("e1.1");
  log.lost();
  feed(connected(1, 3), said(2), said(3), caughtUp(2));
  expect(texts()).toEqual(["text 1", "text 2", "text 3"]);
  expect(log.recovered.value).toBe(2);
});

test("what was missed is put in at once, when all of it is here", () => {
  feed(connected(0, 1), said(1), caughtUp(1));
  log.lost();
  expect(log.phase.value.kind, "it is not live while it is not").toBe("catching_up");
  feed(connected(1, 4), said(2));
  expect(log.phase.value).toEqual({ kind: "catching_up", left: 3 });
  expect(texts()).toEqual(["text 1"]);
  feed(said(3), said(4));
  expect(texts()).toEqual(["text 1"]);
  feed(caughtUp(3));
  expect(texts().length).toBe(4);
  feed(said(5));
  expect(texts().length).toBe(5);
});

test("what was trimmed while it was not read is said, and the rest is read", async () => {
  feed(connected(6, 8), said(7), said(8), caughtUp(2));
  pages.push(new ApiError(410, "trimmed", "gone", [], 0, { first_event_id: 4 }), [said(4), said(5), said(6)]);
  await log.reader.readHistory();
  expect(texts()).toEqual([
    "Events 1 to 3 have been trimmed from the log",
    "text 4",
    "text 5",
    "text 6",
    "text 7",
    "text 8",
  ]);
  expect(log.reader.history.value).toBe("complete");
});

test("a hole or a repeat asks again, and takes nothing", () => {
  feed(connected(0, 1), said(1), caughtUp(1), said(3));
  expect(calls).toContain("resubscribe");
  expect(texts()).toEqual(["text 1"]);
});

test("a heartbeat that knows more than was sent asks again", () => {
  feed(connected(0, 1), said(1), caughtUp(1), { event: "heartbeat", trace_id: "t", current_event_id: 1 });
  expect(calls).not.toContain("resubscribe");
  feed({ event: "heartbeat", trace_id: "t", current_event_id: 5 });
  expect(calls).toContain("resubscribe");
});

test("a heartbeat with nothing new has nothing drawn", () => {
  feed(connected(0, 1), said(1), caughtUp(1));
  const before = log.version.value;
  feed({ event: "heartbeat", trace_id: "t", current_event_id: 1 });
  expect(log.version.value).toBe(before);
  feed(said(2), { event: "heartbeat", trace_id: "t", current_event_id: 2 }); // not before what came before it
  expect(texts()).toEqual(["text 1", "text 2"]);
  expect(calls).not.toContain("resubscribe");
});

test("a goal tree in parts is put together", () => {
  const goal = (id: string) => ({ id, description: id, parent_id: null, status: "pending", sub_trace_ids: [] });
  const part = (n: number, ...goals: object[]): Frame => ({
    event: "goal_tree_part",
    trace_id: "t",
    part: n,
    parts: 2,
    mission: "",
    current_id: "b",
    goals,
    as_of_event_id: 1,
  });
  feed({ ...connected(0, 1), goal_tree: null }, part(1, goal("a")));
  expect(log.state).toBeNull();
  feed(part(2, goal("b")), said(1), caughtUp(1));
  expect([...log.state!.goals.keys()]).toEqual(["a", "b"]);
  expect(log.state!.head.current_goal_id).toBe("b");
  expect(texts()).toEqual(["text 1"]);
});

test("a snapshot in parts has all its sub-traces and questions", () => {
  const sub = (trace_id: string) => ({ trace_id, parent_goal_id: null, status: "running", started_event_id: 1 });
  const asked = (request_id: string) => ({ request_id, question: "?", goal_id: null });
  const first = { goal_tree: null, sub_traces: [sub("a")], pending_inputs: [asked("p")] };
  const goals = { part: 1, parts: 1, mission: "", current_id: null, goals: [], as_of_event_id: 1 };
  feed(
    { ...connected(0, 1), ...first },
    { event: "snapshot_part", trace_id: "t", sub_traces: [sub("b")] },
    { event: "snapshot_part", trace_id: "t", pending_inputs: [asked("q")] },
  );
  expect(log.state).toBeNull();
  feed({ event: "goal_tree_part", trace_id: "t", ...goals }, said(1), caughtUp(1));
  expect([...log.state!.subTraces.keys()]).toEqual(["a", "b"]);
  expect([...log.state!.pendingInputs.keys()]).toEqual(["p", "q"]);
});

describe("a gap", () => {
  test("of trimmed events is shown where it is", () => {
    feed(connected(0, 1), said(1), caughtUp(1));
    log.lost();
    feed(
      { event: "gap", trace_id: "t", reason: "trimmed", first_event_id: 5, resume_event_id: 4, current_event_id: 6 },
      connected(4, 6, { event: "snapshot" }),
      said(5),
      said(6),
      caughtUp(2),
    );
    expect(texts()).toEqual([
      "text 1",
      "Events 2 to 4 have been trimmed from the log before this page had them",
      "text 5",
      "text 6",
    ]);
  });

  test("to another history forgets this one", () => {
    feed(connected(0, 1), said(1), caughtUp(1));
    log.lost();
    feed(
      { event: "gap", trace_id: "t", reason: "reset", first_event_id: 1, resume_event_id: 0, current_event_id: 1 },
      connected(0, 1, { event: "snapshot", epoch: "e2" }),
      said(1, "new", "other"),
      caughtUp(1),
    );
    expect(texts().at(-1)).toBe("other");
    expect(texts()).not.toContain("text 1");
    expect(log.ask().since_event_id).toBe("e2.1");
  });
});

test("history is read page by page until the first event", async () => {
  feed(connected(2, 3), said(3), caughtUp(1));
  pages.push([said(1), said(2)]);
  await log.reader.readHistory();
  expect(texts()).toEqual(["text 1", "text 2", "text 3"]);
  expect(log.reader.history.value).toBe("complete");
});

test("a trace that is not there says so", () => {
  feed({ event: "error", trace_id: "t", code: "unknown_trace", message: "there is no trace 't'" });
  expect(log.phase.value).toEqual({ kind: "gone", code: "unknown_trace", message: "there is no trace 't'" });
});

test("failed tool calls are errors, also once they are updated", () => {
  const call = { tool_name: "grep" };
  feed(connected(0, 2), said(1, "ok", { ...call, result: "x", error: null }), said(2, "a", call), caughtUp(2));
  expect(log.rows.items.map((item) => item.error)).toEqual([false, false]);
  feed(
    stored(3, "message_updated", {
      message_id: "a",
      patch: { content: { ...call, error: "no such file" } },
      affected_goals: [],
    }),
  );
  expect(log.rows.items[1]!.error).toBe(true);
});
