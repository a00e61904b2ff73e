// The part of markdown.ts that is loaded lazily.

import DOMPurify from "dompurify";
import { parse } from "./markdown-parse";

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

purify.addHook("uponSanitizeAttribute", (node, data) => {
  // The language of a block of code, as the parser has written it: text of agents has no tags of its own
  if (node.tagName === "CODE" && data.attrName === "class" && LANGUAGE.test(data.attrValue)) data.forceKeepAttr = true;
});
const LANGUAGE = /^language-([\w+#-]{1,20})$/;

type Coloured = (code: string, language: string) => string | null;
let colour: Coloured | null = null;
let asked = false;

/** Blocks of code get a button to copy them, and their colours; `again` is run once those can be made. */
function dress(nodes: DocumentFragment, again: () => void): void {
  for (const code of nodes.querySelectorAll("pre > code")) {
    const language = LANGUAGE.exec(code.className)?.[1];
    code.removeAttribute("class");
    const button = document.createElement("button");
    button.className = "link copyit";
    button.title = "Copy the code";
    button.textContent = "Copy";
    code.before(button);
    if (!language) continue;
    const html = colour?.(code.textContent, language);
    if (html) code.replaceChildren(purify.sanitize(html, SPANS));
    else if (!colour && !asked) {
      asked = true;
      import("./code").then(
        (module) => {
          colour = module.coloured;
          again();
        },
        () => {
          asked = false;
        },
      );
    }
  }
}
const SPANS = { RETURN_DOM_FRAGMENT: true as const, ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"] };

/** The text as nodes; as plain text if no markdown can be made of it. */
export function render(text: string, again: () => void): DocumentFragment {
  try {
    const nodes = sanitised(parse(text));
    dress(nodes, again);
    return nodes;
  } catch {
    const fragment = document.createDocumentFragment();
    const plain = document.createElement("div");
    plain.className = "plain";
    plain.textContent = text;
    fragment.append(plain);
    return fragment;
  }
}

function sanitised(html: string): DocumentFragment {
  return purify.sanitize(html, {
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
