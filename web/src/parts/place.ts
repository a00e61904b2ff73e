// A place in the text of a row: it outlasts that the row is drawn anew, as when a message that streamed becomes
// markdown.
//
// Rule: the nodes themselves are the place while they are there. Where they have gone, the same word is looked for in
//       the row's new text.

export interface Place {
  node: Text;
  offset: number;
  near: string; // the characters there: where others stand now, the node was given another text
  words: string; // the row's whole text, and
  at: number; // the place in it
}

const NEAR = 12; // characters
const WORD = /[\p{L}\p{N}]+/gu;
const AHEAD = 40; // words that are looked through where two texts differ

/** Run after text was drawn anew outside of a list's own drawing: lists find again what was read and selected. */
export const redrawn = new Set<() => void>();

/** The place of a point of a row's text. */
export function placeOf(row: Element, node: Text, offset: number): Place {
  let words = "";
  let at = 0;
  const walker = document.createTreeWalker(row, NodeFilter.SHOW_TEXT);
  for (let one = walker.nextNode(); one; one = walker.nextNode()) {
    if (one === node) at = words.length + offset;
    words += (one as Text).data;
  }
  return { node, offset, near: nearOf(node, offset), words, at };
}

/** The place under a point of the screen, if that is in the text of the row. */
export function placeUnder(row: Element, x: number, y: number): Place | null {
  const caret = document.caretPositionFromPoint?.(x, y);
  const range = caret ? null : document.caretRangeFromPoint?.(x, y);
  const node = caret?.offsetNode ?? range?.startContainer;
  if (!(node instanceof Text) || !row.contains(node)) return null;
  return placeOf(row, node, caret?.offset ?? range!.startOffset);
}

const nearOf = (node: Text, offset: number): string => node.data.slice(Math.max(0, offset - NEAR), offset + NEAR);

/** Whether the place is still where it was. */
export const holds = (place: Place, row: Element): boolean =>
  row.contains(place.node) && nearOf(place.node, place.offset).startsWith(place.near);

/** The place in the row as it is drawn now; null where its words are no longer there. */
export function again(place: Place, row: Element, isEnd = false): Place | null {
  if (holds(place, row)) return place;
  const nodes: Text[] = [];
  const walker = document.createTreeWalker(row, NodeFilter.SHOW_TEXT);
  for (let one = walker.nextNode(); one; one = walker.nextNode()) nodes.push(one as Text);
  let at = sameWord(place.words, place.at, nodes.map((node) => node.data).join(""), isEnd);
  if (at === null) return null;
  for (const node of nodes) {
    if (at < node.length || (isEnd && at === node.length)) return placeOf(row, node, at);
    at -= node.length;
  }
  return null;
}

/** The vertical place on the screen, in px. */
export function topOf(place: Place): number {
  const range = document.createRange();
  range.setStart(place.node, Math.min(place.offset, place.node.length));
  return range.getBoundingClientRect().top;
}

/** Where the word at `at` of one text stands in another that has, more or less, the same words; null if nowhere. */
export function sameWord(before: string, at: number, after: string, isEnd = false): number | null {
  const old = [...before.matchAll(WORD)];
  const now = [...after.matchAll(WORD)];
  // The word that the place is in, or that follows it; of an end, the one that it follows
  const target = isEnd
    ? old.findLastIndex((word) => word.index < at)
    : old.findIndex((word) => word.index + word[0].length > at);
  if (target < 0) return null;
  const into = Math.max(0, Math.min(at - old[target]!.index, old[target]![0].length));
  let i = 0;
  let j = 0;
  while (i < old.length && j < now.length && i <= target) {
    if (old[i]![0] === now[j]![0]) {
      if (i === target) return now[j]!.index + into;
      i++;
      j++;
      continue;
    }
    let by = 1;
    while (by <= AHEAD && old[i + by]?.[0] !== now[j]![0] && old[i]![0] !== now[j + by]?.[0]) by++;
    if (by > AHEAD) {
      i++;
      j++;
    } else if (old[i + by]?.[0] === now[j]![0]) {
      if (i + by > target) return now[j]!.index; // the word itself has gone: the next that is left
      i += by;
    } else j += by;
  }
  return null;
}
