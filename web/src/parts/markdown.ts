// Markdown of agents, made harmless: parsed by marked, cleaned by DOMPurify, both loaded only when first needed.
//
// Rule 1: nothing it shows makes a request: images become their address as a link, media and frames go.
// Rule 2: links leave by http(s) or mailto only, in a tab of their own that knows nothing of this page.

import { signal } from "@preact/signals";
import { visible } from "../format";

type Render = (text: string) => DocumentFragment;

export const markdown = signal<Render | null>(null);
let loading = false;

export function loadMarkdown(): void {
  if (loading) return;
  loading = true;
  void import("./markdown-render").then(
    ({ render }) => {
      // Once more with other nodes, when there is more to see in a text
      const again = () => {
        kept.clear();
        markdown.value = (text) => render(text, again);
      };
      again();
    },
    () => (loading = false),
  );
}

const MARKS = /[*_`#[\]|~>]|^\s*(?:[-+]|\d+[.)])\s|https?:\/\/|\n\s*\n/m;

/** Whether text would look different as markdown. */
export const hasMarkdown = (text: string): boolean => MARKS.test(text);

const kept = new Map<string, DocumentFragment>();
const MOST_KEPT = 300;

/** The text as markdown, as nodes to be put into the page once. */
export function rendered(text: string, render: Render): Node {
  let fragment = kept.get(text);
  if (!fragment) {
    fragment = render(visible(text));
    if (kept.size >= MOST_KEPT) kept.delete(kept.keys().next().value!);
    kept.set(text, fragment);
  }
  return fragment.cloneNode(true);
}
