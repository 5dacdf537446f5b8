import type { InvalidationType } from '../../spec/vtd/invalidation.ts';
import type { PagingLimits } from '../../spec/vtd/paging.ts';
import { PAGE } from '../../spec/vtd/registers.ts';
import { FSPM } from '../../spec/vtd/tables.ts';

const CAP = PAGE.CAP.fields;
const ECAP = PAGE.ECAP.fields;

/** What the capability registers of one unit say, decoded once for the checks that depend on it. */
export class VtdFeatures {
  /** What page-table entries may say: page sizes, reserved bits. */
  readonly limits: PagingLimits;
  /** Host address width, bits. */
  readonly haw: number;
  /** Bit i: a second stage with i + 2 levels exists (1: 39 bits, 2: 48, 3: 57), CAP.SAGAW. */
  readonly sagaw: number;
  /** Input address width of the second stage, bits. */
  readonly mgaw: number;
  /** Domain ids: 0 to this - 1. */
  readonly domains: number;
  /** Entries that are not present may be cached, CAP.CM. */
  readonly cachingMode: boolean;
  /** Page-selective IOTLB invalidation, CAP.PSI. */
  readonly psi: boolean;
  /** Largest address mask of one, log2 pages, CAP.MAMV. */
  readonly mamv: number;
  /** Five-level first stages, CAP.FS5LP. */
  readonly fiveLevels: boolean;
  /**
   * First stages with 39 and 30 input bits, in four-level tables. Not in the architecture, so no capability bit tells: QEMU's
   * intel-iommu takes the width of a first stage from AW, and hardware under it has to refuse what it refuses.
   */
  readonly narrowFirstStages: boolean;
  /** A request may name RID_PASID, and translates like one without PASID. Not in the architecture either; QEMU's unit does it. */
  readonly ridPasidRequests: boolean;
  /** ATS, ECAP.DT. */
  readonly deviceTlb: boolean;
  /** Pass-through, ECAP.PT. */
  readonly passThrough: boolean;
  /** SNP and PGSNP count, ECAP.SC. */
  readonly snoopControl: boolean;
  /** Nested translation, ECAP.NEST. */
  readonly nested: boolean;
  /** Page requests, ECAP.PRS. */
  readonly pageRequests: boolean;
  /** A wait can drain page requests, ECAP.PDS. */
  readonly pageRequestDrain: boolean;
  /** Privileged requests, ECAP.SRS. */
  readonly supervisor: boolean;
  /** Translation requests may ask for no write, ECAP.NWFS. */
  readonly noWrite: boolean;
  /** Extended accessed flag, ECAP.EAFS. */
  readonly extendedAccessed: boolean;
  /** PASIDs are this many bits wide; 0: requests with PASID are not supported. */
  readonly pasidBits: number;
  /** Scalable mode, ECAP.SMTS. */
  readonly scalable: boolean;
  /** Accessed and dirty flags of the second stage, ECAP.SSADS. */
  readonly secondAccessDirty: boolean;
  /** Second stage in scalable mode, ECAP.SSTS. */
  readonly secondStage: boolean;
  /** First stage, ECAP.FSTS. */
  readonly firstStage: boolean;
  /** Table walks can snoop in scalable mode, ECAP.SMPWCS. */
  readonly pageWalkCoherency: boolean;
  /** RID_PASID of the context entry counts; without, requests without PASID use PASID 0. */
  readonly ridPasid: boolean;
  /** RID_PRIV of the context entry is defined. */
  readonly ridPriv: boolean;
  /** The table mode that aborts everything, ECAP.ADMS. */
  readonly abortMode: boolean;

  /**
   * @param cap,ecap register values. @param haw host address width in bits, 32 to 52.
   * @param extra what has no capability bit: `transient`: TM is defined in second-stage leaves.
   */
  constructor(
    cap: bigint,
    ecap: bigint,
    haw: number,
    extra: {
      readonly transient?: boolean;
      readonly narrowFirstStages?: boolean;
      readonly ridPasidRequests?: boolean;
    } = {},
  ) {
    const c = (f: readonly [number, number]): number => Number((cap >> BigInt(f[0])) & ((1n << BigInt(f[1])) - 1n));
    const e = (f: readonly [number, number]): number => Number((ecap >> BigInt(f[0])) & ((1n << BigInt(f[1])) - 1n));
    const ssLps = c(CAP.SSLPS);
    this.haw = haw;
    this.snoopControl = e(ECAP.SC) === 1;
    this.limits = {
      haw,
      ss2m: (ssLps & 1) !== 0,
      ss1g: (ssLps & 2) !== 0,
      fs1g: c(CAP.FS1GP) === 1,
      snp: this.snoopControl,
      tm: extra.transient ?? false,
    };
    this.sagaw = c(CAP.SAGAW);
    this.mgaw = c(CAP.MGAW) + 1;
    this.domains = 2 ** (4 + 2 * c(CAP.ND));
    this.cachingMode = c(CAP.CM) === 1;
    this.psi = c(CAP.PSI) === 1;
    this.mamv = c(CAP.MAMV);
    this.fiveLevels = c(CAP.FS5LP) === 1;
    this.narrowFirstStages = extra.narrowFirstStages ?? false;
    this.ridPasidRequests = extra.ridPasidRequests ?? false;
    this.deviceTlb = e(ECAP.DT) === 1;
    this.passThrough = e(ECAP.PT) === 1;
    this.nested = e(ECAP.NEST) === 1;
    this.pageRequests = e(ECAP.PRS) === 1;
    this.pageRequestDrain = e(ECAP.PDS) === 1;
    this.supervisor = e(ECAP.SRS) === 1;
    this.noWrite = e(ECAP.NWFS) === 1;
    this.extendedAccessed = e(ECAP.EAFS) === 1;
    this.pasidBits = e(ECAP.PASID) === 1 ? e(ECAP.PSS) + 1 : 0;
    this.scalable = e(ECAP.SMTS) === 1;
    this.secondAccessDirty = e(ECAP.SSADS) === 1;
    this.secondStage = e(ECAP.SSTS) === 1;
    this.firstStage = e(ECAP.FSTS) === 1;
    this.pageWalkCoherency = e(ECAP.SMPWCS) === 1;
    this.ridPasid = e(ECAP.RPS) === 1;
    this.ridPriv = e(ECAP.RPRIVS) === 1;
    this.abortMode = e(ECAP.ADMS) === 1;
  }

  /** Whether the unit has what a type of invalidation descriptor needs. */
  has(needs: InvalidationType['needs']): boolean {
    switch (needs) {
      case null:
        return true;
      case 'DT':
        return this.deviceTlb;
      case 'PRS':
        return this.pageRequests;
    }
  }

  /** Whether FSPM of a PASID entry (anything else: -1) names a first stage the unit can walk. */
  walksFirst(fspm: number): boolean {
    switch (fspm) {
      case FSPM.FOUR_LEVELS:
        return true;
      case FSPM.FIVE_LEVELS:
        return this.fiveLevels;
      case FSPM.INPUT_39:
      case FSPM.INPUT_30:
        return this.narrowFirstStages;
      default:
        return false;
    }
  }

  /** Whether AW (1, 2, 3) of a context or PASID entry is a width the unit can walk. */
  walks(aw: number): boolean {
    return aw >= 1 && aw <= 3 && (this.sagaw & (1 << aw)) !== 0;
  }
}
