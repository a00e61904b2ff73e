// Whether the pointer or the focus is in a part of the page: then what is in it keeps its place.

import type { RefObject } from "preact";
import { useEffect, useState } from "preact/hooks";

/**
 * Tell where the pointer is in an element (its place on the screen, px), and null when it has left. It has not left
 * where it rests and the element was moved away from under it.
 */
export function onPointer(element: HTMLElement, tell: (y: number | null) => void, signal: AbortSignal): void {
  let at: readonly [number, number] | null = null;
  const leave = () => {
    if (at) tell(null);
    at = null;
  };
  const options = { signal, passive: true };
  element.addEventListener(
    "pointermove",
    ({ clientX, clientY }) => {
      at = [clientX, clientY];
      tell(clientY);
    },
    options,
  );
  element.addEventListener(
    "pointerleave",
    ({ clientX, clientY }) => (clientX !== at?.[0] || clientY !== at[1]) && leave(),
    options,
  );
  window.addEventListener(
    "pointermove",
    ({ target, clientX, clientY }) =>
      (clientX !== at?.[0] || clientY !== at[1]) && !element.contains(target as Node) && leave(),
    options,
  );
}

/** Whether the pointer, or the keyboard's focus, is in the element. */
export function useInside(box: RefObject<HTMLElement | null>, on: unknown): boolean {
  const [inside, setInside] = useState(false);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    let [pointer, focus] = [false, false];
    const over = new AbortController();
    const listen = (name: string, run: (event: Event) => void) =>
      element.addEventListener(
        name,
        (event) => {
          run(event);
          setInside(pointer || focus);
        },
        { signal: over.signal },
      );
    const point = (y: number | null) => {
      pointer = y !== null;
      setInside(pointer || focus);
    };
    onPointer(element, point, over.signal);
    // A button that was clicked has the focus too, long after the pointer has left
    listen("focusin", (event) => (focus = (event.target as Element).matches(":focus-visible")));
    listen("focusout", (event) => (focus &&= element.contains((event as FocusEvent).relatedTarget as Node | null)));
    return () => {
      over.abort();
      setInside(false);
    };
  }, [on]);
  return inside;
}
