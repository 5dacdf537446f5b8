import { smmuv3Defaults } from '../../../devices/smmuv3/properties.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import type { ProfileName } from '../../../src/lib/profile/profile.ts';
import { Smmuv3Unit } from '../../../src/machine/smmuv3-unit.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import type { Random } from '../../../tools/oracle/random.ts';
import { CD, CMDQ, cfgiSte, GuestDriver, nhVa, R, RAM, sync, type Words } from '../../devices/smmuv3/guest.ts';
import { Tables } from '../smmuv3/rig.ts';
import { Atcs, NO_PASID, untranslated } from './atc.ts';
import { ABORT, PASS, type RefusedMachine, type Rung } from './frame.ts';
import { Nth, type What } from './nth.ts';

const RAM_BYTES = 0x400_0000;
const CD_TABLES = 0x4044_0000;
const IN = 0x4000_5000;
const DATA = 0x4200_0000;
const CMDQ_ERR = 1;
const LOOKS = 1000;
const LOG2 = 6;
/** STE word 2 of a stage 2 of 39 bits in 4 KiB pages that records its faults, without its VMID. */
const S2 = 0x040c_0059_0000_0000n;
const ALL = 52n;
const FULL_ATS = 1n << 28n;

export interface Smmuv3RefusedOptions {
  readonly profile: ProfileName;
  /** What the spaces are. */
  readonly mode: 'stage 1' | 'stage 2' | 'nested' | 'substreams';
  readonly linuxOnly: boolean;
  readonly ats: boolean;
  /** StreamIDs of each device. */
  readonly devices: readonly (readonly number[])[];
}

/** A configuration at random, as far as it exists. */
export function smmuv3Options(r: Random): Smmuv3RefusedOptions {
  const profile = r.pick(['qemu-11.1', 'arch'] as const);
  const linuxOnly = r.chance(20);
  const modes = ['stage 1', 'stage 2', 'nested', ...(profile === 'arch' ? (['substreams'] as const) : [])] as const;
  const mode = linuxOnly ? 'stage 1' : r.pick(modes);
  const devices = r.chance(50) ? [[8], [16]] : [[8]];
  const several = !linuxOnly && r.chance(40);
  return {
    profile,
    mode,
    linuxOnly,
    ats: profile === 'arch' && !linuxOnly && mode !== 'stage 2' && r.chance(50),
    devices: several ? devices.map(([sid]) => [sid!, sid! + 1]) : devices,
  };
}

interface Subject {
  readonly sid: number;
  readonly ssid: number;
}

interface Space {
  /** Its STE; with substreams its CD. */
  readonly words: readonly bigint[];
  readonly changed: (va: number) => Words;
  set(va: number, to: number | null): void;
}

/** A guest with one SMMUv3. */
export class Smmuv3Refused implements RefusedMachine {
  readonly nth: Nth;
  readonly name: string;
  readonly sids: readonly number[];
  readonly spaces = 3;
  readonly deaf: boolean;
  readonly #o: Smmuv3RefusedOptions;
  readonly #vm = new Vm({ ram: [{ base: RAM, bytes: RAM_BYTES }] });
  readonly #unit: Smmuv3Unit;
  readonly #g: GuestDriver;
  readonly #subjects: Subject[] = [];
  readonly #spaces: readonly Space[];
  readonly #atcs: Atcs;
  readonly #rnd: Random;
  #commands: Words[] = [];
  #seen = 0;

