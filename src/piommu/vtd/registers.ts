import { RegisterFile, type RegisterSpec, type RegisterTable } from '../../core/registers.ts';
import type { HwRegisters } from '../../ports/hw.ts';
import { EVENT_CONTROL, GCMD, PAGE, TTM } from '../../spec/vtd/registers.ts';

const PAGE_BYTES = 0x1000;
const TABLE: RegisterTable = PAGE;
const BY_OFFSET: ReadonlyMap<number, RegisterSpec> = new Map(Object.values(TABLE).map((r) => [r.at, r]));
/** GCMD bits that are levels, and show in GSTS. */
const LEVELS = GCMD.TE | GCMD.QIE;
const ROOT = 0xf_ffff_ffff_f000n;
/** CAP.ESRTPS: SRTP makes the unit forget everything it has cached. */
const ESRTPS = 63n;

/** Registers that tell what a unit is (VT-d §11.4.2, §11.4.3). */
export interface VtdIdentification {
  /** CAP: address widths, page sizes, domain ids. */
  readonly cap: bigint;
  /** ECAP: scalable mode, stages, ATS, PRI, PASIDs. */
  readonly ecap: bigint;
}

export interface VtdHwRegistersData {
  readonly words: readonly number[];
  readonly root: number;
  readonly ttm: number;
}

/**
 * The register page of the physical unit (VT-d §11.4). Commands of GCMD are done when the write returns, so GSTS follows
 * within it. RTADDR counts from the next SRTP on.
 */
export class VtdHwRegisters implements HwRegisters {
  /** Root table (bytes) and translation table mode, as SRTP latched them. */
  root = 0;
  ttm: number = TTM.LEGACY;
  /** GSTS.TES and GSTS.QIES. */
  enabled = false;
  queueEnabled = false;
  readonly #file = new RegisterFile(TABLE, PAGE_BYTES);
  readonly #clearsOnRoot: boolean;
  readonly #forget: () => void;

  /** @param forget drops everything that is cached. */
  constructor(id: VtdIdentification, forget: () => void) {
    this.#forget = forget;
    this.#clearsOnRoot = id.cap >> ESRTPS !== 0n;
    for (const [r, value] of [
      [PAGE.CAP, id.cap],
      [PAGE.ECAP, id.ecap],
    ] as const) {
      this.#file.preset(r.at, Number(value & 0xffff_ffffn) | 0);
      this.#file.preset(r.at + 4, Number((value >> 32n) & 0xffff_ffffn) | 0);
    }
  }

  readRegister(offset: number): bigint {
    const r = BY_OFFSET.get(offset);
    if (r === undefined) return 0n;
    const lo = BigInt(this.#file.read32(offset));
    return r.size === 4 ? lo : lo | (BigInt(this.#file.read32(offset + 4)) << 32n);
  }

  writeRegister(offset: number, value: bigint): void {
    const r = BY_OFFSET.get(offset);
    if (r === undefined) return;
    const lo = Number(value & 0xffff_ffffn) | 0;
    if (offset === PAGE.GCMD.at) {
      this.#command(lo);
      return;
    }
    this.#file.write32(offset, lo);
    if (r.size === 8) this.#file.write32(offset + 4, Number((value >> 32n) & 0xffff_ffffn) | 0);
  }

  #command(command: number): void {
    const enabled = (command & GCMD.TE) !== 0;
    const latch = (command & GCMD.SRTP) !== 0;
    if (latch) {
      const rtaddr = this.readRegister(PAGE.RTADDR.at);
      this.root = Number(rtaddr & ROOT);
      this.ttm = Number((rtaddr >> 10n) & 3n);
    }
    // Without enhanced SRTP the driver invalidates, except what a change of TE itself implies.
    if ((latch && this.#clearsOnRoot) || enabled !== this.enabled) this.#forget();
    const pointer = latch || (this.#file.get(PAGE.GSTS.at) & GCMD.SRTP) !== 0 ? GCMD.SRTP : 0;
    this.#file.set(PAGE.GSTS.at, (command & LEVELS) | pointer);
    this.#levels();
  }

  #levels(): void {
    const status = this.#file.get(PAGE.GSTS.at);
    this.enabled = (status & GCMD.TE) !== 0;
    this.queueEnabled = (status & GCMD.QIE) !== 0;
  }

  /** The kernel is told of fault records: FECTL does not mask it. */
  get interruptsForFaults(): boolean {
    return (this.#file.get(PAGE.FECTL.at) & EVENT_CONTROL.IM) === 0;
  }

  /** The kernel is told of page requests: PECTL does not mask it. */
  get interruptsForPageRequests(): boolean {
    return (this.#file.get(PAGE.PECTL.at) & EVENT_CONTROL.IM) === 0;
  }

  save(): VtdHwRegistersData {
    return { words: this.#file.save(), root: this.root, ttm: this.ttm };
  }

  load(data: VtdHwRegistersData): void {
    this.#file.load(data.words);
    this.root = data.root;
    this.ttm = data.ttm;
    this.#levels();
  }
}
