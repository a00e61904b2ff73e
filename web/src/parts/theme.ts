// Light or dark: the system's choice, unless the person chose in this browser.

import { signal } from "@preact/signals";
import { store, stored } from "../net/storage";

const KEY = "tracewatch.theme";

export type Theme = "system" | "light" | "dark";
const NEXT: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };

export const theme = signal<Theme>("system");

export function startTheme(): void {
  const found = stored(KEY);
  apply(found === "light" || found === "dark" ? found : "system");
}

export function nextTheme(): void {
  apply(NEXT[theme.peek()]);
  store(KEY, theme.peek());
}

function apply(chosen: Theme): void {
  theme.value = chosen;
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}
