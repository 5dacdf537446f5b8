import type { MemoryWindow } from '../ports/memory.ts';
import type { PhysicalMap } from './physical-map.ts';

/**
 * A piece of a board's address space as functions reach it: whatever the processor finds there (registers, configuration
 * space, BARs) answers them too, in the widths it takes; where nothing is decoded, requests abort.
 */
export class BoardWindow implements MemoryWindow {
  readonly name = 'board';
  readonly #map: PhysicalMap;
  readonly #base: number;

  /** First address, and the end, of what the board decodes for the processor and not for functions. */
  readonly #dead: number;
  readonly #deadEnd: number;

  /**
   * @param base guest-physical address of its first byte.
   * @param dead,deadEnd a range in which requests abort although a device is there (the rest of a page of registers).
   */
  constructor(map: PhysicalMap, base: number, dead = 0, deadEnd = 0) {
    this.#map = map;
    this.#base = base;
    this.#dead = dead;
    this.#deadEnd = deadEnd;
  }

  claims(offset: number, write = false): boolean {
    const address = this.#base + offset;
    if (address >= this.#dead && address < this.#deadEnd) return false;
    return this.#map.claims(address, write);
  }

  read(offset: number, size: number): number {
    this.#map.read(this.#base + offset, size);
    return this.#map.lo >>> 0;
  }

  write(offset: number, size: number, value: number): void {
    this.#map.write(this.#base + offset, size, value | 0, 0);
  }
}
