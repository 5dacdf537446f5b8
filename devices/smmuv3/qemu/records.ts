import { hiWord, loWord } from '../../../src/core/bits.ts';
import type { VmsaCheckOrder } from '../../../src/lib/walk/vmsa-choices.ts';
import type { HalfRegime } from '../../../src/lib/walk/vmsa-regime.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import { cdTtb0, cdTtb1 } from '../../../src/spec/smmuv3/cd.ts';
import { CLASS, EV3, EV3_CLASS_SHIFT, EVENT, encodeEvent } from '../../../src/spec/smmuv3/events.ts';
import type { Smmuv3GuestAccess } from '../guest-access.ts';

/**
 * Which fault QEMU names when an access has several. The second walk only counts for what QEMU judges earlier than the
 * hardware: a fault of a cached translation stays, whatever the tables say by now.
 * @param hardware,walked event codes: what the hardware said, and what the guest's tables say in QEMU's order.
 */
export function qemuFirstFault(order: VmsaCheckOrder, hardware: number, walked: number): number {
  if (walked === EVENT.F_PERMISSION && order.permissionAtTable) return walked;
  const leaf = walked === EVENT.F_PERMISSION || walked === EVENT.F_ACCESS;
  return leaf && hardware === EVENT.F_ADDR_SIZE && order.leafSizeLast ? walked : hardware;
}

/**
 * QEMU's shape of a stage-2 fault. It translates TTB0 and TTB1 when it decodes the CD (as reads, of the tables' addresses)
 * and the tables below them on the way, losing S2; it reports the address of a table, not of a descriptor, but all bits of
 * an output address and of a CD's.
 */
export class QemuStage2Records {
  readonly #access: Smmuv3GuestAccess;
  /** The walker's fault is that of a TTB translated with its CD. */
  #early = false;

  constructor(access: Smmuv3GuestAccess) {
    this.#access = access;
  }

  /** Another fault is looked at. */
  begin(): void {
    this.#early = false;
  }

  /**
   * What QEMU does between the CD and the access: it translates TTB0, then TTB1.
   * @returns 0 or the event code of the fault that the walker describes.
   */
  tables(): number {
    const { s1, s2, walker } = this.#access;
    if (s2 === null) return 0;
    for (const half of [s1.half0, s1.half1]) {
      if (half.disabled) continue;
      const code = walker.stage2(s2, half.ttbHi * 2 ** 32 + (half.ttbLo >>> 0), ACCESS.READ, CLASS.TT);
      this.#early = code !== 0;
      if (code !== 0) return code;
    }
    return 0;
  }

  /** The half of the address space an access is in: bit 55 of its address. */
  #half(raw: Int32Array): HalfRegime {
    const { s1 } = this.#access;
    return (raw[5]! & (1 << 23)) !== 0 ? s1.half1 : s1.half0;
  }

  /** Whether the walker's fault is that of a start table: QEMU meets it while it decodes the CD. */
  #atDecode(raw: Int32Array): boolean {
    if (this.#early) return true;
    const { s1, cd, walker } = this.#access;
    const half = this.#half(raw);
    const ttb = half === s1.half1 ? cdTtb1(cd, 0) : cdTtb0(cd, 0);
    return walker.ipa >= ttb && walker.ipa < ttb + 2 ** half.granule;
  }

  /** QEMU takes a fault of a table below the start table for one of stage 1. */
  isInner(raw: Int32Array): boolean {
    const { walker, bypassed } = this.#access;
    return walker.cls === CLASS.TT && !bypassed && !this.#atDecode(raw);
  }

  /** The code of an inner fault: under stage 2 a table beyond stage 1's output size is told apart after all. */
  innerCode(raw: Int32Array, code: number): number {
    const beyond = this.#access.walker.ipa >= 2 ** this.#half(raw).outBits;
    return code === EVENT.F_TRANSLATION && beyond ? EVENT.F_ADDR_SIZE : code;
  }

  /** Writes the record of the fault that the walker describes. */
  encode(into: Int32Array, sid: number, raw: Int32Array, code: number): void {
    const { walker: w, bypassed } = this.#access;
    let bits: number = EV3.S2 | (w.cls << EV3_CLASS_SHIFT);
    let at = code === EVENT.F_WALK_EABT ? w.fetch : w.ipa;
    let transaction = raw[3]! & EV3.RNW;
    if (w.cls === CLASS.CD) {
      transaction = EV3.RNW;
    } else if (w.cls === CLASS.TT && !bypassed) {
      at -= at % (this.#early ? 4096 : 2 ** this.#half(raw).granule);
      if (this.#atDecode(raw)) transaction = EV3.RNW;
      else bits &= ~EV3.S2;
    }
    encodeEvent(into, 0, code, sid, -1, bits | transaction, raw[4]!, raw[5]!, loWord(at), hiWord(at));
  }
}
