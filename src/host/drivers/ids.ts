import { FAILURE_STEP } from '../../ports/failures.ts';
import type { PageAllocator } from './page-allocator.ts';

/** Numbers that hardware tags translations with (VMIDs, ASIDs, domain ids). The lowest free one is taken, without allocation. */
export class IdPool {
  readonly #first: number;
  readonly #last: number;
  /** Bit per number. */
  readonly #taken: Int32Array;
  readonly #source: Pick<PageAllocator, 'failures'>;
  /** No free number below. */
  #from: number;

  /** @param first,last the numbers handed out; those below `first` stay with the kernel. @param source may let one be missing. */
  constructor(first: number, last: number, source: Pick<PageAllocator, 'failures'>) {
    this.#first = first;
    this.#source = source;
    this.#last = last;
    this.#from = first;
    this.#taken = new Int32Array((last >>> 5) + 1);
  }

  /** @returns -1: none left. */
  take(): number {
    if (this.#source.failures?.fails(FAILURE_STEP.ID)) return -1;
    for (let id = this.#from; id <= this.#last; id++) {
      const w = this.#taken[id >>> 5]!;
      if (w === -1) {
        id |= 31;
        continue;
      }
      if ((w & (1 << (id & 31))) !== 0) continue;
      this.#taken[id >>> 5] = w | (1 << (id & 31));
      this.#from = id + 1;
      return id;
    }
    this.#from = this.#last + 1;
    return -1;
  }

  give(id: number): void {
    this.#taken[id >>> 5]! &= ~(1 << (id & 31));
    this.#from = Math.max(this.#first, Math.min(this.#from, id));
  }
}
