import type { VtdWalker } from '../../src/lib/walk/vtd.ts';
import { VtdContext, VtdRegime } from '../../src/lib/walk/vtd-regime.ts';
import { PGTT } from '../../src/spec/vtd/tables.ts';
import type { RegisterUnit } from './device.ts';
import type { TableReader } from './qemu/tables.ts';

/**
 * What the guest's own tables say now about an address, for people and for replay: domain id and size of the leaf. It never
 * yields an address for DMA.
 */
export class GuestLookup {
  /** The guest's domain id; -1: no table took part. */
  did = -1;
  /** log2 bytes of the guest's leaf; 0: no table took part. */
  shift = 0;
  readonly #unit: RegisterUnit;
  readonly #tables: TableReader;
  readonly #walker: VtdWalker;
  readonly #context = new VtdContext();
  readonly #regime = new VtdRegime();

  constructor(unit: RegisterUnit, tables: TableReader, walker: VtdWalker) {
    this.#unit = unit;
    this.#tables = tables;
    this.#walker = walker;
  }

  /** @param access ACCESS bits. @returns whether the guest's tables translate it. */
  find(rid: number, pasid: number, lo: number, hi: number, access: number): boolean {
    this.did = -1;
    this.shift = 0;
    const { root } = this.#unit;
    if (!root.on) return true;
    const c = this.#context;
    if (!this.#tables.context(root.base, root.mode !== 0, rid, c)) return false;
    let r = c.legacy;
    if (c.scalable) {
      r = this.#regime;
      if (!this.#tables.pasid(c, pasid < 0 ? c.ridPasid : pasid, r)) return false;
    }
    if (r.pgtt === PGTT.PASS_THROUGH) return true;
    if (!this.#walker.walk(r, lo, hi, access)) return false;
    this.did = r.did;
    this.shift = this.#walker.firstShift > 0 ? this.#walker.firstShift : this.#walker.shift;
    return true;
  }
}
