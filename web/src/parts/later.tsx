// What the first rows of a page do not need: it is loaded when it is first shown or asked for, else when the page has
// nothing else to do.
//
// Rule: all of it is loaded soon, so that it is there when the server has gone, or was upgraded and has other files.

import { signal } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect } from "preact/hooks";

const IDLE_MS = 1_000;
const all: Later<unknown>[] = [];

/** A module that is loaded later. */
export class Later<M> {
  readonly module = signal<M | null>(null);
  readonly failed = signal(false);
  #loading: Promise<M> | null = null;

  constructor(private readonly load: () => Promise<M>) {
    all.push(this as Later<unknown>);
  }

  /** The module. Raises an error that a person can read where it can't be loaded; the next call tries again. */
  get(): Promise<M> {
    this.#loading ??= this.load().then(
      (module) => {
        this.failed.value = false;
        this.module.value = module;
        return module;
      },
      () => {
        this.#loading = null;
        this.failed.value = true;
        throw new Error("a part of this page could not be loaded from the server: reload it");
      },
    );
    return this.#loading;
  }
}

/** A component of a module that is loaded later; until then there is nothing, and nothing is asked for unless `now`. */
export function lazily<M, P extends object>(
  later: Later<M>,
  pick: (module: M) => ComponentType<P>,
  now: (props: P) => boolean = () => true,
): ComponentType<P> {
  return function Lazily(props: P) {
    const module = later.module.value;
    const asked = !module && now(props);
    useEffect(() => {
      if (asked) later.get().catch(() => undefined); // said below
    }, [asked]);
    if (module) {
      const Part = pick(module);
      return <Part {...props} />;
    }
    if (!asked || !later.failed.value) return null;
    return (
      <p class="nothing" role="alert">
        A part of this page could not be loaded.{" "}
        <button class="link" onClick={() => location.reload()}>
          Reload
        </button>
      </p>
    );
  };
}

/** Load all of it as soon as the page is idle. */
export function loadLater(): void {
  const load = () => {
    for (const later of all) later.get().catch(() => undefined); // tried again when it is shown
  };
  setTimeout(() => (window.requestIdleCallback ?? setTimeout)(load, { timeout: IDLE_MS }), IDLE_MS);
}
