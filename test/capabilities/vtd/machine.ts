import { expect } from 'vitest';
import { vtdIdentity } from '../../../devices/vtd/identity.ts';
import { vtdDeviations } from '../../../devices/vtd/profile.ts';
import { type VtdProperties, vtdDefaults } from '../../../devices/vtd/properties.ts';
import { vtdHardwareOf } from '../../../src/machine/hardware-options.ts';
import { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import type { VtdIdentification } from '../../../src/piommu/vtd/registers.ts';
import { invType } from '../../../src/spec/vtd/invalidation.ts';
import { GCMD, PAGE } from '../../../src/spec/vtd/registers.ts';
import { Bed, type Cut } from '../bed.ts';

const DOORBELL = 0xfee0_0000;
/** A wait descriptor that does nothing. */
const IDLE = 5;
const QUEUE_BYTES = 4096;
const LEVELS = GCMD.TE | GCMD.QIE | GCMD.IRE | GCMD.CFI;

/** Properties of a row's machine. */
export type VtdShape = Partial<VtdProperties>;
/** A field of CAP or ECAP that the row's hardware lacks. */
export const lacking = (register: 'cap' | 'ecap', mask: bigint): Cut => ({
  hardware: { [register]: vtdHardwareOf(vtdDeviations('arch'))[register] & ~mask },
});

/** A machine with a vVT-d, driven from outside. */
export function vtdBed(shape: VtdShape, cut: Cut = {}): Bed {
  const properties: VtdProperties = { ...vtdDefaults(shape.profile ?? 'arch'), ...shape };
  const deviations = vtdDeviations(properties.profile);
  const whole = vtdIdentity(properties, deviations);
  const shown = new Map<number, number>();
  if (cut.device !== undefined) {
    const words = [whole.capLo, whole.capHi, whole.ecapLo, whole.ecapHi];
    words.forEach((word, i) => void shown.set(PAGE.CAP.at + 4 * i, word));
    if (whole.virtualCommands) shown.set(PAGE.VCCAP.at, 1);
  }
  const hostReads = new Map<number, bigint>();
  if (cut.hardware !== undefined) {
    const { cap, ecap } = vtdHardwareOf(deviations);
    hostReads.set(PAGE.CAP.at, cap).set(PAGE.ECAP.at, ecap);
  }
  return new Bed(
    {
      commandWords: 8,
      opcode: invType,
      idle: IDLE,
      doorbell: { base: DOORBELL, bytes: 0x10_0000 },
      lines: [],
      shown,
      hostReads,
      make: (vm, irq, tell, wrapHw) =>
        new VtdUnit(vm, {
          name: 'vtd',
          properties: { ...properties, ...cut.device?.properties },
          deviations: cut.device?.deviations ?? {},
          irq,
          tell,
          ...(cut.hardware === undefined ? {} : { hardware: cut.hardware as Partial<VtdIdentification> }),
          wrapHw,
        }),
    },
    cut,
  );
}

/** A descriptor: its first two 64-bit words. */
export type Descriptor = readonly [bigint, bigint?];

/** A second-stage or first-stage table of the guest. */
export interface Tables {
  readonly root: number;
  readonly levels: number;
  /** Stores the leaf for `va` at `level` (1: 4 KiB). @returns where it lies. */
  map(va: bigint | number, pa: number, bits?: bigint, level?: number): number;
}

/** R and W of a second stage. */
export const SS_RW = 3n;
/** Present, writable, user, accessed and dirty of a first stage. */
export const FS_RW = 0x67n;

/** A driver of a vVT-d: it reads what there is, and programs registers, tables and the queue for it. */
export class VtdGuest {
  readonly bed: Bed;
  readonly scalable: boolean;
  readonly queued: boolean;
  readonly roots: number;
  readonly queue: number;
  readonly requests: number;
  readonly #status: number;
  readonly #wide: boolean;
  readonly #contexts = new Map<number, number>();
  readonly #directories = new Map<number, number>();
  #tail = 0;
  #ticket = 0;

  constructor(bed: Bed) {
    this.bed = bed;
    this.scalable = this.field('ECAP', 'SMTS') === 1;
    this.queued = this.field('ECAP', 'QI') === 1;
    this.#wide = this.scalable;
    this.roots = bed.pages();
    this.queue = bed.pages(QUEUE_BYTES);
    this.requests = bed.pages(0x1000);
    this.#status = bed.pages();
  }

  field(register: 'CAP' | 'ECAP' | 'VCCAP', name: string): number {
    const r = PAGE[register] as { at: number; fields: Readonly<Record<string, readonly [number, number]>> };
    const [at, bits] = r.fields[name]!;
    return Number((this.bed.r64(r.at) >> BigInt(at)) & ((1n << BigInt(bits)) - 1n));
  }

  command(bits: number, on = true): void {
    const now = this.bed.r(PAGE.GSTS.at) & LEVELS;
    this.bed.w(PAGE.GCMD.at, (on ? now | bits : now & ~bits) >>> 0);
  }

  /** Queue, root table, translation on. @param ttm table mode; what ECAP shows by default. */
  setUp(ttm = this.scalable ? 1 : 0): this {
    const { bed } = this;
    if (this.queued) {
      bed.w64(PAGE.IQA.at, BigInt(this.queue) | (this.#wide ? 0x800n : 0n));
      this.command(GCMD.QIE);
    }
    if (this.field('ECAP', 'PRS') === 1) bed.w64(PAGE.PQA.at, BigInt(this.requests));
    this.root(this.roots, ttm);
    this.command(GCMD.TE);
    return this;
  }

  root(at: number, ttm = this.scalable ? 1 : 0): void {
    this.bed.w64(PAGE.RTADDR.at, BigInt(at) | (BigInt(ttm) << 10n));
    this.command(GCMD.SRTP);
  }

  /** Queues descriptors and a wait that stores a ticket. The test fails unless it comes. */
  run(...descriptors: readonly Descriptor[]): void {
    this.submit(...descriptors, this.wait());
    this.bed.settle();
    expect(this.ticket(), 'the status a wait stores').toBe(this.#ticket);
  }

  /** Whether the last wait has stored its ticket. */
  ticket(): number {
    return Number(this.bed.get(this.#status) & 0xffff_ffffn);
  }

  wait(flags = 0n): Descriptor {
    this.#ticket++;
    return [0x25n | flags | (BigInt(this.#ticket) << 32n), BigInt(this.#status)];
  }

  submit(...descriptors: readonly Descriptor[]): void {
    const bytes = this.#wide ? 32 : 16;
    for (const [lo, hi = 0n] of descriptors) {
      this.bed.put(this.queue + this.#tail, lo, hi, ...(this.#wide ? [0n, 0n] : []));
      this.#tail = (this.#tail + bytes) % QUEUE_BYTES;
    }
    this.bed.w(PAGE.IQT.at, this.#tail);
  }

  /** Everything the unit may have cached of configuration and translations. */
  flush(): void {
    if (this.queued) this.run([0x11n], ...(this.scalable ? [[0x37n] as const] : []), [0x12n]);
    else this.flushByRegisters();
  }

  /** The same through CCMD and IOTLB. @param at where ECAP.IRO says that IOTLB is. */
  flushByRegisters(at = this.field('ECAP', 'IRO') * 16 + 8): void {
    this.bed.w64(PAGE.CCMD.at, 0xa000_0000_0000_0000n);
    this.bed.w64(at, 0x9000_0000_0000_0000n);
    expect([this.bed.r64(PAGE.CCMD.at) >> 63n, this.bed.r64(at) >> 63n], 'ICC and IVT').toEqual([0n, 0n]);
  }

  /** Tables with entries of 8 bytes and 512 of them each. */
  tables(levels: number, pointer: bigint, leaf: bigint, place: (at: number) => number = (at) => at): Tables {
    const { bed } = this;
    const root = bed.pages();
    return {
      root,
      levels,
      map: (va, pa, bits = leaf, level = 1) => {
        let at = root;
        for (let l = levels; ; l--) {
          const entry = place(at) + 8 * Number((BigInt(va) >> BigInt(12 + 9 * (l - 1))) & 511n);
          if (l === level) {
            bed.put(entry, BigInt(pa) | bits | (level > 1 ? 0x80n : 0n));
            return entry;
          }
          if (bed.get(entry) === 0n) bed.put(entry, BigInt(bed.pages()) | pointer);
          at = Number(bed.get(entry) & 0xf_ffff_ffff_f000n);
        }
      },
    };
  }

  second(levels = 4): Tables {
    return this.tables(levels, SS_RW, SS_RW);
  }

  first(levels = 4): Tables {
    return this.tables(levels, 0x27n, FS_RW);
  }

  #contextTable(rid: number): number {
    const slot = this.roots + (rid >> 8) * 16 + (this.scalable ? (rid & 0x80) >> 4 : 0);
    if (this.bed.get(slot) === 0n) this.bed.put(slot, BigInt(this.bed.pages()) | 1n);
    return Number(this.bed.get(slot) & ~0xfffn);
  }

  /** A legacy context entry, TT 0 (1 with device TLBs) over `tables`; null: pass-through. */
  legacy(rid: number, tables: Tables | null, did = 1, tt = 0n): void {
    const at = this.#contextTable(rid) + 16 * (rid & 0xff);
    const aw = BigInt((tables?.levels ?? 4) - 2);
    this.bed.put(at + 8, aw | (BigInt(did) << 8n));
    this.bed.put(at, tables === null ? 0x9n : BigInt(tables.root) | (tt << 2n) | 1n);
  }

  /** A scalable-mode context entry with everything ECAP has, and the PASID directory behind it. */
  context(rid: number): number {
    const known = this.#directories.get(rid);
    if (known !== undefined) return known;
    const at = this.#contextTable(rid) + 32 * (rid & 0x7f);
    const directory = this.bed.pages(8 << 14);
    this.#directories.set(rid, directory);
    this.#contexts.set(rid, at);
    const bits = 1n | (this.#has('DT') << 2n) | (this.#has('PASID') << 3n) | (this.#has('PRS') << 4n) | (7n << 9n);
    this.bed.put(at, BigInt(directory) | bits, 0n, 0n, 0n);
    return directory;
  }

  #has(name: string): bigint {
    return BigInt(this.field('ECAP', name));
  }

  /** A PASID entry of a function. */
  pasid(rid: number, pasid: number, ...words: readonly bigint[]): void {
    const slot = this.context(rid) + (pasid >> 6) * 8;
    if (this.bed.get(slot) === 0n) this.bed.put(slot, BigInt(this.bed.pages()) | 1n);
    const at = Number(this.bed.get(slot) & ~0xfffn) + (pasid & 63) * 64;
    this.bed.put(at + 8, ...words.slice(1), ...Array<bigint>(8 - words.length).fill(0n));
    this.bed.put(at, words[0]!);
  }

  /** A first-stage PASID entry. @param more bits of word 2: SRE, WPE, FSPM. */
  firstStage(rid: number, pasid: number, tables: Tables, did = 1, more = 0n): void {
    const fspm = tables.levels === 5 ? 4n : 0n;
    this.pasid(rid, pasid, 0x41n, BigInt(did), BigInt(tables.root) | fspm | more);
  }

  /** A second-stage PASID entry. */
  secondStage(rid: number, pasid: number, tables: Tables, did = 1, more = 0n): void {
    this.pasid(rid, pasid, BigInt(tables.root) | 0x81n | (BigInt(tables.levels - 2) << 2n), BigInt(did) | more);
  }

  /** Whatever translates requests without PASID here: legacy tables, a second stage, or a first stage where there is no other. */
  translate(rid: number, va: number, pa: number, did = 1): Tables {
    const second = !this.scalable || this.field('ECAP', 'SSTS') === 1;
    const tables = second ? this.second(this.levels()) : this.first();
    tables.map(va, pa);
    if (!this.scalable) this.legacy(rid, tables, did);
    else if (second) this.secondStage(rid, 0, tables, did);
    else this.firstStage(rid, 0, tables, did);
    this.flush();
    return tables;
  }

  /** Levels of the widest second stage. */
  levels(): number {
    return 2 + Math.floor(Math.log2(this.field('CAP', 'SAGAW')));
  }

  /** Fault records from the place CAP.FRO says, as [address, source id, reason]; they are cleared. */
  records(): [bigint, number, number][] {
    const { bed } = this;
    const out: [bigint, number, number][] = [];
    for (let n = 0; n <= this.field('CAP', 'NFR'); n++) {
      const at = this.field('CAP', 'FRO') * 16 + 16 * n;
      const high = bed.r64(at + 8);
      if (high >> 63n === 0n) continue;
      out.push([bed.r64(at), Number(high & 0xffffn), Number((high >> 32n) & 0xffn)]);
      bed.w(at + 12, 0x8000_0000);
    }
    bed.w(PAGE.FSTS.at, 1);
    return out;
  }

  /** Reasons of new fault records. */
  reasons(): number[] {
    return this.records().map(([, , reason]) => reason);
  }
}
