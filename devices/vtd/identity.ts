import { toBigint } from '../../src/core/bits.ts';
import { VtdFeatures } from '../../src/lib/check/vtd-features.ts';
import type { VtdDeviations } from './profile.ts';
import type { VtdProperties } from './properties.ts';

/** What the capability registers say (VT-d §11.4.2, §11.4.3), as words. */
export interface VtdIdentity {
  /** CAP, low word. */
  readonly capLo: number;
  /** CAP, high word. */
  readonly capHi: number;
  /** ECAP, low word. */
  readonly ecapLo: number;
  /** ECAP, high word. */
  readonly ecapHi: number;
  /** Host address width of the reserved-bit checks in bits, at most 52. It is in no register. */
  readonly haw: number;
  /** Fault recording registers, CAP.NFR + 1. */
  readonly records: number;
  /** ECAP.VCS. */
  readonly virtualCommands: boolean;
}

const MAMV = 18;
/** CAP.ND: 2^(4 + 2·ND) domains. */
const ND = 6;
/** CAP.SAGAW by address width: the widths below are offered with it. */
const SAGAW: Readonly<Record<number, number>> = { 39: 0x2, 48: 0x6, 57: 0xe };

/** CAP and ECAP of a set of properties: facts of QEMU 11.1.3; without `noExtensions`, with what QEMU leaves out. */
export function vtdIdentity(p: VtdProperties, d: VtdDeviations): VtdIdentity {
  const bit = (on: boolean, at: number) => (on ? 1 << at : 0);
  const more = !d.noExtensions;
  const records = d.oneFaultRecord ? 1 : 8;
  const secondStage = p.scalableMode && (!p.fsts || more);
  const virtualCommands = more && p.pasidBits > 0;
  return {
    capLo:
      ND |
      bit(p.cachingMode, 7) | // CM
      ((p.dmaTranslation ? SAGAW[p.awBits]! : 0) << 8) |
      ((p.awBits - 1) << 16) | // MGAW
      (0x22 << 24), // FRO: the fault records begin at 0x220
    capHi:
      (3 << 2) | // SSLPS: 2 MiB and 1 GiB
      bit(true, 7) | // PSI
      ((records - 1) << 8) | // NFR
      (MAMV << 16) |
      bit(true, 22) | // DWD
      bit(true, 23) | // DRD
      bit(p.fsts && p.fs1gp, 24) | // FS1GP
      bit(p.postedInterrupts, 27) | // PI
      bit(p.fsts && p.awBits === 57, 28) | // FS5LP
      bit(p.esirtps, 30) | // ESIRTPS
      bit(true, 31), // ESRTPS
    ecapLo:
      bit(p.pageWalkCoherency, 0) | // C
      bit(p.queuedInvalidation, 1) | // QI
      bit(p.deviceIotlb, 2) | // DT
      bit(p.intremap, 3) | // IR
      bit(p.eim, 4) | // EIM
      bit(true, 6) | // PT
      bit(p.snoopControl, 7) | // SC
      (0xf << 8) | // IRO: IVA and IOTLB at 0xf0
      (p.intremap ? 0xf << 20 : 0) | // MHMV
      bit(more && p.scalableMode && p.fsts, 26) | // NEST
      bit(p.svm, 29) | // PRS
      bit(secondStage, 31), // SRS
    ecapHi:
      bit(p.svm, 1) | // NWFS
      (p.pasidBits > 0 ? (p.pasidBits - 1) << 3 : 0) | // PSS
      bit(p.pasidBits > 0, 8) | // PASID
      bit(p.svm, 10) | // PDS
      bit(p.scalableMode, 11) | // SMTS
      bit(virtualCommands, 12) | // VCS
      bit(secondStage, 14) | // SSTS
      bit(p.scalableMode && p.fsts, 15) | // FSTS
      bit(p.scalableMode && p.pageWalkCoherency, 16) | // SMPWCS
      bit(more && p.scalableMode, 20), // ADMS
    haw: Math.min(p.awBits, 52),
    records,
    virtualCommands,
  };
}

/** The same, decoded for the checks that depend on it. */
export function vtdFeatures(id: VtdIdentity, p: VtdProperties): VtdFeatures {
  const transient = p.staleTm && p.deviceIotlb;
  return new VtdFeatures(toBigint(id.capLo, id.capHi), toBigint(id.ecapLo, id.ecapHi), id.haw, { transient });
}
