import "./page";
import { describe, expect, test } from "vitest";
import { type Item, isError, Rows } from "../src/log/rows";
import { shortened, sizeOf } from "../src/log/size";
import type { Message, StoredEvent } from "../src/net/protocol";

const ts = "2026-11-20T08:00:00.000Z";
const event = (event_id: number, name: string, more: object): StoredEvent => ({
  event: name,
  event_id,
  trace_id: "t",
  ts,
  affected_goals: [],
  ...more,
});

/** Rows that are filled by hand. */
class Tested extends Rows {
  fed = 0;
  constructor(private readonly all: StoredEvent[]) {
    super();
  }
  begin(from: number): void {
    this.skip(1, from - 1);
    this.fed = from - 1;
  }
  live(to: number): void {
    for (const one of this.all.slice(this.fed, to)) {
      const before = one.event === "message_updated" ? this.messages.get(one.message_id) : undefined;
      if (one.event === "message_added") this.messages.set(one.message.message_id, one.message as Message);
      this.append(one, 1, before);
    }
    this.fed = Math.max(this.fed, to);
    this.keepWithin();
  }
  fillIn(hole: Item, from: number, to: number): void {
    expect(this.insert(hole, this.all.slice(from - 1, to), from, to)).toBe(true);
  }
  get gaps(): Item[] {
    return this.holes;
  }
  letGo(start: number, stop: number): void {
    (this as unknown as { drop(start: number, stop: number): void }).drop(start, stop);
  }
  see(first: number, last: number): void {
    this.lookedAt(first, last);
    this.keepWithin();
  }
  beginsWith(first: number): void {
    this.trim(first);
  }
  heal(item: Item, message: Message): void {
    this.whole(item, message, null);
  }
  get shown(): unknown[] {
    return this.items.map((item) => [
      item.id,
      item.hole ?? item.gap ?? item.message?.content ?? item.event!.event,
      item.message?.status,
    ]);
  }
}

