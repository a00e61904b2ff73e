// The words searched for, marked in what is drawn by the browser's highlights: the page's nodes stay as they are.

import { escapeRegExp, wordsOf } from "./search";

const NAME = "found";
const MOST = 500;

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
