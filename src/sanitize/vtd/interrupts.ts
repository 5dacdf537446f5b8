import { fromWords, POW2 } from '../../core/bits.ts';
import { irte } from '../../spec/vtd/interrupt.ts';
import type { StaleConfig } from '../config.ts';
import type { TrackedPage } from '../memory.ts';
import type { VtdShared } from './shared.ts';

const PAGE = 4096;

/** The interrupt remapping table. */
export class InterruptTable {
  readonly #shared: VtdShared;
  readonly #open = new Map<number, StaleConfig>();
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
      changed: (page, at, oldLo) => this.#changed(page, at, oldLo),
    });
  }

  detach(): void {
    this.#close?.();
    this.#close = null;
    this.#open.clear();
  }

  #changed(page: TrackedPage, at: number, oldLo: number): void {
    if (page.late || page.whole) return;
    const index = Math.floor((page.pfn * PAGE + 8 * at - this.#base) / 16);
    if (index < 0 || index >= this.#entries) return;
    const wasPresent = irte.p((at & 1) === 0 ? oldLo : page.lo(at - 1));
    if (!wasPresent && !this.#shared.cachingMode) return;
    const open = this.#open.get(index);
    if (open !== undefined && open.seq < 0) return;
    const stale = { kind: 'IRTE', name: `IRTE ${index}`, stream: -1, pasid: index, did: -1, wasValid: wasPresent };
    this.#open.set(index, this.#shared.config.changed({ ...stale, release: () => {} }));
  }
}
