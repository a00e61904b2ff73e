import { describe, expect, test } from "vitest";
import cases from "../../tests/model/error_lines.json";
import { errorLine } from "../src/log/error";
import type { Json } from "../src/net/protocol";

describe("an error in a line, as tests/model/error_lines.json has it for Python too", () => {
  test.each(cases as { error: Json; line: string }[])("$line", ({ error, line }) => {
    expect(errorLine(error)).toBe(line);
  });

  test("a long one is cut", () => {
    expect(errorLine({ type: "E", message: "x ".repeat(100_000) })).toHaveLength(2000);
  });
});
