import { field } from '../../../core/bits.ts';
import { PAGE0 } from '../../../spec/smmuv3/registers.ts';

/** The identity registers of a physical SMMU as the kernel reads them at probe, and as GET_HW_INFO hands them out. */
export interface Smmuv3DriverIdentity {
  /** IDR0..IDR5. */
  readonly idr: readonly [number, number, number, number, number, number];
  readonly iidr: number;
  readonly aidr: number;
}

/** What the kernel makes of them. Sizes in bits. */
export interface Smmuv3DriverFeatures {
  readonly stage1: boolean;
  readonly stage2: boolean;
  /** Both stages: nest parents and vIOMMUs are possible. */
  readonly nesting: boolean;
  readonly ats: boolean;
  readonly pri: boolean;
  /** Faulting transactions can wait; `stallForce`: they always do. */
  readonly stalls: boolean;
  readonly stallForce: boolean;
  /** Dirty state by hardware (IDR0.HTTU = 2). */
  readonly dirty: boolean;
  readonly twoLevelStreams: boolean;
  readonly twoLevelCds: boolean;
  /** STE.SHCFG has an effect. */
  readonly attrTypesOvr: boolean;
  readonly forcedWriteBack: boolean;
  readonly rangeInvalidation: boolean;
  /** log2 of the entries of each queue. */
  readonly queueLog2: { readonly commands: number; readonly events: number; readonly pageRequests: number };
  readonly sidBits: number;
  readonly ssidBits: number;
  readonly vmidBits: number;
  readonly asidBits: number;
  /** Output (and stage-2 input) address size; at most 48 with the 4 KiB granule. */
  readonly oas: number;
  /** The code of `oas` as STE.S2PS and CD.IPS spell it. */
  readonly oasCode: number;
}

const OAS_BITS = [32, 36, 40, 42, 44, 48, 52] as const;
/** Stage-1 input bits the kernel uses with 4 KiB pages. */
export const STAGE1_IAS = 48;

const R0 = PAGE0.IDR0.fields;
const R1 = PAGE0.IDR1.fields;
const R3 = PAGE0.IDR3.fields;
const R5 = PAGE0.IDR5.fields;

function at(word: number, f: readonly [number, number]): number {
  return field(word, f[0], f[1]);
}

/** Arm's MMU-600 before r2 cannot nest (erratum 1209401); IIDR says who is who (IHI 0070 §6.3.7). */
function cannotNest(iidr: number): boolean {
  const mmu600 = field(iidr, 0, 12) === 0x43b && iidr >>> 20 === 0x483;
  return mmu600 && field(iidr, 16, 4) < 2;
}

export function featuresOf({ idr, iidr }: Smmuv3DriverIdentity): Smmuv3DriverFeatures {
  const [idr0, idr1, , idr3, , idr5] = idr;
  const stage1 = at(idr0, R0.S1P) === 1;
  const stage2 = at(idr0, R0.S2P) === 1;
  const stall = at(idr0, R0.STALL_MODEL);
  // 4 KiB pages end at 48 bits; the kernel takes the widest size it knows for a reserved code.
  const oasCode = Math.min(at(idr5, R5.OAS), 5);
  return {
    stage1,
    stage2,
    nesting: stage1 && stage2 && !cannotNest(iidr),
    ats: at(idr0, R0.ATS) === 1,
    pri: at(idr0, R0.PRI) === 1,
    stalls: stall === 0 || stall === 2,
    stallForce: stall === 2,
    dirty: at(idr0, R0.HTTU) === 2,
    twoLevelStreams: at(idr0, R0.ST_LEVEL) === 1,
    twoLevelCds: at(idr0, R0.CD2L) === 1,
    attrTypesOvr: at(idr1, R1.ATTR_TYPES_OVR) === 1,
    forcedWriteBack: at(idr3, R3.FWB) === 1,
    rangeInvalidation: at(idr3, R3.RIL) === 1,
    queueLog2: { commands: at(idr1, R1.CMDQS), events: at(idr1, R1.EVENTQS), pageRequests: at(idr1, R1.PRIQS) },
    sidBits: at(idr1, R1.SIDSIZE),
    ssidBits: at(idr1, R1.SSIDSIZE),
    vmidBits: at(idr0, R0.VMID16) === 1 ? 16 : 8,
    asidBits: at(idr0, R0.ASID16) === 1 ? 16 : 8,
    oas: OAS_BITS[oasCode]!,
    oasCode,
  };
}
