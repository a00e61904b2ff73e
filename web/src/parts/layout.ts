// The places where the rows of a list begin.

export interface Row {
  id: number | string;
  height: number; // 0: not measured yet
  loose?: boolean; // comes and goes: never the anchor
}

/** The places where rows begin: sums of heights, computed again from the first that changed. */
export class Layout<T extends Row> {
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
    const i = this.find(item);
    return i >= 0 ? this.top(i) : Math.min(this.total, this.#tops[0]!);
  }

  /** The place of a row in the list, or of the nearest before it; -1 if it is not in it. */
  find(item: T): number {
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
