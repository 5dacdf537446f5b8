import { fromWords, TWO32 } from '../../core/bits.ts';
import { RegisterFile, type RegisterSpec, type RegisterTable } from '../../core/registers.ts';
import type { HwRegisters } from '../../ports/hw.ts';
import { CR0, GBPA, IRQ_CTRL, PAGE0, PAGE1, PAGE1_BASE, STRTAB_FMT } from '../../spec/smmuv3/registers.ts';

const PAGE_BYTES = 0x1000;
/** The two pages share no offset, so one file holds both. */
const TABLE: RegisterTable = { ...PAGE0, ...PAGE1 };
const BY_OFFSET: ReadonlyMap<number, RegisterSpec> = new Map(Object.values(TABLE).map((r) => [r.at, r]));
const IN_PAGE1: ReadonlySet<number> = new Set(Object.values(PAGE1).map((r) => r.at));

/** Identification registers of an implementation (IHI 0070 §6.3.1 to §6.3.8). IDR2 and IDR4 read 0. */
export interface Smmuv3Identification {
  /** What exists: stages, ATS, PRI, stalls, table formats. */
  readonly idr0: number;
  /** Widths of StreamIDs, SubstreamIDs and queues. */
  readonly idr1: number;
  /** More of what exists: range invalidation, PASIDs in answers. */
  readonly idr3: number;
  /** Address sizes, granules, stalled transactions. */
  readonly idr5: number;
  /** Implementer and product (0: none is told). */
  readonly iidr?: number;
  /** Architecture revision (0: SMMUv3.0). */
  readonly aidr?: number;
}

/** Where the stream table lies: STRTAB_BASE and STRTAB_BASE_CFG, decoded (IHI 0070 §6.3.24, §6.3.25). */
export interface StreamTableLocation {
  /** Bytes, host-physical. */
  readonly base: number;
  /** log2 of the number of streams. */
  readonly log2size: number;
  readonly twoLevel: boolean;
  /** StreamID bits that a level-2 table resolves, as programmed. */
  readonly split: number;
}

/**
 * The Non-secure register block of the physical SMMU (IHI 0070 §6). Writes take effect at once, so an acknowledge register
 * follows its control register within the write. A write to a register that is guarded by an enable bit is ignored while
 * that bit is set, which SMMUv3.2 requires and earlier revisions permit.
 */
export class Smmuv3HwRegisters implements HwRegisters {
  readonly #file = new RegisterFile(TABLE, PAGE_BYTES);
  /** CR0 bits that exist. */
  readonly #cr0Bits: number;
  readonly #twoLevel: boolean;
  readonly #changed: () => void;

  /** @param changed called after every write that counted, and after `load`. */
  constructor(id: Smmuv3Identification, changed: () => void) {
    const { IDR0, IDR1, IDR3, IDR5, IIDR, AIDR } = PAGE0;
    const has = (field: readonly [number, number]) => ((id.idr0 >>> field[0]) & 1) !== 0;
    this.#cr0Bits = CR0.SMMUEN | CR0.EVENTQEN | CR0.CMDQEN;
    if (has(IDR0.fields.PRI)) this.#cr0Bits |= CR0.PRIQEN;
    if (has(IDR0.fields.ATS)) this.#cr0Bits |= CR0.ATSCHK;
    this.#twoLevel = has(IDR0.fields.ST_LEVEL);
    this.#changed = changed;
    this.#file.preset(IDR0.at, id.idr0);
    this.#file.preset(IDR1.at, id.idr1);
    this.#file.preset(IDR3.at, id.idr3);
    this.#file.preset(IDR5.at, id.idr5);
    this.#file.preset(IIDR.at, id.iidr ?? 0);
    this.#file.preset(AIDR.at, id.aidr ?? 0);
  }

