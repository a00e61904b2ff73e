import { describe, expect, test } from "vitest";
import { State } from "../src/log/fold";
import { Rows } from "../src/log/rows";
import type { StoredEvent } from "../src/net/protocol";

const event = (name: string, id: number, more = {}): StoredEvent => ({
  event: name,
  event_id: id,
  trace_id: "t",
  ts: new Date(id * 1000).toISOString(),
  affected_goals: [],
  ...more,
});
const began = (id: number) =>
  event("sub_trace_started", id, { sub_trace_id: "s", parent_goal_id: "g", agent_type: "tester", task: "Test it" });
const ended = (id: number, status = "failed") =>
  event("sub_trace_completed", id, { sub_trace_id: "s", status, error: "broke", summary: null, stats: {} });
const other = (id: number) => event("thought", id, { text: "hm" });

const taken = (...events: StoredEvent[]): Rows => {
  const rows = new Rows();
  const state = new State({ trace_id: "t" });
  for (const one of events) rows.take(one, state, 0);
  return rows;
};
const shown = (rows: Rows) => rows.items.map((item) => item.event?.event ?? `hole ${item.id}-${item.hole}`);

describe("a sub-agent is one row", () => {
  test("that of its begin, which says how it ended", () => {
    const rows = taken(began(1), other(2), ended(3));
    expect(shown(rows)).toEqual(["sub_trace_started", "thought"]);
    expect(rows.items[0]).toMatchObject({ error: true, lastId: 3, goalId: "g" });
    expect(rows.outcomeOf(rows.items[0]!)).toMatchObject({ status: "failed" });
    expect(rows.itemOfEvent(3)).toBe(rows.items[0]);
    expect(rows.itemOfEvent(2)).toBe(rows.items[1]);
  });

  test("whose end has a row until its begin was read", () => {
    const rows = new Rows();
    rows.skip(1, 3);
    const state = new State({ trace_id: "t" });
    for (const one of [other(4), ended(5)]) rows.take(one, state, 0);
    expect(shown(rows)).toEqual(["hole 1-3", "thought", "sub_trace_completed"]);
    expect(rows.insert(rows.holes[0]!, [other(2), other(3)], 2, 3)).toBe(true);
    expect(shown(rows)).toEqual(["hole 1-1", "thought", "thought", "thought", "sub_trace_completed"]);
    rows.insert(rows.holes[0]!, [began(1)], 1, 1);
    expect(shown(rows)).toEqual(["sub_trace_started", "thought", "thought", "thought"]);
    expect(rows.items[0]).toMatchObject({ error: true, lastId: 5 });
  });

  test("which as it was had not ended", () => {
    const rows = taken(began(1), other(2), ended(3));
    const past = new Rows();
    const copies = rows.items.map((item) => ({ ...item }));
    past.load(copies, rows, 2);
    expect(copies[0]).toMatchObject({ error: false, lastId: 1 });
    expect(past.outcomeOf(copies[0]!)).toBeUndefined();
    past.append(ended(3, "completed"), 0, undefined);
    expect(shown(past)).toEqual(["sub_trace_started", "thought"]);
    expect(past.outcomeOf(copies[0]!)).toMatchObject({ status: "completed" });
    expect(rows.items[0]!.error).toBe(true); // what is now is untouched
  });
});
