import { field } from '../../core/bits.ts';
import { ADDRESS_BITS, PAGE0 } from '../../spec/smmuv3/registers.ts';

/** What an SMMU's identity registers say about structures and translation (IHI 0070 §6.3.1–§6.3.6). */
export interface Smmuv3Features {
  /** IDR0.S1P: stage 1. */
  readonly s1p: boolean;
  /** IDR0.S2P: stage 2. */
  readonly s2p: boolean;
  /** 0 none, 1 access flag, 2 access flag and dirty state. */
  readonly httu: number;
  /** IDR0.HYP: EL2 contexts. */
  readonly hyp: boolean;
  /** IDR0.ATS. */
  readonly ats: boolean;
  /** NS1ATS: no split-stage ATS. */
  readonly ns1ats: boolean;
  /** IDR0.PRI. */
  readonly pri: boolean;
  /** IDR0.ATSRECERR: configuration faults of translation requests can be recorded. */
  readonly atsRecErr: boolean;
  /** IDR0.ASID16: ASIDs of 16 bits, else 8. */
  readonly asid16: boolean;
  /** IDR0.VMID16: VMIDs of 16 bits, else 8. */
  readonly vmid16: boolean;
  /** IDR0.CD2L: two-level CD tables. */
  readonly cd2l: boolean;
  /** 0 stall and terminate, 1 terminate only, 2 stall only. */
  readonly stallModel: number;
  /** TERM_MODEL: A = 0 (RAZ/WI) is not available. */
  readonly abortOnly: boolean;
  /** IDR0.ST_LEVEL: two-level stream tables. */
  readonly twoLevel: boolean;
  /** IDR1.SIDSIZE: StreamID bits. */
  readonly sidSize: number;
  /** IDR1.SSIDSIZE: SubstreamID bits. */
  readonly ssidSize: number;
  /** IDR3.XNX: stage 2 tells privileged from unprivileged fetches. */
  readonly xnx: boolean;
  /** IDR3.RIL: range invalidation. */
  readonly ril: boolean;
  /** PRI responses carry a PASID when the request did. */
  readonly pps: boolean;
  /** Output address size, bits. */
  readonly oas: number;
  /** IDR5.GRAN4K. */
  readonly gran4k: boolean;
  /** IDR5.GRAN16K. */
  readonly gran16k: boolean;
  /** IDR5.GRAN64K. */
  readonly gran64k: boolean;
  /** IDR0.MSI: interrupts as messages. */
  readonly msi: boolean;
}

const flag = (word: number, f: readonly [number, number]) => field(word, f[0], f[1]) !== 0;
const value = (word: number, f: readonly [number, number]) => field(word, f[0], f[1]);

/** @param idr0,idr1,idr3,idr5 the registers as a driver reads them. */
export function smmuv3Features(idr0: number, idr1: number, idr3: number, idr5: number): Smmuv3Features {
  const f0 = PAGE0.IDR0.fields;
  const f1 = PAGE0.IDR1.fields;
  const f3 = PAGE0.IDR3.fields;
  const f5 = PAGE0.IDR5.fields;
  return {
    s1p: flag(idr0, f0.S1P),
    s2p: flag(idr0, f0.S2P),
    httu: value(idr0, f0.HTTU),
    hyp: flag(idr0, f0.HYP),
    ats: flag(idr0, f0.ATS),
    ns1ats: flag(idr0, f0.NS1ATS),
    pri: flag(idr0, f0.PRI),
    atsRecErr: flag(idr0, f0.ATSRECERR),
    asid16: flag(idr0, f0.ASID16),
    vmid16: flag(idr0, f0.VMID16),
    cd2l: flag(idr0, f0.CD2L),
    stallModel: value(idr0, f0.STALL_MODEL),
    abortOnly: flag(idr0, f0.TERM_MODEL),
    twoLevel: value(idr0, f0.ST_LEVEL) === 1,
    sidSize: value(idr1, f1.SIDSIZE),
    ssidSize: value(idr1, f1.SSIDSIZE),
    xnx: flag(idr3, f3.XNX),
    ril: flag(idr3, f3.RIL),
    pps: flag(idr3, f3.PPS),
    oas: ADDRESS_BITS[value(idr5, f5.OAS)]!,
    gran4k: flag(idr5, f5.GRAN4K),
    gran16k: flag(idr5, f5.GRAN16K),
    gran64k: flag(idr5, f5.GRAN64K),
    msi: flag(idr0, f0.MSI),
  };
}

/** Whether tables of granule 2^`granule` can be walked; 0 is a reserved encoding. */
export function granuleSupported(f: Smmuv3Features, granule: number): boolean {
  if (granule === 12) return f.gran4k;
  if (granule === 14) return f.gran16k;
  return granule === 16 && f.gran64k;
}
