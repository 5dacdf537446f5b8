import type { Smmuv3Deviations } from './profile.ts';
import type { Smmuv3Properties } from './properties.ts';

/** What the identity registers say (IHI 0070 §6.3.1–§6.3.8). The machine gives the physical SMMU the same values. */
export interface Smmuv3Identity {
  /** IDR0. */
  readonly idr0: number;
  /** IDR1. */
  readonly idr1: number;
  /** IDR3. */
  readonly idr3: number;
  /** IDR5. */
  readonly idr5: number;
  /** AIDR. */
  readonly aidr: number;
}

const OAS_CODE = { 32: 0, 36: 1, 40: 2, 42: 3, 44: 4, 48: 5 } as const;
/** StreamIDs are 16 bits: bus, device, function. */
export const SIDSIZE = 16;
/** STAGs of a vSMMUv3 that stalls. */
const STALL_MAX = 64;
/** log2 of the largest queue. */
export const QUEUE_LOG2_MAX = 19;

/** The identification registers of a vSMMUv3. @param d deviations of its profile. */
export function smmuv3Identity(p: Smmuv3Properties, d: Smmuv3Deviations): Smmuv3Identity {
  const s1 = p.stage !== '2';
  const s2 = p.stage !== '1';
  const bit = (on: boolean, at: number) => (on ? 1 << at : 0);
  return {
    idr0:
      bit(s2, 0) |
      bit(s1, 1) |
      (2 << 2) | // TTF: AArch64 tables
      bit(true, 4) | // COHACC
      (p.httu << 6) |
      bit(p.ats, 10) |
      bit(p.ats && !d.fewFeatures, 11) | // NS1ATS: a host has no ATS that leaves stage 2 to it
      bit(true, 12) | // ASID16
      bit(p.msi && !d.noMsi, 13) |
      bit(p.ats && p.pri, 16) |
      bit(true, 18) | // VMID16
      bit(p.ssidsize > 0 && !d.fewFeatures, 19) | // CD2L
      (2 << 21) | // TTENDIAN: little
      bit(p.ats && !d.fewFeatures, 23) | // ATSRECERR
      ((p.stall ? 0 : 1) << 24) | // STALL_MODEL
      bit(true, 26) | // TERM_MODEL: CD.A=0 is illegal
      (1 << 27), // ST_LEVEL: two-level tables
    idr1:
      SIDSIZE |
      (p.ssidsize << 6) |
      ((p.ats && p.pri ? QUEUE_LOG2_MAX : 0) << 11) |
      (QUEUE_LOG2_MAX << 16) |
      (QUEUE_LOG2_MAX << 21),
    idr3: bit(s1 || d.fewFeatures, 2) | bit(s2, 4) | bit(p.pps, 5) | bit(p.ril, 10) | (2 << 11), // HAD, XNX, PPS, RIL, BBML 2
    idr5: OAS_CODE[p.oas] | (7 << 4) | ((p.stall ? STALL_MAX : 0) << 16), // 4K, 16K, 64K granules
    aidr: 1, // SMMUv3.1
  };
}