  readRegister(offset: number): bigint {
    const r = registerAt(offset);
    if (r === undefined) return 0n;
    const lo = BigInt(this.#file.read32(r.at));
    return r.size === 4 ? lo : lo | (BigInt(this.#file.read32(r.at + 4)) << 32n);
  }

  writeRegister(offset: number, value: bigint): void {
    const r = registerAt(offset);
    if (r === undefined || this.#guarded(r.at)) return;
    const lo = Number(value & 0xffff_ffffn) | 0;
    switch (r.at) {
      case PAGE0.CR0.at:
        this.#file.set(PAGE0.CR0.at, lo & this.#cr0Bits);
        this.#file.set(PAGE0.CR0ACK.at, lo & this.#cr0Bits);
        break;
      case PAGE0.IRQ_CTRL.at:
        this.#file.set(PAGE0.IRQ_CTRLACK.at, this.#file.write32(r.at, lo));
        break;
      case PAGE0.GBPA.at:
        // Only a write with UPDATE counts, and UPDATE reads 0 once it has (IHI 0070 §6.3.14).
        if ((lo & GBPA.UPDATE) === 0) return;
        this.#file.write32(r.at, lo);
        break;
      default:
        this.#file.write32(r.at, lo);
        if (r.size === 8) this.#file.write32(r.at + 4, Number((value >> 32n) & 0xffff_ffffn) | 0);
    }
    this.#changed();
  }

  /** Whether an enable bit keeps a write from counting (IHI 0070 §6.3.10 to §6.3.36). */
  #guarded(at: number): boolean {
    const on = this.#file.get(PAGE0.CR0.at);
    switch (at) {
      case PAGE0.CR1.at:
        return (on & (CR0.SMMUEN | CR0.CMDQEN | CR0.EVENTQEN | CR0.PRIQEN)) !== 0;
      case PAGE0.CR2.at:
      case PAGE0.STRTAB_BASE.at:
      case PAGE0.STRTAB_BASE_CFG.at:
        return (on & CR0.SMMUEN) !== 0;
      case PAGE0.CMDQ_BASE.at:
      case PAGE0.CMDQ_CONS.at:
        return (on & CR0.CMDQEN) !== 0;
      case PAGE0.EVENTQ_BASE.at:
      case PAGE1.EVENTQ_PROD.at:
        return (on & CR0.EVENTQEN) !== 0;
      case PAGE0.PRIQ_BASE.at:
      case PAGE1.PRIQ_PROD.at:
        return (on & CR0.PRIQEN) !== 0;
      default:
        return false;
    }
  }

  /** @param bits CR0 bits; whether all of them are in effect. */
  enabled(bits: number): boolean {
    return (this.#file.get(PAGE0.CR0ACK.at) & bits) === bits;
  }

  /** @param bit CR2 bit. */
  control2(bit: number): boolean {
    return (this.#file.get(PAGE0.CR2.at) & bit) !== 0;
  }

  /** Fault records reach the kernel. */
  get recordsFaults(): boolean {
    return this.enabled(CR0.EVENTQEN) && (this.#file.get(PAGE0.IRQ_CTRLACK.at) & IRQ_CTRL.EVENTQ_IRQEN) !== 0;
  }

  /** Page requests are queued. */
  get takesPageRequests(): boolean {
    return this.enabled(CR0.SMMUEN | CR0.PRIQEN);
  }

  /** The kernel is told of queued page requests. */
  get interruptsForPageRequests(): boolean {
    return (this.#file.get(PAGE0.IRQ_CTRLACK.at) & IRQ_CTRL.PRIQ_IRQEN) !== 0;
  }

  /** GBPA.ABORT: what becomes of transactions while SMMUEN is 0. */
  get bypassAborts(): boolean {
    return (this.#file.get(PAGE0.GBPA.at) & GBPA.ABORT) !== 0;
  }

  /** Entries of the PRI queue: LOG2SIZE, at most IDR1.PRIQS. */
  get pageRequestEntries(): number {
    const log2 = this.#file.get(PAGE0.PRIQ_BASE.at) & 0x1f;
    return 2 ** Math.min(log2, (this.#file.get(PAGE0.IDR1.at) >>> PAGE0.IDR1.fields.PRIQS[0]) & 0x1f);
  }

  streamTable(): StreamTableLocation {
    const cfg = this.#file.get(PAGE0.STRTAB_BASE_CFG.at);
    const { LOG2SIZE, SPLIT, FMT } = PAGE0.STRTAB_BASE_CFG.fields;
    return {
      base: fromWords(this.#file.get(PAGE0.STRTAB_BASE.at), this.#file.get(PAGE0.STRTAB_BASE.at + 4) & 0xf_ffff),
      log2size: (cfg >>> LOG2SIZE[0]) & 0x3f,
      twoLevel: this.#twoLevel && ((cfg >>> FMT[0]) & 3) === STRTAB_FMT.TWO_LEVEL,
      split: (cfg >>> SPLIT[0]) & 0x1f,
    };
  }

  save(): number[] {
    return this.#file.save();
  }

  load(words: readonly number[]): void {
    this.#file.load(words);
    this.#changed();
  }
}

/** The register at an offset of the two-page window. */
function registerAt(offset: number): RegisterSpec | undefined {
  const at = offset % PAGE1_BASE;
  return IN_PAGE1.has(at) === offset >= PAGE1_BASE && offset < TWO32 ? BY_OFFSET.get(at) : undefined;
}
