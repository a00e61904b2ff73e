// Keys: the parts on the page register their keys; `?` shows them all.
//
// Rule: keys do nothing while a person types, and nothing with Ctrl, Alt or Cmd. Enter and the space bar press the
//       focused button or link.

import { signal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";

export interface Key {
  keys: string; // as KeyboardEvent.key, several with blanks between
  does: string;
  run: (event: KeyboardEvent) => void;
}

const groups: { title: string; keys: () => Key[] }[] = [];
export const helpOpen = signal(false);

export function useKeys(title: string, keys: Key[]): void {
  const current = useRef(keys);
  current.current = keys;
  useLayoutEffect(() => {
    const group = { title, keys: () => current.current };
    groups.unshift(group);
    return () => void groups.splice(groups.indexOf(group), 1);
  }, [title]);
}

export const allKeys = (): { title: string; keys: Key[] }[] =>
  groups.map((group) => ({ title: group.title, keys: group.keys() }));

export function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))
  );
}

/** Whether Enter and the space bar do something there by themselves. */
function isPressed(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest("a[href], button, summary") !== null;
}

export function startKeys(): void {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (event.key === "Escape" && document.querySelector("dialog[open]")) return; // it closes the dialog
    if ((event.key === "Enter" || event.key === " ") && isPressed(event.target)) return;
    for (const group of groups) {
      for (const key of group.keys()) {
        if (!key.keys.split(" ").includes(event.key)) continue;
        event.preventDefault();
        key.run(event);
        return;
      }
    }
  });
}
