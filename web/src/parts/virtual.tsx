// A list that draws only the rows on the screen. Rows have any height and may change it at any time.
//
// Rule 1: the text that a person reads does not move. The first row in view is the anchor, and within a tall row the
//         text at its place: after every change (rows above it, heights, another filter, a message that becomes
//         markdown) the list is scrolled so that the anchor stands where it stood. A row that is folded above its
//         place keeps its end.
// Rule 2: the list follows its end only while it is scrolled to the end. The first movement up stops that, however
//         small it is; a selection in the list stops it too. Moving down to the end starts it again. While a button or
//         finger is down, nothing is followed.
// Rule 3: a list of few rows that have one height is drawn whole, so that the browser's own search finds all of it.
// Rule 4: heights are kept on the rows (`height`), so that filtering and coming back need no measuring.

import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { onPointer } from "./inside";
import { Layout, type Row } from "./layout";
import { again, type Place, placeUnder, redrawn, topOf } from "./place";
import { ListSelection } from "./selection";

export interface ListHandle {
  /** Scroll a row into view; `center` puts it in the middle even where it is in view already. */
  show(index: number, where?: "nearest" | "center"): void;
  toEnd(): void;
  toTop(): void;
  /** Go to a place that was left, as soon as its row is in the list. */
  restore(place: ListPlace): void;
  readonly restoring: boolean;
}

/** The row at the top of the view, and how far the view's top is below its own, in px. */
export interface ListPlace {
  id: number | string;
  shift: number;
}

interface ListProps<T extends Row> {
  items: readonly T[];
  render: (item: T, index: number) => ComponentChildren;
  estimate: number; // height of a row that was not measured yet, px
  fixed?: boolean; // every row is `estimate` high
  anchored?: boolean; // of fixed rows: the row under the pointer, or the first in view, stays where it is
  follow?: boolean;
  place?: ListPlace | null; // to begin with
  handle?: RefObject<ListHandle | null>;
  onEnd?: (atEnd: boolean) => void;
  onPlace?: (place: ListPlace | null) => void; // where the person has scrolled to; null: the end, or else the top
  onView?: (drawn: readonly T[], top: T | undefined) => void; // `top`: the anchor
  wordsOf?: (item: T) => string; // of a row that is not drawn, for copying
  class?: string;
  label: string;
  role?: string;
  rowRole?: string;
  tabIndex?: number;
  onKeyDown?: (event: KeyboardEvent) => void;
  activeId?: string;
}

const OVERSCAN = 400; // px drawn beyond the edges
const FEW = 150; // rows
const AT_END = 24; // px from the end that count as there for who comes down to it
const LINE = 20; // px of a wheel that counts in lines
const LATELY_MS = 200;
const TALL = 120; // px; in a higher row its text is the anchor
const UP_KEYS = new Set(["ArrowUp", "PageUp", "Home"]);
const SCROLL_KEYS = new Set([...UP_KEYS, "ArrowDown", "PageDown", "End", " "]);

export function VirtualList<T extends Row>(props: ListProps<T>) {
  const box = useRef<HTMLDivElement>(null);
  const space = useRef<HTMLDivElement>(null);
  const rows = useRef<HTMLDivElement>(null);
  const [, redraw] = useState(0);
  const view = useRef<View<T> | null>(null);
  view.current ??= new View(props, { box, space, rows }, () => redraw((n) => n + 1));
  const list = view.current;
  const drawn = list.next(props);
  if (props.handle) props.handle.current = list;

  useLayoutEffect(() => {
    list.drawn();
  });
  useEffect(() => list.start(), []);
  useEffect(() => list.watch(), props.fixed ? [] : undefined);
  const { items, role } = props;
  // The scrolled element is the tree or the body of the table itself, or a region with the list in it
  const outer = role ?? "region";
  return (
    <div
      ref={box}
      class={`scroll ${props.class ?? ""}`}
      onScroll={list.scrolled}
      tabIndex={props.tabIndex ?? 0}
      role={outer as "region"}
      aria-label={props.label}
      aria-activedescendant={props.activeId}
      onKeyDown={props.onKeyDown}
    >
      <div ref={space} class="space" role="presentation">
        <div ref={rows} class="rows" role={role ? "presentation" : "list"}>
          {drawn.map(({ item, index, aside }) => (
            <div
              key={item.id}
              role={(props.rowRole ?? (role ? undefined : "listitem")) as "listitem"}
              aria-setsize={role ? undefined : items.length}
              aria-posinset={role ? undefined : index + 1}
              class={aside === null ? undefined : "aside"}
              style={aside === null ? undefined : { top: `${aside}px` }}
            >
              {props.render(item, index)}
            </div>
          ))}
        </div>
      </div>
    </div>
  );
}

