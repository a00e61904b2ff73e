// The part of markdown.ts that is loaded lazily.

import DOMPurify from "dompurify";
import { Marked } from "marked";

const marked = new Marked({ gfm: true, breaks: true, async: false });
// HTML in an agent's text is something it says, not something to draw
const escaped = (text: string) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
marked.use({
  renderer: {
    html: ({ text }) => escaped(text),
    // Below the page's own headings
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  },
});
const purify = DOMPurify(window);

purify.addHook("uponSanitizeElement", (node, data) => {
  if (data.tagName !== "img") return;
  const image = node as unknown as HTMLImageElement;
  const address = image.getAttribute("src") ?? "";
  const place = document.createElement(/^https?:\/\//i.test(address) ? "a" : "span");
  place.textContent = `▨ ${image.getAttribute("alt") || "image"}`;
  if (place instanceof HTMLAnchorElement) place.setAttribute("href", address);
  image.replaceWith(place);
});
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
  const address = node.getAttribute("href");
  if (address) node.setAttribute("title", address);
});

export function render(text: string): DocumentFragment {
  return purify.sanitize(marked.parse(text) as string, {
    RETURN_DOM_FRAGMENT: true,
    ALLOWED_TAGS: [
      ..."a b blockquote br code del dd dl dt em h1 h2 h3 h4 h5 h6 hr i img kbd li ol p pre s strong sub sup".split(
        " ",
      ),
      ..."table tbody td th thead tr ul span details summary".split(" "),
    ],
    ALLOWED_ATTR: ["href", "src", "alt", "title", "align", "start"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
  });
}
