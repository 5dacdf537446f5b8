import { ACCEL, Accelerator, DRAIN, QUEUE_MODE } from '../../../devices/endpoints/accelerator.ts';
import { encodeDescriptor, WORK_OP } from '../../../devices/endpoints/descriptor.ts';
import { vtdDefaults } from '../../../devices/vtd/properties.ts';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import { extendedCapability } from '../../../src/lib/pci/capability-list.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { PasidLayer, polled } from '../../../src/machine/pasid/pasid-layer.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { VtdUnit, type VtdUnitConfig } from '../../../src/machine/vtd-unit.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { Said } from '../../../src/ports/tell.ts';
import { EXT, PASID_CAP } from '../../../src/spec/pcie/capabilities.ts';
import { Wire } from './upstream.ts';

export const RAM_BYTES = 64 << 20;
const ROOT = 0x30_0000;
const CONTEXTS = 0x31_0000;
const DIR = 0x31_1000;
const TABLE = 0x31_2000;
const QUEUE = 0x10_0000;
/** First-stage tables of address space n begin at SPACE + n * 0x4000. */
const SPACE = 0x40_0000;
/** Where the guest's descriptors find their completion records (a virtual address every address space maps). */
export const DATA = 0x5000;
export const RECORD = 0x6000;

export interface IntelOptions extends Partial<VtdUnitConfig> {
  readonly vm?: Vm;
  readonly layer?: PasidLayer;
  /** Nanoseconds a function takes for a piece of work; 0: at once. */
  readonly step?: number;
}

/** A VM with a scalable-mode vVT-d, everything below it, and a guest driver; functions are accelerators. */
export class Intel {
  readonly said: Said[] = [];
  readonly vm: Vm;
  readonly unit: VtdUnit;
  readonly layer: PasidLayer;
  readonly #step: number;
  #tail = 0;

  constructor(o: IntelOptions = {}) {
    this.vm = o.vm ?? new Vm({ ram: [{ base: 0, bytes: RAM_BYTES }], tell: (s) => this.said.push(s) });
    this.layer = o.layer ?? new PasidLayer(new PasidSpace(0x1000, 0x1100));
    this.#step = o.step ?? 0;
    this.unit = new VtdUnit(this.vm, {
      name: 'vtd',
      properties: { ...vtdDefaults('arch'), scalableMode: true, fsts: true, pasidBits: 8 },
      irq: { pulse: () => {}, level: () => {}, message: () => true },
      pasids: this.layer,
      ...o,
    });
  }

  r32(at: number): number {
    return this.unit.window.read(at, 4);
  }
  w32(at: number, value: number): void {
    this.unit.window.write(at, 4, value, 0);
  }
  r64(at: number): bigint {
    const out = new Int32Array(2);
    this.unit.window.read64(at, out);
    return (BigInt(out[1]! >>> 0) << 32n) | BigInt(out[0]! >>> 0);
  }
  w64(at: number, v: bigint): void {
    this.unit.window.write(at, 8, Number(v & 0xffff_ffffn) | 0, Number(v >> 32n) | 0);
  }
  store(at: number, ...qwords: bigint[]): void {
    qwords.forEach((q, i) => {
      this.vm.memory.guest.store64(at + 8 * i, Number(q & 0xffff_ffffn) | 0, Number(q >> 32n) | 0);
    });
  }
  load32(at: number): number {
    this.vm.memory.guest.load32(at);
    return this.vm.memory.guest.lo;
  }

  /** Tables for the functions named by these devfns, all sharing one PASID directory; queue and translation on. */
  boot(...devfns: number[]): void {
    this.store(ROOT, BigInt(CONTEXTS) | 1n, 0n);
    for (const devfn of devfns) this.store(CONTEXTS + devfn * 32, BigInt(DIR) | 9n, 0n, 0n, 0n);
    this.store(DIR, BigInt(TABLE) | 1n, BigInt(TABLE + 0x1000) | 1n);
    // 256-bit descriptors, as scalable mode wants them.
    this.w64(0x90, BigInt(QUEUE) | 0x800n);
    this.w32(0x18, 0x0400_0000);
    this.w64(0x20, BigInt(ROOT) | 0x400n);
    this.w32(0x18, 0x4400_0000);
    this.w32(0x18, 0x8400_0000);
  }

