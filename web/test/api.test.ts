// Calls of the server that take more than one request.

import { afterEach, expect, test, vi } from "vitest";
import { fetchInputs } from "../src/net/api";

afterEach(() => {
  vi.unstubAllGlobals();
});

test("open questions that do not fit in a page are read page by page", async () => {
  const pages: Record<string, object> = {
    "/api/inputs": { inputs: [{ request_id: "a" }], has_more: true, next_page_token: "2026:1_2_3" },
    "/api/inputs?page_token=2026%3A1_2_3": { inputs: [{ request_id: "b" }], has_more: false },
  };
  const asked: string[] = [];
  vi.stubGlobal("fetch", async (path: string) => {
    asked.push(path);
    return { ok: true, json: async () => pages[path] };
  });
  const { inputs } = await fetchInputs();
  expect(inputs.map((one) => one.request_id)).toEqual(["a", "b"]);
  expect(asked).toEqual(Object.keys(pages));
});
