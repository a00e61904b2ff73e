// Markdown of agents that takes a parser long, or down: most of it is still drawn, all of it is there.

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { parse } from "../src/parts/markdown-parse";

const sized = (unit: string, size: number) => unit.repeat(Math.ceil(size / unit.length)).slice(0, size);
const words = (html: string) => html.replace(/<[^>]*>/g, "").replace(/\s+/g, "");

// Time stands still, so that a busy machine gives what an idle one gives; one test moves it.
let now = 0;
beforeEach(() => {
  now = 0;
  vi.spyOn(performance, "now").mockImplementation(() => now);
});
afterEach(() => vi.restoreAllMocks());

// By shape. Each took a parser without bounds seconds to minutes, or its stack
const HOSTILE: Record<string, string> = {
  quotes: ">",
  "spaced quotes": "> ",
  lists: "- ",
  numbers: "1. ",
  "lists in quotes": "> - ",
  underscores: "_a",
  stars: "*a",
  "double stars": "**a",
  both: "*_a",
  "bold across": "a**b_",
  "paragraphs of both": `${sized("*_a", 990)}\n\n`,
  "dots before an at sign": "a.",
  brackets: "[a](",
};

describe("markdown that is an attack", () => {
  for (const [name, unit] of Object.entries(HOSTILE))
    for (const size of [2400, 199_000])
      test(`${name}, ${size} characters`, { timeout: 30_000 }, () => {
        const html = parse(`${sized(unit, size)}@ the end`);
        expect(words(html)).toContain("theend");
      });

  test("a text whose paragraphs can't be found in time is given up", { timeout: 30_000 }, () => {
    vi.spyOn(performance, "now").mockImplementation(() => (now += 10));
    expect(() => parse(sized("> a\n>> b\n", 199_000))).toThrow("takes too long");
    expect(parse(sized("> a\n>> b\n", 2400))).toContain("<blockquote>"); // the clock is not for short ones
  });

  test("a text of many hostile paragraphs keeps every word", () => {
    const text = Array.from({ length: 200 }, (_, n) => `${sized("*_a", 990)} word${n}.`).join("\n\n");
    const html = parse(text);
    for (let n = 0; n < 200; n++) expect(html).toContain(`word${n}.`);
  });

  test("HTML in plain parts is text as well", () => {
    const html = parse(`${sized("*_", 2000)}<img src=x onerror=alert(1)>\n${">".repeat(2400)}<script>`);
    expect(html).not.toMatch(/<(?:img|script)/);
  });
});

describe("markdown that is none is drawn whole", () => {
  test("a long text of many lines without a blank one", () => {
    const html = parse("Some **bold** and `code` with _em_\n".repeat(2000));
    expect(html.split("<strong>bold</strong>")).toHaveLength(2001);
    expect(html.split("<em>em</em>")).toHaveLength(2001);
    expect(html.split("<br>").length).toBeGreaterThanOrEqual(2000);
  });

  test("long paragraphs, lists, tables, and quotes ten deep", () => {
    expect(parse("A **b** word. ".repeat(90)).split("<strong>")).toHaveLength(91);
    expect(parse("- an *item*\n".repeat(3000)).split("<em>")).toHaveLength(3001);
    expect(parse(`|a|b|\n|-|-|\n${"|*x*|y|\n".repeat(1000)}`).split("<em>")).toHaveLength(1001);
    expect(parse(`${"> ".repeat(10)}deep`).split("<blockquote>")).toHaveLength(11);
  });
});
