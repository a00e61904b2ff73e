// Whether this page is older than its server: after an upgrade the server's page has another script.

import { signal } from "@preact/signals";
import { HOME } from "./route";

/** Whether the server has a newer page than this one. */
export const outdated = signal(false);

const SCRIPT = /<script[^>]+type="module"[^>]+src="([^"]+)"/;
// What the page was loaded with; in development and in a saved page there is none
const own =
  typeof document === "undefined" ? null : document.querySelector("script[type=module][src]")?.getAttribute("src");

/** The script of a page, without the way to it. */
export const scriptOf = (html: string): string | undefined => SCRIPT.exec(html)?.[1]?.split("/").at(-1);

/** Look again; after the server was away, it may be another version. */
export async function lookForNewer(): Promise<void> {
  if (!own || outdated.peek()) return;
  try {
    const answer = await fetch(HOME, { cache: "no-cache", headers: { Accept: "text/html" } });
    const script = answer.ok ? scriptOf(await answer.text()) : undefined;
    if (script && script !== own.split("/").at(-1)) outdated.value = true;
  } catch {
    // the next time
  }
}
