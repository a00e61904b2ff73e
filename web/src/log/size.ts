// The room that values take in memory, and making them smaller.

import type { Json } from "../net/protocol";

const TEXT = 400; // characters that are left of a long text
const PARTS = 40; // entries that are left of a long list or object

/** Roughly how many bytes a value takes in memory. */
export function sizeOf(value: Json): number {
  if (typeof value === "string") return value.length + 16;
  if (typeof value !== "object" || value === null) return 8;
  let sum = 32;
  if (Array.isArray(value)) for (const one of value) sum += sizeOf(one);
  else for (const key in value) sum += 16 + sizeOf(value[key]!);
  return sum;
}

/** The beginning of a value, of the same form. */
export function shortened(value: Json): Json {
  // By way of JSON: a slice of a string keeps the whole string in memory
  return JSON.parse(JSON.stringify(cut(value, 0))) as Json;
}

function cut(value: Json, depth: number): Json {
  if (typeof value === "string") return value.length > TEXT ? `${value.slice(0, TEXT)}…` : value;
  if (typeof value !== "object" || value === null) return value;
  const most = Math.max(2, PARTS >> depth);
  if (Array.isArray(value)) return value.slice(0, most).map((one) => cut(one, depth + 1));
  return Object.fromEntries(
    Object.entries(value)
      .slice(0, depth ? most : PARTS)
      .map(([key, one]) => [key, cut(one!, depth + 1)]),
  );
}
