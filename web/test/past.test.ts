import "./page";
import { describe, expect, test, vi } from "vitest";
import { eventAt } from "../src/log/past";
import type { StoredEvent } from "../src/net/protocol";

const { served } = vi.hoisted(() => ({ served: { events: [] as { event_id: number }[], most: 1000, asked: 0 } }));
vi.mock("../src/net/api", () => ({
  async fetchEvents(_id: string, since: number, limit: number) {
    served.asked++;
    return { events: served.events.filter((event) => event.event_id > since).slice(0, Math.min(limit, served.most)) };
  },
}));

const iso = (ms: number) => new Date(1_800_000_000_000 + ms).toISOString();

describe("the last event at a moment", () => {
  test.each([
    [7, 1000],
    [500, 1000],
    [20_000, 1000],
    [3_000, 3],
  ])("of %i events, in pages of at most %i", async (events, most) => {
    served.most = most;
    served.events = Array.from({ length: events }, (_, i) => ({
      event: "thought",
      event_id: i + 11,
      trace_id: "t",
      ts: iso(Math.floor(i / 3) * 10),
    })) as StoredEvent[];
    for (const ms of [-1, 0, 5, 10, 1001, (events / 3) * 5, 1e9]) {
      const last = served.events.findLast((event) => (event as StoredEvent).ts <= iso(ms))?.event_id ?? 10;
      served.asked = 0;
      expect(await eventAt("t", iso(ms), false, 10, events + 11)).toBe(last);
      expect(served.asked).toBeLessThan(most > 3 ? 15 : 90);
    }
  });

  test("of an imported run, is where things happened: what the server wrote in between has no say", async () => {
    served.most = 1000;
    const event = (event_id: number, ms: number | null) => ({
      event: "thought",
      event_id,
      trace_id: "t",
      ts: iso(1e9),
      ...(ms === null ? {} : { occurred_at: iso(ms) }),
    });
    served.events = Array.from({ length: 900 }, (_, i) => event(i + 1, i % 7 === 3 ? null : i));
    expect(await eventAt("t", iso(500), true, 0, 901)).toBe(501);
    expect(await eventAt("t", iso(3), true, 0, 901)).toBe(4);
    expect(await eventAt("t", iso(-1), true, 0, 901)).toBe(0);
  });
});
