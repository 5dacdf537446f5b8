import { ITags, type ITagsOptions } from '../../lib/ats/itags.ts';
import { NO_PASID } from '../../ports/dma.ts';
import { HW_ERROR } from '../../ports/hw.ts';
import { ATC_GLOBAL, ATC_SIZE_ALL, cmdAtcSize, cmdSsid, SSV } from '../../spec/smmuv3/commands.ts';

/** S bit of an ATS address: more than one page. */
const ATS_S = 1 << 11;

/** ATC_INV commands on their way to functions (IHI 0070 §3.9.1.4, §4.5). */
export class Smmuv3HwDeviceTlb {
  readonly tags: ITags;

  constructor(options: Omit<ITagsOptions, 'absent'>) {
    // An Unsupported Request counts as a completion (§3.9.1.5).
    this.tags = new ITags({ ...options, absent: HW_ERROR.NONE });
  }

  /** Sends one ATC_INV, given as its words. */
  invalidate(w0: number, w1: number, w2: number, w3: number): void {
    const size = Math.min(cmdAtcSize(w2), ATC_SIZE_ALL);
    const pasid = (w0 & SSV) !== 0 ? cmdSsid(w0) : NO_PASID;
    const global = pasid !== NO_PASID && (w0 & ATC_GLOBAL) !== 0;
    // 2^size pages: ones from bit 12 up, a zero at bit 11 + size, the aligned address above.
    const top = 12 + size;
    let lo = w2 & ~0xfff;
    let hi = w3;
    if (top < 32) lo &= -(1 << top);
    else {
      lo = 0;
      hi = top >= 64 ? 0 : hi & -(1 << (top - 32));
    }
    if (size > 0) {
      const zero = top - 1;
      lo |= ATS_S | (zero < 32 ? (1 << zero) - (1 << 12) : ~0xfff);
      if (zero > 32) hi |= (1 << (zero - 32)) - 1;
    }
    this.tags.request(w1 >>> 0, pasid, lo, hi, global);
  }
}
