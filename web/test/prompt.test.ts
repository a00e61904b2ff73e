// What a model call was asked, put together: the shared vectors (tests/model/prompts.json).
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { assemble, wasSent } from "../src/log/prompt";

const path = fileURLToPath(new URL("../../tests/model/prompts.json", import.meta.url));
const { cases } = JSON.parse(readFileSync(path, "utf8"));

describe("vectors", () => {
  for (const { name, messages, of, prompt } of cases)
    test(name, () => expect(assemble(new Map(Object.entries(messages)) as never, of)).toEqual(prompt));
});

test("what an earlier call was sent as well", () => {
  const input: (object | string)[] = [
    { input_of: "a", from: 1, to: 3 },
    { message_id: "u" },
    "itself",
    { list_of: "l", to: 2 },
  ];
  expect(wasSent({ input } as never)).toEqual([true, true, false, false, false, false]);
  expect(wasSent({})).toEqual([]);
});
