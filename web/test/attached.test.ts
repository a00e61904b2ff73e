import { expect, test } from "vitest";
import { attachedIn, attachedTo, attachedWords, isPicture } from "../src/log/attached";
import { treeText } from "../src/log/words";
import type { Json } from "../src/net/protocol";

const ref = { blob: "0".repeat(64), bytes: 3_000_000, media_type: "image/png", preview: "image/png, 2.9 MiB" };
const data = `iVBORw0KGgo${"A".repeat(49)}`;
const url = `data:image/png;base64,${data}`;

const FORMS: [name: string, value: Json][] = [
  ["a reference", ref],
  ["a data URL", url],
  ["a block of Anthropic's", { type: "image", source: { type: "base64", media_type: "image/png", data } }],
  [
    "the same with its content beside the log",
    { type: "image", source: { type: "base64", media_type: "image/png", data: ref } },
  ],
  ["OpenAI's", { type: "image_url", image_url: { url, detail: "high" } }],
  ["OpenAI's responses", { type: "input_image", image_url: url }],
  ["MCP's", { type: "image", data, mimeType: "image/png" }],
  ["an embedded resource", { type: "resource", resource: { uri: "file:///a.png", mimeType: "image/png", blob: data } }],
  ["Gemini's", { inlineData: { mimeType: "image/png", data } }],
  ["an image API's", { b64_json: data }],
];

test.each(FORMS)("%s is one picture", (_, value) => {
  const one = attachedIn(value)!;
  expect(isPicture(one)).toBe(true);
  expect([one.base64, one.blob]).toContain(one.blob ? ref.blob : data);
  expect(attachedTo({ text: "beside it", deep: [{ more: value }] })).toHaveLength(1);
  expect(treeText(value)).toContain("image/png");
  expect(treeText(value)).not.toContain("AAAA");
});

test.each<[string, Json]>([
  ["an address of elsewhere", { type: "image_url", image_url: { url: "https://elsewhere.example/a.png" } }],
  ["base64 that says nothing of its type", { data: "A".repeat(64) }],
  ["a block with words", { type: "text", text: "words", source: url }],
  ["two pictures", { source: url, image: ref }],
  ["something else that has one", { status: "ok", image: url }],
  ["a hash that is none", { ...ref, blob: "abc" }],
])("%s is shown as it stands", (_, value) => {
  expect(attachedIn(value)).toBeNull();
});

test("a drawing that may run is no picture", () => {
  expect(isPicture(attachedIn({ ...ref, media_type: "image/svg+xml" })!)).toBe(false);
  expect(isPicture(attachedIn("data:image/svg+xml;base64,PHN2Zz4=")!)).toBe(false);
});

test("what is once more beside it is shown once", () => {
  expect(
    attachedTo({ content: [{ type: "image", data: ref, mimeType: "image/png" }], structured: { shot: ref } }),
  ).toHaveLength(1);
});

test("a long output is its beginning and what it is", () => {
  const text = { blob: "1".repeat(64), bytes: 20_000_000, media_type: "text/plain", preview: "line 1…" };
  expect(attachedWords(attachedIn(text)!)).toBe("line 1…\n(text/plain, 20.0 MB)");
});

test("a large value is looked through as far as some hundred values", () => {
  expect(attachedTo(Array.from({ length: 100_000 }, () => ({ a: { b: [1] } })))).toEqual([]);
});
