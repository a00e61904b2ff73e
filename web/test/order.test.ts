import { describe, expect, test } from "vitest";
import { type Choice, hold, rowsOf } from "../src/log/order";
import type { Trace } from "../src/net/protocol";

const trace = (id: string, at: number, more: Partial<Trace> = {}) =>
  ({
    trace_id: id,
    task: id,
    parent_trace_id: null,
    status: "running",
    created_at: `2026-11-30T12:00:0${at}Z`,
    updated_at: `2026-11-30T12:00:0${at}Z`,
    ...more,
  }) as Trace;
const choice: Choice = { test: null, sort: "activity", up: false, flat: false, open: new Set() };
const ids = ({ rows }: ReturnType<typeof rowsOf>) => rows.map((row) => row.id).join("");

describe("the order of the list", () => {
  const all = [trace("a", 1), trace("b", 2), trace("c", 3, { parent_trace_id: "b" })];

  test("is by the last activity, with sub-traces below their parents where those are open", () => {
    expect(ids(rowsOf(all, choice, null, 0))).toBe("ba");
    expect(ids(rowsOf(all, { ...choice, open: new Set("b") }, null, 0))).toBe("bca");
    expect(ids(rowsOf(all, { ...choice, flat: true }, null, 0))).toBe("cba");
  });

  test("by age it is that in which runs were made, or began if that was earlier", () => {
    const runs = [
      trace("a", 1, { started_at: "2026-11-30T12:00:09Z" }),
      trace("b", 2, { started_at: "2025-01-01T00:00:00Z" }),
    ];
    expect(ids(rowsOf(runs, { ...choice, sort: "created" }, null, 0))).toBe("ab");
  });

  test("is held: rows change in place, none moves, none comes and none goes, and what is new is counted", () => {
    const held = hold(all, choice, 0);
    const later = [trace("a", 9), trace("n", 9), trace("x", 9, { parent_trace_id: "b" })];
    const { rows, more } = rowsOf(later, choice, held, 0);
    expect(rows.map(({ id, gone }) => id + gone)).toEqual(["btrue", "afalse"]);
    expect(rows[1]!.trace).toBe(later[0]);
    expect(more, "the run n; x stands below a run that is gone").toBe(2);
    expect(ids(rowsOf([...all, ...later.slice(1)], { ...choice, open: new Set("b") }, held, 0))).toBe("bca");
    expect(ids(rowsOf(later, choice, null, 0))).toBe("xna");
  });

  test("a row that no longer passes the filter stays while it is held, and one that passes now is counted", () => {
    const test = (one: Trace) => one.status === "running";
    const filtered = { ...choice, test, flat: true };
    const before = [trace("a", 1), trace("b", 2, { status: "failed" })];
    const held = hold(before, filtered, 0);
    const after = [trace("a", 1, { status: "failed" }), trace("b", 2)];
    expect(ids(rowsOf(before, filtered, held, 0))).toBe("a");
    const now = rowsOf(after, filtered, held, 0);
    expect([ids(now), now.more]).toEqual(["a", 1]);
    expect(ids(rowsOf(after, filtered, null, 0))).toBe("b");
  });
});
