import type { Iotlb } from '../../lib/cache/iotlb.ts';
import type { Smmuv3Features } from '../../lib/check/smmuv3-features.ts';
import { DMA, NO_PASID } from '../../ports/dma.ts';
import {
  cmdAsid,
  cmdNum,
  cmdOp,
  cmdRange,
  cmdScale,
  cmdSsid,
  cmdTg,
  cmdTtl,
  cmdVmid,
  OP,
  type Opcode,
  RANGE_ALL,
  RESUME_AB,
  RESUME_AC,
  SSEC,
  SSV,
  syncCs,
} from '../../spec/smmuv3/commands.ts';
import { CR0 } from '../../spec/smmuv3/registers.ts';
import type { Smmuv3HwDeviceTlb } from './device-tlb.ts';
import type { Smmuv3HwPageRequests } from './page-requests.ts';
import type { Smmuv3HwRegisters } from './registers.ts';
import type { Smmuv3HwStalls } from './stalls.ts';
import type { Smmuv3HwTables } from './tables.ts';

export interface Smmuv3HwCommandsParts {
  readonly features: Smmuv3Features;
  readonly registers: Smmuv3HwRegisters;
  readonly tables: Smmuv3HwTables;
  readonly tlb: Iotlb;
  readonly deviceTlb: Smmuv3HwDeviceTlb;
  readonly stalls: Smmuv3HwStalls;
  readonly pages: Smmuv3HwPageRequests;
  /** TLBI, CFGI and ATC_INV have no effect. */
  readonly ignoreInvalidations: boolean;
}

/** The Non-secure command set (IHI 0070 §4): one small function each. */
export class Smmuv3HwCommands {
  readonly #f: Smmuv3Features;
  readonly #registers: Smmuv3HwRegisters;
  readonly #tables: Smmuv3HwTables;
  readonly #tlb: Iotlb;
  readonly #deviceTlb: Smmuv3HwDeviceTlb;
  readonly #stalls: Smmuv3HwStalls;
  readonly #pages: Smmuv3HwPageRequests;
  readonly #ignore: boolean;

  constructor(parts: Smmuv3HwCommandsParts) {
    this.#f = parts.features;
    this.#registers = parts.registers;
    this.#tables = parts.tables;
    this.#tlb = parts.tlb;
    this.#deviceTlb = parts.deviceTlb;
    this.#stalls = parts.stalls;
    this.#pages = parts.pages;
    this.#ignore = parts.ignoreInvalidations;
  }

  /** Runs the command at word index `at`. @returns false: CERROR_ILL (IHI 0070 §4.1–§4.7). */
  run(q: Int32Array, at: number): boolean {
    const w0 = q[at]!;
    const w1 = q[at + 1]!;
    const w2 = q[at + 2]!;
    const w3 = q[at + 3]!;
    const op = cmdOp(w0) as Opcode;
    switch (op) {
      case OP.SYNC:
        return syncCs(w0) !== 3;
      case OP.TLBI_NH_VA:
        return this.#tlbiVa(w0, w1, w2, w3);
      case OP.TLBI_NH_VAA:
        return this.#tlbiVaa(w0, w1, w2, w3);
      case OP.TLBI_NH_ASID:
        return this.#tlbiAsid(w1);
      case OP.TLBI_NH_ALL:
        return this.#tlbiNhAll(w1);
      case OP.TLBI_S2_IPA:
        return this.#tlbiIpa(w0, w1, w2, w3);
      case OP.TLBI_S12_VMALL:
        return this.#tlbiVmall(w1);
      case OP.TLBI_NSNH_ALL:
        return this.#tlbiAll();
      case OP.TLBI_EL2_ALL:
      case OP.TLBI_EL2_ASID:
        return this.#f.hyp;
      case OP.TLBI_EL2_VA:
      case OP.TLBI_EL2_VAA:
        return this.#f.hyp && this.#range(w0, w2) !== 0;
      case OP.CFGI_STE:
        return this.#cfgiSte(w0, w1);
      case OP.CFGI_STE_RANGE:
        return this.#cfgiRange(w0, w1, w2);
      case OP.CFGI_CD:
        return this.#cfgiCd(w0, w1);
      case OP.CFGI_CD_ALL:
        return this.#cfgiCdAll(w0, w1);
      case OP.PREFETCH_CONFIG:
      case OP.PREFETCH_ADDR:
        return (w0 & SSEC) === 0;
      case OP.ATC_INV:
        return this.#atcInv(w0, w1, w2, w3);
      case OP.PRI_RESP:
        return this.#priResp(w0, w1, w2);
      case OP.RESUME:
        return this.#resume(w0, w1, w2);
      case OP.STALL_TERM:
        return this.#stallTerm(w0, w1);
      // Neither EL3 nor MPAM is there.
      case OP.TLBI_EL3_ALL:
      case OP.TLBI_EL3_VA:
      case OP.CFGI_VMS_PIDM:
        return false;
      default:
        return reserved(op);
    }
  }