interface Drawn<T> {
  item: T;
  index: number;
  aside: number | null; // px; the place of a row that is drawn out of its turn, since a selection ends in it
}

interface Elements {
  box: RefObject<HTMLDivElement | null>;
  space: RefObject<HTMLDivElement | null>;
  rows: RefObject<HTMLDivElement | null>;
}

/** Where a list is scrolled to, and the rows that it draws there. */
class View<T extends Row> implements ListHandle {
  readonly #layout: Layout<T>;
  readonly #selection = new ListSelection<T>(
    (item) => this.#elementOf(item),
    (node) => this.#itemOf(node),
  );
  readonly #observer = new ResizeObserver((entries) => this.#resized(entries));
  readonly #watched = new Set<Element>();
  #drawn: Drawn<T>[] = [];
  #drawing = false; // what is drawn is not in the page yet, or was not measured
  #start = 0;
  #stop = 0;
  #anchor: T | null = null;
  #shift = 0; // px of the view's top below that of the anchor
  #text: { item: T; place: Place; within: number } | null = null; // `within`: px below the row's top
  #atEnd: boolean;
  #wanted: ListPlace | null; // to be restored: until the list is long enough for it, or the person moves
  #found = false; // its row is there
  #last = 0; // scrollTop, as it was last known
  readonly #heights: [at: number, height: number][] = []; // px; what they were lately
  #width = 0;
  #top = 0; // px; of the box on the screen
  #upward = false; // the person's last movement
  #pressed = false; // a button or finger is down in the list
  #pointer: number | null = null; // px below the top of the box
  #finger = 0; // px; of the last touch

  constructor(
    private props: ListProps<T>,
    private readonly elements: Elements,
    private readonly redraw: () => void,
  ) {
    this.#atEnd = Boolean(props.follow) && !props.place;
    this.#wanted = props.place ?? null;
    this.#layout = new Layout<T>(props.estimate, Boolean(props.fixed));
  }

  get #box(): HTMLDivElement | null {
    return this.elements.box.current;
  }

  get #follows(): boolean {
    return Boolean(this.props.follow) && this.#atEnd && !this.#pressed;
  }

  get #still(): boolean {
    return Boolean(this.props.fixed) && !this.props.anchored; // its rows keep their order and need no anchor
  }

  // --- drawing ---

  /** The rows to draw now. */
  next(props: ListProps<T>): Drawn<T>[] {
    this.props = props;
    this.#drawing = true;
    const { items } = props;
    const layout = this.#layout;
    this.#catchUp();
    layout.set(items);
    if (this.#wanted) this.#restored(this.#wanted);
    const height = this.#box?.clientHeight ?? 800;
    let top = this.#box ? this.#box.scrollTop : 0;
    if (this.#follows) top = Math.max(0, layout.total - height);
    else if (this.#anchor) top = layout.topOf(this.#anchor) + this.#shift;
    // No further than the list can be scrolled: else other rows would be drawn than are in view, again and again
    top = Math.max(0, Math.min(top, layout.total - height));
    const whole = props.fixed && items.length <= FEW;
    const start = whole ? 0 : layout.indexAt(top - OVERSCAN);
    const stop = whole ? items.length : Math.min(items.length, layout.indexAt(top + height + OVERSCAN) + 1);
    this.#start = start;
    this.#stop = stop;
    const drawn = items.slice(start, stop).map((item, i): Drawn<T> => ({ item, index: start + i, aside: null }));
    for (const item of this.#selection.rows) {
      const index = layout.find(item);
      if (items[index] !== item || (index >= start && index < stop)) continue;
      const aside = { item, index, aside: layout.top(index) - layout.top(start) };
      if (index < start) drawn.splice(drawn[0]?.aside != null && drawn[0].index < index ? 1 : 0, 0, aside);
      else if (drawn.at(-1)?.aside != null && drawn.at(-1)!.index > index) drawn.splice(-1, 0, aside);
      else drawn.push(aside);
    }
    this.#drawn = drawn;
    return drawn;
  }

  /** The rows are in the page. */
  drawn(): void {
    this.#drawing = false;
    this.#measure();
    this.#settle();
    const { items, onView } = this.props;
    onView?.(items.slice(this.#start, this.#stop), this.#anchor ?? items.at(-1));
  }

  /**
   * The person may have scrolled since the browser last said so: that is taken before rows and heights change, so that
   * no place is taken back, or for one among other rows. Rows drawn anew may also have made the list so short that the
   * browser had to move it up.
   */
  #catchUp(): void {
    const box = this.#box;
    if (!box || this.#still) return;
    const by = box.scrollTop - this.#last;
    const cut = by < 0 && box.scrollHeight - box.scrollTop - box.clientHeight <= 1;
    if (Math.abs(by) > 0.5 && !cut) this.#moved();
  }

  #place(): void {
    const { space, rows } = this.elements;
    const box = this.#box;
    if (!box) return;
    const layout = this.#layout;
    const held = this.#anchor && layout.topOf(this.#anchor) + this.#shift;
    const pad = this.props.anchored && this.#pointer !== null && held !== null ? held + box.clientHeight : 0;
    const height = Math.max(layout.total, pad);
    space.current!.style.height = `${height}px`;
    rows.current!.style.top = `${layout.top(this.#start)}px`; // no transform: rows that stay are not painted again
    if (this.#still) return; // reading scrollTop would lay the page out now
    const wanted = this.#follows ? box.scrollHeight : held;
    if (wanted !== null && Math.abs(box.scrollTop - wanted) > 0.5) box.scrollTop = wanted;
    this.#last = box.scrollTop;
    if (this.#found && held !== null && Math.abs(this.#last - held) <= 1) this.#wanted = null;
    if (this.#heights.at(-1)?.[1] !== height) this.#heights.push([performance.now(), height]);
    this.#forget();
  }

  /** Whether the list ended there a moment ago: who comes down to its end stops there, and it goes on growing. */
  #wasEnd(bottom: number): boolean {
    this.#forget();
    return this.#heights.some(([, height]) => Math.abs(height - bottom) <= 1);
  }

  /** Keep only the heights of the last moments, and the one before them. */
  #forget(): void {
    const since = performance.now() - LATELY_MS;
    const old = this.#heights.findLastIndex(([at]) => at < since);
    if (old > 0) this.#heights.splice(0, old);
  }

  #measure(): void {
    if (this.props.fixed || !this.elements.rows.current) return;
    const kept = this.#keepText();
    const { children } = this.elements.rows.current;
    for (const [i, { item, index }] of this.#drawn.entries()) {
      const height = children[i]?.getBoundingClientRect().height;
      if (!height || Math.abs(item.height - height) <= 0.25) continue;
      // Folded to less than what was above the view: what follows it stays in place
      if (item === this.#anchor && !kept && this.#shift > height) this.#shift += height - item.height;
      item.height = height;
      this.#layout.changed(index);
    }
  }

  /** Go with the text that is read, where text above it in the same row was drawn anew. False if it is not known. */
  #keepText(): boolean {
    const kept = this.#text;
    const row = kept && kept.item === this.#anchor ? this.#elementOf(kept.item) : undefined;
    const place = row && again(kept!.place, row);
    if (!place) return false;
    const within = topOf(place) - row.getBoundingClientRect().top;
    if (Math.abs(within - kept!.within) > 0.5) this.#shift += within - kept!.within;
    this.#text = { item: kept!.item, place, within };
    return true;
  }

  /** After rows were measured: draw again if other rows are in view now. */
  #settle(): void {
    this.#selection.keep();
    this.#place();
    const box = this.#box;
    if (this.#still || !box) return;
    const { scrollTop, clientHeight } = box;
    if (
      this.#layout.indexAt(scrollTop) < this.#start ||
      (this.#layout.indexAt(scrollTop + clientHeight) >= this.#stop && this.#stop < this.props.items.length)
    )
      this.redraw();
  }

  #elementOf(item: T): Element | undefined {
    const i = this.#drawn.findIndex((one) => one.item === item);
    return i < 0 ? undefined : this.elements.rows.current?.children[i];
  }

  #itemOf(node: Node): T | undefined {
    const rows = this.elements.rows.current;
    let row: Node | null = node;
    while (row && row.parentNode !== rows) row = row.parentNode;
    return row ? this.#drawn[[...rows!.children].indexOf(row as Element)]?.item : undefined;
  }

  // --- scrolling ---

  readonly scrolled = (): void => {
    this.#moved();
    const { scrollTop, clientHeight } = this.#box!;
    const from = this.#layout.indexAt(scrollTop - OVERSCAN / 2);
    const to = this.#layout.indexAt(scrollTop + clientHeight + OVERSCAN / 2);
    if (from < this.#start || to >= this.#stop) this.redraw();
  };

  /** Take the place to which the list was scrolled. */
  #moved(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#box!;
    const by = scrollTop - this.#last;
    const left = scrollHeight - scrollTop - clientHeight;
    this.#last = scrollTop;
    // Where the list has become shorter, the browser moves it up to its new end: nobody has scrolled
    if (this.#atEnd && by < 0 && left > 1) this.#setEnd(false);
    else if (!this.#atEnd && !this.#selection.any) {
      // Who moves up is not taken back by what the list itself does there
      const down = this.#upward ? by > AT_END : by > 0;
      if (down && (left < AT_END || this.#wasEnd(scrollTop + clientHeight))) this.#setEnd(true);
    }
    if (!by || (this.#wanted && this.#found)) return;
    this.#remember(scrollTop);
    this.#report(scrollTop);
  }

  #report(scrollTop: number): void {
    const index = this.#layout.indexAt(scrollTop);
    const row = (this.props.follow ? this.#atEnd : scrollTop <= 0) ? undefined : this.props.items[index];
    this.props.onPlace?.(row ? { id: row.id, shift: scrollTop - this.#layout.top(index) } : null);
  }

  #setEnd(atEnd: boolean): void {
    if (atEnd === this.#atEnd) return;
    this.#atEnd = atEnd;
    this.props.onEnd?.(atEnd);
  }

  /** What is in view now stays there. */
  #remember(scrollTop: number): void {
    if (this.#still || (this.#wanted && this.#found)) return;
    const { items } = this.props;
    if (this.props.fixed && scrollTop <= 0 && this.#pointer === null) {
      this.#anchor = null; // at the top, what is new is shown
      return;
    }
    let index = this.#layout.indexAt(scrollTop + (this.#pointer ?? 0));
    while (items[index]?.loose && index + 1 < items.length) index++;
    this.#anchor = items[index] ?? null;
    this.#shift = scrollTop - this.#layout.top(index);
    this.#text = null;
    const item = this.#anchor;
    const row = item && !this.props.fixed && this.#shift > 0 && item.height > TALL && this.#elementOf(item);
    if (!row) return;
    const column = row.querySelector(".body, .call") ?? row;
    const { left, top } = this.#box!.getBoundingClientRect();
    const place = placeUnder(row, Math.max(left, column.getBoundingClientRect().left) + 6, top + 8);
    if (place) this.#text = { item, place, within: topOf(place) - row.getBoundingClientRect().top };
  }

  /** The person begins to move, up or down. */
  #turn(up: boolean): void {
    this.#upward = up;
    if (up) this.#leave();
  }

  /** The person moves up, or selects: the end is not followed any more. */
  #leave(): void {
    const box = this.#box!;
    if (!this.props.follow || !this.#atEnd || box.scrollTop <= 0) return;
    this.#last = box.scrollTop;
    this.#remember(box.scrollTop);
    this.#setEnd(false);
  }

  show(index: number, where: "nearest" | "center" = "nearest"): void {
    const box = this.#box!;
    const rowTop = this.#layout.top(index);
    const rowBottom = this.#layout.top(index + 1);
    const height = box.clientHeight;
    let target = box.scrollTop;
    if (where === "center") target = rowTop - Math.max(0, (height - (rowBottom - rowTop)) / 3);
    else if (rowTop < target) target = rowTop;
    else if (rowBottom > target + height) target = rowBottom - height;
    else return;
    target = Math.max(0, target);
    this.#atEnd = false;
    if (this.#still) {
      box.scrollTop = target;
      return;
    }
    this.#remember(target);
    this.#text = null;
    if (where === "center") {
      // Rows between may be measured only now: hold on to the row itself
      this.#anchor = this.props.items[index] ?? null;
      this.#shift = target - rowTop;
    }
    this.#last = box.scrollTop;
    this.props.onEnd?.(false);
    this.#report(target);
    this.redraw();
  }

  restore(place: ListPlace): void {
    this.#wanted = place;
    this.#found = false;
    this.#setEnd(false);
    this.redraw();
  }

  get restoring(): boolean {
    return this.#wanted !== null && !this.#found;
  }

  #restored({ id, shift }: ListPlace): void {
    const item = this.props.items[this.#layout.find({ id } as T)];
    if (item?.id !== id) return;
    this.#found = true;
    this.#anchor = item;
    this.#shift = shift;
    this.#text = null;
  }

  toTop(): void {
    this.#anchor = null;
    this.#box!.scrollTop = 0;
  }

  toEnd(): void {
    this.#wanted = null;
    this.#atEnd = true;
    this.props.onEnd?.(true);
    this.redraw();
  }

  // --- what the person and the browser do ---

  /** Listen while the list is in the page. */
  start(): () => void {
    const over = new AbortController();
    const on = (target: EventTarget, name: string, run: (event: any) => void) =>
      target.addEventListener(name, run, { signal: over.signal, passive: true });
    const box = this.#box!;
    for (const name of ["wheel", "touchstart", "keydown", "pointerdown"]) on(box, name, () => (this.#wanted = null));
    on(document, "selectionchange", () => this.#selected());
    document.addEventListener("copy", (event) => this.#copied(event), { signal: over.signal });
    on(box, "wheel", (event: WheelEvent) => {
      if (event.deltaY && !event.ctrlKey) this.#turn(event.deltaY < 0);
    });
    on(box.parentElement!, "wheel", (event: WheelEvent) => {
      // A button that floats over the list does not keep it from being scrolled
      if (!(event.target as Element).closest(".float")) return;
      this.#turn(event.deltaY < 0);
      box.scrollTop += event.deltaY * (event.deltaMode ? LINE : 1);
    });
    on(box, "touchstart", ({ touches }: TouchEvent) => (this.#finger = touches[0]!.clientY));
    on(box, "touchmove", ({ touches }: TouchEvent) => {
      if (touches[0]!.clientY !== this.#finger) this.#turn(touches[0]!.clientY > this.#finger);
      this.#finger = touches[0]!.clientY;
    });
    on(box, "keydown", (event: KeyboardEvent) => {
      if (SCROLL_KEYS.has(event.key)) this.#turn(UP_KEYS.has(event.key) || (event.key === " " && event.shiftKey));
    });
    on(box, "pointerdown", () => this.#press());
    for (const name of ["pointerup", "pointercancel", "blur"]) on(window, name, () => this.#release());
    on(window, "pointermove", (event: PointerEvent) => event.buttons || this.#release()); // let go outside the window
    if (this.props.anchored) onPointer(box, (y) => this.#point(y), over.signal);
    this.#observer.observe(box);
    const again = () => {
      if (this.#drawing) return; // `drawn` follows
      this.#catchUp();
      this.#measure();
      this.#settle();
    };
    if (!this.props.fixed) redrawn.add(again);
    return () => {
      over.abort();
      redrawn.delete(again);
      this.#observer.disconnect();
    };
  }

  #selected(): void {
    this.#selection.note();
    if (this.#selection.any) this.#leave();
    else if (this.#box && !this.#atEnd) {
      const { scrollHeight, scrollTop, clientHeight } = this.#box;
      if (scrollHeight - scrollTop - clientHeight < 1) this.#setEnd(true); // nothing has come meanwhile
    }
  }

  #copied(event: ClipboardEvent): void {
    const { items, wordsOf } = this.props;
    const rows = this.elements.rows.current;
    if (!wordsOf || !rows || event.defaultPrevented || event.target instanceof HTMLTextAreaElement) return;
    const drawn = this.#drawn.map(({ item }) => item);
    const text = this.#selection.text(items, drawn, rows, wordsOf);
    if (text === null) return;
    event.clipboardData!.setData("text/plain", text);
    event.preventDefault();
  }

  #press(): void {
    if (this.props.follow && this.#atEnd) this.#remember(this.#box!.scrollTop);
    this.#pressed = true;
    this.#upward = false;
  }

  #release(): void {
    if (!this.#pressed) return;
    this.#pressed = false;
    if (this.#follows) this.redraw();
  }

  #point(y: number | null): void {
    this.#pointer = y === null ? null : y - this.#top;
    this.#remember(this.#last);
    if (y === null) this.#place();
  }

  /** Rows that are drawn are watched for another height; those of one fixed height need no watching. */
  watch(): void {
    if (this.props.fixed || !this.#box) return;
    const drawn = new Set<Element>(this.elements.rows.current!.children);
    for (const row of this.#watched) if (!drawn.has(row) && this.#watched.delete(row)) this.#observer.unobserve(row);
    for (const row of drawn) {
      if (this.#watched.has(row)) continue;
      this.#watched.add(row);
      this.#observer.observe(row);
    }
  }

  #resized(entries: ResizeObserverEntry[]): void {
    const box = this.#box;
    if (!box) return;
    this.#catchUp();
    if (entries.some((entry) => entry.target === box)) {
      const width = box.clientWidth;
      if (width !== this.#width && this.#width) {
        for (const item of this.#layout.items) item.height = 0; // text wraps elsewhere
        this.#layout.changed(0);
      }
      this.#width = width;
      const { top } = box.getBoundingClientRect();
      // What stands above the list has become higher or lower: the rows stay where they are on the screen
      if (this.props.anchored && this.#anchor && this.#top) {
        this.#shift += top - this.#top;
        if (this.#pointer !== null) this.#pointer -= top - this.#top;
      }
      this.#top = top;
    }
    this.#measure();
    this.#settle();
  }
}