/** Numbers that are the same at every run. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function made(random: (below: number) => number, count: number): StoredEvent[] {
  const events: StoredEvent[] = [];
  const added: string[] = [];
  for (let id = 1; id <= count; id++) {
    const kind = random(10);
    if (kind < 3 || !added.length) {
      added.push(`m${id}`);
      events.push(
        event(id, "message_added", {
          message: {
            message_id: `m${id}`,
            sequence: added.length,
            role: "assistant",
            content: `<${id}`,
            goal_id: null,
            description: "x",
            status: "streaming",
          },
        }),
      );
    } else if (kind < 8) {
      const of = added[Math.max(0, added.length - 1 - random(random(4) ? 3 : added.length))]!;
      const patch = random(4) ? {} : { patch: random(2) ? { status: "complete" } : { content: `=${id}` } };
      events.push(
        event(id, "message_updated", { message_id: of, ...(random(5) ? { append: `+${id}` } : {}), ...patch }),
      );
    } else events.push(event(id, kind === 8 ? "thought" : "goal_updated", { goal_id: "g", patch: {}, text: "hm" }));
  }
  return events;
}

const plain = (events: StoredEvent[]): unknown[] => {
  const rows = new Tested(events);
  rows.live(events.length);
  return rows.shown;
};

describe("rows read in any order", () => {
  test.each(Array.from({ length: 150 }, (_, seed) => seed))("are those read from the beginning (%i)", (seed) => {
    const random = numbers(seed * 7919 + 1);
    const count = 20 + random(200);
    const events = made(random, count);
    const rows = new Tested(events);
    rows.begin(1 + random(count));
    rows.live(rows.fed + 1 + random(20));
    for (let steps = 0; rows.unread || rows.fed < count; steps++) {
      if (steps < 30 && rows.fed < count && !random(3)) rows.live(Math.min(count, rows.fed + 1 + random(30)));
      else if (rows.unread) {
        const hole = rows.gaps[random(rows.gaps.length)]!;
        const size = 1 + random(30);
        const side = random(3);
        const from =
          side === 0
            ? hole.id
            : side === 1
              ? Math.max(hole.id, hole.hole! - size)
              : hole.id + random(hole.hole! - hole.id + 1);
        rows.fillIn(hole, from, side === 1 ? hole.hole! : Math.min(hole.hole!, from + size));
      } else rows.live(count);
    }
    expect(rows.shown).toEqual(plain(events));
  });

  test("what was let go and is read again is no other, but for what is read again from the server", () => {
    const random = numbers(42);
    const events = made(random, 300);
    const rows = new Tested(events);
    rows.live(300);
    rows.letGo(10, 40);
    expect(rows.gaps.length).toBe(1);
    const [hole] = rows.gaps;
    rows.fillIn(hole!, hole!.id, hole!.hole!);
    const light = new Set(rows.items.filter((item) => item.light).map((item) => item.id));
    const known = plain(events) as [number, ...unknown[]][];
    expect(light.size).toBeGreaterThan(0);
    expect(rows.shown.filter((row) => !light.has((row as [number])[0]))).toEqual(
      known.filter(([id]) => !light.has(id)),
    );
  });
});

test("a page of a hole that is no more is not taken", () => {
  const events = made(numbers(1), 50);
  const rows = new Tested(events);
  rows.begin(40);
  const [hole] = rows.gaps;
  rows.fillIn(hole!, 20, 30);
  expect(
    (rows as unknown as { insert: (...of: unknown[]) => boolean }).insert(hole, events.slice(30, 39), 31, 39),
  ).toBe(false);
});

test("what the log has trimmed meanwhile is said, where it was", () => {
  const events = made(numbers(2), 60);
  const rows = new Tested(events);
  rows.begin(40);
  rows.live(60);
  rows.fillIn(rows.gaps[0]!, 10, 15);
  rows.beginsWith(20);
  const words = rows.shown
    .map((row) => (row as unknown[])[1])
    .filter((word) => typeof word === "number" || String(word).startsWith("Events"));
  expect(words).toEqual([
    "Events 1 to 9 have been trimmed from the log",
    "Events 16 to 19 have been trimmed from the log",
    39,
  ]);
  expect(rows.unread).toBe(20);
});

describe("bytes", () => {
  const heavy = (id: number) =>
    event(id, "message_added", {
      message: {
        message_id: `m${id}`,
        sequence: id,
        role: "tool",
        content: { tool_name: "cat", result: "x".repeat(100_000) },
        goal_id: null,
        description: "cat",
        status: "complete",
      },
    });

  test("what is far is cut, what is near is not, and is whole again when it was read again", () => {
    const events = Array.from({ length: 2000 }, (_, i) => heavy(i + 1));
    const rows = new Tested(events);
    for (let to = 100; to <= 2000; to += 100) rows.live(to);
    expect(rows.bytes).toBeLessThan(rows.mostBytes);
    expect(rows.items.at(-1)!.light).toBeUndefined();
    const far = rows.items[500]!;
    expect(far.light).toBe(true);
    expect(far.message!.content).toMatchObject({ tool_name: "cat" });
    const before = rows.bytes;
    rows.heal(far, events[500]!.message as Message);
    expect([far.light, rows.bytes - before > 90_000]).toEqual([false, true]);
    rows.see(1, 20);
    rows.mostBytes = 10_000_000;
    rows.see(490, 510);
    expect(far.light, "what is looked at stays").toBe(false);
  });

  test("text that comes to a message that was cut is not put behind its beginning", () => {
    const events = [
      ...Array.from({ length: 300 }, (_, i) => heavy(i + 1)),
      event(301, "message_added", {
        message: {
          message_id: "s",
          sequence: 301,
          role: "assistant",
          content: "y".repeat(5000),
          goal_id: null,
          description: "x",
          status: "streaming",
        },
      }),
      ...Array.from({ length: 300 }, (_, i) => heavy(i + 302)),
      event(602, "message_updated", { message_id: "s", append: "the end" }),
    ];
    const rows = new Tested(events);
    rows.mostBytes = 8_000_000;
    rows.live(601);
    const item = rows.items[300]!;
    expect(item.light).toBe(true);
    rows.live(602);
    expect(item.message!.content).not.toContain("the end");
    expect(item.light).toBe(true);
  });

  test("sizes and beginnings of values", () => {
    const value = {
      a: "x".repeat(10_000),
      b: Array.from({ length: 1000 }, () => ({ c: "y".repeat(1000), d: null, e: 1, f: true })),
    };
    expect(sizeOf(value)).toBeGreaterThan(1_000_000);
    const cut = shortened(value) as typeof value;
    expect(JSON.stringify(cut).length).toBeLessThan(30_000);
    expect([cut.a.startsWith("xxx"), cut.b[0]!.d, cut.b[0]!.f]).toEqual([true, null, true]);
    expect(shortened("short")).toBe("short");
  });
});

test("a message that is damaged in the database counts as an error", () => {
  const message = { message_id: "a", role: "unknown", content: null, damaged: true } as unknown as Message;
  expect(isError(message)).toBe(true);
});

test("of what a run belongs to only another task is a row", () => {
  const rows = new Tested([
    event(1, "trace_updated", { metadata: { a: 1 }, tags: ["x"], agent_type: "coder" }),
    event(2, "trace_updated", { task: "Another", metadata: {} }),
    event(3, "trace_updated", { links: [], odd: true }),
  ]);
  rows.live(3);
  expect(rows.items.map((item) => item.id)).toEqual([2, 3]);
});