  submit(lo: bigint, hi = 0n): void {
    this.store(QUEUE + this.#tail, lo, hi, 0n, 0n);
    this.#tail = (this.#tail + 32) % 4096;
    this.w32(0x88, this.#tail);
  }

  /** Address space n: DATA and RECORD are pages of its own. @returns its root table. */
  space(n: number): number {
    const root = SPACE + n * 0x4000;
    this.store(root, BigInt(root + 0x1000) | 7n);
    this.store(root + 0x1000, BigInt(root + 0x2000) | 7n);
    this.store(root + 0x2000, BigInt(root + 0x3000) | 7n);
    this.store(root + 0x3000 + 8 * (DATA >>> 12), BigInt(dataOf(n)) | 7n, BigInt(dataOf(n) + 0x1000) | 7n);
    return root;
  }

  /** A PASID entry for address space `n` (domain 5), and the invalidation that shows it. -1: not present. */
  setPasid(pasid: number, n: number): void {
    const root = n < 0 ? 0n : BigInt(this.space(n));
    this.store(TABLE + 64 * pasid, n < 0 ? 0n : 0x49n, n < 0 ? 0n : 5n + BigInt(n), root, 0n, 0n, 0n, 0n, 0n);
    this.submit(0x17n | (1n << 4n) | ((5n + BigInt(Math.max(n, 0))) << 16n) | (BigInt(pasid) << 32n));
    // Any domain: the entry may have had another one before.
    this.submit(0x17n | (3n << 4n));
  }

  /** VCMD. @returns status code and result. */
  vcmd(command: bigint): [status: number, pasid: number] {
    this.w64(0xe00, command);
    const v = this.r64(0xe10);
    return [Number((v >> 1n) & 0xffn), Number((v >> 16n) & 0xf_ffffn)];
  }

  /** An accelerator behind the unit. */
  accelerator(devfn: number, pasids: 'host-table' | 'global' = 'host-table'): Card {
    const description = { name: `accelerator${devfn}`, pasidBits: 20, pasidExec: true, pasids };
    this.unit.addFunction([devfn], [hostRid(devfn)], description);
    return this.card(hostRid(devfn));
  }

  card(rid: number, own = NO_PASID): Card {
    const timing = { clock: this.vm.clock, step: this.#step, flight: 0 };
    const accelerator = new Accelerator(this.#step === 0 ? {} : { timing });
    const wire = new Wire(this.vm, this.unit.hardware, rid, own);
    accelerator.fn.connect(wire);
    const control = extendedCapability(accelerator.fn, EXT.PASID) + PASID_CAP.CONTROL;
    accelerator.fn.configWrite(control, 2, PASID_CAP.ENABLE);
    const period = Math.max(1, this.#step);
    const leave = this.layer.addUser(polled(this.vm.clock, period, (pasid) => busy(accelerator, pasid)));
    return new Card(accelerator, wire, leave);
  }

  /** One access of a function. @returns the guest-physical address, or -1. */
  dma(rid: number, pasid: number, iova: number): number {
    const hw = this.unit.hardware;
    const r = hw.translate(hostRid(rid), pasid, iova, 0, ACCESS.WRITE, AT.UNTRANSLATED);
    return r === DMA.OK ? this.vm.memory.gpaOf(hw.out) : -1;
  }

  hostOps(reset = false): Record<string, number> {
    const ops: Record<string, number> = {};
    for (const s of this.said) if (s.what === 'host') ops[s.verb] = (ops[s.verb] ?? 0) + 1;
    if (reset) this.said.length = 0;
    return ops;
  }
}

/** The page of address space n behind DATA. */
export function dataOf(n: number): number {
  return 0x80_0000 + n * 0x2000;
}

function busy(a: Accelerator, pasid: number): boolean {
  a.fn.barWrite(0, ACCEL.DRAIN, 4, pasid);
  return (a.fn.barRead(0, ACCEL.DRAIN, 4) & DRAIN.BUSY) !== 0;
}

/** A descriptor that fills DATA with `pattern` and leaves its completion record at RECORD. */
export function fill(pattern: number): Int32Array {
  return encodeDescriptor({ op: WORK_OP.FILL, dstLo: DATA, bytes: 64, pattern, doneLo: RECORD });
}

export class Card {
  readonly accelerator: Accelerator;
  readonly wire: Wire;
  readonly leave: () => void;

  constructor(accelerator: Accelerator, wire: Wire, leave: () => void) {
    this.accelerator = accelerator;
    this.wire = wire;
    this.leave = leave;
    this.w(ACCEL.CONTROL, 1);
    // Queue 0 is shared, queue 1 dedicated.
    this.w(ACCEL.QUEUE + ACCEL.MODE, QUEUE_MODE.ENABLE);
    this.w(ACCEL.QUEUE + ACCEL.DEPTH, 16);
    this.w(
      ACCEL.QUEUE + ACCEL.QUEUE_BYTES + ACCEL.MODE,
      QUEUE_MODE.ENABLE | QUEUE_MODE.DEDICATED | QUEUE_MODE.HAS_PASID,
    );
    this.w(ACCEL.QUEUE + ACCEL.QUEUE_BYTES + ACCEL.DEPTH, 16);
  }

  w(at: number, value: number): void {
    this.accelerator.fn.barWrite(0, at, 4, value);
  }

  /** The dedicated queue's PASID register. */
  set pasid(value: number) {
    this.w(ACCEL.QUEUE + ACCEL.QUEUE_BYTES + ACCEL.QUEUE_PASID, value);
  }

  /** A 64-byte write to the dedicated queue's portal (MOVDIR64B). */
  movdir64b(words: Int32Array): void {
    words.forEach((w, i) => {
      this.accelerator.fn.barWrite(1, ACCEL.PORTAL_BYTES + 4 * i, 4, w);
    });
  }
}
