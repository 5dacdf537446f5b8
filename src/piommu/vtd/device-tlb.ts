import { ITags, type ITagsOptions } from '../../lib/ats/itags.ts';
import { NO_PASID } from '../../ports/dma.ts';
import { HW_ERROR } from '../../ports/hw.ts';
import { inv } from '../../spec/vtd/invalidation.ts';

/** S bit of an ATS address: more than one page. */
const ATS_S = 1 << 11;
const PAGE_LO = ~0xfff;

/** Device-TLB invalidations on their way to functions (VT-d §4.3, §6.5.2.5, §6.5.2.6). */
export class VtdHwDeviceTlb {
  readonly tags: ITags;

  constructor(options: Omit<ITagsOptions, 'absent' | 'depth'>) {
    // Silence and nobody there are the same to the unit: an invalidation time-out (§6.5.2.11).
    this.tags = new ITags({ ...options, depth: 32, absent: HW_ERROR.ATC_TIMEOUT });
  }

  /** Sends a device-TLB descriptor: its S is bit 0 of w2. */
  invalidate(w1: number, w2: number, w3: number): void {
    this.tags.request(inv.sid(w1), NO_PASID, (w2 & PAGE_LO) | (inv.deviceS(w2) ? ATS_S : 0), w3, false);
  }

  /** Sends a PASID-based device-TLB descriptor: its S is bit 11 of w2, as in the message. */
  invalidatePasid(w0: number, w1: number, w2: number, w3: number): void {
    const lo = (w2 & PAGE_LO) | (w2 & ATS_S);
    this.tags.request(inv.sidLow(w0), inv.pasid(w1), lo, w3, inv.pasidDeviceG(w2));
  }
}
