// What is selected in a list that draws only the rows on the screen.
//
// Rule 1: the rows in which a selection begins and ends stay drawn, wherever the list is scrolled to.
// Rule 2: a selection whose text was drawn anew is made again around the same words.
// Rule 3: what is copied is what was selected: rows in between that are not drawn are copied as their text.

import type { Row } from "./layout";
import { again, holds, type Place, placeOf } from "./place";

interface End<T> {
  item: T;
  place: Place;
}

export class ListSelection<T extends Row> {
  #anchor: End<T> | null = null;
  #focus: End<T> | null = null;

  /** `elementOf` gives a row's element where it is drawn, `itemOf` the row of an element in the list. */
  constructor(
    private readonly elementOf: (item: T) => Element | undefined,
    private readonly itemOf: (node: Node) => T | undefined,
  ) {}

  /** The rows in which the selection begins and ends. */
  get rows(): T[] {
    const ends = [this.#anchor, this.#focus].flatMap((end) => (end ? [end.item] : []));
    return ends[0] === ends[1] ? ends.slice(0, 1) : ends;
  }

  get any(): boolean {
    return this.#anchor !== null || this.#focus !== null;
  }

  /** The person has selected something, or nothing more. */
  note(): void {
    const selection = getSelection();
    const none = !selection || selection.isCollapsed;
    this.#anchor = none ? null : this.#end(selection.anchorNode, selection.anchorOffset);
    this.#focus = none ? null : this.#end(selection.focusNode, selection.focusOffset);
  }

  #end(node: Node | null, offset: number): End<T> | null {
    const item = node && this.itemOf(node);
    const row = item && this.elementOf(item);
    return item && row ? { item, place: textPlace(row, node, offset) } : null;
  }

  /** Rows were drawn: select again what lost its text. */
  keep(): void {
    const [anchor, focus] = [this.#anchor, this.#focus];
    if (!anchor || !focus) return;
    const [from, to] = [this.elementOf(anchor.item), this.elementOf(focus.item)];
    if (!from || !to || (holds(anchor.place, from) && holds(focus.place, to))) return;
    const forward =
      anchor.item === focus.item
        ? anchor.place.at <= focus.place.at
        : Boolean(from.compareDocumentPosition(to) & Node.DOCUMENT_POSITION_FOLLOWING);
    const begin = again(anchor.place, from, !forward);
    const end = again(focus.place, to, forward);
    if (!begin || !end) return;
    anchor.place = begin;
    focus.place = end;
    getSelection()?.setBaseAndExtent(begin.node, begin.offset, end.node, end.offset);
  }

  /** The selected text with that of rows that are not drawn; null where the browser's own is whole. */
  text(items: readonly T[], drawn: readonly T[], rows: Element, wordsOf: (item: T) => string): string | null {
    const selection = getSelection();
    if (!selection?.rangeCount || selection.isCollapsed) return null;
    const whole = selection.getRangeAt(0);
    if (!drawn.length || !whole.intersectsNode(rows)) return null;
    const [from, to] = [this.itemOf(whole.startContainer), this.itemOf(whole.endContainer)];
    const first = from ? items.indexOf(from) : 0;
    const last = to ? items.indexOf(to) : items.length - 1;
    const isDrawn = new Set(drawn);
    if (items.slice(first, last + 1).every((item) => isDrawn.has(item))) return null;
    const parts: (string | Range)[] = [];
    if (!from) parts.push(rangeOf(whole, null, rows.firstElementChild));
    for (let i = first; i <= last; ) {
      const start = i;
      while (i <= last && isDrawn.has(items[i]!)) i++;
      if (i > start) {
        const begin = from && start === first ? null : this.elementOf(items[start]!)!;
        const end = to && i > last ? null : this.elementOf(items[i - 1]!)!;
        parts.push(rangeOf(whole, begin, end, true));
      }
      for (; i <= last && !isDrawn.has(items[i]!); i++) parts.push(wordsOf(items[i]!));
    }
    if (!to) {
      const rest = whole.cloneRange();
      rest.setStartAfter(rows.lastElementChild!);
      parts.push(rest);
    }
    const { anchorNode, anchorOffset, focusNode, focusOffset } = selection;
    const texts = parts.map((part) => (typeof part === "string" ? part : textOf(part, selection)));
    selection.setBaseAndExtent(anchorNode!, anchorOffset, focusNode!, focusOffset);
    return texts.filter(Boolean).join("\n");
  }
}

/** A part of a range: from the beginning of `begin` to the end of `end` (`within`) or to its beginning. */
function rangeOf(whole: Range, begin: Element | null, end: Element | null, within = false): Range {
  const part = whole.cloneRange();
  if (begin) part.setStartBefore(begin);
  if (end && within) part.setEndAfter(end);
  else if (end) part.setEndBefore(end);
  return part;
}

/** The text of a range as the browser would copy it. */
function textOf(range: Range, selection: Selection): string {
  selection.removeAllRanges();
  selection.addRange(range);
  return selection.toString();
}

/** The place of a selection's end, which may be between elements, as one in a text. */
function textPlace(row: Element, node: Node, offset: number): Place {
  if (node instanceof Text) return placeOf(row, node, offset);
  const walker = document.createTreeWalker(row, NodeFilter.SHOW_TEXT);
  const behind = node.childNodes[offset];
  let last: Text | null = null;
  for (let one = walker.nextNode(); one; one = walker.nextNode()) {
    if (behind ? behind === one || behind.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING : false)
      return placeOf(row, one as Text, 0);
    if (!behind && !node.contains(one) && node.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING) break;
    last = one as Text;
  }
  return last ? placeOf(row, last, last.length) : { node: new Text(), offset: 0, near: "", words: "", at: 0 };
}
