import { describe, expect, test } from "vitest";
import cases from "../../tests/model/filters.json";
import { ago, bytes, clock, cost, duration, short, shortId, terminal, visible } from "../src/format";
import { completions, parseFilter, testOf, toggleWord, without, withWord, wordFor } from "../src/log/filter";
import type { Trace } from "../src/net/protocol";
import { hasMarkdown } from "../src/parts/markdown";
import { escapeRegExp } from "../src/parts/search";
import { fold } from "../src/parts/text";

const trace = (more: object): Trace =>
  ({
    task: "Fix the login bug",
    trace_id: "t1",
    agent_type: "coder",
    status: "running",
    last_event_id: 9,
    tree_totals: { total_messages: 3, total_tokens: 1500, total_cost: 1.5 },
    ...more,
  }) as unknown as Trace;

const passesFilter = (text: string, one: Trace): boolean =>
  (testOf(parseFilter(text), Date.now() / 1000, null) ?? (() => true))(one);

describe("the filter", () => {
  test.each([
    ["", true],
    ["login", true],
    ["LOGIN fix", true],
    ["logout", false],
    ['"login bug"', true],
    ['"bug login"', false],
    ["status:running", true],
    ["status:failed", false],
    ["status:failed,running", true],
    ["status:open", true],
    ["-status:running", false],
    ["agent:cod", true],
    ["agent:tester", false],
    ["cost>1", true],
    ["cost>=1.5", true],
    ["cost<1", false],
    ["cost>$1", true],
    ["tokens>1k", true],
    ["tokens>2k", false],
    ["messages=3", true],
    ["status:running agent:coder cost>1 login", true],
    ["status:running agent:coder cost>1 logout", false],
    ["tag:nightly", true],
    ["tag:NIGHTLY", false],
    ["tag:nightly tag:eu", false],
    ['tag:nightly tag:"eu west"', true],
    ["tag:night", false],
    ["tag:other,nightly", true],
    ['tag:"a,b"', true],
    ["-tag:nightly", false],
    ["session:s-7", true],
    ["session:s", false],
    ["user:ann", false],
    ["model:sonnet", true],
    ["model:opus", false],
    ["error:*", true],
    ["error:timeouterror", true],
    ["error:other", false],
    ["constructor:x", true],
    ["(", true],
    ["log", true],
    ["-log", false],
  ])("%s", (text, passes) => {
    const more = { tags: ["nightly", "eu west", "a,b"], session_id: "s-7", user_id: null, models: ["claude-sonnet-4"] };
    const error = { type: "TimeoutError", message: "10 s passed" };
    expect(passesFilter(text, trace({ ...more, error }))).toBe(passes);
  });

  test("without an error, tags or a session nothing of them passes", () => {
    for (const text of ["error:*", "error:x", "tag:x", "session:x", "model:x"])
      expect(passesFilter(text, trace({ error: null, session_id: null }))).toBe(false);
  });

  test("a name becomes a word, which is put in once", () => {
    expect(wordFor("tag", "nightly")).toBe("tag:nightly");
    for (const name of ["eu west", "a,b", "x"]) {
      const text = withWord("bug", wordFor("tag", name));
      expect(withWord(text, wordFor("tag", name))).toBe(text);
      expect(passesFilter(text, trace({ task: "bug", tags: [name] }))).toBe(true);
    }
  });

  test("a status is put in, changed and taken out", () => {
    expect(toggleWord("bug", "status", "failed")).toBe("status:failed bug");
    expect(toggleWord("status:failed bug", "status", "running")).toBe("status:running bug");
    expect(toggleWord("status:failed bug", "status", "failed")).toBe("bug");
    expect(toggleWord('"a  status:x" status:failed', "status", "lost")).toBe('status:lost "a  status:x"');
  });

  test.each(cases.parses)("$text says what it says to the server", ({ text, conditions, sought, faults }) => {
    const said = parseFilter(text);
    const bare = ({ at: _at, end: _end, ...rest }: { at: number; end: number }) => rest;
    expect(said.conditions.map(bare)).toEqual(conditions);
    expect(said.sought.map(bare)).toEqual(sought);
    expect(said.faults.map(({ at, end }) => [at, end])).toEqual(faults);
  });

  test.each(cases.cases)("$filter lets pass what the server lets pass", ({ filter, passes }) => {
    const test = testOf(parseFilter(filter), cases.now, null) ?? (() => true);
    expect((cases.traces as unknown as Trace[]).filter(test).map((one) => one.trace_id)).toEqual(passes);
  });

  test("text is found by the server as well", () => {
    const test = testOf(parseFilter("needle"), 0, new Set(["t1"]))!;
    expect(test(trace({ trace_id: "t1" }))).toBe(true);
    expect(test(trace({ trace_id: "t2" }))).toBe(false);
  });

  test("a word is completed", () => {
    const names = { tag: ["nightly", "eu west"], agent: ["coder"] };
    expect(completions("sta", names)).toEqual(["status:"]);
    expect(completions("bug -tok", names)).toEqual(["bug -tokens>"]);
    expect(completions("bug status:fa", names)).toEqual(["bug status:failed"]);
    expect(completions("tag:nightly,e", names)).toEqual(['tag:nightly,"eu west"']);
    expect(completions("agent:", names)).toEqual(["agent:coder"]);
    expect(completions("", names)).toEqual([]);
    expect(completions("agent:coder", names)).toEqual([]);
  });

  test("a word is taken out", () => {
    const text = "bug status:failed  tag:x";
    expect(without(text, parseFilter(text).conditions[0]!)).toBe("bug tag:x");
  });
});

