// A menu below its button: it closes when it is left, and with Escape.

import type { ComponentChildren } from "preact";

export function Menu({ class: look, children }: { class: string; children: ComponentChildren }) {
  return (
    <details
      class={look}
      onFocusOut={(event) =>
        event.currentTarget.contains(event.relatedTarget as Node | null) || event.currentTarget.removeAttribute("open")
      }
      onKeyDown={(event) => {
        if (event.key !== "Escape") return;
        event.stopPropagation();
        event.currentTarget.removeAttribute("open");
        event.currentTarget.querySelector("summary")!.focus();
      }}
    >
      {children}
    </details>
  );
}
