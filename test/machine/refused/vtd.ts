import { type VtdProperties, vtdDefaults } from '../../../devices/vtd/properties.ts';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import type { ProfileName } from '../../../src/lib/profile/profile.ts';
import { PasidLayer } from '../../../src/machine/pasid/pasid-layer.ts';
import type { UnitFunction, UnitSlice } from '../../../src/machine/unit.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import { frcd } from '../../../src/spec/vtd/faults.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import type { Random } from '../../../tools/oracle/random.ts';
import { GuestDriver } from '../../devices/vtd/guest-driver.ts';
import { Atcs, NO_PASID, untranslated } from './atc.ts';
import { ABORT, PASS, type RefusedMachine, type Rung } from './frame.ts';
import { Nth, type What } from './nth.ts';

const RAM_BYTES = 0x200_0000;
const [QUEUE, STATUS, ROOT, CONTEXTS] = [0x10_0000, 0x10_1000, 0x20_0000, 0x20_1000];
/** Directory and PASID table of requester n. */
const DIRECTORIES = 0x21_0000;
const POOL = 0x24_0000;
const [IN, DATA] = [0x140_0000, 0x150_0000];
const IQE = 0x10;
const LOOKS = 1000;
const FUNCTION_PASIDS = 256;
/** Host PASIDs of slices without one of the guest. */
const SLICE = 40;

export interface VtdRefusedOptions {
  readonly profile: ProfileName;
  readonly mode: 'legacy' | 'second' | 'first' | 'nested';
  readonly cachingMode: boolean;
  readonly linuxOnly: boolean;
  readonly ats: boolean;
  /** Requester ids of each function. */
  readonly functions: readonly (readonly number[])[];
  /** PASIDs beside the requester itself. */
  readonly pasids: readonly number[];
  readonly kind: 'plain' | 'slices' | 'global';
}

/** A configuration at random, as far as it exists. */
export function vtdOptions(r: Random): VtdRefusedOptions {
  const profile = r.pick(['qemu-11.1', 'arch'] as const);
  const modes =
    profile === 'arch' ? (['legacy', 'second', 'first', 'nested'] as const) : (['legacy', 'first'] as const);
  const mode = r.pick(modes);
  const first = mode === 'first' || mode === 'nested';
  const linuxOnly = r.chance(20);
  const kind = first && !linuxOnly && r.chance(40) ? r.pick(['slices', 'global'] as const) : 'plain';
  const several = kind === 'plain' && !linuxOnly && r.chance(40);
  const functions = r.chance(50) ? [[0x10], [0x20]] : [[0x10]];
  return {
    profile,
    mode,
    cachingMode: !first && r.chance(40),
    linuxOnly,
    ats: !several && !linuxOnly && r.chance(40),
    functions: several ? functions.map(([rid]) => [rid!, rid! + 8]) : functions,
    pasids: first && r.chance(60) ? r.pick([[3], [3, 5]]) : [],
    kind,
  };
}

interface Subject {
  readonly rid: number;
  readonly pasid: number;
  readonly slice: UnitSlice | null;
}

/** A guest with one VT-d unit. */
export class VtdRefused implements RefusedMachine {
  readonly nth: Nth;
  readonly name: string;
  readonly sids: readonly number[];
  readonly spaces = 3;
  readonly deaf: boolean;
  readonly #o: VtdRefusedOptions;
  readonly #vm = new Vm({ ram: [{ base: 0, bytes: RAM_BYTES }] });
  readonly #unit: VtdUnit;
  readonly #g: GuestDriver;
  readonly #subjects: Subject[] = [];
  readonly #rids: readonly number[];
  readonly #roots: readonly number[];
  readonly #second: number;
  readonly #atcs: Atcs;
  readonly #pool = { next: POOL };
  readonly #rnd: Random;
  readonly #records: number;
  #waits = 0;
  /** TE as it was written last. */
  #gcmd = 0x8000_0000;

