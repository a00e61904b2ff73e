import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { backoff, Socket, type Subscriber } from "../src/net/socket";
import { emit, FakeWebSocket, listeners } from "./page";

let socket: Socket;

class Watcher implements Subscriber {
  seen: string[] = [];
  position = 0;
  constructor(readonly id: string) {}
  ask() {
    return { trace_id: this.id, since_event_id: String(this.position) };
  }
  event(event: { event_id: number }) {
    this.position = event.event_id;
    this.seen.push(String(event.event_id));
  }
  frame(frame: { event: string }) {
    this.seen.push(frame.event);
  }
  lost() {
    this.seen.push("lost");
  }
}

beforeEach(() => {
  vi.useFakeTimers({ now: 1_000_000 });
  listeners.clear();
  FakeWebSocket.all = [];
  socket = new Socket("ws://here/api/watch");
  socket.start();
});
afterEach(() => {
  vi.clearAllTimers();
  vi.useRealTimers();
});

const event = (trace_id: string, event_id: number) => ({ event: "x", event_id, trace_id, ts: "" });

describe("reconnecting", () => {
  test("the delay has full jitter from 0.5 s, and grows to 20 s", () => {
    expect(backoff(0, 0)).toBe(500);
    expect(backoff(0, 1)).toBe(1000);
    expect(backoff(3, 1)).toBe(8000);
    expect(backoff(30, 1)).toBe(20_000);
    expect(backoff(30, 0)).toBe(500);
  });

  test("asks again for everything, from where each stands", () => {
    const one = new Watcher("a");
    socket.watchList({ limit: 5 }, () => undefined);
    socket.subscribe("a", one);
    FakeWebSocket.last.open();
    FakeWebSocket.last.say(event("a", 1), event("a", 2));
    FakeWebSocket.last.end();
    expect(one.seen).toEqual(["1", "2", "lost"]);
    expect(socket.link.value.kind).toBe("waiting");
    vi.advanceTimersByTime(1001);
    expect(FakeWebSocket.all.length).toBe(2);
    FakeWebSocket.last.open();
    expect(FakeWebSocket.last.asked).toEqual([
      { subscribe_traces: { limit: 5 } },
      { subscribe: { trace_id: "a", since_event_id: "2" } },
    ]);
    expect(socket.link.value.kind, "open only once the server has said something").toBe("waiting");
    FakeWebSocket.last.say({ event: "traces", traces: [] });
    expect(socket.link.value.kind).toBe("open");
  });

  test("at once when the machine is online again, or the tab is looked at", () => {
    vi.spyOn(Math, "random").mockReturnValue(1);
    FakeWebSocket.last.end();
    emit("online");
    expect(FakeWebSocket.all.length).toBe(2);
    FakeWebSocket.last.end();
    emit("visibilitychange");
    expect(FakeWebSocket.all.length).toBe(3);
    vi.advanceTimersByTime(10_000);
    expect(FakeWebSocket.all.length, "the timers of the attempts before are gone").toBe(3);
    vi.restoreAllMocks();
  });

  test("not where the server has refused for good", () => {
    FakeWebSocket.last.end(4503, "forbidden");
    expect(socket.link.value).toEqual({ kind: "refused", why: "forbidden" });
    vi.advanceTimersByTime(100_000);
    expect(FakeWebSocket.all.length).toBe(1);
  });

  test("within the time that a leaving server gives", () => {
    vi.spyOn(Math, "random").mockReturnValue(0.5);
    FakeWebSocket.last.open();
    FakeWebSocket.last.say({ event: "goaway", after_ms: 100 });
    FakeWebSocket.last.end(1012);
    vi.advanceTimersByTime(49);
    expect(FakeWebSocket.all.length).toBe(1);
    vi.advanceTimersByTime(2);
    expect(FakeWebSocket.all.length).toBe(2);
    vi.restoreAllMocks();
  });
});

