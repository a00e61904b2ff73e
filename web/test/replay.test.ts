import { expect, test, vi } from "vitest";
import { Replay } from "../src/log/replay";
import { TraceLog } from "../src/log/trace-log";
import type { Message, StoredEvent } from "../src/net/protocol";
import type { Socket } from "../src/net/socket";
import { paint } from "./page";

const { events } = vi.hoisted(() => ({ events: [] as StoredEvent[] }));
const trace = { trace_id: "t", status: "running", is_running: true, first_event_id: 1, updated_at: "" };
const snapshot = (at: number) => ({
  trace: { ...trace, last_event_id: at },
  goal_tree: { mission: "", current_id: null, goals: [], as_of_event_id: at },
  sub_traces: [],
  pending_inputs: [],
});
vi.mock("../src/net/api", () => ({
  ApiError: Error,
  async fetchEvents(_id: string, since: number, limit: number) {
    return { events: events.filter((event) => event.event_id > since).slice(0, limit) };
  },
  async fetchTrace(_id: string, at: number) {
    return snapshot(at);
  },
  async fetchMessages() {
    const { message } = events[0]!;
    return { messages: [{ ...message, content: `${message.content}later` }] }; // as it now stands
  },
}));

test("a message that was cut in the live log is shown as it was, not as it now stands", async () => {
  const ts = "2026-11-20T08:00:00.000Z";
  const message = {
    message_id: "m",
    sequence: 1,
    role: "assistant",
    content: "before ",
    goal_id: null,
    description: "x",
  };
  events.push(
    { event: "message_added", event_id: 1, trace_id: "t", ts, affected_goals: [], message: message as Message },
    { event: "note", event_id: 2, trace_id: "t", ts },
    { event: "message_updated", event_id: 3, trace_id: "t", ts, affected_goals: [], message_id: "m", append: "later" },
  );
  const socket = { subscribe: () => undefined } as unknown as Socket;
  const log = new TraceLog("t", socket);
  log.open();
  log.frame({ event: "connected", trace_id: "t", cursor: "e.0", current_event_id: 0, ...snapshot(0) });
  for (const event of events) log.event(event);
  log.frame({ event: "caught_up", trace_id: "t", replayed: 3 });
  paint();
  Object.assign(log.rows.items[0]!, { light: true, cut: true });

  const replay = new Replay(log);
  await replay.seek(2);
  const { items } = replay.rows;
  expect(items.map((item) => item.id)).toEqual([1, 2]);
  replay.reader.look(items, items[0]);
  await vi.waitFor(() => expect(items[0]!.light).toBeFalsy());
  expect(items[0]!.message!.content).toBe("before ");
});
