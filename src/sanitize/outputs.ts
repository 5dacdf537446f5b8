import { POW2 } from '../core/bits.ts';

/** Leaves of a first stage by the intermediate pages they lead to, so that a change of the second stage finds the addresses it concerns. */
export class LeavesByOutput {
  /** By log2 bytes of a leaf: first output page to first input pages. */
  readonly #sizes: { readonly shift: number; readonly map: Map<number, number | Set<number>> }[] = [];

  #map(shift: number): Map<number, number | Set<number>> {
    for (const s of this.#sizes) if (s.shift === shift) return s.map;
    const map = new Map<number, number | Set<number>>();
    this.#sizes.push({ shift, map });
    return map;
  }

  /** A leaf of 2^shift bytes leads from page `base` to page `out`. */
  add(shift: number, out: number, base: number): void {
    const map = this.#map(shift);
    const known = map.get(out);
    if (known === undefined) map.set(out, base);
    else if (typeof known === 'object') known.add(base);
    else if (known !== base) map.set(out, new Set([known, base]));
  }

  delete(shift: number, out: number, base: number): void {
    const map = this.#map(shift);
    const known = map.get(out);
    if (known === base) map.delete(out);
    else if (typeof known === 'object') known.delete(base);
  }

  /** Calls `each` for every leaf that leads into the pages [from, to]: as many steps as there are leaves or pages, the fewer. */
  overlapping(from: number, to: number, each: (shift: number, out: number, base: number) => void): void {
    for (const { shift, map } of this.#sizes) {
      const pages = POW2[shift - 12]!;
      const first = from - (from % pages);
      if ((to - first) / pages < map.size) {
        for (let out = first; out <= to; out += pages) tell(map.get(out), shift, out, each);
      } else for (const [out, bases] of map) if (out <= to && out + pages > from) tell(bases, shift, out, each);
    }
  }
}

function tell(
  bases: number | Set<number> | undefined,
  shift: number,
  out: number,
  each: (shift: number, out: number, base: number) => void,
): void {
  if (typeof bases === 'number') each(shift, out, bases);
  else for (const base of bases ?? []) each(shift, out, base);
}
