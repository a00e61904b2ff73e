import { describe, expect, test } from "vitest";
import type { Item } from "../src/log/rows";
import { matcher, proseText } from "../src/parts/search";

const row = (content: unknown, role = "assistant") =>
  ({ id: 1, version: 0, message: { role, content, status: "complete", description: "" } }) as unknown as Item;
const finds = (item: Item, query: string) => matcher(query)!(item);

describe("a search looks at text as it is shown", () => {
  test("the signs of JSON are no part of it", () => {
    const call = row(
      { tool_name: "grep", arguments: { pattern: 'a "b"', n: [1, null] }, result: '{"file":"x\\ny"}' },
      "tool",
    );
    for (const query of ["grep", 'a "b"', "pattern a", "null", "file x", "x\ny", "PATTERN"])
      expect(finds(call, query), query).toBe(true);
    for (const query of ["arguments", "tool_name", "result", "{", "[1", '"file"', "\\n", '\\"b'])
      expect(finds(call, query), query).toBe(false);
  });

  test("nor are those of markdown, but in code they are", () => {
    const said = row(
      "It is **the _big_ [cookie](https://x.y/z)**.\n\n# One `a*b*` two\n- three\n\n```py\n**x** = 1\n```\n",
    );
    for (const query of ["the big cookie", "One a*b* two", "**x**", "three"])
      expect(finds(said, query), query).toBe(true);
    for (const query of ["**the", "_big_", "https", "# One", "- three", "```", "py"])
      expect(finds(said, query), query).toBe(false);
    expect(finds(row("2 * 3 * 4 snake_case_name"), "* snake_case_name")).toBe(true);
  });
});

test("what the signs stand around stays", () => {
  expect(proseText("> **q** ~~w~~ \\*e\\*\n1. r\n![pic](http://a/b)")).toBe("q w *e*\nr\n▨ pic");
});
