// The address is the view: which trace, what is selected in it, how it is filtered. Back and pasted links work.

import { computed, signal } from "@preact/signals";

const address = signal(readAddress());

function readAddress() {
  return typeof location === "undefined" ? { path: "/", search: "" } : { path: location.pathname, search: location.search };
}

export interface Route {
  traceId: string | null; // null: the list
  params: URLSearchParams;
}

export const route = computed<Route>(() => {
  const { path, search } = address.value;
  const found = /^\/traces\/([^/]+)\/?$/.exec(path);
  let traceId: string | null = null;
  try {
    traceId = found ? decodeURIComponent(found[1]!) : null;
  } catch {
    // an address that is none shows the list
  }
  return { traceId, params: new URLSearchParams(search) };
});

export const traceHref = (traceId: string, params: Record<string, string> = {}): string => {
  const search = new URLSearchParams(params).toString();
  return `/traces/${encodeURIComponent(traceId)}${search ? `?${search}` : ""}`;
};

export function go(href: string, how: "push" | "replace" = "push"): void {
  history[how === "push" ? "pushState" : "replaceState"](null, "", href);
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
  go(address.peek().path + (search ? `?${search}` : ""), how);
}

export function param(name: string): string | null {
  return route.value.params.get(name);
}

export function startRouting(): void {
  window.addEventListener("popstate", () => {
    address.value = readAddress();
  });
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element).closest?.("a[href]") as HTMLAnchorElement | null;
    if (!link || link.origin !== location.origin || link.target || link.hasAttribute("download")) return;
    const path = link.pathname;
    if (path !== "/" && !path.startsWith("/traces/")) return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
}
