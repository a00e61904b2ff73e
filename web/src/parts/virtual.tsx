// A list that draws only the rows on the screen. Rows have any height and may change it at any time.
//
// Rule 1: the text that a person reads does not move. The first row in view is the anchor: after every change (rows
//         above it, heights, another filter) the list is scrolled so that the anchor stands where it stood.
// Rule 2: the list follows its end only while it is scrolled to the end. Scrolling up stops that, reaching the end
//         starts it again.
// Rule 3: heights are kept on the rows (`height`), so that filtering and coming back need no measuring.

import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";

export interface Row {
  id: number | string;
  height: number; // 0: not measured yet
  loose?: boolean; // comes and goes: never the anchor
}

export interface ListHandle {
  /** Scroll a row into view; `center` puts it in the middle even where it is in view already. */
  show(index: number, where?: "nearest" | "center"): void;
  toEnd(): void;
}

interface ListProps<T extends Row> {
  items: readonly T[];
  render: (item: T, index: number) => ComponentChildren;
  estimate: number; // height of a row that was not measured yet, px
  fixed?: boolean; // every row is `estimate` high
  follow?: boolean;
  handle?: RefObject<ListHandle | null>;
  onEnd?: (atEnd: boolean) => void;
  onView?: (drawn: readonly T[], top: T | undefined) => void; // `top`: the anchor
  class?: string;
  label: string;
  role?: string;
  rowRole?: string;
  children?: ComponentChildren; // below the last row
  tabIndex?: number;
  onKeyDown?: (event: KeyboardEvent) => void;
  activeId?: string;
}

const OVERSCAN = 400; // px drawn beyond the edges
const AT_END = 24; // px from the end that still count as there

export function VirtualList<T extends Row>(props: ListProps<T>) {
  const { items, estimate, fixed, follow } = props;
  const box = useRef<HTMLDivElement>(null);
  const space = useRef<HTMLDivElement>(null);
  const rows = useRef<HTMLDivElement>(null);
  const [, redraw] = useState(0);
  const at = useRef({
    anchor: null as T | null,
    shift: 0,
    end: Boolean(follow),
    last: 0,
    start: 0,
    stop: 0,
    width: 0,
  }).current;
  const layout = useRef(new Layout<T>(estimate, Boolean(fixed))).current;

  layout.set(items);
  const view = box.current?.clientHeight ?? 800;
  let top = box.current?.scrollTop ?? 0;
  if (follow && at.end) top = Math.max(0, layout.total - view);
  else if (at.anchor) top = layout.topOf(at.anchor) + at.shift;
  // No further than the list can be scrolled: else other rows would be drawn than are in view, again and again
  top = Math.max(0, Math.min(top, layout.total - view));
  const start = layout.indexAt(top - OVERSCAN);
  const stop = Math.min(items.length, layout.indexAt(top + view + OVERSCAN) + 1);
  at.start = start;
  at.stop = stop;

  function place(): void {
    if (!box.current) return;
    space.current!.style.height = `${layout.total}px`;
    rows.current!.style.top = `${layout.top(at.start)}px`; // no transform: rows that stay are not painted again
    if (fixed && !follow) return; // there is no anchor, and reading scrollTop would lay the page out now
    const wanted = follow && at.end ? box.current.scrollHeight : at.anchor ? layout.topOf(at.anchor) + at.shift : null;
    if (wanted !== null && Math.abs(box.current.scrollTop - wanted) > 0.5) {
      box.current.scrollTop = wanted;
      at.last = box.current.scrollTop;
    }
  }

  function measure(): boolean {
    if (fixed || !rows.current) return false;
    let changed = false;
    const drawn = rows.current.children;
    for (let i = 0; i < drawn.length; i++) {
      const item = items[start + i];
      const height = (drawn[i] as HTMLElement).getBoundingClientRect().height;
      if (item && height && Math.abs(item.height - height) > 0.25) {
        item.height = height;
        layout.changed(start + i);
        changed = true;
      }
    }
    return changed;
  }

  /** After rows were measured: draw again if other rows are in view now. */
  function settle(): void {
    place();
    if (fixed || !box.current) return;
    const { scrollTop, clientHeight } = box.current!;
    if (
      layout.indexAt(scrollTop) < at.start ||
      (layout.indexAt(scrollTop + clientHeight) >= at.stop && at.stop < items.length)
    )
      redraw((n) => n + 1);
  }

  const live = useRef({ measure, settle });
  live.current = { measure, settle };

  useLayoutEffect(() => {
    measure();
    settle();
    props.onView?.(items.slice(at.start, at.stop), at.anchor ?? items.at(-1));
  });

  const observer = useMemo(
    () =>
      new ResizeObserver((entries) => {
        const width = box.current?.clientWidth ?? 0;
        if (width !== at.width && at.width && entries.some((entry) => entry.target === box.current)) {
          for (const item of layout.items) item.height = 0; // text wraps elsewhere
          layout.changed(0);
        }
        at.width = width;
        live.current.measure();
        live.current.settle();
      }),
    [],
  );
  useEffect(() => {
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);
  const watched = useRef(new Set<Element>()).current;
  useEffect(
    () => {
      if (fixed || !box.current) return;
      const drawn = new Set<Element>(rows.current!.children);
      for (const row of watched) if (!drawn.has(row) && watched.delete(row)) observer.unobserve(row);
      for (const row of drawn) {
        if (watched.has(row)) continue;
        watched.add(row);
        observer.observe(row);
      }
    },
    fixed ? [] : undefined,
  ); // rows of one fixed height need no watching

  function remember(scrollTop: number): void {
    if (fixed) return; // a list that sorts itself stays where it is while its rows move
    let index = layout.indexAt(scrollTop);
    while (items[index]?.loose && index + 1 < items.length) index++;
    at.anchor = items[index] ?? null;
    at.shift = scrollTop - layout.top(index);
  }

  function scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = box.current!;
    const atEnd = scrollHeight - scrollTop - clientHeight < AT_END;
    if (atEnd !== at.end && (atEnd || scrollTop < at.last - 1)) {
      at.end = atEnd;
      props.onEnd?.(atEnd);
    }
    at.last = scrollTop;
    remember(scrollTop);
    const from = layout.indexAt(scrollTop - OVERSCAN / 2);
    const to = layout.indexAt(scrollTop + clientHeight + OVERSCAN / 2);
    if (from < at.start || to >= at.stop) redraw((n) => n + 1);
  }

  const handle: ListHandle = {
    show(index, where = "nearest") {
      const element = box.current!;
      const rowTop = layout.top(index);
      const rowBottom = layout.top(index + 1);
      const height = element.clientHeight;
      let target = element.scrollTop;
      if (where === "center") target = rowTop - Math.max(0, (height - (rowBottom - rowTop)) / 3);
      else if (rowTop < target) target = rowTop;
      else if (rowBottom > target + height) target = rowBottom - height;
      else return;
      target = Math.max(0, target);
      at.end = false;
      if (fixed) {
        element.scrollTop = target;
        return;
      }
      remember(target);
      if (where === "center") {
        // Rows between may be measured only now: hold on to the row itself
        at.anchor = items[index] ?? null;
        at.shift = target - rowTop;
      }
      props.onEnd?.(false);
      redraw((n) => n + 1);
    },
    toEnd() {
      at.end = true;
      props.onEnd?.(true);
      redraw((n) => n + 1);
    },
  };
  if (props.handle) props.handle.current = handle;
  // The scrolled element is the tree or the body of the table itself, or a region with the list in it
  const outer = props.role ?? "region";

  return (
    <div
      ref={box}
      class={`scroll ${props.class ?? ""}`}
      onScroll={scrolled}
      tabIndex={props.tabIndex ?? 0}
      role={outer as "region"}
      aria-label={props.label}
      aria-activedescendant={props.activeId}
      onKeyDown={props.onKeyDown}
    >
      <div ref={space} class="space" role="presentation">
        <div ref={rows} class="rows" role={props.role ? "presentation" : "list"}>
          {items.slice(start, stop).map((item, i) => (
            <div
              key={item.id}
              role={(props.rowRole ?? (props.role ? undefined : "listitem")) as "listitem"}
              aria-setsize={props.role ? undefined : items.length}
              aria-posinset={props.role ? undefined : start + i + 1}
            >
              {props.render(item, start + i)}
            </div>
          ))}
        </div>
      </div>
      {props.children}
    </div>
  );
}

