/** What a slot of a ConfigCache must carry; the cache owns these fields. */
export interface ConfigSlot {
  keyA: number;
  keyB: number;
  /** Generation it was kept in; -1: not kept. */
  generation: number;
}

/**
 * A direct-mapped cache of decoded configuration by two small keys. Slots are made once and filled again, so looking up
 * and refilling allocate nothing; dropping everything is one increment.
 */
export class ConfigCache<T extends ConfigSlot> {
  readonly #slots: (T | null)[];
  readonly #mask: number;
  readonly #make: () => T;
  readonly #spare: T;
  #generation = 0;

  /** @param size a power of two; 0 keeps nothing. @throws RangeError for any other. */
  constructor(size: number, make: () => T) {
    if (size < 0 || (size & (size - 1)) !== 0) throw new RangeError(`cache size ${size} is not a power of two`);
    this.#slots = new Array<T | null>(size).fill(null);
    this.#mask = size - 1;
    this.#make = make;
    this.#spare = make();
    this.#spare.generation = -1;
  }

  #index(a: number, b: number): number {
    return ((a ^ (a >>> 8)) + Math.imul(b, 0x9e37_79b1) + (b >>> 16)) & this.#mask;
  }

  get(a: number, b: number): T | null {
    if (this.#mask < 0) return null;
    const slot = this.#slots[this.#index(a, b)]!;
    return slot !== null && slot.generation === this.#generation && slot.keyA === a && slot.keyB === b ? slot : null;
  }

  /** A slot to fill for this key; it is not found until `keep`. What was in its place is gone. */
  claim(a: number, b: number): T {
    let slot: T | null = this.#spare;
    if (this.#mask >= 0) {
      const i = this.#index(a, b);
      slot = this.#slots[i]!;
      if (slot === null) {
        slot = this.#make();
        this.#slots[i] = slot;
      }
    }
    slot.keyA = a;
    slot.keyB = b;
    slot.generation = -1;
    return slot;
  }

  /** The claimed slot holds good configuration from now on. */
  keep(slot: T): void {
    if (slot !== this.#spare) slot.generation = this.#generation;
  }

  drop(a: number, b: number): void {
    const slot = this.get(a, b);
    if (slot !== null) slot.generation = -1;
  }

  /** Drops the slots whose key (a, 0) has `a` in [first, first + count). */
  dropRange(first: number, count: number): void {
    if (count > this.#slots.length) {
      for (const slot of this.#slots) {
        if (slot !== null && slot.keyA >= first && slot.keyA < first + count) slot.generation = -1;
      }
      return;
    }
    for (let a = first; a < first + count; a++) this.drop(a, 0);
  }

  /** Every slot made so far, kept or not; null: not made yet. An owner drops one by setting its `generation` to -1. */
  get slots(): readonly (T | null)[] {
    return this.#slots;
  }

  dropAll(): void {
    this.#generation++;
  }

  /** The kept slots, for saving. */
  live(): T[] {
    return this.#slots.filter((s): s is T => s !== null && s.generation === this.#generation);
  }
}
