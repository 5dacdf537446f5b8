import { fromWords } from '../../src/core/bits.ts';
import { RegisterFile, type RegisterSpec, type RegisterTable } from '../../src/core/registers.ts';
import {
  CR0,
  CR2,
  ID_REGISTERS,
  ID_REGISTERS_AT,
  IRQ_CTRL,
  PAGE0,
  PAGE1,
  PAGE1_BASE,
} from '../../src/spec/smmuv3/registers.ts';
import { QUEUE_LOG2_MAX, type Smmuv3Identity } from './identity.ts';
import type { Smmuv3Deviations } from './profile.ts';
import { QEMU_KEPT, QEMU_WIDE_READ, QEMU_WIDE_WRITE, qemuRegisterTable } from './qemu/registers.ts';

const PAGE_BYTES = 0x1000;
const NAMES1 = Object.values(PAGE1) as readonly RegisterSpec[];
const NAMES0 = Object.values(PAGE0) as readonly RegisterSpec[];
/** Page 0 of the spec never uses the offsets of page 1's registers, so one block holds both. */
const TABLE: RegisterTable = { ...PAGE0, ...PAGE1 };

const NONE = -1;

/**
 * The register words with the masks, widths, aliases and gates of the profile. Offsets handed out are those within a page;
 * the two pages share no offset.
 */
export class Smmuv3Registers {
  readonly #file: RegisterFile;
  readonly #d: Smmuv3Deviations;
  /** Which page (bit 0: page 0, bit 1: page 1) shows the word. */
  readonly #pages = new Uint8Array(PAGE_BYTES / 4);
  /** CR0 bits that are implemented. */
  readonly #cr0: number;

  constructor(id: Smmuv3Identity, d: Smmuv3Deviations) {
    this.#d = d;
    const pri = (id.idr0 & (1 << 16)) !== 0;
    const ats = (id.idr0 & (1 << 10)) !== 0;
    this.#cr0 = CR0.SMMUEN | CR0.EVENTQEN | CR0.CMDQEN | (pri ? CR0.PRIQEN : 0) | (ats ? CR0.ATSCHK : 0);
    this.#file = new RegisterFile(
      d.rawRegisters ? qemuRegisterTable(TABLE) : archTable(TABLE, id, this.#cr0),
      PAGE_BYTES,
    );
    this.#preset(PAGE0.IDR0.at, id.idr0);
    this.#preset(PAGE0.IDR1.at, id.idr1);
    this.#preset(PAGE0.IDR3.at, id.idr3);
    this.#preset(PAGE0.IDR5.at, id.idr5);
    this.#preset(PAGE0.AIDR.at, id.aidr);
    ID_REGISTERS.forEach((byte, i) => {
      this.#preset(ID_REGISTERS_AT + 4 * i, byte);
    });
    if (d.resetKeepsConfiguration) {
      this.#preset(PAGE0.CMDQ_BASE.at, QUEUE_LOG2_MAX);
      this.#preset(PAGE0.EVENTQ_BASE.at, QUEUE_LOG2_MAX);
    }
    const both = d.qemuAccess ? 3 : 0;
    const mark = (r: RegisterSpec, pages: number) => {
      for (let at = r.at; at < r.at + r.size; at += 4) this.#pages[at >>> 2] = pages;
    };
    const hidden = (r: RegisterSpec) => !pri && r.at >= PAGE0.PRIQ_BASE.at && r.at < 0x100;
    for (const r of NAMES0) if (!hidden(r)) mark(r, both || 1);
    for (const r of NAMES1) if (!hidden(r)) mark(r, both || 2);
    for (let i = 0; i < ID_REGISTERS.length; i++) this.#pages[(ID_REGISTERS_AT >>> 2) + i] = both || 1;
  }

