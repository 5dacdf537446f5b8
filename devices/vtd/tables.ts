import { VtdContext, VtdRegime } from '../../src/lib/walk/vtd-regime.ts';
import { VtdTables } from '../../src/lib/walk/vtd-tables.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { PagingLimits } from '../../src/spec/vtd/paging.ts';
import { TTM } from '../../src/spec/vtd/registers.ts';
import { PASID_BYTES, PASID_DIR_BYTES, pasidDir, pasidEntry } from '../../src/spec/vtd/tables.ts';
import type { TableRoot, VtdCore } from './core.ts';
import { QemuTables } from './qemu/tables.ts';

/**
 * How root, context and PASID entries are found and judged: `VtdTables` as the architecture says, `QemuTables` as QEMU does.
 * Fields are those of the last call.
 */
export interface VtdTableReader {
  /** Fault reason of a failed lookup. */
  readonly reason: number;
  /** FPD as far as it counts for that reason. */
  readonly fpd: boolean;
  context(table: number, scalable: boolean, rid: number, into: VtdContext): boolean;
  /** Whether a request with this PASID may be made at all. */
  allowsPasid(c: VtdContext, pasid: number): boolean;
  pasid(c: VtdContext, pasid: number, into: VtdRegime): boolean;
}

/** The guest's tables as they are in its memory now. Results are fields, valid until the next lookup. */
export class VtdGuestTables {
  /** The context entry of the last lookup that found one. */
  readonly context = new VtdContext();
  readonly #regime = new VtdRegime();
  readonly #root: TableRoot;
  readonly #reader: VtdTableReader;
  readonly #memory: Memory;

  constructor(core: VtdCore) {
    const { memory } = core.deps;
    const { legacyCodes, typeBeforePresent, fpdNeedsValid, pasidReservedUnchecked } = core.deviations;
    const likeQemu = legacyCodes || typeBeforePresent || fpdNeedsValid || pasidReservedUnchecked;
    this.#root = core.root;
    this.#memory = memory;
    this.#reader = likeQemu
      ? new QemuTables(memory, core.features, core.deviations)
      : new VtdTables(memory, core.features);
  }

  /** Fault reason of a failed lookup; of no meaning in a table mode without tables. */
  get reason(): number {
    return this.#reader.reason;
  }

  /** FPD as far as it counts for that reason. */
  get fpd(): boolean {
    return this.#reader.fpd;
  }

  /** What (rid, pasid) translates with; null: nothing valid. @param pasid NO_PASID: the requester id itself. */
  find(rid: number, pasid: number): VtdRegime | null {
    const { mode, base } = this.#root;
    if (mode === TTM.ABORT || mode === TTM.RESERVED) return null;
    const c = this.context;
    const reader = this.#reader;
    if (!reader.context(base, mode === TTM.SCALABLE, rid, c)) return null;
    if (pasid >= 0 && !reader.allowsPasid(c, pasid)) return null;
    if (!c.scalable) return c.legacy;
    return reader.pasid(c, pasid < 0 ? c.ridPasid : pasid, this.#regime) ? this.#regime : null;
  }

  /**
   * The next PASID of the context entry last found, from `from` on and below `end`, whose entry is present; -1: none, or the
   * directory cannot be read.
   */
  nextPresent(from: number, end: number): number {
    const memory = this.#memory;
    const { directory } = this.context;
    for (let pasid = from; pasid < end; ) {
      if (!memory.load64(directory + (pasid >>> 6) * PASID_DIR_BYTES)) return -1;
      const behind = (pasid | 63) + 1;
      if (!pasidDir.p(memory.lo)) {
        pasid = behind;
        continue;
      }
      const table = pasidDir.smptblptr(memory.lo, memory.hi);
      for (; pasid < behind && pasid < end; pasid++) {
        if (memory.load64(table + (pasid & 63) * PASID_BYTES) && pasidEntry.p(memory.lo)) return pasid;
      }
    }
    return -1;
  }
}

/** What the guest's paging entries may hold. */
export function guestLimits(core: VtdCore): PagingLimits {
  const { limits, scalable } = core.features;
  return { ...limits, snp: limits.snp || (core.deviations.snoopInScalable && scalable) };
}
