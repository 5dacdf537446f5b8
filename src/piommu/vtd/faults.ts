import { ACCESS } from '../../ports/dma.ts';
import type { HwEvents } from '../../ports/hw.ts';
import type { Tell } from '../../ports/tell.ts';
import { frcdWord2, frcdWord3, isQualified } from '../../spec/vtd/faults.ts';
import type { VtdHwRegisters } from './registers.ts';

const RW = ACCESS.READ | ACCESS.WRITE;
/** FRCD.T2 and FRCD.F. */
const T2 = 0x1000_0000;
const F = 0x8000_0000 | 0;

export interface VtdHwFaultsParts {
  /** Shown in `tell`. */
  readonly name: string;
  readonly events: HwEvents;
  readonly registers: VtdHwRegisters;
}

/** What failed, and how. */
export interface VtdHwFault {
  /** FAULT code. */
  readonly reason: number;
  /** FPD was met on the way: a reason that can be suppressed is. */
  readonly fpd: boolean;
}

/** Builds fault records and hands each to the host. Faults may allocate: a record is a fresh array. */
export class VtdHwFaults {
  readonly #name: string;
  readonly #events: HwEvents;
  readonly #registers: VtdHwRegisters;
  tell: Tell | null = null;

  constructor(parts: VtdHwFaultsParts) {
    this.#name = parts.name;
    this.#events = parts.events;
    this.#registers = parts.registers;
  }

  /** Records a fault, unless FPD suppresses it (VT-d §7.1, §11.4.7.6). @param pageRequest it is that of a page request. */
  report(
    fault: VtdHwFault,
    rid: number,
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    at: number,
    pageRequest: boolean,
  ): void {
    const { reason, fpd } = fault;
    if ((fpd && isQualified(reason)) || !this.#registers.interruptsForFaults) return;
    const both = (access & RW) === RW;
    const read = !pageRequest && (access & (ACCESS.READ | ACCESS.EXEC)) !== 0;
    const record = new Int32Array(4);
    record[0] = lo & ~0xfff;
    record[1] = hi;
    record[2] =
      frcdWord2(rid, pasid, (access & ACCESS.EXEC) !== 0, (access & ACCESS.PRIV) !== 0) |
      (pageRequest || both ? T2 : 0);
    record[3] = frcdWord3(read, at, pasid, reason) | F;
    if (this.tell !== null) this.tell({ what: 'fault', iommu: this.#name, record: Array.from(record) });
    this.#events.fault(record);
  }
}
