import {
  INV,
  type InvalidationType,
  IOTLB_G,
  inv,
  invalidationType,
  invType,
  isGranularity,
  PASID_IOTLB_G,
  WAIT_PD,
} from '../../src/spec/vtd/invalidation.ts';
import { IQEI, TTM } from '../../src/spec/vtd/registers.ts';
import type { VtdCore } from './core.ts';

/** Types a descriptor can name: seven bits. */
const TYPES = 128;
/** What a type asks for: it exists here; a scalable-mode queue; all 256 bits are 0 where it has no fields. */
const HERE = 1;
const SCALABLE = 2;
const NARROW = 4;
const RESPONSE = 8;

/**
 * Whether descriptors are illegal by their own words, for one unit (VT-d §6.5.2). The rows of the specification's table are
 * turned into words once; a descriptor is held against them.
 */
export class VtdLegality {
  readonly #core: VtdCore;
  readonly #kinds = new Uint8Array(TYPES);
  /** Reserved bits of words 0 to 3, four words a type. */
  readonly #reserved = new Int32Array(TYPES * 4);
  /** A bit per granularity: those there are, and those whose address mask is limited (§6.5.2.3). */
  readonly #granularities = new Uint8Array(TYPES);
  readonly #limited = new Uint8Array(TYPES);

  constructor(core: VtdCore) {
    this.#core = core;
    for (let type = 0; type < TYPES; type++) this.#learn(type);
  }

  #learn(type: number): void {
    const { deviations, features } = this.#core;
    const row: InvalidationType | undefined = invalidationType(type);
    if (row === undefined || (!features.has(row.needs) && !deviations.deviceTlbWithoutDt)) return;
    const response = type === INV.PAGE_GROUP_RESPONSE;
    // QEMU judges the 128 bits of a page-group response, in any queue, and takes what follows for private data.
    const narrow = response && deviations.responseInNarrowQueue;
    const noPasid = response && deviations.responseNeedsPasid;
    this.#kinds[type] = HERE | (row.scalable ? SCALABLE : 0) | (narrow ? NARROW : 0) | (noPasid ? RESPONSE : 0);
    this.#reserved.set(row.reserved, type * 4);
    if (type === INV.WAIT && features.pageRequestDrain) this.#reserved[type * 4]! &= ~WAIT_PD;
    for (let g = 0; g < 4; g++) if (isGranularity(row, g)) this.#granularities[type]! |= 1 << g;
    if (type === INV.IOTLB) this.#limited[type] = 1 << IOTLB_G.PAGE;
    if (type === INV.PASID_IOTLB && deviations.pasidIotlbLimited) this.#limited[type] = 1 << PASID_IOTLB_G.PAGE;
  }

  /** @param w words of a descriptor. @param wide 256-bit queue. @returns 0, or the IQEI code. */
  judge(w: Int32Array, wide: boolean): number {
    const w0 = w[0]!;
    const type = invType(w0);
    const kind = this.#kinds[type]!;
    if (kind !== HERE) {
      if (kind === 0) return IQEI.TYPE;
      const { deviations, root } = this.#core;
      if ((kind & SCALABLE) !== 0) {
        if (!wide && (kind & NARROW) === 0) return IQEI.TYPE;
        if (root.mode === TTM.LEGACY && !deviations.queueWidthUnchecked) return IQEI.TYPE;
      }
    }
    const r = this.#reserved;
    const at = type * 4;
    if (((w0 & r[at]!) | (w[1]! & r[at + 1]!) | (w[2]! & r[at + 2]!) | (w[3]! & r[at + 3]!)) !== 0)
      return IQEI.RESERVED;
    if (wide && (kind & NARROW) === 0 && (w[4]! | w[5]! | w[6]! | w[7]!) !== 0) return IQEI.RESERVED;
    const g = 1 << inv.granularity(w0);
    if ((this.#granularities[type]! & g) === 0) return IQEI.RESERVED;
    if ((this.#limited[type]! & g) !== 0 && inv.am(w[2]!) > this.#core.features.mamv) return IQEI.RESERVED;
    return (kind & RESPONSE) !== 0 && !inv.responsePP(w0) ? IQEI.RESERVED : 0;
  }
}
