import type { VtdFeatures } from '../../lib/check/vtd-features.ts';
import { inInterruptWindow } from '../../lib/walk/vtd.ts';
import { ACCESS, AT, ATS, NO_PASID } from '../../ports/dma.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import type { VtdHwFaults } from './faults.ts';
import type { VtdHwRegisters } from './registers.ts';
import type { VtdHwResolver } from './resolver.ts';
import type { VtdHwStream } from './stream.ts';
import type { VtdHwTables } from './tables.ts';

const RW = ACCESS.READ | ACCESS.WRITE;

export interface VtdHwAtsParts {
  readonly features: VtdFeatures;
  readonly registers: VtdHwRegisters;
  readonly tables: VtdHwTables;
  readonly resolver: VtdHwResolver;
  readonly faults: VtdHwFaults;
}

/** PCIe ATS translation requests (VT-d §4.1, §4.2): which faults are UR, CA, or a success that maps nothing. */
export class VtdHwAts {
  out = 0;
  shift = 0;
  /** ACCESS bits granted. */
  perm = 0;
  untranslated = false;
  noSnoop = false;
  readonly #p: VtdHwAtsParts;

  constructor(parts: VtdHwAtsParts) {
    this.#p = parts;
  }

  /** @returns an ATS value; on SUCCESS the fields hold the completion. */
  request(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const { features, registers, tables, resolver, faults } = this.#p;
    this.perm = 0;
    this.out = 0;
    this.shift = 12;
    this.untranslated = false;
    this.noSnoop = false;
    if (!registers.enabled || !features.deviceTlb) return ATS.UR;
    const slot = resolver.resolve(rid, pasid);
    if (slot === null) return this.#failed(rid, pasid, lo, hi, access);
    const context = tables.context(rid);
    if (context === null || !context.dte) {
      const reason = slot.regime.scalable ? FAULT.SM_DTE : FAULT.TRANSLATION_BLOCKED;
      const fault = { reason, fpd: slot.regime.fpd };
      faults.report(fault, rid, pasid, lo, hi, access, AT.TRANSLATION_REQUEST, false);
      return ATS.UR;
    }
    if (pasid === NO_PASID && inInterruptWindow(lo, hi)) return this.#window(access);
    return this.#walk(slot, rid, pasid, lo, hi, access);
  }

  /** A message address: the function may write there, untranslated. */
  #window(access: number): number {
    if ((access & ACCESS.WRITE) === 0) return ATS.SUCCESS;
    this.perm = ACCESS.WRITE;
    this.untranslated = true;
    return ATS.SUCCESS;
  }

  /** Asks for as much as was wanted, then for less: a translation may grant a part (VT-d §4.2.3). */
  #walk(slot: VtdHwStream, rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const { resolver, features } = this.#p;
    // Without no-write support every request may be granted W, and then D is set.
    const wanted = (access & ACCESS.WRITE) !== 0 || !features.noWrite ? RW : ACCESS.READ;
    const priv = access & ACCESS.PRIV;
    for (let ask = wanted; ; ask = ask === RW ? ACCESS.READ : ACCESS.WRITE) {
      if (resolver.walk(slot, rid, pasid, lo, hi, ask | priv)) {
        this.out = resolver.out - (resolver.out % 4096);
        this.shift = resolver.outShift;
        this.perm = resolver.outPerm & wanted;
        this.noSnoop = resolver.noSnoop;
        return ATS.SUCCESS;
      }
      const { reason } = resolver;
      if (!isRefusal(reason)) return this.#failed(rid, pasid, lo, hi, access);
      if (reason === FAULT.SS_NONE || reason === FAULT.US || ask === ACCESS.WRITE || wanted !== RW) {
        return ATS.SUCCESS;
      }
    }
  }

  /** Nothing mapped: success without permissions. Broken tables: CA. Not for this function: UR (VT-d §7.1.3). */
  #failed(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const { resolver, faults } = this.#p;
    const { reason } = resolver;
    switch (reason) {
      case FAULT.FS_P:
      case FAULT.NON_CANONICAL:
      case FAULT.DIR_P:
      case FAULT.PASID_P:
      case FAULT.BEYOND_WIDTH:
      case FAULT.SS_BEYOND:
      case FAULT.PT_BEYOND:
      case FAULT.FS_ADDRESS:
      case FAULT.PASID_SRE:
        return ATS.SUCCESS;
    }
    faults.report(resolver, rid, pasid, lo, hi, access, AT.TRANSLATION_REQUEST, false);
    switch (reason) {
      case FAULT.ROOT_P:
      case FAULT.CONTEXT_P:
      case FAULT.CONTEXT_INVALID:
      case FAULT.SM_ROOT_P:
      case FAULT.SM_CONTEXT_P:
      case FAULT.SM_CONTEXT_INVALID:
      case FAULT.SM_DTE:
      case FAULT.SM_PASIDE:
      case FAULT.SM_PASID_BEYOND:
      case FAULT.SM_RID_PASID:
      case FAULT.PASID_BEYOND_PSS:
      case FAULT.PASID_IN_LEGACY:
      case FAULT.TTM_UNSUPPORTED:
      case FAULT.ABORT_MODE:
      case FAULT.INTERRUPT_OUTPUT:
      case FAULT.SM_INTERRUPT:
        return ATS.UR;
      default:
        return ATS.CA;
    }
  }
}

/** Reasons that deny a permission or find nothing: recoverable, never recorded for a translation request. */
function isRefusal(reason: number): boolean {
  switch (reason) {
    case FAULT.READ:
    case FAULT.WRITE:
    case FAULT.SS_NONE:
    case FAULT.SM_READ:
    case FAULT.SM_WRITE:
    case FAULT.US:
    case FAULT.FS_ROOT_SECOND_READ:
    case FAULT.FS_SECOND_READ:
    case FAULT.FS_SECOND_WRITE:
      return true;
    default:
      return false;
  }
}