describe("a dead socket", () => {
  test("that is silent is pinged, then given up without waiting for its close", () => {
    FakeWebSocket.last.open();
    FakeWebSocket.last.say({ event: "connected", trace_id: "a", heartbeat_s: 10 });
    const first = FakeWebSocket.last;
    vi.advanceTimersByTime(16_000);
    expect(first.sent).toContain("ping");
    vi.advanceTimersByTime(10_000);
    expect(first.readyState).toBe(3);
    expect(socket.link.value.kind).toBe("waiting");
  });

  test("that answers pings lives on", () => {
    FakeWebSocket.last.open();
    for (let i = 0; i < 20; i++) {
      vi.advanceTimersByTime(5000);
      FakeWebSocket.last.say({ event: "pong" });
    }
    expect(FakeWebSocket.all.length).toBe(1);
  });

  test("is found within seconds after the network has changed", () => {
    FakeWebSocket.last.open();
    FakeWebSocket.last.say({ event: "traces", traces: [] });
    vi.advanceTimersByTime(2000);
    emit("online");
    expect(FakeWebSocket.last.sent).toContain("ping");
    vi.advanceTimersByTime(3000);
    expect(FakeWebSocket.all.length, "another at once").toBe(2);
    expect(socket.link.value.kind, "and it is not called live before it speaks").toBe("waiting");
    FakeWebSocket.last.open();
    FakeWebSocket.last.say({ event: "traces", traces: [] });
    expect(socket.link.value.kind).toBe("open");
  });

  test("is said to be silent before it is given up", () => {
    FakeWebSocket.last.open();
    FakeWebSocket.last.say({ event: "connected", trace_id: "a", heartbeat_s: 10 });
    vi.advanceTimersByTime(10_000);
    expect(socket.link.value.kind).toBe("open");
    vi.advanceTimersByTime(5_000);
    expect(socket.link.value.kind).toBe("silent");
    FakeWebSocket.last.say({ event: "pong" });
    expect(socket.link.value.kind).toBe("open");
  });

  test("from before the machine slept is replaced at once, though no event says that it slept", () => {
    FakeWebSocket.last.open();
    FakeWebSocket.last.say({ event: "connected", trace_id: "a", heartbeat_s: 10 });
    vi.advanceTimersByTime(5_000);
    vi.setSystemTime(Date.now() + 3_600_000); // an hour in which no timer ran
    vi.advanceTimersByTime(5_000);
    expect(FakeWebSocket.all.length).toBe(2);
  });

  test.each([-3_600_000, 3_600_000])("is found though this machine's clock was set by %i ms", (by) => {
    FakeWebSocket.last.open();
    FakeWebSocket.last.say({ event: "connected", trace_id: "a", heartbeat_s: 10 });
    vi.advanceTimersByTime(6_000);
    FakeWebSocket.last.say({ event: "pong" });
    vi.setSystemTime(Date.now() + by);
    vi.advanceTimersByTime(8_000); // no event tells of it
    expect(FakeWebSocket.all.length).toBe(2);
  });

  test("that hangs in its handshake is replaced when there is a network again", () => {
    vi.advanceTimersByTime(4_000);
    emit("online");
    expect(FakeWebSocket.all.length).toBe(2);
  });
});

test("what comes between an unsubscribe and its confirmation is passed over", () => {
  FakeWebSocket.last.open();
  const [before, after] = [new Watcher("a"), new Watcher("a")];
  socket.subscribe("a", before);
  FakeWebSocket.last.say(event("a", 1));
  socket.unsubscribe("a");
  socket.subscribe("a", after);
  FakeWebSocket.last.say(
    event("a", 2),
    { event: "caught_up", trace_id: "a" },
    { event: "unsubscribed", trace_id: "a" },
    event("a", 1),
  );
  expect(before.seen).toEqual(["1"]);
  expect(after.seen).toEqual(["1"]);
});
