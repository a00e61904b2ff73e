// Search in messages: every word has to occur, in whatever a row shows.

import type { Item } from "./trace";

/** The test for a search's text, or null for none. */
export function matcher(query: string): ((item: Item) => boolean) | null {
  const words = wordsOf(query);
  if (!words.length) return null;
  const tests = words.map((word) => new RegExp(escapeRegExp(word), "iu"));
  return (item) => {
    const text = textOf(item);
    return tests.every((test) => test.test(text));
  };
}

export const wordsOf = (query: string): string[] => query.split(/\s+/).filter(Boolean);

export const escapeRegExp = (text: string): string => text.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&").replace(/\\-/g, "\\x2d");

function textOf(item: Item): string {
  if (item.gap) return item.gap;
  if (item.hole !== undefined) return "";
  if (!item.message) return JSON.stringify(item.event);
  const { content, description, role } = item.message;
  return `${role} ${typeof content === "string" ? content : `${description} ${JSON.stringify(content)}`}`;
}
