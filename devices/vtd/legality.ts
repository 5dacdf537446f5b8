import {
  CONTEXT_G,
  INV,
  INV_RESERVED,
  IOTLB_G,
  inv,
  invType,
  PASID_CACHE_G,
  PASID_IOTLB_G,
  WAIT_PD,
} from '../../src/spec/vtd/invalidation.ts';
import { IQEI, TTM } from '../../src/spec/vtd/registers.ts';
import type { Backend } from './backend.ts';
import type { InterruptRemapper } from './interrupt-remapper.ts';
import type { VtdShape } from './properties.ts';

/**
 * Whether a descriptor is one this unit executes in this mode (VT-d §6.5.2).
 * @param w its words. @param wide 256-bit queue. @param ttm latched table mode.
 * @returns 0, or the IQEI code.
 */
export function judge(w: Int32Array, wide: boolean, ttm: number, shape: VtdShape): number {
  const type = invType(w[0]!);
  const { deviations, props } = shape;
  if (type < INV.CONTEXT || type > INV.PAGE_GROUP_RESPONSE) return IQEI.TYPE;
  const narrow = type === INV.PAGE_GROUP_RESPONSE && deviations.responseInNarrowQueue;
  if (type >= INV.PASID_IOTLB && !wide && !narrow) return IQEI.TYPE;
  if (!deviations.queueWidthUnchecked && type >= INV.PASID_IOTLB && ttm === TTM.LEGACY) return IQEI.TYPE;
  if (!deviations.deviceTlbWithoutDt) {
    if ((type === INV.DEVICE_TLB || type === INV.PASID_DEVICE_TLB) && !props.deviceIotlb) return IQEI.TYPE;
    if (type === INV.PAGE_GROUP_RESPONSE && !shape.prs) return IQEI.TYPE;
  }
  const reserved = INV_RESERVED[type]!;
  const mask0 = type === INV.WAIT && shape.prs ? reserved[0] & ~WAIT_PD : reserved[0];
  const low = (w[0]! & mask0) | (w[1]! & reserved[1]) | (w[2]! & reserved[2]) | (w[3]! & reserved[3]);
  if (low !== 0) return IQEI.RESERVED;
  // QEMU judges the 128 bits of a page-group response and takes what follows for private data.
  if (wide && !narrow && (w[4]! | w[5]! | w[6]! | w[7]!) !== 0) return IQEI.RESERVED;
  return parameters(type, w, shape) ? 0 : IQEI.RESERVED;
}

/** Granularity and address mask. */
function parameters(type: number, w: Int32Array, shape: VtdShape): boolean {
  const g = inv.granularity(w[0]!);
  const { deviations, mamv } = shape;
  switch (type) {
    case INV.CONTEXT:
      return g !== 0;
    case INV.IOTLB:
      return g !== 0 && !(g === IOTLB_G.PAGE && inv.am(w[2]!) > mamv);
    case INV.PASID_IOTLB:
      if (g !== PASID_IOTLB_G.PASID && g !== PASID_IOTLB_G.PAGE) return false;
      return !(g === PASID_IOTLB_G.PAGE && deviations.pasidIotlbLimited && inv.am(w[2]!) > mamv);
    case INV.PASID_CACHE:
      return g === PASID_CACHE_G.DOMAIN || g === PASID_CACHE_G.PASID || g === PASID_CACHE_G.GLOBAL;
    case INV.PAGE_GROUP_RESPONSE:
      return inv.responsePP(w[0]!) || !deviations.responseNeedsPasid;
    default:
      return true;
  }
}

/** Carries out a descriptor `judge` passed; waits are the queue's own business. */
export function perform(w: Int32Array, backend: Backend, remapper: InterruptRemapper): void {
  const w0 = w[0]!;
  const w1 = w[1]!;
  const w2 = w[2]!;
  const w3 = w[3]!;
  const g = inv.granularity(w0);
  switch (invType(w0)) {
    case INV.CONTEXT:
      backend.invalidateContext(g, inv.did(w0), inv.sid(w1), g === CONTEXT_G.DEVICE ? inv.fm(w1) : 0);
      return;
    case INV.IOTLB:
      backend.invalidateIotlb(g, inv.did(w0), inv.page(w2, w3), inv.am(w2));
      return;
    case INV.DEVICE_TLB:
      backend.invalidateDeviceTlb(inv.sid(w1), -1, (w2 & ~0xfff) | (inv.deviceS(w2) ? 0x800 : 0), w3, false);
      return;
    case INV.IEC:
      if (inv.iecSelective(w0)) remapper.invalidate(inv.iecIndex(w1), inv.iecMask(w0));
      else remapper.invalidateAll();
      return;
    case INV.PASID_IOTLB:
      backend.invalidatePasidIotlb(g, inv.did(w0), inv.pasid(w1), inv.page(w2, w3), inv.am(w2), inv.ih(w2));
      return;
    case INV.PASID_CACHE:
      backend.invalidatePasidCache(g, inv.did(w0), inv.pasid(w1));
      return;
    case INV.PASID_DEVICE_TLB:
      backend.invalidateDeviceTlb(
        inv.sidLow(w0),
        inv.pasid(w1),
        (w2 & ~0xfff) | (w2 & 0x800),
        w3,
        inv.pasidDeviceG(w2),
      );
      return;
    case INV.PAGE_GROUP_RESPONSE: {
      const pasid = inv.responsePP(w0) ? inv.pasid(w1) : -1;
      backend.respond(inv.sidLow(w0), pasid, inv.responseGroup(w2), inv.responseCode(w0));
      return;
    }
  }
}