  #vmid(w1: number): number {
    return this.#f.s2p ? cmdVmid(w1) & (this.#f.vmid16 ? 0xffff : 0xff) : 0;
  }

  #asid(w1: number): number {
    return cmdAsid(w1) & (this.#f.asid16 ? 0xffff : 0xff);
  }

  /** 4 KiB pages an address invalidation covers; 0 is illegal: TG without NUM, SCALE and TTL (IHI 0070 §4.4.1). */
  #range(w0: number, w2: number): number {
    const tg = cmdTg(w2);
    if (!this.#f.ril || tg === 0) return 1;
    const num = cmdNum(w0);
    const scale = cmdScale(w0);
    if (num === 0 && scale === 0 && cmdTtl(w2) === 0) return 0;
    return (num + 1) * 2 ** scale * 2 ** (2 * tg - 2);
  }

  #tlbiVa(w0: number, w1: number, w2: number, w3: number): boolean {
    const pages = this.#range(w0, w2);
    if (!this.#f.s1p || pages === 0) return false;
    if (this.#ignore) return true;
    const vmid = this.#vmid(w1);
    const leaf = (w2 & 1) !== 0;
    // Entries are kept by the address with its ignored top byte replaced by the sign.
    const hi = (w3 << 8) >> 8;
    if (this.#tlb.hasGlobals(vmid)) {
      this.#tlb.invalidateRangeAll(vmid, w2 & ~0xfff, hi, pages, leaf);
      return true;
    }
    const context = this.#tlb.findContext(vmid, this.#asid(w1));
    if (context !== null) this.#tlb.invalidateRange(context, w2 & ~0xfff, hi, pages, leaf);
    return true;
  }

  #tlbiVaa(w0: number, w1: number, w2: number, w3: number): boolean {
    const pages = this.#range(w0, w2);
    if (!this.#f.s1p || pages === 0) return false;
    if (this.#ignore) return true;
    this.#tlb.invalidateRangeAll(this.#vmid(w1), w2 & ~0xfff, (w3 << 8) >> 8, pages, (w2 & 1) !== 0);
    return true;
  }

  #tlbiAsid(w1: number): boolean {
    if (!this.#f.s1p) return false;
    if (this.#ignore) return true;
    const context = this.#tlb.findContext(this.#vmid(w1), this.#asid(w1));
    if (context !== null) this.#tlb.invalidateContext(context);
    return true;
  }

  #tlbiNhAll(w1: number): boolean {
    if (!this.#f.s1p) return false;
    if (!this.#ignore) this.#tlb.invalidateDomain(this.#vmid(w1), false);
    return true;
  }

  #tlbiIpa(w0: number, w1: number, w2: number, w3: number): boolean {
    const pages = this.#range(w0, w2);
    if (!this.#f.s2p || pages === 0) return false;
    if (this.#ignore) return true;
    const context = this.#tlb.findContext(this.#vmid(w1), -1);
    if (context !== null) this.#tlb.invalidateRange(context, w2 & ~0xfff, w3 & 0xf_ffff, pages, (w2 & 1) !== 0);
    return true;
  }

  #tlbiVmall(w1: number): boolean {
    if (!this.#f.s2p) return false;
    if (!this.#ignore) this.#tlb.invalidateDomain(this.#vmid(w1), true);
    return true;
  }

  #tlbiAll(): boolean {
    if (!this.#ignore) this.#tlb.invalidateAll();
    return true;
  }

  #cfgiSte(w0: number, w1: number): boolean {
    if ((w0 & SSEC) !== 0) return false;
    if (!this.#ignore) this.#tables.dropStream(w1 >>> 0);
    return true;
  }

  #cfgiRange(w0: number, w1: number, w2: number): boolean {
    if ((w0 & SSEC) !== 0) return false;
    if (this.#ignore) return true;
    const range = cmdRange(w2);
    if (range === RANGE_ALL) this.#tables.dropAll();
    else {
      const count = 2 ** (range + 1);
      const sid = w1 >>> 0;
      this.#tables.dropStreams(sid - (sid % count), count);
    }
    return true;
  }

  #cfgiCd(w0: number, w1: number): boolean {
    if ((w0 & SSEC) !== 0 || !this.#f.s1p) return false;
    if (!this.#ignore) this.#tables.dropContext(w1 >>> 0, cmdSsid(w0));
    return true;
  }

  #cfgiCdAll(w0: number, w1: number): boolean {
    if ((w0 & SSEC) !== 0 || !this.#f.s1p) return false;
    if (!this.#ignore) this.#tables.dropContexts(w1 >>> 0);
    return true;
  }

  #atcInv(w0: number, w1: number, w2: number, w3: number): boolean {
    if (!this.#f.ats) return false;
    // Without SMMUEN it is consumed and does nothing (§4.5.1).
    if (!this.#registers.enabled(CR0.SMMUEN) || this.#ignore) return true;
    this.#deviceTlb.invalidate(w0, w1, w2, w3);
    return true;
  }

  #priResp(w0: number, w1: number, w2: number): boolean {
    const resp = (w2 >>> 12) & 3;
    if (!this.#f.pri || resp === 3) return false;
    if (this.#registers.enabled(CR0.SMMUEN)) {
      this.#pages.respond(w1 >>> 0, (w0 & SSV) !== 0 ? cmdSsid(w0) : NO_PASID, w2 & 0x1ff, resp);
    }
    return true;
  }

  #resume(w0: number, w1: number, w2: number): boolean {
    if (this.#f.stallModel === 1 || (w0 & SSEC) !== 0) return false;
    let outcome: number = DMA.OK;
    if ((w0 & RESUME_AC) === 0) {
      outcome = (w0 & RESUME_AB) !== 0 || this.#f.abortOnly ? DMA.ABORT : DMA.RAZ_WI;
    }
    this.#stalls.resume(w1 >>> 0, w2 & 0xffff, outcome);
    return true;
  }

  #stallTerm(w0: number, w1: number): boolean {
    if (this.#f.stallModel === 1 || (w0 & SSEC) !== 0) return false;
    this.#stalls.terminate(w1 >>> 0);
    return true;
  }
}

/** An opcode that no command has. A command of the specification without a case above does not compile here. */
function reserved(_op: never): boolean {
  return false;
}
