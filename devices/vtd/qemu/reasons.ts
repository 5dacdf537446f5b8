import type { VtdRegime } from '../../../src/lib/walk/vtd-regime.ts';
import type { Memory } from '../../../src/ports/memory.ts';
import { FAULT } from '../../../src/spec/vtd/faults.ts';
import type { PagingLimits } from '../../../src/spec/vtd/paging.ts';
import { PGTT } from '../../../src/spec/vtd/tables.ts';
import type { VtdDeviations } from '../profile.ts';
import { QemuWalk } from './walk.ts';

/** Nothing that the guest's unit would report. */
export const NO_FAULT = 0;

/** Which fault QEMU names once it has found a requester's configuration, row by row of the profile. */
export class QemuReasons {
  readonly #d: VtdDeviations;
  /** QEMU's order of checks; null: the architecture's. */
  readonly #walk: QemuWalk | null;

  constructor(memory: Memory, limits: PagingLimits, deviations: VtdDeviations) {
    this.#d = deviations;
    this.#walk = deviations.permissionFirst ? new QemuWalk(memory, limits) : null;
  }

  /** What QEMU decides before a walk. @returns a reason, NO_FAULT, or -1: the walk decides. */
  beforeWalk(r: VtdRegime): number {
    return r.pgtt === PGTT.PASS_THROUGH && this.#d.passThroughUnchecked ? NO_FAULT : -1;
  }

  /** @param reason the architecture's for a walk that failed. @param scalable the unit has scalable mode. */
  ofWalk(r: VtdRegime, lo: number, hi: number, access: number, reason: number, scalable: boolean): number {
    const first = this.#walk?.reason(r, lo, hi, access) || reason;
    // The one code of scalable mode that QEMU uses for a second stage.
    return this.#d.legacyCodes && scalable && first === FAULT.INTERRUPT_OUTPUT ? FAULT.SM_INTERRUPT : first;
  }

  /** ATS requests of a function without DTE. @param scalable its context entry is one of scalable mode. */
  notEnabled(scalable: boolean): number {
    return scalable && !this.#d.legacyCodes ? FAULT.SM_DTE : FAULT.TRANSLATION_BLOCKED;
  }
}
