import { VtdWalker } from '../../src/lib/walk/vtd.ts';
import { PGTT } from '../../src/spec/vtd/tables.ts';
import type { TableRoot, VtdCore } from './core.ts';
import { vtdWalkChoicesOf } from './qemu/choices.ts';
import { guestLimits, VtdGuestTables } from './tables.ts';

/**
 * What the guest's own tables say now about an address, for listings and for replay: domain id and size of the leaf. It never
 * yields an address for DMA.
 */
export class GuestLookup {
  /** The guest's domain id; -1: no table took part. */
  did = -1;
  /** log2 bytes of the guest's leaf; 0: no table took part. */
  shift = 0;
  readonly #root: TableRoot;
  readonly #tables: VtdGuestTables;
  readonly #walker: VtdWalker;

  constructor(core: VtdCore) {
    this.#root = core.root;
    this.#tables = new VtdGuestTables(core);
    this.#walker = new VtdWalker(core.deps.memory, guestLimits(core), vtdWalkChoicesOf(core.deviations));
  }

  /** @param access ACCESS bits. @returns whether the guest's tables translate it. */
  find(rid: number, pasid: number, lo: number, hi: number, access: number): boolean {
    this.did = -1;
    this.shift = 0;
    if (!this.#root.on) return true;
    const r = this.#tables.find(rid, pasid);
    if (r === null) return false;
    if (r.pgtt === PGTT.PASS_THROUGH) return true;
    if (!this.#walker.walk(r, lo, hi, access)) return false;
    this.did = r.did;
    this.shift = this.#walker.firstShift > 0 ? this.#walker.firstShift : this.#walker.shift;
    return true;
  }
}
