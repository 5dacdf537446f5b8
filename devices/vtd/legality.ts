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

/**
 * Whether a descriptor is illegal by its own words, for this unit in this mode (VT-d §6.5.2).
 * @param w its words. @param wide 256-bit queue.
 * @returns 0, or the IQEI code.
 */
export function illegal(w: Int32Array, wide: boolean, core: VtdCore): number {
  const row: InvalidationType | undefined = invalidationType(invType(w[0]!));
  if (row === undefined) return IQEI.TYPE;
  const { deviations, features } = core;
  // QEMU judges the 128 bits of a page-group response, in any queue, and takes what follows for private data.
  const narrow = row.type === INV.PAGE_GROUP_RESPONSE && deviations.responseInNarrowQueue;
  if (row.scalable && !wide && !narrow) return IQEI.TYPE;
  if (row.scalable && core.root.mode === TTM.LEGACY && !deviations.queueWidthUnchecked) return IQEI.TYPE;
  if (!features.has(row.needs) && !deviations.deviceTlbWithoutDt) return IQEI.TYPE;
  const { reserved } = row;
  const mask0 = row.type === INV.WAIT && features.pageRequestDrain ? reserved[0] & ~WAIT_PD : reserved[0];
  const bad = (w[0]! & mask0) | (w[1]! & reserved[1]) | (w[2]! & reserved[2]) | (w[3]! & reserved[3]);
  if (bad !== 0) return IQEI.RESERVED;
  if (wide && !narrow && (w[4]! | w[5]! | w[6]! | w[7]!) !== 0) return IQEI.RESERVED;
  if (!isGranularity(row, inv.granularity(w[0]!)) || beyondMask(row.type, w, core)) return IQEI.RESERVED;
  const noPasid = row.type === INV.PAGE_GROUP_RESPONSE && !inv.responsePP(w[0]!);
  return noPasid && deviations.responseNeedsPasid ? IQEI.RESERVED : 0;
}

/** Whether a page-selective request names more pages than MAMV allows (§6.5.2.3). */
function beyondMask(type: number, w: Int32Array, core: VtdCore): boolean {
  const limited =
    (type === INV.IOTLB && inv.granularity(w[0]!) === IOTLB_G.PAGE) ||
    (type === INV.PASID_IOTLB && inv.granularity(w[0]!) === PASID_IOTLB_G.PAGE && core.deviations.pasidIotlbLimited);
  return limited && inv.am(w[2]!) > core.features.mamv;
}
