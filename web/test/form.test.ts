import { expect, test } from "vitest";
import type { Json } from "../src/net/protocol";
import { type Draft, type Fault, fieldOf, valueIn } from "../src/parts/schema";

function read(schema: object, change: (draft: any) => Draft = (draft) => draft): [Json | undefined, string[]] {
  const field = fieldOf(schema as Json);
  const faults: Fault[] = [];
  return [
    valueIn(field, change(structuredClone(field.start)), true, faults),
    faults.map((one) => `${one.path} ${one.message}`),
  ];
}
const text = { type: "string" };

test("objects in objects, lists, choices, ticks and numbers become one value", () => {
  const schema = {
    type: "object",
    required: ["name", "n"],
    properties: {
      name: text,
      n: { type: "integer", minimum: 1 },
      on: { type: "boolean" },
      note: text,
      size: { enum: ["s", "m", 3] },
      tags: { type: "array", items: text },
      days: { type: "array", uniqueItems: true, items: { enum: ["mo", "tu"] } },
      at: { type: "object", properties: { street: text, zip: { type: "number" } }, required: ["street"] },
    },
  };
  const fill = (d: any) => ({
    ...d,
    name: "x",
    n: " 3 ",
    on: true,
    size: "2",
    tags: ["a", "b"],
    days: ["1"],
    at: { street: "s", zip: "1,5" },
  });
  expect(read(schema, fill)).toEqual([
    { name: "x", n: 3, on: true, size: 3, tags: ["a", "b"], days: ["tu"], at: { street: "s", zip: 1.5 } },
    [],
  ]);
  // What was not touched is left out, with all below it
  expect(read(schema, (d) => ({ ...d, name: "x", n: "1" }))).toEqual([{ name: "x", n: 1 }, []]);
  expect(read(schema, (d) => ({ ...d, name: "x", n: "1.5", at: { street: "", zip: "many" } }))[1]).toEqual([
    "value.n a whole number is needed",
    "value.at.zip a number is needed",
  ]);
});

test("one of several forms, constants with titles, types in a list, references and allOf", () => {
  const either = {
    oneOf: [
      { title: "Card", type: "object", properties: { no: text }, required: ["no"] },
      { title: "Cash", const: "cash" },
    ],
  };
  expect(read(either, (d) => [d[0], { no: "4" }])[0]).toEqual({ no: "4" });
  expect(read(either, () => ["1", ""])[0]).toBe("cash");
  expect(fieldOf({ oneOf: [{ const: 1, title: "One" }, { const: 2 }] })).toMatchObject({
    kind: "choice",
    choices: [{ label: "One" }, { label: "2" }],
  });
  expect(fieldOf({ type: ["string", "null"] })).toMatchObject({
    kind: "either",
    forms: [{ label: "string" }, { label: "null" }],
  });
  const shared = {
    $defs: { p: { type: "object", properties: { a: text } } },
    allOf: [{ $ref: "#/$defs/p" }, { properties: { b: { type: "number" } } }],
  };
  expect(read(shared, (d) => ({ ...d, a: "x", b: "2" }))[0]).toEqual({ a: "x", b: 2 });
});

test("defaults stand in the form, limits beside it", () => {
  const schema = {
    type: "object",
    properties: {
      n: { type: "integer", default: 5, minimum: 1, maximum: 9, description: "How many" },
      s: { enum: ["a", "b"], default: "b" },
    },
  };
  expect(read(schema)[0]).toEqual({ n: 5, s: "b" });
  expect(fieldOf(schema)).toMatchObject({ fields: [{ field: { help: "How many · 1 to 9" } }, {}] });
});

test("what can't be a form is JSON, and nothing opens without end", () => {
  expect(fieldOf({ type: "object" }).kind).toBe("json");
  expect(fieldOf(true).kind).toBe("json");
  const itself = { $defs: { n: { type: "object", properties: { next: { $ref: "#/$defs/n" } } } }, $ref: "#/$defs/n" };
  expect(JSON.stringify(fieldOf(itself))).toContain('"json"');
  expect(fieldOf({ $ref: "#" }).kind).toBe("json");
  expect(fieldOf({ $ref: "http://evil.example/x" }).kind).toBe("json");
  expect(read({ type: "object" }, () => "{oops")[1][0]).toMatch(/^value is no JSON/);
  expect(read({ type: "object" }, () => '{"a":1}')[0]).toEqual({ a: 1 });
  expect(
    fieldOf({
      type: "object",
      properties: JSON.parse('{"__proto__":{"type":"string"},"constructor":{"type":"string"}}'),
    }).kind,
  ).toBe("object");
});
