import "./page";
import { beforeEach, expect, test, vi } from "vitest";
import { fetchTrace, tryToken } from "../src/net/api";
import { forget, give, isToken, token, wanted } from "../src/net/auth";
import { Socket } from "../src/net/socket";
import { FakeWebSocket } from "./page";

const answers: (() => Response)[] = [];
const asked: { url: string; token: string | undefined }[] = [];
const json =
  (status: number, body: object, headers = {}) =>
  () =>
    new Response(JSON.stringify(body), { status, headers });
const kept = new Map<string, string>();

beforeEach(() => {
  answers.length = asked.length = 0;
  kept.clear();
  vi.stubGlobal("sessionStorage", {
    getItem: (k: string) => kept.get(k) ?? null,
    setItem: (k: string, v: string) => kept.set(k, v),
    removeItem: (k: string) => kept.delete(k),
  });
  vi.stubGlobal("location", { reload: () => undefined });
  vi.stubGlobal("fetch", async (url: string, init: RequestInit) => {
    asked.push({ url, token: (init.headers as Record<string, string>).Authorization });
    return answers.shift()!();
  });
  forget();
  wanted.value = null;
});

test("a refused request waits for a token and is sent again with it", async () => {
  answers.push(json(401, { error: "unauthorized", message: "a token is needed" }), json(200, { trace: {} }));
  const answer = fetchTrace("t");
  await vi.waitFor(() => expect(wanted.value).toBe("a token is needed"));
  give("token-1234");
  expect(await answer).toEqual({ trace: {} });
  expect(asked.map((one) => one.token)).toEqual([undefined, "Bearer token-1234"]);
  expect([...kept.values()]).toEqual(["token-1234"]);
  expect(asked.some((one) => one.url.includes("token-1234"))).toBe(false);
});

test("a token that was revoked is dropped, and the server's words are shown", async () => {
  give("token-1234");
  answers.push(json(401, { error: "unauthorized", message: "this token was revoked" }));
  void fetchTrace("t");
  await vi.waitFor(() => expect(wanted.value).toBe("this token was revoked"));
  expect(token.value).toBeNull();
  expect(kept.size).toBe(0);
});

test("a token is tried before it is kept; too many tries say when to come back", async () => {
  answers.push(json(429, { error: "too_many_failures", message: "too many wrong tokens" }, { "Retry-After": "60" }));
  await expect(tryToken("token-9999")).rejects.toMatchObject({
    status: 429,
    retryAfterS: 60,
    words: "too many wrong tokens; it can be tried again in 60 s",
  });
  expect(token.value).toBeNull();
  answers.push(json(403, { error: "forbidden", message: "for one trace" }));
  await tryToken("token-9999");
  expect(isToken("a b")).toBe(false);
  expect(isToken("tw_abcDEF-123.x")).toBe(true);
});

test("the socket says who it is, and tells that its token is no longer taken", () => {
  const told: (string | null)[] = [];
  const socket = new Socket("ws://here", {
    protocols: () => ["tracewatch.v1", "bearer.x"],
    refused: (why) => told.push(why),
  });
  vi.useFakeTimers();
  socket.start();
  expect(FakeWebSocket.last.protocols).toEqual(["tracewatch.v1", "bearer.x"]);
  FakeWebSocket.last.open();
  FakeWebSocket.last.say({ event: "error", code: "unauthorized", message: "the token has expired" });
  FakeWebSocket.last.end(4501, "unauthorized");
  expect(told).toEqual(["the token has expired"]);
  socket.retryNow();
  FakeWebSocket.last.end(1006); // a handshake that was refused: a browser does not say why
  expect(told).toEqual(["the token has expired", null]);
  vi.clearAllTimers();
  vi.useRealTimers();
});
