import { toBigint } from '../../src/core/bits.ts';
import { RegisterFile, type RegisterTable } from '../../src/core/registers.ts';
import { FRO, PAGE } from '../../src/spec/vtd/registers.ts';
import { pointer } from '../../src/spec/vtd/tables.ts';
import type { VtdIdentity } from './identity.ts';
import type { VtdDeviations } from './profile.ts';
import type { VtdProperties } from './properties.ts';

/** Bytes of the architectural page; QEMU's window ends behind its one fault record. */
const PAGE_BYTES = 0x1000;
/** Bytes of a fault recording register. */
const FRCD_BYTES = 16;

type Table = { [name: string]: RegisterTable[string] };

/** Base of a table or queue as the unit latches it, bytes. @param lo,hi words of its register. */
export function basePointer(lo: number, hi: number, p: VtdProperties, d: VtdDeviations): number {
  const base = pointer(lo, hi);
  return d.basesWithinAw ? base % 2 ** p.awBits : base;
}

/** The register page of the unit: masks, and what it lacks as zero. What a write sets in motion is the device's business. */
export class VtdRegisters {
  /** Bytes of the window. */
  readonly bytes: number;
  readonly #file: RegisterFile;
  readonly #behindRecords: number;

  constructor(id: VtdIdentity, p: VtdProperties, d: VtdDeviations) {
    this.bytes = d.noExtensions ? FRO + FRCD_BYTES : PAGE_BYTES;
    this.#behindRecords = FRO + FRCD_BYTES * id.records;
    const table = Object.entries(tableOf(id, p, d)).filter(([, r]) => r.at + r.size <= this.bytes);
    this.#file = new RegisterFile(Object.fromEntries(table), this.bytes);
  }

  /** The stored word at a 4-aligned offset, write-only bits included. */
  get(offset: number): number {
    return this.#file.get(offset);
  }

  /** Sets the stored word, past every mask. */
  set(offset: number, value: number): void {
    this.#file.set(offset, value);
  }

  /** Sets or clears status bits of GSTS. */
  setStatus(bits: number, on: boolean): void {
    const now = this.#file.get(PAGE.GSTS.at);
    this.#file.set(PAGE.GSTS.at, on ? now | bits : now & ~bits);
  }

  /** What the guest reads at a 4-aligned offset of the window: unsigned. */
  read(offset: number): number {
    return this.#file.read32(offset);
  }

  /** One 32-bit write of the guest at a 4-aligned offset of the window. */
  write(offset: number, value: number): void {
    this.#file.write32(offset, value);
  }

  /** Whether a register of 8 bytes whose high word sets something in motion begins at `offset`. */
  actsWithHighWord(offset: number): boolean {
    if (offset === PAGE.CCMD.at || offset === PAGE.IOTLB.at || offset === PAGE.VCMD.at) return true;
    return this.isRecord(offset) && offset % FRCD_BYTES === 8;
  }

  /** Whether `offset` lies in a fault recording register. */
  isRecord(offset: number): boolean {
    return offset >= FRO && offset < this.#behindRecords;
  }

  reset(): void {
    this.#file.reset();
  }

  save(): number[] {
    return this.#file.save();
  }

  load(words: readonly number[]): void {
    this.#file.load(words);
  }
}

/** The page's table with what this unit lacks made read-only zero. */
function tableOf(id: VtdIdentity, p: VtdProperties, d: VtdDeviations): RegisterTable {
  const t: Table = { ...PAGE };
  const hide = (...names: string[]): void => {
    for (const name of names) t[name] = { at: t[name]!.at, size: t[name]!.size };
  };
  t.CAP = { ...PAGE.CAP, reset: toBigint(id.capLo, id.capHi) };
  t.ECAP = { ...PAGE.ECAP, reset: toBigint(id.ecapLo, id.ecapHi) };
  const deviceTlbErrors = d.noQueueErrorRecord || !p.deviceIotlb ? 0n : 0x60n;
  t.FSTS = { ...PAGE.FSTS, w1c: 0x11n | deviceTlbErrors };
  if (d.upperAddressesFixed || !p.eim) hide('FEUADDR', 'IEUADDR');
  if (!d.upperAddressesFixed && !p.eim) hide('PEUADDR');
  if (!d.wideInvalidationData) t.IEDATA = { ...PAGE.IEDATA, rw: 0xffffn };
  if (d.pageEventsUnmasked) t.PECTL = { ...PAGE.PECTL, reset: 0n };
  if (!p.svm) hide('PQH', 'PQT', 'PQA', 'PRS', 'PECTL', 'PEDATA', 'PEADDR', 'PEUADDR');
  delete t.FRCD_LO;
  delete t.FRCD_HI;
  for (let i = 0; i < id.records; i++) {
    t[`FRCD${i}_LO`] = { ...PAGE.FRCD_LO, at: FRO + FRCD_BYTES * i };
    t[`FRCD${i}_HI`] = { ...PAGE.FRCD_HI, at: FRO + FRCD_BYTES * i + 8 };
  }
  if (!id.virtualCommands) hide('VCMD', 'VCMD_EO');
  else t.VCCAP = { ...PAGE.VCCAP, reset: 1n };
  return t;
}