  constructor(o: VtdRefusedOptions, what: What, lasting: boolean, rnd: Random) {
    this.#o = o;
    this.#rnd = rnd;
    this.name = JSON.stringify({ ...o, what, lasting });
    this.deaf = o.linuxOnly;
    this.nth = new Nth(what, lasting);
    const first = o.mode === 'first' || o.mode === 'nested';
    const properties: VtdProperties = {
      ...vtdDefaults(o.profile),
      cachingMode: o.cachingMode,
      scalableMode: o.mode !== 'legacy',
      ...(first ? { fsts: true, pasidBits: 8 } : {}),
      deviceIotlb: o.ats,
    };
    const layer = o.kind === 'plain' ? null : new PasidLayer(new PasidSpace(0x1000, 0x1100));
    this.#unit = new VtdUnit(this.#vm, {
      name: 'vtd',
      properties,
      irq: { pulse() {}, level() {}, message: () => true },
      linuxOnly: o.linuxOnly,
      caches: { iotlb: 64 },
      wrapHw: (hw) => this.nth.hw(hw, 8),
      ...(layer === null ? {} : { pasids: layer }),
    });
    this.#atcs = new Atcs(this.#unit.hardware);
    this.#unit.endpoints.to = this.#atcs;
    this.#g = new GuestDriver(this.#unit.device, this.#vm.memory.guest, QUEUE);
    this.#rids = o.functions.flat();
    const functions = this.#plug();
    this.sids = this.#subjects.map((s) => s.rid);
    this.#records = Number((this.#g.r64(PAGE.CAP.at) >> 40n) & 0xffn) + 1;
    this.#roots = Array.from({ length: this.spaces }, () => this.#page());
    this.#second = o.mode === 'nested' ? this.#identity() : 0;
    this.#boot();
    const vfio = functions.map((f) => f.vfio);
    this.nth.verbs(this.#vm.iommufd, vfio, o.linuxOnly ? null : this.#vm.upcalls);
  }

  #plug(): UnitFunction[] {
    const { functions, kind, ats, pasids } = this.#o;
    const control = { setAts() {}, setPri() {} };
    const description = { maxPasids: kind === 'plain' ? FUNCTION_PASIDS : 2 ** 20, ats, control };
    const add = (rids: readonly number[], more = {}) =>
      this.#unit.addFunction(rids, rids.map(hostRid), { name: `dev${rids[0]}`, ...description, ...more });
    const subjects = (rid: number, slice: UnitSlice | null) => {
      for (const pasid of [NO_PASID, ...pasids]) this.#subjects.push({ rid, pasid, slice });
    };
    if (kind !== 'slices') {
      return functions.map((rids) => {
        const fn = add(rids, kind === 'global' ? { pasids: 'global' } : {});
        for (const rid of rids) subjects(rid, null);
        return fn;
      });
    }
    const parent = add([0x78]);
    for (const [i, rid] of this.#rids.entries()) subjects(rid, this.#unit.addSlice(rid, parent, SLICE + i));
    return [parent];
  }

  #page(): number {
    this.#pool.next += 4096;
    return this.#pool.next - 4096;
  }

  /** A nested guest's second stage, which leaves its memory where it is. */
  #identity(): number {
    const root = this.#page();
    const l3 = this.#page();
    const l2 = this.#page();
    this.#g.store(root, BigInt(l3) | 3n);
    this.#g.store(l3, BigInt(l2) | 3n);
    for (let i = 0; i < RAM_BYTES / 0x20_0000; i++) this.#g.store(l2 + 8 * i, BigInt(i * 0x20_0000) | 0x83n);
    return root;
  }

  #boot(): void {
    const g = this.#g;
    const scalable = this.#o.mode !== 'legacy';
    g.store(ROOT, BigInt(CONTEXTS) | 1n, 0n);
    if (scalable) {
      const ecap = g.r64(0x10);
      const bits = 1n | (ecap & 4n) | (((ecap >> 40n) & 1n) << 3n);
      for (const [n, rid] of this.#rids.entries()) {
        const directory = DIRECTORIES + n * 0x2000;
        g.store(CONTEXTS + 32 * rid, BigInt(directory) | bits, 0n, 0n, 0n);
        g.store(directory, BigInt(directory + 0x1000) | 1n);
      }
    }
    g.queueOn(scalable);
    g.translateOn(BigInt(ROOT) | (scalable ? 0x400n : 0n));
  }

  canPass(subject: number): boolean {
    return this.#subjects[subject]!.pasid === NO_PASID && this.#o.kind !== 'slices';
  }

  data(space: number, n: number): number {
    return DATA + (space * 4 + n) * 4096;
  }

  input(n: number): number {
    return IN + n * 4096;
  }

  map(space: number, n: number, to: number | null): void {
    const first = this.#o.mode === 'first' || this.#o.mode === 'nested';
    const flags = first ? 7n : 3n;
    this.#g.map(this.#roots[space]!, this.input(n), to ?? 0, flags, this.#pool, to === null ? 0n : flags);
  }

  #did(space: number): bigint {
    return BigInt(space === PASS ? 1 : 5 + space);
  }

  point(subject: number, space: number | null): void {
    const g = this.#g;
    const { rid, pasid } = this.#subjects[subject]!;
    const root = space === null || space === PASS ? 0n : BigInt(this.#roots[space]!);
    const did = this.#did(space ?? 0);
    if (this.#o.mode === 'legacy') {
      const tt = this.#o.ats && space !== PASS ? 4n : 0n;
      const words =
        space === null ? [0n, 0n] : space === PASS ? [9n, (did << 8n) | 2n] : [root | tt | 1n, (did << 8n) | 2n];
      g.store(CONTEXTS + 16 * rid, ...words);
      return;
    }
    const at = DIRECTORIES + this.#rids.indexOf(rid) * 0x2000 + 0x1000 + 64 * Math.max(pasid, 0);
    const words = {
      second: [root | 0x89n, did, 0n],
      first: [0x49n, did, root],
      nested: [BigInt(this.#second) | 0xc9n, did, root],
    }[this.#o.mode];
    g.store(at, ...(space === null ? [0n, 0n, 0n] : space === PASS ? [0x109n, did, 0n] : words));
  }

  #queue(...words: bigint[]): void {
    const g = this.#g;
    const bytes = this.#o.mode === 'legacy' ? 16 : 32;
    g.store(QUEUE + g.tail, ...[...words, 0n, 0n, 0n, 0n].slice(0, bytes / 8));
    g.tail = (g.tail + bytes) % 4096;
  }

  #device(subject: number, lo: bigint): void {
    if (!this.#o.ats) return;
    const { rid, pasid } = this.#subjects[subject]!;
    if (pasid === NO_PASID) this.#queue(0x3n | (BigInt(rid) << 32n), lo | (lo === 0x7fff_ffff_ffff_f000n ? 1n : 0n));
    else {
      const size = lo === 0x7fff_ffff_ffff_f000n ? 0x800n : 0n;
      this.#queue(0x8n | (BigInt(rid) << 16n) | (BigInt(pasid) << 32n), lo | size);
    }
  }

  mapped(space: number, n: number, users: readonly number[]): void {
    const { mode } = this.#o;
    const did = this.#did(space) << 16n;
    const page = BigInt(this.input(n));
    const kinds = this.#rnd.below(4);
    if (kinds === 0) this.#queue(0x12n);
    else if (kinds === 1) this.#queue(0x22n | did);
    else if (mode === 'legacy' || mode === 'second') this.#queue(0x32n | did, page);
    else {
      const indices = new Set([0, ...this.#o.pasids]);
      for (const i of indices) this.#queue(0x36n | did | (BigInt(i) << 32n), page);
    }
    for (const i of users) this.#device(i, page);
  }

  pointed(subject: number, before: number | null): void {
    const { rid, pasid } = this.#subjects[subject]!;
    if (this.#o.mode === 'legacy') {
      this.#queue(this.#rnd.chance(30) ? 0x11n : 0x31n | (BigInt(rid) << 32n));
      this.#queue(this.#rnd.chance(30) || before === null ? 0x12n : 0x22n | (this.#did(before) << 16n));
    } else {
      // One PASID of the domain that was there; of what was not there every domain.
      const all = before === null || this.#rnd.chance(30);
      if (all) this.#queue(0x37n);
      else this.#queue(0x17n | (this.#did(before) << 16n) | (BigInt(Math.max(pasid, 0)) << 32n));
      this.#queue(all ? 0x12n : 0x22n | (this.#did(before) << 16n));
    }
    this.#device(subject, 0x7fff_ffff_ffff_f000n);
  }

  sync(): Rung {
    this.#queue(0x25n | (BigInt(++this.#waits) << 32n), BigInt(STATUS));
    this.#g.w32(PAGE.IQT.at, this.#g.tail);
    return this.#rung();
  }

  #rung(): Rung {
    const g = this.#g;
    // A queue that pauses because it has cost enough goes on when its guest looks.
    for (let i = 0; i < LOOKS && g.r32(PAGE.IQH.at) !== g.tail && (g.r32(PAGE.FSTS.at) & IQE) === 0; i++);
    const told = (g.r32(PAGE.FSTS.at) & IQE) !== 0;
    const done = Number(g.load(STATUS) & 0xffff_ffffn) === this.#waits && g.r32(PAGE.IQH.at) === g.tail;
    return told ? 'told' : done ? 'done' : 'silent';
  }

  again(): Rung {
    // Linux puts its wait in the place of a descriptor that was refused, and goes on behind it.
    if (this.#rnd.chance(40)) {
      const wait = [0x25n | (BigInt(this.#waits) << 32n), BigInt(STATUS), 0n, 0n];
      this.#g.store(QUEUE + this.#g.r32(PAGE.IQH.at), ...wait.slice(0, this.#o.mode === 'legacy' ? 2 : 4));
    }
    this.#g.w32(PAGE.FSTS.at, IQE);
    this.#g.w32(PAGE.IQT.at, this.#g.tail);
    return this.#rung();
  }

  toggle(on: boolean): Rung {
    const g = this.#g;
    const others = g.r32(PAGE.GSTS.at) & 0x16ff_ffff;
    const te = on ? 0x8000_0000 : 0;
    if (((this.#gcmd ^ te) & 0x8000_0000) !== 0) g.w32(PAGE.GCMD.at, others | te);
    this.#gcmd = te;
    if (((g.r32(PAGE.GSTS.at) ^ te) & 0x8000_0000) !== 0) return 'told';
    this.#atcs.forget();
    return 'done';
  }

  write(subject: number, n: number): number {
    const { rid, pasid, slice } = this.#subjects[subject]!;
    const hw = this.#unit.hardware;
    const at = this.input(n);
    const sender = hostRid(slice === null ? rid : slice.parent.rids[0]!);
    let sent = slice === null ? pasid : slice.hostPasid(pasid);
    if (slice !== null && sent < 0) {
      slice.refused(pasid, at, 0, ACCESS.WRITE);
      return ABORT;
    }
    if (this.#o.kind === 'global' && pasid !== NO_PASID) {
      const names = this.#unit.device.hostPasids(rid, pasid);
      if (names.length > 0) sent = this.#rnd.pick(names);
    }
    const held = this.#o.ats ? this.#atcs.held(sender, sent, at, ACCESS.WRITE) : -1;
    const out = held >= 0 ? held : untranslated(hw, sender, sent, at, ACCESS.WRITE);
    return out < 0 ? ABORT : Number(this.#vm.memory.gpaOf(out));
  }

  records(): number[] {
    const g = this.#g;
    const out: number[] = [];
    for (let i = 0; i < this.#records; i++) {
      const at = PAGE.FRCD_LO.at + 16 * i;
      if (!frcd.isFault(g.r32(at + 12) | 0)) continue;
      out.push(frcd.sid(g.r32(at + 8)));
      g.w32(at + 12, 0x8000_0000);
    }
    return out;
  }
}
