// Light or dark: the system's choice unless one was made here.

import { signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";
const NEXT: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };

function stored(): Theme {
  try {
    const found = localStorage.getItem("tracewatch.theme");
    return found === "light" || found === "dark" ? found : "system";
  } catch {
    return "system";
  }
}

export const theme = signal<Theme>("system");

export function startTheme(): void {
  apply(stored());
}

export function nextTheme(): void {
  apply(NEXT[theme.peek()]);
  try {
    localStorage.setItem("tracewatch.theme", theme.peek());
  } catch {
    // it holds until the page is left
  }
}

function apply(chosen: Theme): void {
  theme.value = chosen;
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}
