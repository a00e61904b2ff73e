// What neither the formatter nor the linter holds: it breaks no comments and no strings, and counts no lines of files.
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const MOST_CHARACTERS = 120;
const MOST_LINES = 700;
const web = fileURLToPath(new URL("../", import.meta.url));
const written = ["src", "test"]
  .flatMap((folder) =>
    readdirSync(web + folder, { recursive: true, encoding: "utf8" }).map((name) => `${folder}/${name}`),
  )
  .filter((name) => /\.(tsx?|css)$/.test(name));

test.each(written)("%s has lines of at most 120 characters, and at most 700 of them", (name) => {
  const lines = readFileSync(web + name, "utf8").split("\n");
  expect(lines.length).toBeLessThanOrEqual(MOST_LINES);
  const long = lines
    .map((line, i) => [i + 1, [...line].length] as const)
    .filter(([, length]) => length > MOST_CHARACTERS);
  expect(long).toEqual([]);
});
