import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { passed, Sleeps, serverNow, tellTime, timeSet } from "../src/net/time";

beforeEach(() => void vi.useFakeTimers({ now: Date.parse("2026-11-30T12:00:00Z") }));
afterEach(() => void vi.useRealTimers());

test("the time is the server's, and goes on whatever is done to this machine's clock", () => {
  expect(serverNow(), "nobody has told it yet").toBe(Date.now());
  const times = timeSet.peek();
  tellTime("2026-11-30T11:50:00.000Z");
  expect(serverNow()).toBe(Date.parse("2026-11-30T11:50:00Z"));
  expect(timeSet.peek()).toBe(times + 1);
  vi.advanceTimersByTime(2000);
  vi.setSystemTime(Date.now() - 3_600_000);
  expect(serverNow()).toBe(Date.parse("2026-11-30T11:50:02Z"));
  tellTime("2026-11-30T11:50:02.100Z");
  expect(timeSet.peek(), "a difference that nobody sees").toBe(times + 1);
  tellTime("never");
  expect(serverNow()).toBe(Date.parse("2026-11-30T11:50:02.100Z"));
});

test("a sleep and a clock that was set are noticed, once", () => {
  const sleeps = new Sleeps();
  vi.advanceTimersByTime(5000);
  expect(sleeps.jumped()).toBe(0);
  vi.setSystemTime(Date.now() + 60_000);
  expect(sleeps.peek()).toBe(60_000);
  expect(sleeps.jumped()).toBe(60_000);
  vi.setSystemTime(Date.now() - 3_600_000);
  expect(sleeps.jumped()).toBe(-3_600_000);
  expect(sleeps.jumped()).toBe(0);
  expect(passed()).toBeGreaterThan(0);
});
