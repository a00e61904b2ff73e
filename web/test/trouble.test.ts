import "./page";
import { expect, test } from "vitest";
import { Traces } from "../src/log/traces";
import { markSeen, seen, troubles } from "../src/log/trouble";
import type { Frame, Trace } from "../src/net/protocol";
import { paint } from "./page";

const NOW = Date.parse("2026-11-20T12:00:00.000Z");
const trace = (trace_id: string, status: string, more: Partial<Trace> = {}): Trace =>
  ({
    trace_id,
    status,
    root_trace_id: trace_id,
    parent_trace_id: null,
    updated_at: "2026-11-20T11:00:00.000Z",
    completed_at: "2026-11-20T11:00:00.000Z",
    metadata: {},
    last_event_id: 3,
    created_at: "",
    ...more,
  }) as Trace;
const names = (all: Trace[]) =>
  troubles(all, seen.value, NOW).map(({ root, failed }) => [root.trace_id, ...failed.map((one) => one.trace_id)]);

test("a sub-agent's failure stands under its root while that has not completed", () => {
  const child = trace("child", "failed", { root_trace_id: "root", parent_trace_id: "root" });
  expect(names([trace("root", "running"), child])).toEqual([["root", "child"]]);
  expect(names([trace("root", "failed"), child])).toEqual([["root", "root", "child"]]);
  expect(names([trace("root", "completed"), child])).toEqual([]);
  expect(names([child])).toEqual([["child", "child"]]);
});

test("old and imported runs ask nobody; one that fails again asks again", () => {
  expect(
    names([
      trace("old", "failed", { updated_at: "2026-11-18T11:00:00.000Z" }),
      trace("imported", "failed", { metadata: { format: "openai" } }),
    ]),
  ).toEqual([]);
  const failed = trace("a", "failed");
  expect(names([failed])).toEqual([["a", "a"]]);
  markSeen([failed, trace("b", "running")]);
  expect(names([failed])).toEqual([]);
  expect(names([{ ...failed, completed_at: "2026-11-20T11:30:00.000Z" }])).toEqual([["a", "a"]]);
});

test("bars say what is known: the last event of a run, and what came since the page looks", () => {
  let tell: (frame: Frame) => void = () => undefined;
  const traces = new Traces({ watchList: (_: object, frame: (frame: Frame) => void) => (tell = frame) } as never);
  const at = Date.now();
  const ago = (ms: number) => new Date(at - ms).toISOString();
  tell({
    event: "traces",
    traces: [
      trace("a", "running", { updated_at: ago(20_000), last_event_id: 90 }),
      trace("b", "running", { updated_at: ago(600_000) }),
    ],
  });
  paint();
  expect(traces.bars("b", at)).toBeNull();
  expect(traces.bars("a", at)!.reduce((sum, n) => sum + n, 0)).toBe(1);
  tell({ event: "trace_changed", trace: trace("a", "running", { updated_at: ago(0), last_event_id: 97 }) });
  paint();
  const bars = traces.bars("a", at)!;
  expect([bars.reduce((sum, n) => sum + n, 0), bars.at(-1)]).toEqual([8, 7]);
  expect(traces.known).toBeLessThanOrEqual(12);
});

test("a list of another history replaces this one, whatever ids it has", () => {
  let tell: (frame: Frame) => void = () => undefined;
  const traces = new Traces({ watchList: (_: object, frame: (frame: Frame) => void) => (tell = frame) } as never);
  const run = { trace_id: "a", created_at: "c", updated_at: "u", last_event_id: 9, status: "failed" };
  tell({ event: "traces", epoch: "one", traces: [run, { ...run, trace_id: "b" }] });
  paint();
  expect(traces.byId.size).toBe(2);
  tell({ event: "trace_changed", epoch: "two", trace: { ...run, last_event_id: 2, status: "running" } });
  paint();
  expect([...traces.byId.values()].map((one) => [one.trace_id, one.status])).toEqual([["a", "running"]]);
});