/** The places where rows begin: sums of heights, computed again from the first that changed. */
class Layout<T extends Row> {
  items: readonly T[] = [];
  #tops = new Float64Array(1);
  #valid = 0; // tops[0..valid] hold
  #index = new Map<number | string, number>();
  #indexed: readonly T[] | null = null;

  constructor(
    private readonly estimate: number,
    private readonly fixed: boolean,
  ) {}

  set(items: readonly T[]): void {
    const before = this.items;
    this.items = items;
    // Rows are only ever appended to one array; a new array is another list
    if (items !== before || items.length < this.#valid)
      this.#valid =
        before[0] === items[0] && items.length > before.length && items[before.length - 1] === before[before.length - 1]
          ? Math.min(this.#valid, before.length)
          : 0;
  }

  changed(index: number): void {
    this.#valid = Math.min(this.#valid, index);
  }

  #sum(upTo: number): void {
    // Here and not where the list is set: rows are appended to it also between two drawings
    if (this.#tops.length <= upTo) {
      const more = new Float64Array(Math.max(upTo + 1, this.#tops.length * 2));
      more.set(this.#tops);
      this.#tops = more;
    }
    for (let i = this.#valid; i < upTo; i++)
      this.#tops[i + 1] = this.#tops[i]! + (this.items[i]!.height || this.estimate);
    if (upTo > this.#valid) this.#valid = upTo;
  }

  top(index: number): number {
    if (this.fixed) return index * this.estimate;
    const i = Math.max(0, Math.min(index, this.items.length));
    this.#sum(i);
    return this.#tops[i]!;
  }

  get total(): number {
    return this.top(this.items.length);
  }

  indexAt(y: number): number {
    if (this.fixed) return Math.max(0, Math.min(this.items.length - 1, Math.floor(y / this.estimate)));
    this.#sum(this.items.length);
    let low = 0;
    let high = this.items.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#tops[middle]! <= y) low = middle;
      else high = middle - 1;
    }
    return Math.max(0, low);
  }

  /** The place where a row begins, or would begin if it were in the list. */
  topOf(item: T): number {
    const i = this.#find(item);
    return i >= 0 ? this.top(i) : Math.min(this.total, this.#tops[0]!);
  }

  #find(item: T): number {
    const { items } = this;
    if (typeof item.id === "number") {
      // Sorted by id: the row itself or the nearest before it
      let low = 0;
      let high = items.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if ((items[middle]!.id as number) <= item.id) low = middle + 1;
        else high = middle;
      }
      return low - 1;
    }
    if (this.#indexed !== items) {
      this.#index = new Map(items.map((one, i) => [one.id, i]));
      this.#indexed = items;
    }
    return this.#index.get(item.id) ?? -1;
  }
}
