import "./page";
import { expect, test } from "vitest";
import { LocalSocket, localApi, tracesInPage } from "../src/log/offline";
import type { Frame, StoredEvent } from "../src/net/protocol";

const ts = "2026-11-20T08:00:00.000Z";
const goal = {
  id: "1",
  description: "a </script> goal",
  reason: null,
  parent_id: null,
  type: "normal",
  status: "in_progress",
  summary: null,
  self_stats: {},
  cumulative_stats: {},
  sub_trace_ids: [],
};
const events = [
  { event: "goal_added", event_id: 1, trace_id: "t", ts, goal, affected_goals: [] },
  {
    event: "goal_updated",
    event_id: 2,
    trace_id: "t",
    ts,
    goal_id: "1",
    patch: { status: "completed" },
    affected_goals: [],
  },
];
const trace = { trace_id: "t", task: "a task", status: "running", last_event_id: 2, first_event_id: 1 };
const snapshot = {
  trace,
  goal_tree: { mission: "", current_id: null, goals: [{ ...goal, status: "completed" }], as_of_event_id: 2 },
  sub_traces: [],
  pending_inputs: [],
};
const lines = [{ trace: { trace_id: "t" }, snapshot }, ...events]
  .map((line) => JSON.stringify(line).replaceAll("<", "\\u003c"))
  .join("\n");

function inPage(textContent: string | null) {
  Object.assign(document, { getElementById: () => (textContent === null ? null : { textContent }) });
  return tracesInPage();
}

test("a page from a server holds no traces", () => {
  expect(inPage(null)).toBeNull();
});

test("what stands in the page is given as a server would", async () => {
  const traces = inPage(`${lines}\n`)!;
  const seen: (Frame | StoredEvent)[] = [];
  const watcher = {
    ask: () => ({ trace_id: "t" }),
    event: (e: StoredEvent) => seen.push(e),
    frame: (f: Frame) => seen.push(f),
    lost: () => undefined,
  };
  new LocalSocket(traces).subscribe("t", watcher as never);
  expect(seen.map((frame) => frame.event)).toEqual(["connected", "goal_added", "goal_updated", "caught_up"]);
  expect(seen[1]!.goal.description).toBe("a </script> goal");
  const api = localApi(traces);
  expect((await api.events("t", 1, 10)).events.map((event) => event.event_id)).toEqual([2]);
  expect((await api.trace("t")).goal_tree.goals[0]!.status).toBe("completed");
  const before = await api.trace("t", 1);
  expect(before.goal_tree.goals[0]!.status).toBe("in_progress");
  expect(before.trace.last_event_id).toBe(1);
});

test("a run that is not in the file says so", () => {
  const seen: Frame[] = [];
  new LocalSocket(inPage(lines)!).subscribe("other", { frame: (f: Frame) => seen.push(f) } as never);
  expect(seen).toMatchObject([{ event: "error", code: "not_in_file" }]);
});
