import { TWO32 } from '../../core/bits.ts';
import type { Smmuv3Features } from '../../lib/check/smmuv3-features.ts';
import { PERM_ALL, permGranted, permNeeded } from '../../lib/walk/vmsa-regime.ts';
import { ACCESS, ATS, NO_PASID } from '../../ports/dma.ts';
import { EVENT } from '../../spec/smmuv3/events.ts';
import { CR0, CR2 } from '../../spec/smmuv3/registers.ts';
import { CONFIG, EATS } from '../../spec/smmuv3/ste.ts';
import type { Smmuv3HwFaults } from './faults.ts';
import type { Smmuv3HwRegisters } from './registers.ts';
import { RESOLVED, type Smmuv3HwResolver, STAGES } from './resolver.ts';
import type { Smmuv3HwTables } from './tables.ts';

export interface Smmuv3HwAtsParts {
  readonly features: Smmuv3Features;
  readonly registers: Smmuv3HwRegisters;
  readonly tables: Smmuv3HwTables;
  readonly resolver: Smmuv3HwResolver;
  readonly faults: Smmuv3HwFaults;
}

/** PCIe ATS translation requests (IHI 0070 §3.9.1): which faults are UR, CA, or a success that maps nothing. */
export class Smmuv3HwAts {
  readonly #f: Smmuv3Features;
  readonly #registers: Smmuv3HwRegisters;
  readonly #tables: Smmuv3HwTables;
  readonly #resolver: Smmuv3HwResolver;
  readonly #faults: Smmuv3HwFaults;
  /** CR0.SMMUEN; CR2.REC_CFG_ATS, CR2.RECINVSID. */
  #enabled = false;
  #record = false;
  #recordStreamId = false;

  out = 0;
  shift = 12;
  /** ACCESS bits granted. */
  perm = 0;

  constructor(parts: Smmuv3HwAtsParts) {
    this.#f = parts.features;
    this.#registers = parts.registers;
    this.#tables = parts.tables;
    this.#resolver = parts.resolver;
    this.#faults = parts.faults;
  }

  /** Registers have changed. */
  programmed(): void {
    this.#enabled = this.#registers.enabled(CR0.SMMUEN);
    this.#record = this.#f.atsRecErr && this.#registers.control2(CR2.REC_CFG_ATS);
    this.#recordStreamId = this.#registers.control2(CR2.RECINVSID);
  }

  /** @returns an ATS value; on SUCCESS the fields hold the completion. */
  request(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    this.out = 0;
    this.shift = 12;
    this.perm = 0;
    if (!this.#f.ats || !this.#enabled) return this.#refuse(rid, pasid, lo, hi, access);
    const r = this.#resolver;
    // Refusals come from the STE alone and before what the walk finds; the first look also lets the host install one.
    let code = r.resolve(rid, pasid, lo, hi, 0, access, STAGES.NONE);
    const s = this.#tables.stream;
    if (code === RESOLVED.ABORT) return ATS.UR;
    if (s !== null && (s.config === CONFIG.BYPASS || !this.#granted(s.eats))) {
      return this.#refuse(rid, pasid, lo, hi, access);
    }
    if (s === null || code > 0) return this.#configurationFault(code, rid, pasid, lo, hi, access);

    const stages = s.eats === EATS.SPLIT ? STAGES.ONLY_1 : STAGES.ALL;
    code = r.resolve(rid, pasid, lo, hi, this.#need(access), access, stages);
    // A request for more than the mapping allows is answered with what it does allow.
    if (code === EVENT.F_PERMISSION) code = r.resolve(rid, pasid, lo, hi, 0, access, stages);
    if (code > 0) return this.#walkFault(code, rid, pasid, lo, hi, access);
    this.out = (r.outHi >>> 0) * TWO32 + (r.outLo >>> 0);
    this.shift = Math.max(12, r.outShift);
    this.perm = this.#permission(pasid, access, code === RESOLVED.BYPASS ? PERM_ALL : r.perm);
    return ATS.SUCCESS;
  }

  /** EATS 3 needs a device permission table, which is not there; EATS 2 without ATSCHK acts as 0. */
  #granted(eats: number): boolean {
    return eats === EATS.FULL || (eats === EATS.SPLIT && this.#tables.atschk);
  }

  #need(access: number): number {
    const wanted = ACCESS.READ | (access & (ACCESS.WRITE | ACCESS.PRIV));
    return permNeeded(wanted);
  }

  #permission(pasid: number, access: number, perm: number): number {
    const grant = permGranted(perm, access);
    let bits = grant & ACCESS.READ;
    if ((access & ACCESS.WRITE) !== 0) bits |= grant & ACCESS.WRITE;
    if (pasid === NO_PASID || bits === 0) return bits;
    if ((access & ACCESS.EXEC) !== 0 && (bits & ACCESS.READ) !== 0) bits |= grant & ACCESS.EXEC;
    return bits | (access & ACCESS.PRIV);
  }

  #refuse(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    this.#faults.badTranslationRequest(rid, pasid, lo, hi, access);
    return ATS.UR;
  }

  #configurationFault(code: number, rid: number, pasid: number, lo: number, hi: number, access: number): number {
    if (this.#resolver.stage !== 0) return this.#walkFault(code, rid, pasid, lo, hi, access);
    if (this.#record && (code !== EVENT.C_BAD_STREAMID || this.#recordStreamId)) {
      this.#faults.configuration(code, rid, pasid, this.#tables.fetch, true);
    }
    return ATS.CA;
  }

  #walkFault(code: number, rid: number, pasid: number, lo: number, hi: number, access: number): number {
    // Translation, address size, access flag and permission faults are answers: nothing is mapped.
    if (code >= EVENT.F_TRANSLATION) return ATS.SUCCESS;
    if (this.#record) {
      this.#faults.send(this.#faults.translation(code, this.#resolver.stage, rid, pasid, lo, hi, access), true);
    }
    return ATS.CA;
  }
}
