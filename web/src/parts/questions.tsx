// Open questions, wherever they are shown; what they are answered with is loaded with the first one.

import { Later, lazily } from "./later";

export const Questions = lazily(
  new Later(() => import("./question")),
  (module) => module.Questions,
  ({ asked }) => asked.length > 0,
);

/** Put the keyboard into the first question that is open: where something is to be allowed, on no answer of it. */
export function focusQuestion(): void {
  const first = document.querySelector<HTMLElement>(".question:not(.over)");
  const into = first?.querySelector<HTMLElement>(":is(button, textarea, select, input:not(.as input))");
  (first?.matches(".leave") ? first : into)?.focus();
}
