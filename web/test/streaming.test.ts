// Text that streams: the work for one piece of it is the same at the beginning and at the end.
import "./page";
import { afterEach, describe, expect, test, vi } from "vitest";
import { applyInto, State, updatedMessage } from "../src/log/fold";
import { HeldUpdates } from "../src/log/held";
import { type Item, Rows } from "../src/log/rows";
import type { Message, StoredEvent } from "../src/net/protocol";
import { matcher } from "../src/parts/search";
import { Prose } from "../src/parts/text";

const PIECES = 2000;
const ts = "2026-11-20T08:00:00.000Z";
const event = (event_id: number, name: string, more: object): StoredEvent => ({
  event: name,
  event_id,
  trace_id: "t",
  ts,
  affected_goals: [],
  ...more,
});
const added = (content: string, more: object = {}): StoredEvent => {
  const message = { message_id: "m", sequence: 1, role: "assistant", content, goal_id: null, status: "streaming" };
  return event(1, "message_added", { message: { ...message, description: "", ...more } });
};
const piece = (event_id: number, append = `piece ${event_id}, `): StoredEvent =>
  event(event_id, "message_updated", { message_id: "m", append });
const streamed = (first: string): StoredEvent[] => [
  added(first),
  ...Array.from({ length: PIECES }, (_, i) => piece(i + 2)),
];
const whole = (first: string): string =>
  first +
  streamed("")
    .slice(1)
    .map((one) => one.append as string)
    .join("");

afterEach(() => void vi.restoreAllMocks());

/** How many characters regular expressions were given while `run` ran. */
function charactersRead(run: () => void): number {
  const exec = vi.spyOn(RegExp.prototype, "exec");
  run();
  const read = exec.mock.calls.reduce((sum, [text]) => sum + String(text).length, 0);
  exec.mockRestore();
  return read;
}

describe("the fold", () => {
  test("does not read a message again for each piece of it", () => {
    const state = new State({ trace_id: "t" });
    const read = charactersRead(() => {
      for (const one of streamed("A first line\n")) applyInto(state, one);
    });
    expect(state.messages.get("m")!.content).toBe(whole("A first line\n"));
    expect(state.messages.get("m")!.description).toBe("A first line");
    expect(read).toBeLessThan(10_000);
  });

  test.each([
    ["a line that grows", "", ["Hel", "lo wor", "ld", "\nmore"], "Hello world"],
    ["a line after blank ones", "", [" \n", "\n  Hel", "lo  \n", "more"], "Hello"],
    ["a long line", "", ["x".repeat(150), "y".repeat(150), "z"], `${"x".repeat(150)}${"y".repeat(50)}`],
    ["a recorder's own words", "own", ["Hello\n", "more"], "own"],
    ["a recorder's words that the text comes to be", "Hello", ["Hello", " world", "\nmore"], "Hello world"],
  ])("describes %s", (_name, description, pieces, wanted) => {
    let message = added("", { description }).message as Message;
    for (const [i, text] of pieces.entries()) message = updatedMessage(message, piece(i + 2, text));
    expect(message.description).toBe(wanted);
  });

  test("describes other content that comes behind a complete line", () => {
    let message = updatedMessage(added("").message, piece(2, "one\ntwo"));
    message = updatedMessage(message, event(3, "message_updated", { message_id: "m", patch: { content: "three\n" } }));
    expect(message.description).toBe("three");
    message = updatedMessage(message, event(4, "message_updated", { message_id: "m", patch: { description: "" } }));
    expect(updatedMessage(message, piece(5, "four")).description).toBe("three");
  });
});

describe("updates behind a hole", () => {
  const applied = (held: HeldUpdates, end: number, count: { n: number }) =>
    held.apply(end, (message, update) => {
      count.n++;
      return updatedMessage(message, update);
    });

  test("are each applied once to what is shown, and once to what is kept", () => {
    const all = streamed("A first line\n");
    const held = new HeldUpdates(all[0]!.message, 1);
    const count = { n: 0 };
    let shown: Message | undefined;
    for (const update of all.slice(100)) {
      held.add(update);
      shown = applied(held, 50, count)?.message;
    }
    expect(count.n).toBe(PIECES - 99);
    expect(shown!.content).toBe(
      `A first line\n${all
        .slice(100)
        .map((one) => one.append as string)
        .join("")}`,
    );
    for (const update of all.slice(1, 100)) held.add(update);
    expect(applied(held, Infinity, count)!.message.content).toBe(whole("A first line\n"));
    expect(count.n).toBe(2 * PIECES - 99);
    expect(held.empty).toBe(true);
  });

  test("that were in the message already are not put in again when they are read again", () => {
    const held = new HeldUpdates(updatedMessage(added("a").message, piece(20, "b")), 20);
    held.add(piece(20, "b"));
    held.add(piece(30, "c"));
    expect(applied(held, 10, { n: 0 })!.message.content).toBe("abc");
  });

  test("read page by page from the end are compared with few others", () => {
    let looked = 0;
    const all = streamed("A first line\n").map((one) => {
      const id = one.event_id;
      const get = () => {
        looked++;
        return id;
      };
      return Object.defineProperty(one, "event_id", { get });
    });
    const rows = new Rows();
    rows.skip(1, all.length);
    for (let to = all.length; to > 0; to -= 100) {
      const from = Math.max(1, to - 99);
      rows.insert(rows.holes[0]!, all.slice(from - 1, to), from, to);
    }
    expect(rows.items.map((item) => item.message!.content)).toEqual([whole("A first line\n")]);
    // Each page is sorted in once: there is not one comparison with each of the other updates
    expect(looked / all.length).toBeLessThan(200);
  });
});

test("a search looks at a row again only when it has changed", () => {
  const row = (id: number): Item => ({ id, version: 0, message: { role: "user", content: `text ${id}` } }) as Item;
  const items = Array.from({ length: 100 }, (_, i) => row(i));
  const found = matcher("text 7")!;
  expect(items.filter(found).length).toBe(19);
  expect(charactersRead(() => expect(items.filter(found).length).toBe(19))).toBe(0);
  items[7] = Object.assign(items[7]!, { message: { role: "user", content: "other" }, version: 1 });
  expect(items.filter(found).length).toBe(18);
});

test("a text is not folded while it streams, but shown with its end", () => {
  const split = vi.spyOn(String.prototype, "split");
  const text = Array.from({ length: 5000 }, (_, i) => `line ${i}`).join("\n");
  const drawn = JSON.stringify(Prose({ text, open: undefined, toggle: () => undefined, streaming: true }));
  expect(split.mock.calls.length).toBe(0);
  expect(drawn).toContain("line 4999");
});
