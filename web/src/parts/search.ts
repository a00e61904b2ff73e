// Search in messages: every word has to occur in the text that a row shows. The browser's highlights mark the words in
// the rows that are drawn, so the nodes of the page stay as they are.

import type { Item } from "../log/rows";

/** The test for a search's text, or null for none. */
export function matcher(query: string): ((item: Item) => boolean) | null {
  const words = wordsOf(query);
  if (!words.length) return null;
  const tests = words.map((word) => new RegExp(escapeRegExp(word), "iu"));
  // A page that is live asks again at each paint
  const known = new WeakMap<Item, { version: number; found: boolean }>();
  return (item) => {
    let seen = known.get(item);
    if (seen?.version !== item.version) {
      const text = textOf(item);
      seen = { version: item.version, found: tests.every((test) => test.test(text)) };
      known.set(item, seen);
    }
    return seen.found;
  };
}

export const wordsOf = (query: string): string[] => query.split(/\s+/).filter(Boolean);

export const escapeRegExp = (text: string): string =>
  text.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&").replace(/\\-/g, "\\x2d");

function textOf(item: Item): string {
  if (item.gap) return item.gap;
  if (item.hole !== undefined) return "";
  if (!item.message) return JSON.stringify(item.event);
  const { content, description, role } = item.message;
  return `${role} ${typeof content === "string" ? content : `${description} ${JSON.stringify(content)}`}`;
}

const NAME = "found";
const MOST = 500; // marks

/** Mark the words of a search in the rows that are drawn. */
export function highlight(box: HTMLElement | null, query: string): void {
  if (!box || typeof Highlight === "undefined") return;
  const words = wordsOf(query);
  if (!words.length) {
    CSS.highlights.delete(NAME);
    return;
  }
  const found = new RegExp(words.map(escapeRegExp).join("|"), "giu");
  const ranges: Range[] = [];
  const rows = box.querySelector(".rows");
  if (!rows) return;
  const walker = document.createTreeWalker(rows, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node && ranges.length < MOST; node = walker.nextNode()) {
    for (const match of (node.nodeValue ?? "").matchAll(found)) {
      const range = new Range();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      ranges.push(range);
    }
  }
  CSS.highlights.set(NAME, new Highlight(...ranges));
}
