// Text that streams, put into the page piece by piece.
//
// Rule: what stands in the page stays. New text is appended to the last text node, or begins a block of its own behind
//       a line's end; so neither a selection nor the place that one reads is lost, and a piece costs no more at the
//       end of a long text than at its beginning.

import { visible } from "../format";

const BLOCK = 4_000; // characters, after which a new block begins at the next line, and
const LONGEST = 20_000; // those of a block without a line's end

export class Growing {
  #raw = "";
  #last: Text | null = null;

  /** Show `text` in `box`. */
  show(box: HTMLElement, text: string): void {
    if (!text.startsWith(this.#raw)) {
      this.#raw = "";
      this.#last = null;
      box.replaceChildren();
    }
    const from = this.#raw.length;
    const to = wholeUntil(text);
    if (to <= from) return;
    this.#raw = text.slice(0, to);
    this.#append(box, shownBehind(text, from, to));
  }

  #append(box: HTMLElement, text: string): void {
    let rest = text;
    while (rest) {
      const last = this.#last;
      if (!last || (last.length >= BLOCK && last.data.endsWith("\n")) || last.length >= LONGEST) {
        this.#last = document.createTextNode("");
        const block = document.createElement("div");
        block.append(this.#last);
        box.append(block);
        continue;
      }
      const line = rest.indexOf("\n", Math.max(0, BLOCK - last.length - 1));
      const most = Math.min(line < 0 ? rest.length : line + 1, LONGEST - last.length);
      last.appendData(rest.slice(0, most));
      rest = rest.slice(most);
    }
  }
}

/** The length of the text without what may still become part of another sign. */
function wholeUntil(text: string): number {
  const last = text.charCodeAt(text.length - 1);
  return last === 13 || (last >= 0xd800 && last < 0xdc00) ? text.length - 1 : text.length;
}

/** The characters `from` to `to` as they are shown behind those before them. */
export function shownBehind(text: string, from: number, to: number): string {
  const before = text.slice(Math.max(0, from - (/[\udc00-\udfff]/.test(text[from - 1] ?? "") ? 2 : 1)), from);
  return visible(before + text.slice(from, to)).slice(visible(before).length);
}
