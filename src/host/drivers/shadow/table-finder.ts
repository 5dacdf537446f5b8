import { TWO32 } from '../../../core/bits.ts';
import type { Memory } from '../../../ports/memory.ts';
import type { ShadowFormat } from './format.ts';

const ENTRIES = 512;
/** Last-level tables that are remembered. */
const KNOWN = 256;

/** Looks entries up in a tree of tables, and remembers where last-level tables are. */
export class TableFinder {
  /** Level of the entry the last `leaf` found. */
  level = 0;
  readonly #space: Memory;
  readonly #format: ShadowFormat;
  readonly #root: number;
  /** Bytes from a start table's entry to the next, by level. */
  readonly #units: readonly number[];
  /** Regions of 512 pages, and their tables. */
  readonly #regions = new Float64Array(KNOWN).fill(-1);
  readonly #tables = new Float64Array(KNOWN);

  constructor(space: Memory, format: ShadowFormat, root: number) {
    this.#space = space;
    this.#format = format;
    this.#root = root;
    this.#units = Array.from({ length: format.levels + 1 }, (_, level) => ENTRIES ** Math.max(0, level - 1));
  }

  /** The last-level table of `page`, if it is remembered; else -1. */
  table(page: number): number {
    const region = Math.floor(page / ENTRIES);
    const at = region % KNOWN;
    return this.#regions[at] === region ? this.#tables[at]! : -1;
  }

  learn(page: number, table: number): void {
    const region = Math.floor(page / ENTRIES);
    const at = region % KNOWN;
    this.#regions[at] = region;
    this.#tables[at] = table;
  }

  /** Tables left the tree. */
  reset(): void {
    this.#regions.fill(-1);
  }

  /** Host-physical address of the leaf entry of `page`, its words just loaded; -1: nothing is there. */
  leaf(page: number): number {
    const known = this.table(page);
    if (known < 0) return this.#walk(page, 1);
    const entry = known + 8 * (page % ENTRIES);
    this.level = 1;
    this.#space.load64(entry);
    return (this.#space.lo & this.#format.present) !== 0 ? entry : -1;
  }

  /** Whether the entry of `level` for `page` names a table. */
  hasTable(page: number, level: number): boolean {
    return this.#walk(page, level) >= 0 && (this.#space.lo & this.#format.typeMask) === this.#format.table;
  }

  /** The entry that decides, or the one of level `lowest`. @returns -1: it is empty. */
  #walk(page: number, lowest: number): number {
    const { levels, present, typeMask, table: isTable } = this.#format;
    const space = this.#space;
    let table = this.#root;
    for (let level = levels; ; level--) {
      const index = Math.floor(page / this.#units[level]!);
      const entry = table + 8 * (level === levels ? index : index % ENTRIES);
      this.level = level;
      space.load64(entry);
      if ((space.lo & present) === 0) return -1;
      if (level === lowest || (space.lo & typeMask) !== isTable) return entry;
      table = (space.hi & 0xf_ffff) * TWO32 + ((space.lo & ~0xfff) >>> 0);
      if (level === 2) this.learn(page, table);
    }
  }
}
