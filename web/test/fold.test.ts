// The shared vectors (tests/model/vectors): from the start, from every snapshot on the way, and every event twice.
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { applyInto, State } from "../src/log/fold";
import type { Snapshot, StoredEvent } from "../src/net/protocol";

interface Step {
  stored?: StoredEvent;
  expect?: object;
}
interface Case {
  name: string;
  given: { trace: { trace_id: string } };
  steps: Step[];
  expect?: object;
}

const folder = fileURLToPath(new URL("../../tests/model/vectors/", import.meta.url));
const subjects = readdirSync(folder).filter((name) => name.endsWith(".json"));

function shown(state: State) {
  return structuredClone({
    trace: state.trace(),
    goal_tree: state.goalTree(),
    sub_traces: [...state.subTraces.values()],
    pending_inputs: [...state.pendingInputs.values()],
    messages: [...state.messages.values()],
    steps: [...state.steps.values()],
  });
}

function mismatches(expected: unknown, actual: unknown, path = "$"): string[] {
  if (Array.isArray(expected)) {
    if (!Array.isArray(actual) || actual.length !== expected.length) return [`${path}: ${JSON.stringify(actual)}`];
    return expected.flatMap((item, i) => mismatches(item, actual[i], `${path}[${i}]`));
  }
  if (typeof expected === "object" && expected !== null) {
    if (typeof actual !== "object" || actual === null || Array.isArray(actual))
      return [`${path}: ${JSON.stringify(actual)}`];
    return Object.entries(expected).flatMap(([key, value]) =>
      key in actual
        ? mismatches(value, (actual as Record<string, unknown>)[key], `${path}.${key}`)
        : [`${path}.${key} is missing`],
    );
  }
  return Object.is(expected, actual) || (expected === 0 && actual === 0)
    ? []
    : [`${path}: ${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`];
}

const withoutMessages = ({ messages: _, ...rest }: ReturnType<typeof shown>) => rest;
let count = 0;

for (const subject of subjects) {
  const { cases } = JSON.parse(readFileSync(folder + subject, "utf8")) as { cases: Case[] };
  describe(subject, () => {
    test.each(cases.map((c) => [c.name, c] as const))("%s", (_name, one) => {
      count++;
      const state = new State(structuredClone(one.given.trace));
      const steps = one.steps.filter((step) => step.stored);
      const snapshots = [shown(state)];
      for (const step of steps) {
        applyInto(state, structuredClone(step.stored!));
        const after = shown(state);
        applyInto(state, structuredClone(step.stored!));
        expect(shown(state), "an event applied already changes nothing").toEqual(after);
        if (step.expect) expect(mismatches(step.expect, after)).toEqual([]);
        snapshots.push(after);
      }
      if (one.expect) expect(mismatches(one.expect, shown(state))).toEqual([]);
      snapshots.forEach((snapshot, cut) => {
        const late = State.fromSnapshot(structuredClone(snapshot) as Snapshot);
        for (const step of steps.slice(cut)) applyInto(late, structuredClone(step.stored!));
        expect(withoutMessages(shown(late)), `from the snapshot after ${cut} events`).toEqual(
          withoutMessages(shown(state)),
        );
      });
    });
  });
}

test("all vectors were run, and the matcher bites", () => {
  expect(count).toBeGreaterThanOrEqual(100);
  expect(mismatches({ a: [1, { b: null }] }, { a: [1, { b: null, c: 2 }] })).toEqual([]);
  for (const wrong of [{ a: [1] }, { a: [1, { b: 0 }] }, { x: null }, { a: {} }]) {
    expect(mismatches(wrong, { a: [1, { b: null }] })).not.toEqual([]);
  }
});
