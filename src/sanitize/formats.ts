import { fromWords } from '../core/bits.ts';
import { ACCESS } from '../ports/dma.ts';
import { blockAllowed, DESC_TYPE, S1_LO, S2_LO } from '../spec/smmuv3/descriptors.ts';
import { FS, SS } from '../spec/vtd/paging.ts';

/** What an entry of a translation table is. */
export const ENTRY = { NONE: 0, LEAF: 1, TABLE: 2 } as const;

const RW = ACCESS.READ | ACCESS.WRITE;

/** Reads entries of one kind of translation table. The result is in the fields, valid until the next `decode`. */
export interface TableFormat {
  readonly name: string;
  kind: number;
  /** Page number of the output or of the table. */
  out: number;
  /** ACCESS READ | WRITE. */
  perm: number;
  global: boolean;
  /** Bits of an output address. */
  readonly outBits: number;
  /** log2 of the bytes of a table below the start tables. */
  readonly tableShift: number;
  /** log2 of the bytes an entry stands for, one level down. */
  below(shift: number): number;
  /** @param shift log2 bytes the entry stands for. */
  decode(shift: number, lo: number, hi: number): void;
}

/** VMSAv8-64, one stage with one granule (Arm ARM D8.3). */
export class VmsaFormat implements TableFormat {
  readonly name: string;
  kind: number = ENTRY.NONE;
  out = 0;
  perm = 0;
  global = false;
  readonly tableShift: number;
  readonly #stage2: boolean;
  readonly outBits: number;
  /** The access flag of a leaf does not matter, or hardware sets it. */
  readonly #anyAccessFlag: boolean;

  /** @param granule log2 bytes. @param outBits size of output addresses. */
  constructor(stage2: boolean, granule: number, outBits: number, anyAccessFlag: boolean) {
    this.name = stage2 ? 'stage 2' : 'stage 1';
    this.tableShift = granule;
    this.#stage2 = stage2;
    this.outBits = outBits;
    this.#anyAccessFlag = anyAccessFlag;
  }

  below(shift: number): number {
    return shift - (this.tableShift - 3);
  }

  decode(shift: number, lo: number, hi: number): void {
    const granule = this.tableShift;
    this.kind = ENTRY.NONE;
    if ((lo & 1) === 0) return;
    let address = fromWords(lo & -(1 << granule), hi & 0xffff);
    if (granule === 16 && this.outBits === 52) address += ((lo >>> 12) & 0xf) * 2 ** 48;
    this.out = address / 4096;
    const last = shift === granule;
    if (!last && (lo & 3) === DESC_TYPE.TABLE) {
      this.kind = ENTRY.TABLE;
      this.perm = RW;
      return;
    }
    if (last) {
      if ((lo & 3) !== DESC_TYPE.TABLE) return;
    } else if (!blockAllowed(granule, 3 - (shift - granule) / (granule - 3), this.outBits)) return;
    // An entry without the access flag faults, and what faults is never cached (Arm ARM D8.16).
    if ((lo & S1_LO.AF) === 0 && !this.#anyAccessFlag) return;
    this.kind = ENTRY.LEAF;
    this.out -= this.out % 2 ** (shift - 12);
    if (this.#stage2) {
      this.perm = ((lo & S2_LO.S2AP_READ) !== 0 ? ACCESS.READ : 0) | ((lo & S2_LO.S2AP_WRITE) !== 0 ? ACCESS.WRITE : 0);
      this.global = false;
    } else {
      this.perm = (lo & S1_LO.AP2_READ_ONLY) !== 0 ? ACCESS.READ : RW;
      this.global = (lo & S1_LO.NG) === 0;
    }
  }
}

/** VT-d paging entries (VT-d §9.7, §9.8). */
export class VtdFormat implements TableFormat {
  readonly name: string;
  kind: number = ENTRY.NONE;
  out = 0;
  perm = 0;
  readonly global = false;
  readonly tableShift = 12;
  readonly outBits: number;
  readonly #first: boolean;

  constructor(first: boolean, outBits: number) {
    this.outBits = outBits;
    this.name = first ? 'first stage' : 'second stage';
    this.#first = first;
  }

  below(shift: number): number {
    return shift - 9;
  }

  decode(shift: number, lo: number, hi: number): void {
    this.kind = ENTRY.NONE;
    if (this.#first) {
      if ((lo & FS.P) === 0) return;
      this.perm = (lo & FS.RW) !== 0 ? RW : ACCESS.READ;
    } else {
      this.perm = ((lo & SS.R) !== 0 ? ACCESS.READ : 0) | ((lo & SS.W) !== 0 ? ACCESS.WRITE : 0);
      if (this.perm === 0) return;
    }
    this.out = fromWords(lo & ~0xfff, hi & 0xf_ffff) / 4096;
    if (shift > 12 && (lo & SS.PS) === 0) {
      this.kind = ENTRY.TABLE;
      return;
    }
    this.kind = ENTRY.LEAF;
    if (shift > 12) this.out -= this.out % 2 ** (shift - 12);
  }
}
