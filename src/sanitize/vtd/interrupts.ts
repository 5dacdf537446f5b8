import { fromWords, POW2 } from '../../core/bits.ts';
import { irte } from '../../spec/vtd/interrupt.ts';
import type { TrackedPage } from '../memory.ts';
import { pageWords, type VtdShared } from './shared.ts';

const PAGE = 4096;

/** The interrupt remapping table. */
export class InterruptTable {
  readonly #shared: VtdShared;
  /** Entries as they were before the store whose other half may come. */
  readonly #before = new Map<number, Int32Array>();
  #close: (() => void) | null = null;
  #base = 0;
  #entries = 0;

  constructor(shared: VtdShared) {
    this.#shared = shared;
  }

  attach(lo: number, hi: number): void {
    this.detach();
    this.#base = fromWords(lo & ~0xfff, hi & 0xf_ffff);
    this.#entries = POW2[(lo & 0xf) + 1]!;
    this.#close = this.#shared.follow(this.#base, this.#entries * 16, {
      changed: (page, at, oldLo, oldHi) => {
        const gpa = page.pfn * PAGE + 8 * at;
        const index = Math.floor((gpa - this.#base) / 16);
        if ((page.whole && !page.late) || index < 0 || index >= this.#entries) return;
        let old = this.#before.get(index);
        if (old === undefined) {
          old = pageWords(page, at & ~1, 2);
          old[2 * (at & 1)] = oldLo;
          old[2 * (at & 1) + 1] = oldHi;
          this.#before.set(index, old);
        }
        const was = old;
        this.#shared.pairs.stored(page, gpa, 16, `irte${index}`, (trail) => {
          this.#before.delete(index);
          this.#entry(index, page, was, trail);
        });
      },
    });
  }

  detach(): void {
    this.#close?.();
    this.#close = null;
    this.#before.clear();
  }

  #entry(index: number, page: TrackedPage, old: Int32Array, trail: readonly Int32Array[]): void {
    const write = {
      key: `irte${index}`,
      kind: 'IRTE',
      name: `IRTE ${index}`,
      stream: -1,
      pasid: index,
      did: -1,
      page,
      old,
      now: trail.at(-1)!,
      trail,
      used,
      valid: present,
      cachesInvalid: this.#shared.cachingMode,
    };
    this.#shared.config.write(write, () => {});
  }
}

function present(words: Int32Array): boolean {
  return irte.p(words[0]!);
}

function used(words: Int32Array): readonly number[] {
  return present(words) ? [-1, -1, -1, -1] : [1];
}