describe("numbers and times", () => {
  test.each([
    [0, "0 ms"],
    [999, "999 ms"],
    [12_400, "12.4 s"],
    [59_940, "59.9 s"],
    [59_960, "1m 00s"],
    [252_000, "4m 12s"],
    [3_599_600, "1h 00m"],
    [3_840_000, "1h 04m"],
    [180_000_000, "2d 2h"],
    [-1, "–"],
    [NaN, "–"],
  ])("duration of %d ms: %s", (ms, text) => expect(duration(ms)).toBe(text));
  test.each([
    [0, "0:00"],
    [252_000, "4:12"],
    [3_852_000, "1:04:12"],
  ])("clock of %d ms: %s", (ms, text) => expect(clock(ms)).toBe(text));
  test.each([
    [100, "now"],
    [4000, "4 s"],
    [200_000, "3 min"],
    [7_200_000, "2 h"],
    [432_000_000, "5 d"],
  ])("%d ms ago: %s", (ms, text) => expect(ago(ms)).toBe(text));
  test.each([
    [812, "812"],
    [48_210, "48.2k"],
    [999_949, "1000k"],
    [1_300_000, "1.3M"],
  ])("%d is short %s", (n, text) => expect(short(n)).toBe(text));
  test.each([
    [null, "–"],
    [0, "$0"],
    [0.61, "$0.61"],
    [12, "$12.00"],
    [0.0042, "$0.0042"],
    [0.000052, "$0.000052"],
    [0.0000001, "<$0.00001"],
    [1234.5, "$1.2k"],
  ])("cost %d: %s", (n, text) => expect(cost(n)).toBe(text));
  test.each([
    [640, "640 B"],
    [3000, "3.0 kB"],
    [1_200_000, "1.2 MB"],
  ])("%d bytes: %s", (n, text) => expect(bytes(n)).toBe(text));
  test("a long id is cut in the middle", () =>
    expect(shortId("0123456789abcdefghijklmnop")).toBe("0123456789…jklmnop"));
});

describe("text of agents", () => {
  test("nothing in it hides", () => {
    expect(visible("a\u001b[31mb\u202ec\u200bd\u0000")).toBe("a␛[31mb‹U+202E›c‹U+200B›d␀");
    expect(visible("tab\tline\r\nend 👩‍👩‍👧")).toBe("tab\tline\nend 👩‍👩‍👧");
    expect(terminal("\u001b[1;31mred\u001b[0m \u001b]0;title\u0007")).toBe("red ␛]0;title␇");
  });

  test("what is long is folded, and what is nearly short is not", () => {
    expect(fold("short\ntext").cut).toBe(false);
    const lines = Array.from({ length: 100 }, (_, i) => `line ${i}`).join("\n");
    expect(fold(lines)).toMatchObject({ cut: true, lines: 100 });
    expect(fold(lines).text.split("\n").length).toBe(24);
    expect(fold("x".repeat(2500)).cut).toBe(false);
    expect(fold("x".repeat(9000)).text.length).toBe(2400);
  });

  test("plain sentences need no markdown", () => {
    expect(hasMarkdown("It is the cookie.")).toBe(false);
    for (const text of ["**bold**", "a `code`", "- item", "1. item", "# head", "one\n\ntwo", "see https://example.com"])
      expect(hasMarkdown(text), text).toBe(true);
  });

  test("search takes every sign literally", () => {
    for (const text of ["a.b", "(", "[x]", "a-b", "a/b", "\\", "$^*+?{}|"])
      expect(new RegExp(escapeRegExp(text), "iu").test(`<${text}>`), text).toBe(true);
  });
});
