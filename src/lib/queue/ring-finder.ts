import type { Memory } from '../../ports/memory.ts';

/** Finds the storage of a queue that lies in one piece of RAM, once as long as memory stays as it is. */
export class RingFinder {
  /** Storage of the ring the last `find` found, and the word of its first entry there. */
  words: Int32Array = new Int32Array(0);
  first = 0;
  readonly #memory: Memory;
  #start = -1;
  #count = 0;
  #changes = -1;
  #there = false;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** @param start address of the ring. @param count its words. @returns false: its entries are to be loaded one by one. */
  find(start: number, count: number): boolean {
    const { changes } = this.#memory;
    if (start === this.#start && count === this.#count && changes === this.#changes) return this.#there;
    return this.#look(start, count);
  }

  #look(start: number, count: number): boolean {
    const memory = this.#memory;
    const { changes } = memory;
    this.#there = false;
    if (changes === undefined || changes < 0) return false;
    this.#start = start;
    this.#count = count;
    this.#changes = changes;
    if (!memory.locate(start) || memory.room < count) return false;
    this.words = memory.words;
    this.first = memory.index;
    this.#there = true;
    return true;
  }
}
