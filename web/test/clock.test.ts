import { effect } from "@preact/signals";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

process.env.TZ = "UTC";

let timers = 0;
beforeEach(() => {
  vi.resetModules();
  vi.useFakeTimers({ now: Date.parse("2026-03-01T12:00:00Z"), toFake: ["Date", "setTimeout", "clearTimeout"] });
  vi.stubGlobal("performance", { now: () => Date.now() });
  const real = globalThis.setTimeout;
  timers = 0;
  vi.stubGlobal("setTimeout", (...of: Parameters<typeof real>) => {
    timers++;
    return real(...of);
  });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

/** The days that a page in a zone shows, with the moment at which each began; it stays open for some hours. */
async function daysIn(zone: string, from: string, hours: number): Promise<[day: string, at: string][]> {
  process.env.TZ = zone;
  vi.setSystemTime(from);
  const { today } = await import("../src/parts/clock");
  const days: [string, string][] = [];
  const stop = effect(() => void days.push([today.value.slice(0, 10), new Date(Date.now()).toISOString()]));
  await vi.advanceTimersByTimeAsync(hours * 3_600_000);
  stop();
  return days.slice(1);
}

describe("the reader's day", () => {
  test.each([
    ["Asia/Kolkata", "2026-03-01T12:00:00Z", "2026-03-01T18:30:00.000Z", "Mon Mar 02"], // half an hour
    ["Asia/Kathmandu", "2026-03-01T12:00:00Z", "2026-03-01T18:15:00.000Z", "Mon Mar 02"], // a quarter
    ["America/St_Johns", "2026-03-08T02:00:00Z", "2026-03-08T03:30:00.000Z", "Sun Mar 08"],
    ["America/St_Johns", "2026-03-08T23:00:00Z", "2026-03-09T02:30:00.000Z", "Mon Mar 09"], // the clocks went forward
    ["Australia/Lord_Howe", "2026-04-04T12:00:00Z", "2026-04-04T13:00:00.000Z", "Sun Apr 05"],
    ["Australia/Lord_Howe", "2026-04-05T12:00:00Z", "2026-04-05T13:30:00.000Z", "Mon Apr 06"], // back, by half an hour
    ["Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-25T23:00:00.000Z", "Mon Oct 26"], // a day of 25 hours
    ["America/Santiago", "2026-09-06T01:00:00Z", "2026-09-06T04:00:00.000Z", "Sun Sep 06"], // there is no midnight
  ])("in %s from %s on changes at %s", async (zone, from, at, day) => {
    expect(await daysIn(zone, from, 14)).toEqual([[day, at]]);
  });

  test("is another after a journey, within a quarter of an hour", async () => {
    process.env.TZ = "UTC";
    const { today } = await import("../src/parts/clock");
    const stop = effect(() => void today.value);
    process.env.TZ = "Pacific/Kiritimati"; // 14 hours ahead
    await vi.advanceTimersByTimeAsync(15 * 60_000);
    expect(today.value.slice(0, 10)).toBe("Mon Mar 02");
    stop();
  });
});

describe("what is shown of the time", () => {
  test("takes one timer for all, and none while it stays the same", async () => {
    const { timed } = await import("../src/parts/clock");
    const { ago, agoLasts } = await import("../src/format");
    const begun = Date.now();
    const shown: string[][] = [[], [], []];
    const stops = [0, 400, 800].map((by, i) => {
      const age = timed((time) => [ago(time - begun + by), time + agoLasts(time - begun + by)]);
      return effect(() => void shown[i]!.push(age.value));
    });
    timers = 0;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(timers).toBeLessThanOrEqual(61);
    for (const words of shown) {
      expect(words[0]).toBe("now");
      expect(words.slice(-3)).toEqual(["58 s", "59 s", "1 min"]);
    }
    timers = 0;
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(timers).toBeLessThanOrEqual(3 * 60);
    expect(shown[0]!.at(-1)).toBe("1 h");
    for (const stop of stops) stop();
    timers = 0;
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(timers).toBe(0);
  });

  test("follows the server's clock at once where that is set", async () => {
    const { timed } = await import("../src/parts/clock");
    const { tellTime } = await import("../src/net/time");
    const hour = timed((time) => [new Date(time).getUTCHours(), time + 3_600_000]);
    const seen: number[] = [];
    const stop = effect(() => void seen.push(hour.value));
    tellTime("2026-03-01T17:00:00Z");
    expect(seen).toEqual([12, 17]);
    stop();
  });
});