  #preset(at: number, value: number): void {
    this.#file.preset(at, value);
  }

  get(at: number): number {
    return this.#file.get(at);
  }

  set(at: number, value: number): void {
    this.#file.set(at, value);
  }

  /** Address bits [51:low] of a 64-bit register, bytes. */
  address(at: number, low: number): number {
    return fromWords(this.get(at) & -(1 << low), this.get(at + 4) & 0xf_ffff);
  }

  enabled(bit: number): boolean {
    return (this.get(PAGE0.CR0.at) & bit) !== 0;
  }

  irqEnabled(bit: number): boolean {
    return (this.get(PAGE0.IRQ_CTRL.at) & bit) !== 0;
  }

  /** The offset within the page of an access that reaches registers, or -1 (then it reads 0 and writes nothing). */
  decode(offset: number, size: number, write: boolean): number {
    const at = offset & (PAGE1_BASE - 1);
    const page = offset >= PAGE1_BASE ? 2 : 1;
    if (at >= PAGE_BYTES || (size !== 4 && size !== 8) || at % size !== 0) return NONE;
    const wide = write ? QEMU_WIDE_WRITE : QEMU_WIDE_READ;
    if (size === 8 && this.#d.qemuAccess && !wide.includes(at)) return NONE;
    if ((this.#pages[at >>> 2]! & page) !== 0) return at;
    return size === 8 && (this.#pages[(at >>> 2) + 1]! & page) !== 0 ? at : NONE;
  }

  /** A guest's 32-bit read of a decoded offset; words of the other page read 0. */
  read(at: number): number {
    return this.#pages[at >>> 2] === 0 ? 0 : this.#file.read32(at);
  }

  /** A guest's 32-bit write of a decoded offset. @returns the word now stored. */
  write(at: number, value: number): number {
    if (this.#pages[at >>> 2] === 0) return 0;
    const gate = this.#d.ungatedBases && this.#d.consAlwaysWritable && this.#d.prodAlwaysWritable ? -1 : this.#gate(at);
    if (gate === -1) return this.#file.write32(at, value);
    const old = this.#file.get(at);
    return gate === 0 ? old : this.#file.write32(at, (old & ~gate) | (value & gate));
  }

  /** Bits a write may change now: guarded registers want their enable bit clear in CR0 and CR0ACK (IHI 0070 §6.3). */
  #gate(at: number): number {
    const d = this.#d;
    const on = this.get(PAGE0.CR0.at) | this.get(PAGE0.CR0ACK.at);
    const irq = this.get(PAGE0.IRQ_CTRL.at) | this.get(PAGE0.IRQ_CTRLACK.at);
    switch (at) {
      case PAGE0.CMDQ_CONS.at:
        return d.consAlwaysWritable ? -1 : open(on, CR0.CMDQEN);
      case PAGE1.EVENTQ_PROD.at:
        return d.prodAlwaysWritable ? -1 : open(on, CR0.EVENTQEN);
      case PAGE1.PRIQ_PROD.at:
        return d.prodAlwaysWritable ? -1 : open(on, CR0.PRIQEN);
    }
    if (d.ungatedBases) return -1;
    if (at === PAGE0.CR1.at) {
      const queues = (on & (CR0.CMDQEN | CR0.EVENTQEN | CR0.PRIQEN)) === 0 ? 0x3f : 0;
      return queues | ((on & CR0.SMMUEN) === 0 ? 0xfc0 : 0);
    }
    if (at === PAGE0.CR2.at || (at >= PAGE0.STRTAB_BASE.at && at < PAGE0.CMDQ_BASE.at)) return open(on, CR0.SMMUEN);
    if (at === PAGE0.CMDQ_BASE.at || at === PAGE0.CMDQ_BASE.at + 4) return open(on, CR0.CMDQEN);
    if (at === PAGE0.EVENTQ_BASE.at || at === PAGE0.EVENTQ_BASE.at + 4) return open(on, CR0.EVENTQEN);
    if (at === PAGE0.PRIQ_BASE.at || at === PAGE0.PRIQ_BASE.at + 4) return open(on, CR0.PRIQEN);
    if (at >= PAGE0.GERROR_IRQ_CFG0.at && at < PAGE0.STRTAB_BASE.at) return open(irq, IRQ_CTRL.GERROR_IRQEN);
    if (at >= PAGE0.EVENTQ_IRQ_CFG0.at && at < PAGE0.PRIQ_BASE.at) return open(irq, IRQ_CTRL.EVENTQ_IRQEN);
    if (at >= PAGE0.PRIQ_IRQ_CFG0.at && at < 0xe0) return open(irq, IRQ_CTRL.PRIQ_IRQEN);
    return -1;
  }

  /** What CR0ACK shows for a CR0. */
  cr0Ack(value: number): number {
    return this.#d.ackEchoesReserved ? value & 0x5df : value & this.#cr0;
  }

  /** Power-on values; QEMU leaves some registers as they were. */
  reset(): void {
    const kept = this.#d.resetKeepsConfiguration ? QEMU_KEPT : [];
    const words = kept.flatMap((r) => [this.get(r.at), this.get(r.at + 4)]);
    this.#file.reset();
    kept.forEach((r, i) => {
      this.set(r.at, words[2 * i]!);
      if (r.size === 8) this.set(r.at + 4, words[2 * i + 1]!);
    });
    if (!this.#d.resetKeepsConfiguration) return;
    for (const { at } of [PAGE0.CMDQ_BASE, PAGE0.EVENTQ_BASE]) this.set(at, (this.get(at) & ~31) | QUEUE_LOG2_MAX);
  }

  save(): number[] {
    return this.#file.save();
  }

  load(words: readonly number[]): void {
    this.#file.load(words);
  }
}

/** All bits, while the guard is clear; else none. */
function open(word: number, guard: number): number {
  return (word & guard) === 0 ? -1 : 0;
}

/** Bits of features the identity does not show are RES0. */
function archTable(table: RegisterTable, id: Smmuv3Identity, cr0: number): RegisterTable {
  const has = (bit: number) => (id.idr0 & (1 << bit)) !== 0;
  const pri = has(16);
  const msi = has(13);
  const narrow = new Map<string, bigint>([
    ['GBPA', 0n], // written through its update handshake only
    ['CR0', BigInt(cr0)],
    ['CR2', BigInt(CR2.RECINVSID | (has(9) ? CR2.E2H : 0) | (has(5) ? CR2.PTM : 0) | (has(23) ? CR2.REC_CFG_ATS : 0))],
    ['IRQ_CTRL', pri ? 7n : 5n],
    ['GERRORN', 0x105n | (pri ? 8n : 0n) | (msi ? 0xb0n : 0n) | (msi && pri ? 0x40n : 0n)],
  ]);
  const rows = Object.entries(table).map(([name, r]): [string, RegisterSpec] => {
    const absent = (/_IRQ_CFG/.test(name) && !msi && name !== 'PRIQ_IRQ_CFG2') || (name.startsWith('PRIQ_') && !pri);
    const rw = absent ? 0n : (narrow.get(name) ?? r.rw);
    return [name, rw === undefined ? r : { ...r, rw }];
  });
  return Object.fromEntries(rows);
}
