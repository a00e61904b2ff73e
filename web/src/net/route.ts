// The page's address: where the server is mounted, and the view: which trace, the selection in it, the filter. So the
// browser's back button and pasted links work.
//
// Rule: every address that the page uses begins with PREFIX. The page's own links are relative, so it is the address
//       of this script that says what PREFIX is; the server need not know.

import { computed, signal } from "@preact/signals";
import { arrived, visit } from "./places";

const onServer =
  !import.meta.env.DEV &&
  typeof location !== "undefined" &&
  location.protocol !== "file:" &&
  import.meta.url.startsWith("http");

/** Where the server is mounted, or a proxy puts it: "" at the root of its host, else as "/tracewatch". */
export const PREFIX = onServer ? new URL(/* @vite-ignore */ "..", import.meta.url).pathname.replace(/\/$/, "") : "";

// A page that is one file has its address behind the #
const behindHash = typeof location !== "undefined" && location.protocol === "file:";
const address = signal(readAddress());

function readAddress() {
  if (typeof location === "undefined") return { path: "/", search: "" };
  if (!behindHash) return { path: location.pathname.slice(PREFIX.length) || "/", search: location.search };
  const [path, search] = location.hash.slice(1).split("?");
  return { path: path || "/", search: search ? `?${search}` : "" };
}

export interface Route {
  traceId: string | null; // null: the list, or the search
  searching: boolean;
  params: URLSearchParams;
}

export const route = computed<Route>(() => {
  const { path, search } = address.value;
  const found = /^\/traces\/([^/]+)\/?$/.exec(path);
  let traceId: string | null = null;
  try {
    traceId = found ? decodeURIComponent(found[1]!) : null;
  } catch {
    // an address that can't be decoded shows the list
  }
  return { traceId, searching: /^\/search\/?$/.test(path), params: new URLSearchParams(search) };
});

export const traceHref = (traceId: string, params: Record<string, string> = {}): string => {
  const search = new URLSearchParams(params).toString();
  return `${PREFIX}/traces/${encodeURIComponent(traceId)}${search ? `?${search}` : ""}`;
};

/** The address of the list, and of what passes a filter in it. */
export const HOME = `${PREFIX}/`;
export const searchHref = (q: string, within?: string): string =>
  `${PREFIX}/search?${new URLSearchParams(within === undefined ? { q } : { q, in: within })}`;
export const listHref = (filter: string): string => `${HOME}?${new URLSearchParams({ f: filter })}`;

export function go(href: string, how: "push" | "replace" = "push"): void {
  visit(behindHash ? `#${href}` : href, how);
  address.value = readAddress();
}

/** Change parameters of the address; null removes one. */
export function setParams(changes: Record<string, string | null>, how: "push" | "replace" = "replace"): void {
  const params = new URLSearchParams(address.peek().search);
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === "") params.delete(key);
    else params.set(key, value);
  }
  const search = params.toString();
  go(PREFIX + address.peek().path + (search ? `?${search}` : ""), how);
}

export function param(name: string): string | null {
  return route.value.params.get(name);
}

/** A link that can be pasted elsewhere. */
export const wholeLink = (href: string): string =>
  behindHash ? `${location.href.split("#")[0]}#${href}` : location.origin + href;

export function startRouting(): void {
  // The browser resolves this link again whenever the address changes; by then it leads elsewhere
  const icon = document.querySelector<HTMLLinkElement>("link[rel=icon]");
  icon?.setAttribute("href", icon.href);
  window.addEventListener("popstate", () => {
    arrived();
    address.value = readAddress();
  });
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey)
      return;
    const link = (event.target as Element).closest?.("a[href]") as HTMLAnchorElement | null;
    const href = link?.getAttribute("href") ?? "";
    if (
      !link ||
      link.target ||
      link.hasAttribute("download") ||
      !(
        href === HOME ||
        href.startsWith(`${HOME}?`) ||
        href.startsWith(`${PREFIX}/search`) ||
        href.startsWith(`${PREFIX}/traces/`)
      )
    )
      return;
    event.preventDefault();
    go(href);
  });
}