  constructor(o: Smmuv3RefusedOptions, what: What, lasting: boolean, rnd: Random) {
    this.#o = o;
    this.#rnd = rnd;
    this.name = JSON.stringify({ ...o, what, lasting });
    this.deaf = o.linuxOnly;
    this.nth = new Nth(what, lasting);
    this.#unit = new Smmuv3Unit(this.#vm, {
      name: 's',
      properties: {
        ...smmuv3Defaults(o.profile),
        stage: 'nested',
        ats: o.ats,
        ssidsize: o.mode === 'substreams' ? 8 : 0,
      },
      doorbell: 0x809_0000,
      irq: { pulse() {}, level() {}, message: () => true },
      linuxOnly: o.linuxOnly,
      caches: { iotlb: 64, walks: 64, streams: 16, contexts: 16 },
      wrapHw: (hw) => this.nth.hw(hw, 4),
    });
    this.#atcs = new Atcs(this.#unit.hardware);
    this.#unit.endpoints.to = this.#atcs;
    this.#g = new GuestDriver(this.#unit.device, this.#vm.memory.guest);
    const control = { setAts() {}, setPri() {} };
    const functions = o.devices.map((sids) => {
      for (const sid of sids) {
        for (const ssid of o.mode === 'substreams' ? [3, 5] : [NO_PASID]) this.#subjects.push({ sid, ssid });
      }
      const description = { name: `dev${sids[0]}`, pasidBits: 8, ats: o.ats, control };
      return this.#unit.addFunction(sids, sids.map(hostRid), description);
    });
    this.sids = this.#subjects.map((s) => s.sid);
    this.#spaces = Array.from({ length: this.spaces }, (_, n) => this.#space(n));
    if (o.mode === 'substreams') {
      for (const sid of o.devices.flat()) {
        this.#g.ste(sid, BigInt(CD_TABLES + sid * 0x8000) | 0xbn | (8n << 59n), this.#eats(0n));
      }
    }
    this.#g.setUp(5, LOG2, LOG2);
    const vfio = functions.map((f) => f.vfio);
    this.nth.verbs(this.#vm.iommufd, vfio, o.linuxOnly ? null : this.#vm.upcalls);
  }

  #eats(word: bigint): bigint {
    return this.#o.ats ? word | FULL_ATS : word;
  }

  #space(n: number): Space {
    const g = this.#g;
    const { mode } = this.#o;
    const asid = 0x11 + n;
    const vmid = mode === 'stage 2' || mode === 'nested' ? 7 + n : 0;
    const second = vmid === 0 ? null : this.#second(n, vmid);
    if (mode === 'stage 2') {
      return {
        words: [0xdn, ...second!.words],
        changed: (va) => [(BigInt(vmid) << 32n) | 0x2an, va],
        set: (va, to) => g.put(second!.leaf(va), to === null ? 0n : BigInt(to) | 0x4ffn),
      };
    }
    const tables = new Tables(g, 0x4080_0000 + n * 0x10_0000);
    const word = tables.context(CD + 64 * n, asid);
    const [, w1 = 0n, ...rest] = second === null ? [] : [0n, ...second.words];
    return {
      words:
        mode === 'substreams'
          ? [g.get(CD + 64 * n), g.get(CD + 64 * n + 8)]
          : [second === null ? word : word | 0xfn, this.#eats(w1), ...rest],
      changed: (va) => nhVa(vmid, asid, va),
      set: (va, to) => (to === null ? tables.unmap(va) : tables.map(va, to)),
    };
  }

  /** A stage 2 that leaves all RAM where it is, its first 2 MiB by pages. */
  #second(n: number, vmid: number): { readonly words: readonly bigint[]; readonly leaf: (va: number) => number } {
    const g = this.#g;
    const at = 0x40c0_0000 + n * 0x10_0000;
    g.put(at + 8, BigInt(at + 0x2000) | 3n);
    g.put(at + 0x2000, BigInt(at + 0x3000) | 3n);
    for (let i = 1; i < 32; i++) g.put(at + 0x2000 + 8 * i, BigInt(0x4000_0000 + i * 0x20_0000) | 0x4fdn);
    for (let i = 0; i < 512; i++) g.put(at + 0x3000 + 8 * i, BigInt(0x4000_0000 + i * 0x1000) | 0x4ffn);
    const leaf = (va: number) => at + 0x3000 + 8 * ((va - 0x4000_0000) / 0x1000);
    return { words: [0n, S2 | BigInt(vmid), BigInt(at)], leaf };
  }

  canPass(subject: number): boolean {
    return this.#subjects[subject]!.ssid === NO_PASID;
  }

  data(space: number, n: number): number {
    return DATA + (space * 4 + n) * 4096;
  }

  input(n: number): number {
    return IN + n * 4096;
  }

  map(space: number, n: number, to: number | null): void {
    this.#spaces[space]!.set(this.input(n), to);
  }

  point(subject: number, space: number | null): void {
    const { sid, ssid } = this.#subjects[subject]!;
    const words = space === null ? [0n] : space === PASS ? [9n] : this.#spaces[space]!.words;
    if (ssid === NO_PASID) this.#g.ste(sid, ...words, ...Array<bigint>(8 - words.length).fill(0n));
    else this.#g.put(CD_TABLES + sid * 0x8000 + 64 * ssid, ...words, ...Array<bigint>(8 - words.length).fill(0n));
  }

  #atc(subject: number, at: bigint): void {
    if (!this.#o.ats) return;
    const { sid, ssid } = this.#subjects[subject]!;
    const substream = ssid === NO_PASID ? 0n : (1n << 11n) | (BigInt(ssid) << 12n);
    this.#commands.push([0x40n | substream | (BigInt(sid) << 32n), at]);
  }

  mapped(space: number, n: number, users: readonly number[]): void {
    const va = this.input(n);
    const draw = this.#rnd.below(4);
    if (draw === 0) this.#commands.push([0x30n, 0n]);
    else this.#commands.push(this.#spaces[space]!.changed(va));
    // The function's copy goes after the SMMU's own: else it could be made anew from it.
    if (this.#o.ats) this.#commands.push(sync);
    for (const i of users) this.#atc(i, BigInt(va));
  }

  pointed(subject: number, _before: number | null): void {
    const { sid, ssid } = this.#subjects[subject]!;
    const draw = this.#rnd.below(4);
    if (draw === 0) this.#commands.push([0x04n, 31n]);
    else if (ssid === NO_PASID) this.#commands.push(cfgiSte(sid));
    else this.#commands.push([0x05n | (BigInt(ssid) << 12n) | (BigInt(sid) << 32n), 1n]);
    if (this.#o.ats) this.#commands.push(sync);
    this.#atc(subject, ALL);
  }

  sync(): Rung {
    const commands = this.#commands;
    this.#commands = [];
    this.#g.run(...commands, sync);
    return this.#rung();
  }

  #rung(): Rung {
    const g = this.#g;
    // A queue that pauses because it has cost enough goes on when its guest looks.
    const ended = () => (g.r(PAGE0.CMDQ_CONS.at) & 0xff_ffff) === g.prod || g.r(PAGE0.CMDQ_CONS.at) >>> 24 !== 0;
    for (let i = 0; i < LOOKS && !ended(); i++);
    const told = ((g.r(PAGE0.GERROR.at) ^ g.r(PAGE0.GERRORN.at)) & CMDQ_ERR) !== 0;
    const done = (g.r(PAGE0.CMDQ_CONS.at) & 0xff_ffff) === g.prod;
    return told ? 'told' : done ? 'done' : 'silent';
  }

  again(): Rung {
    const g = this.#g;
    // Linux puts a CMD_SYNC in the place of a command that was refused, and goes on behind it.
    if (this.#rnd.chance(40)) {
      g.put(CMDQ + 16 * (g.r(PAGE0.CMDQ_CONS.at) & (2 ** LOG2 - 1)), ...sync);
    }
    this.#g.w(PAGE0.GERRORN.at, this.#g.r(PAGE0.GERROR.at));
    return this.#rung();
  }

  toggle(on: boolean): Rung {
    const cr0 = on ? 0xd : 0xc;
    if (this.#g.r(PAGE0.CR0.at) !== cr0) this.#g.w(PAGE0.CR0.at, cr0);
    if (this.#g.r(PAGE0.CR0ACK.at) !== cr0) return 'told';
    this.#atcs.forget();
    return 'done';
  }

  write(subject: number, n: number): number {
    const { sid, ssid } = this.#subjects[subject]!;
    const hw = this.#unit.hardware;
    const at = this.input(n);
    const held = this.#o.ats ? this.#atcs.held(hostRid(sid), ssid, at, ACCESS.WRITE) : -1;
    const out = held >= 0 ? held : untranslated(hw, hostRid(sid), ssid, at, ACCESS.WRITE);
    return out < 0 ? ABORT : Number(this.#vm.memory.gpaOf(out));
  }

  records(): number[] {
    const g = this.#g;
    const size = 2 ** LOG2;
    const now = g.r(R.EVENTQ_PROD);
    const count = (now - this.#seen + 2 * size) % (2 * size);
    const out = Array.from({ length: count }, (_, i) => Number(g.event((this.#seen + i) % size)[0]! >> 32n));
    this.#seen = now;
    g.w(R.EVENTQ_CONS, now);
    return out;
  }
}
