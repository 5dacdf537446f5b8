import { expect } from 'vitest';
import { type Smmuv3Identity, smmuv3Identity } from '../../../devices/smmuv3/identity.ts';
import { smmuv3Deviations } from '../../../devices/smmuv3/profile.ts';
import { type Smmuv3Properties, smmuv3Defaults } from '../../../devices/smmuv3/properties.ts';
import { smmuv3HardwareOf } from '../../../src/machine/hardware-options.ts';
import { Smmuv3Unit } from '../../../src/machine/smmuv3-unit.ts';
import { cmdOp } from '../../../src/spec/smmuv3/commands.ts';
import { PAGE0, PAGE1, PAGE1_BASE } from '../../../src/spec/smmuv3/registers.ts';
import { Bed, BIG, type Cut } from '../bed.ts';

export const DOORBELL = 0x0809_0000;
/** Numbers of the wired lines. */
export const LINES = { EVTQ: 33, PRIQ: 34, SYNC: 35, GERROR: 36 } as const;
export const R = {
  ...Object.fromEntries(Object.entries(PAGE0).map(([name, r]) => [name, r.at])),
  ...Object.fromEntries(Object.entries(PAGE1).map(([name, r]) => [name, PAGE1_BASE + r.at])),
} as { [K in keyof typeof PAGE0 | keyof typeof PAGE1]: number };

/** Properties of a row's machine; `far`: RAM around this power of two. */
export interface Smmuv3Shape extends Partial<Smmuv3Properties> {
  readonly far?: number;
  /** RAM for the largest queues. */
  readonly big?: true;
}

const WORDS: Readonly<Record<keyof Smmuv3Identity, number>> = { idr0: 0, idr1: 4, idr3: 0xc, idr5: 0x14, aidr: 0x1c };

/** A command: its two 64-bit words. */
export type Command = readonly [bigint, bigint];

export const sync: Command = [0x46n, 0n];
export const cfgiSte = (sid: number): Command => [(BigInt(sid) << 32n) | 3n, 1n];
export const cfgiCd = (sid: number, ssid = 0): Command => [(BigInt(sid) << 32n) | (BigInt(ssid) << 12n) | 5n, 1n];
export const nhVa = (asid: number, va: number, vmid = 0): Command => [
  (BigInt(asid) << 48n) | (BigInt(vmid) << 32n) | 0x12n,
  BigInt(va),
];

const EVENT_LOG2 = 6;
const COMMAND_LOG2 = 6;
const REQUEST_LOG2 = 5;

/** A stage-1 or stage-2 table of the guest. */
export interface Tables {
  readonly root: number;
  /** Stores the leaf for `va` at `level`. @returns where it lies. */
  map(va: bigint | number, pa: number, level?: number, bits?: bigint, tableBits?: bigint): number;
}

export interface CdOptions {
  readonly asid?: number;
  readonly t0sz?: number;
  /** 0 4K, 1 64K, 2 16K. */
  readonly tg?: number;
  /** Bits to toggle in words 0 and 1. */
  readonly flip0?: bigint;
  readonly flip1?: bigint;
}

/** Unprivileged read-write, accessed. */
export const RW = 0xc40n;
/** The same of stage 2, normal memory. */
export const S2_RW = 0x4fcn;

/** A machine with a vSMMUv3, driven from outside. */
export function smmuv3Bed(shape: Smmuv3Shape, cut: Cut = {}): Bed {
  const { far, big, ...given } = shape;
  const properties: Smmuv3Properties = { ...smmuv3Defaults(given.profile ?? 'arch'), ...given };
  const deviations = smmuv3Deviations(properties.profile);
  const shown = new Map<number, number>();
  const made = { ...properties, ...cut.device?.properties };
  const lacking = cut.device?.deviations ?? {};
  const whole = smmuv3Identity(properties, deviations);
  if (cut.device !== undefined)
    for (const [name, at] of Object.entries(WORDS)) shown.set(at, whole[name as keyof Smmuv3Identity]);
  const hostReads = new Map<number, bigint>();
  if (cut.hardware !== undefined) {
    const real = smmuv3HardwareOf(properties, deviations) as unknown as Record<string, number>;
    for (const [name, at] of Object.entries(WORDS)) hostReads.set(at, BigInt(real[name]! >>> 0));
  }
  return new Bed(
    {
      commandWords: 4,
      opcode: cmdOp,
      idle: 0x46,
      doorbell: { base: DOORBELL, bytes: 4096 },
      lines: [LINES.EVTQ, LINES.PRIQ, LINES.SYNC, LINES.GERROR],
      ram: [
        // On both sides of 2^far, where the host's own memory goes that far.
        ...(far === undefined ? [] : [{ base: 2 ** far - 0x10_0000, bytes: far < 44 ? 0x20_0000 : 0x10_0000 }]),
        ...(big === true ? [BIG] : []),
      ],
      shown,
      hostReads,
      make: (vm, irq, tell, wrapHw) =>
        new Smmuv3Unit(vm, {
          name: 'smmuv3',
          properties: made,
          deviations: lacking,
          irq,
          tell,
          doorbell: DOORBELL,
          canStall: () => properties.stall,
          ...(cut.hardware === undefined ? {} : { hardware: cut.hardware }),
          wrapHw,
        }),
    },
    cut,
  );
}

