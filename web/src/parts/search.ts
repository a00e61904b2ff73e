// Search in messages: every word has to occur in the text that a row shows, unfolded; the signs of JSON and markdown
// are no part of it. The browser's highlights mark the words in the rows that are drawn, so the nodes of the page stay
// as they are. A hit that one goes to is unfolded as far as its words are (`Finding`).

import { createContext } from "preact";
import type { Item } from "../log/rows";
import { wordsOf as shownIn } from "../log/words";
import type { StoredEvent } from "../net/protocol";
import { hasMarkdown } from "./markdown";

/** The words that are looked for in the row that was gone to. */
export const Finding = createContext<readonly RegExp[]>([]);

/** Whether one of the words occurs in what a fold hides of a text. */
export const hides = (words: readonly RegExp[], text: string, shown: string): boolean =>
  words.some((word) => word.test(text) && !word.test(shown));

/** The words of a search's text, as what finds them. */
export const testsOf = (query: string): RegExp[] => wordsOf(query).map((word) => new RegExp(escapeRegExp(word), "iu"));

/** The test for a search's text, or null for none. `answer` is how a question was closed. */
export function matcher(
  query: string,
  answer: (item: Item) => StoredEvent | undefined = () => undefined,
): ((item: Item) => boolean) | null {
  const tests = testsOf(query);
  if (!tests.length) return null;
  // A page that is live asks again at each paint
  const known = new WeakMap<Item, { version: number; found: boolean }>();
  return (item) => {
    let seen = known.get(item);
    if (seen?.version !== item.version) {
      const text = textOf(item, answer(item));
      seen = { version: item.version, found: tests.every((test) => test.test(text)) };
      known.set(item, seen);
    }
    return seen.found;
  };
}

export const wordsOf = (query: string): string[] => query.split(/\s+/).filter(Boolean);

export const escapeRegExp = (text: string): string =>
  text.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&").replace(/\\-/g, "\\x2d");

function textOf(item: Item, answer?: StoredEvent): string {
  return shownIn(item, answer)
    .map(({ text, prose }) =>
      prose && item.message?.status !== "streaming" && hasMarkdown(text) ? proseText(text) : text,
    )
    .join("\n");
}

const CODE =
  /(^|\n)[ \t]*(`{3,}|~{3,})[^\n]*\n([\s\S]*?)(?:\n[ \t]*\2[^\n]*(?=\n|$)|$)|(`+)([^`](?:[\s\S]*?[^`])?)\4(?!`)/g;

/** Markdown as the text that is shown of it, without parsing it: the signs go, what they stand around stays. */
export function proseText(text: string): string {
  let out = "";
  let last = 0;
  for (const match of text.matchAll(CODE)) {
    out += inlineText(text.slice(last, match.index)) + (match[3] === undefined ? match[5] : `${match[1]}${match[3]}`);
    last = match.index + match[0].length;
  }
  return out + inlineText(text.slice(last));
}

function inlineText(text: string): string {
  return text
    .replace(/!\[([^\]\n]*)\]\([^)\n]*\)/g, "▨ $1")
    .replace(/\[([^\]\n]*)\]\([^)\n]*\)/g, "$1")
    .replace(/^[ \t]{0,3}(?:#{1,6}[ \t]+|(?:>[ \t]?)+|[-*+][ \t]+|\d{1,9}[.)][ \t]+)/gm, "")
    .replace(/(\*\*|__|~~)(?=\S)([^\n]*?\S)\1/g, "$2")
    .replace(/(?<![\p{L}\p{N}\\*])\*(?=[^\s*])([^\n*]*[^\s*])\*/gu, "$1")
    .replace(/(?<![\p{L}\p{N}\\_])_(?=[^\s_])([^\n_]*[^\s_])_(?![\p{L}\p{N}])/gu, "$1")
    .replace(/^\|?[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t]*:?-{2,}:?[ \t]*)*\|?[ \t]*$/gm, "")
    .replace(/\\([!-/:-@[-`{-~])/g, "$1");
}

const NAME = "found";
const MOST = 500; // marks
const ASIDE = ".at, .meta, .goalhead, .daybreak, button.link, svg"; // what is no part of a row's text
const BLOCKS = "p, li, pre, h3, h4, h5, h6, td, th, div, blockquote, .str, .key, .index";

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
  for (const row of box.querySelectorAll(".rows .row")) {
    const { text, nodes } = joined(row);
    for (const { index, 0: word } of text.matchAll(found)) {
      const range = new Range();
      range.setStart(...placeIn(nodes, index));
      range.setEnd(...placeIn(nodes, index + word.length, true));
      ranges.push(range);
      if (ranges.length >= MOST) break;
    }
  }
  CSS.highlights.set(NAME, new Highlight(...ranges));
}

/** The text of a row: words may go on from one element to the next, as in **bo**ld, but not over a block's end. */
function joined(row: Element): { text: string; nodes: [at: number, node: Text][] } {
  let text = "";
  let block: Element | null = null;
  const nodes: [number, Text][] = [];
  const walker = document.createTreeWalker(row, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode() as Text | null; node; node = walker.nextNode() as Text | null) {
    const parent = node.parentElement!;
    if (parent.closest(ASIDE)) continue;
    const inside = parent.closest(BLOCKS);
    if (inside !== block) text += "\n";
    block = inside;
    nodes.push([text.length, node]);
    text += node.data;
  }
  return { text, nodes };
}

function placeIn(nodes: readonly [number, Text][], at: number, end = false): [Text, number] {
  const [from, node] = nodes.findLast(([start]) => (end ? start < at : start <= at))!;
  return [node, Math.min(node.length, at - from)];
}
