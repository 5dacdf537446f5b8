/** Ids that were given back, lowest first: a minimum heap. */
export class FreeIds {
  readonly #heap: number[] = [];

  /** Gives an id back. */
  push(id: number): void {
    const h = this.#heap;
    let i = h.push(id) - 1;
    while (i > 0) {
      const up = (i - 1) >> 1;
      if (h[up]! <= id) break;
      h[i] = h[up]!;
      i = up;
    }
    h[i] = id;
  }

  /** Takes the lowest id; 0: there is none. */
  pop(): number {
    const h = this.#heap;
    const top = h[0];
    if (top === undefined) return 0;
    const last = h.pop()!;
    const n = h.length;
    if (n === 0) return top;
    let i = 0;
    for (;;) {
      let down = 2 * i + 1;
      if (down >= n) break;
      if (down + 1 < n && h[down + 1]! < h[down]!) down++;
      if (h[down]! >= last) break;
      h[i] = h[down]!;
      i = down;
    }
    h[i] = last;
    return top;
  }
}