/** A driver of a vSMMUv3: it programs registers, tables and queues as the architecture says, and reads what is there first. */
export class Smmuv3Guest {
  readonly bed: Bed;
  readonly streams: number;
  readonly commands: number;
  readonly events: number;
  readonly requests: number;
  readonly #streamLog2: number;
  #prod = 0;
  #cons = 0;
  #asid = 0x11;

  constructor(bed: Bed, streamLog2 = 9) {
    this.bed = bed;
    this.#streamLog2 = streamLog2;
    this.streams = bed.pages(64 << streamLog2);
    this.commands = bed.pages(16 << COMMAND_LOG2);
    this.events = bed.pages(32 << EVENT_LOG2);
    this.requests = bed.pages(16 << REQUEST_LOG2);
  }

  /** A field of an identification register. */
  field(register: 'IDR0' | 'IDR1' | 'IDR3' | 'IDR5' | 'AIDR', name: string): number {
    const r = PAGE0[register] as { at: number; fields?: Readonly<Record<string, readonly [number, number]>> };
    const word = this.bed.r(r.at);
    const f = r.fields?.[name];
    return f === undefined ? word : Math.floor(word / 2 ** f[0]) % 2 ** f[1];
  }

  /** Linear stream table, queues, everything on that is there. @param more bits of CR0 beside. */
  setUp(more = 0): this {
    const b = this.bed;
    b.w64(R.STRTAB_BASE, BigInt(this.streams));
    b.w(R.STRTAB_BASE_CFG, this.#streamLog2);
    this.queues();
    b.w(R.CR0, 0xd | (this.field('IDR0', 'PRI') === 1 ? 2 : 0) | more);
    return this;
  }

  queues(): void {
    const b = this.bed;
    b.w64(R.CMDQ_BASE, BigInt(this.commands + COMMAND_LOG2));
    b.w64(R.EVENTQ_BASE, BigInt(this.events + EVENT_LOG2));
    if (this.field('IDR0', 'PRI') === 1) b.halves(R.PRIQ_BASE, BigInt(this.requests + REQUEST_LOG2));
    b.w(R.CR0, 8);
    b.w(R.IRQ_CTRL, 7);
  }

  /** Queues commands and a CMD_SYNC, rings once. The test fails unless all of them are consumed. */
  run(...commands: readonly Command[]): void {
    this.ring(...commands, sync);
    expect(this.bed.r(R.CMDQ_CONS) & 0xff_ffff, 'commands consumed').toBe(this.#prod);
    this.bed.settle();
  }

  /** Queues commands and rings once. @returns CMDQ_CONS.ERR. */
  ring(...commands: readonly Command[]): number {
    const size = 1 << COMMAND_LOG2;
    for (const [lo, hi] of commands) {
      this.bed.put(this.commands + 16 * (this.#prod % size), lo, hi);
      this.#prod = (this.#prod + 1) % (2 * size);
    }
    this.bed.w(R.CMDQ_PROD, this.#prod);
    return (this.bed.r(R.CMDQ_CONS) >>> 24) & 0x7f;
  }

  /** Acknowledges an error of the queue: the command that caused it becomes a CMD_SYNC. */
  skip(): void {
    const at = this.commands + 16 * (this.bed.r(R.CMDQ_CONS) % (1 << COMMAND_LOG2));
    this.bed.put(at, ...sync);
    this.bed.w(R.GERRORN, this.bed.r(R.GERROR));
  }

  /** Stores an STE and tells the SMMU. */
  ste(sid: number, ...words: readonly bigint[]): void {
    const all = [...words, ...Array<bigint>(8 - words.length).fill(0n)];
    // V last, as for an entry that may be looked at meanwhile.
    this.bed.put(this.streams + 64 * sid + 8, ...all.slice(1));
    this.bed.put(this.streams + 64 * sid, all[0]!);
    this.run(cfgiSte(sid));
  }

  /** Tables with 4 KiB pages and 39-bit addresses, unless told otherwise. @param place where a table's address lies. */
  tables(granule = 12, inBits = 39, startLevel = 1, bytes = 4096, place: (at: number) => number = (at) => at): Tables {
    const { bed } = this;
    const table = () => bed.pages(2 ** granule);
    const root = bed.pages(Math.max(bytes, 2 ** granule));
    const shift = (level: number) => BigInt(granule + (granule - 3) * (3 - level));
    const slot = (va: bigint, level: number, bits: bigint): number => {
      let at = root;
      let mask = (1n << (BigInt(inBits) - shift(startLevel))) - 1n;
      for (let l = startLevel; ; l++) {
        const entry = place(at) + Number((va >> shift(l)) & mask) * 8;
        if (l === level) return entry;
        let next = bed.get(entry);
        if ((next & 1n) === 0n) {
          next = BigInt(table()) | 3n | bits;
          bed.put(entry, next);
        }
        at = Number(next & 0xffff_ffff_f000n & ~((1n << BigInt(granule)) - 1n));
        mask = (1n << BigInt(granule - 3)) - 1n;
      }
    };
    return {
      root,
      map: (va, pa, level = 3, bits = RW, tableBits = 0n) => {
        const at = slot(BigInt(va), level, tableBits);
        bed.put(at, BigInt(pa) | bits | (level === 3 ? 3n : 1n));
        return at;
      },
    };
  }

  /** The words of a CD over tables for TTB0, of which TTB1 is off. */
  cd(root: number, o: CdOptions = {}): [bigint, bigint] {
    const { t0sz = 25, tg = 0, asid = this.#asid++, flip0 = 0n, flip1 = 0n } = o;
    const oas = BigInt(this.field('IDR5', 'OAS'));
    const low = BigInt(t0sz) | (BigInt(tg) << 6n) | (1n << 30n) | (1n << 31n);
    // IPS, AA64, R, A, ASET, ASID.
    const high = (oas << 32n) | (1n << 41n) | (1n << 45n) | (1n << 46n) | (1n << 47n) | (BigInt(asid) << 48n);
    return [(low | high) ^ flip0, BigInt(root) ^ flip1];
  }

  /** A stream with one CD over these tables. @returns where the CD lies. */
  stage1(sid: number, tables: Tables, o: CdOptions = {}, ste1 = 0n, ...more: readonly bigint[]): number {
    const at = this.bed.pages();
    this.bed.put(at, ...this.cd(tables.root, o), 0n, 0n, 0n, 0n, 0n, 0n);
    this.ste(sid, BigInt(at) | 0xbn, ste1, ...more);
    return at;
  }

  /** STE words 2 and 3 for a stage 2 over tables with 4 KiB pages and 39-bit addresses. */
  vtcr(tables: Tables, vmid = 1, flip = 0n): [bigint, bigint] {
    const ps = BigInt(this.field('IDR5', 'OAS'));
    // T0SZ 25, SL0 1, PS, AA64, R.
    const vtcr = 25n | (1n << 6n) | (ps << 16n) | (1n << 19n) | (1n << 26n);
    return [BigInt(vmid) | ((vtcr ^ flip) << 32n), BigInt(tables.root)];
  }

  /** A stream with stage 2 alone. */
  stage2(sid: number, tables: Tables, vmid = 1, flip = 0n): void {
    this.ste(sid, 0xdn, 1n << 44n, ...this.vtcr(tables, vmid, flip));
  }

  /** New records of the event queue, as four 64-bit words each. */
  records(): bigint[][] {
    const { bed } = this;
    const out: bigint[][] = [];
    const prod = bed.r(R.EVENTQ_PROD) & 0xf_ffff;
    for (; this.#cons !== prod; this.#cons = (this.#cons + 1) % (2 << EVENT_LOG2)) {
      const at = this.events + 32 * (this.#cons % (1 << EVENT_LOG2));
      out.push([0, 8, 16, 24].map((o) => bed.get(at + o)));
    }
    bed.w(R.EVENTQ_CONS, this.#cons);
    return out;
  }

  /** Types of new event records. */
  faults(): number[] {
    return this.records().map(([w0]) => Number(w0! & 0xffn));
  }
}

/** The driver of a machine, set up. */
export function driving(bed: Bed, more = 0): Smmuv3Guest {
  return new Smmuv3Guest(bed).setUp(more);
}
