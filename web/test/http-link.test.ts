import "./page";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { BUFFERED, CROWDED, HttpLink } from "../src/net/http-link";

const SLOW_MS = 60_000;

let asked: string[] = [];
let answers: (() => Promise<Response>)[] = []; // one for each stream that is asked for, in turn
let said: Record<string, any>[] = [];
let ended: string[] = [];

const never = new Promise<Response>(() => undefined);
const stream = (...frames: object[]) => {
  const body = frames.map((frame) => `data: ${JSON.stringify(frame)}\n\n`).join("");
  return Promise.resolve(new Response(body, { headers: { "Content-Type": "text/event-stream" } }));
};
/** An answer of which a proxy passes on the head, and keeps the rest. */
const keptBack = () => Promise.resolve(new Response(new ReadableStream({})));

function link(): HttpLink {
  const made = new HttpLink();
  made.onmessage = ({ data }) => said.push(JSON.parse(data));
  made.onclose = ({ reason }) => ended.push(reason);
  made.onopen = () => made.send(JSON.stringify({ subscribe: { trace_id: "t", since_event_id: "-100" } }));
  return made;
}

beforeEach(() => {
  vi.useFakeTimers();
  [asked, answers, said, ended] = [[], [], [], []];
  vi.stubGlobal("fetch", (url: string) => {
    asked.push(decodeURIComponent(url.split("since_event_id=")[1]!));
    return (answers.shift() ?? (() => never))();
  });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test("an answer that a proxy keeps back is named, with the chapter of the docs", async () => {
  answers = [keptBack];
  link();
  await vi.advanceTimersByTimeAsync(SLOW_MS);
  expect(ended).toEqual([BUFFERED]);
  expect(BUFFERED).toContain("docs/operating.md");
});

test("an answer that never begins is one connection too many", async () => {
  answers = [() => never];
  link();
  await vi.advanceTimersByTimeAsync(SLOW_MS);
  expect(ended).toEqual([CROWDED]);
});

test("a stream that has begun may be silent", async () => {
  const first = new TextEncoder().encode('data: {"event":"connected","cursor":"e.0"}\n\n');
  answers = [() => Promise.resolve(new Response(new ReadableStream({ start: (to) => to.enqueue(first) })))];
  link();
  await vi.advanceTimersByTimeAsync(SLOW_MS);
  expect(ended).toEqual([]);
  expect(said.map(({ event }) => event)).toEqual(["connected"]);
});

test("what comes late to a run that has ended is shown", async () => {
  const event = (event_id: number) => ({ event: "thought", event_id });
  const connected = (cursor: string) => ({ event: "connected", cursor, current_event_id: 0 });
  answers = [
    () => stream(connected("e.1"), event(1), event(2), { event: "caught_up", replayed: 2 }, { event: "end" }),
    () => Promise.resolve(new Response(null, { status: 204 })),
    () => stream(connected("e.3"), event(3), { event: "caught_up", replayed: 1 }, { event: "end" }),
    () => stream({ event: "error", code: "trace_deleted" }),
  ];
  const made = link();
  await vi.advanceTimersByTimeAsync(SLOW_MS);
  expect(asked).toEqual(["-100", "e.2", "e.2", "e.3"]);
  expect(said.flatMap(({ event_id }) => event_id ?? [])).toEqual([1, 2, 3]);
  expect(said.at(-1)!.code).toBe("trace_deleted");
  expect(ended).toEqual([]);
  made.close();
});

test("a run that is left is not asked for again", async () => {
  answers = [() => Promise.resolve(new Response(null, { status: 204 }))];
  const made = link();
  await vi.advanceTimersByTimeAsync(10);
  expect(said).toEqual([{ event: "caught_up", trace_id: "t", replayed: 0 }]);
  made.send(JSON.stringify({ unsubscribe: { trace_id: "t" } }));
  await vi.advanceTimersByTimeAsync(SLOW_MS);
  expect(asked).toEqual(["-100"]);
});
