import { GCMD, PAGE } from '../../../src/spec/vtd/registers.ts';
import type { Random } from '../../oracle/random.ts';
import type { Step } from '../target.ts';
import { anyAccess, type GuestSteps, LARGE_QUEUE, type Places, selfSimilar, store, stores } from './guest.ts';

const QUEUE = 0x2000;
const ROOT = 0x1_0000;
const CONTEXTS = 0x1_1000;
const DIRECTORY = 0x1_4000;
const PASIDS = 0x1_5000;
const IRT = 0x1_8000;
const REQUESTS = 0x1_a000;
const TABLES = 0x2_0000;

/** A guest of a vVT-d. */
export class VtdGuestSteps implements GuestSteps {
  readonly #r: Random;
  readonly #p: Places;
  readonly #scalable: boolean;
  readonly #density: number;
  #tail = 0;

  /** @param density percent of table entries that are not empty. */
  constructor(rnd: Random, places: Places, scalable: boolean, density: number) {
    this.#r = rnd;
    this.#p = places;
    this.#scalable = scalable;
    this.#density = density;
  }

  #odd(percent: number): number {
    return this.#r.chance(percent) ? 1 << this.#r.below(32) : 0;
  }

  #page(): number {
    return this.#p.ram + TABLES + (this.#r.below(this.#p.bytes - TABLES) & ~0xfff);
  }

  fill(put: (gpa: number, lo: number, hi: number) => void): void {
    const { ram, bytes, rids } = this.#p;
    const now = (steps: readonly Step[]) => {
      for (const s of steps) put(Number(s[1]), Number(s[3]), Number(s[4]));
    };
    for (let at = TABLES; at < bytes; at += 8) now([this.#descriptor(ram + at)]);
    for (const rid of rids) now(this.#context(rid));
    for (let n = 0; n < 16; n++) now(this.#irte(n));
  }

  #descriptor(at: number): Step {
    const r = this.#r;
    if (!r.chance(this.#density)) return store(at, 0, 0);
    const to = r.chance(97) ? this.#page() : r.next() & ~0xfff;
    return store(at, to | (r.chance(90) ? 0x27 : r.next() & 0xfff), r.chance(3) ? r.next() : 0);
  }

  /** A root and context entry, or (scalable mode) those, a directory and a PASID entry. */
  #context(rid: number): Step[] {
    const r = this.#r;
    const { ram } = this.#p;
    const bus = rid >> 8;
    const table = ram + CONTEXTS + (bus << 12);
    const steps = [
      store(ram + ROOT + 16 * bus, (table | 1) ^ this.#odd(3), 0),
      store(ram + ROOT + 16 * bus + 8, this.#odd(2), 0),
    ];
    if (!this.#scalable) {
      const at = table + 16 * (rid & 0xff);
      return [
        ...steps,
        store(at, (this.#page() | 1 | (r.pick([0, 1, 1, 1, 2]) << 2)) ^ this.#odd(5), this.#odd(1)),
        store(at + 8, (r.pick([1, 2, 2, 3]) | (r.below(4) << 8)) ^ this.#odd(3), 0),
      ];
    }
    const at = table + 32 * (rid & 0x7f);
    // P, DTE, PASIDE, PRE.
    steps.push(store(at, (ram + DIRECTORY) | r.pick([1, 5, 0x1d]) | this.#odd(5), 0));
    for (let n = 1; n < 4; n++) steps.push(store(at + 8 * n, this.#odd(2), 0));
    steps.push(store(ram + DIRECTORY, (ram + PASIDS) | 1 | this.#odd(3), 0));
    const entry = ram + PASIDS + 64 * r.below(4);
    const pgtt = r.pick([1, 1, 2, 2, 3, 4]);
    steps.push(
      store(entry, (this.#page() | 1 | (2 << 2) | (pgtt << 6)) ^ this.#odd(5), 0),
      store(entry + 8, r.below(4) ^ this.#odd(3), 0),
      store(entry + 16, this.#page() ^ this.#odd(5), 0),
    );
    for (let n = 3; n < 8; n++) steps.push(store(entry + 8 * n, 0, 0));
    return steps;
  }

  #irte(n: number): Step[] {
    const r = this.#r;
    const at = this.#p.ram + IRT + 16 * n;
    return [
      store(at, (1 | (0x30 << 16)) ^ this.#odd(20), r.next() & 0xff00),
      store(at + 8, r.chance(50) ? 0 : (1 << 18) | r.pick(this.#p.rids), this.#odd(5)),
    ];
  }

  #register(at: number, size: number, lo: number, hi = 0): Step {
    return ['w', this.#p.iommu + at, size, lo | 0, hi | 0];
  }

  enable(): Step[] {
    const r = this.#r;
    const { ram } = this.#p;
    const scalable = this.#scalable && r.chance(95);
    const levels = (r.chance(95) ? GCMD.QIE : 0) | (r.chance(80) ? GCMD.IRE : 0);
    this.#tail = 0;
    return [
      this.#register(PAGE.FSTS.at, 4, -1),
      this.#register(PAGE.GCMD.at, 4, 0),
      this.#register(PAGE.IQT.at, 8, 0),
      this.#register(PAGE.IQA.at, 8, (ram + QUEUE) | (scalable ? 0x800 : 0)),
      this.#register(PAGE.RTADDR.at, 8, (ram + ROOT) | (scalable ? 0x400 : 0)),
      this.#register(PAGE.IRTA.at, 8, (ram + IRT) | 3),
      this.#register(PAGE.PQA.at, 8, ram + REQUESTS),
      this.#register(PAGE.FECTL.at, 4, 0),
      this.#register(PAGE.IECTL.at, 4, 0),
      this.#register(PAGE.GCMD.at, 4, GCMD.SRTP),
      this.#register(PAGE.GCMD.at, 4, GCMD.SIRTP),
      this.#register(PAGE.GCMD.at, 4, levels),
      this.#register(PAGE.GCMD.at, 4, levels | GCMD.TE),
    ];
  }

  table(): Step[] {
    const r = this.#r;
    const what = r.below(10);
    const { ram, bytes, rids } = this.#p;
    if (what < 6) return [this.#descriptor(ram + TABLES + (r.below(bytes - TABLES) & ~7))];
    if (what < 8) return this.#context(r.pick(rids));
    if (what < 9) return this.#irte(r.below(16));
    return [store(ram + 8 * r.below(TABLES / 8), r.next(), r.next())];
  }

  #queue(words: readonly (readonly [number, number])[]): Step[] {
    const size = this.#scalable ? 32 : 16;
    const at = this.#p.ram + QUEUE + this.#tail * size;
    const steps: Step[] = [];
    for (let n = 0; n < size / 8; n++) steps.push(store(at + 8 * n, ...(words[n] ?? [0, 0])));
    this.#tail = (this.#tail + 1) % (4096 / size);
    return steps;
  }

  #doorbell(): Step {
    const r = this.#r;
    const tail = this.#tail * (this.#scalable ? 32 : 16);
    return this.#register(PAGE.IQT.at, 8, tail ^ (r.chance(2) ? 1 << r.below(20) : 0));
  }

  command(): Step[] {
    const r = this.#r;
    const { rids, ram } = this.#p;
    const steps: Step[] = [];
    for (let n = r.chance(20) ? r.below(8) : 0; n >= 0; n--) {
      const type = r.chance(95) ? r.pick([1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 7, 8, 9]) : r.below(128);
      const g = type === 5 ? r.pick([0x20, 0x20, 0x30, 0x40, 0]) : r.below(4) << 4;
      const lo = (type & 15) | ((type >> 4) << 9) | g | (r.below(4) << 16);
      const address = type === 5 ? ram + 0x1000 + 4 * r.below(64) : (r.next() & ~0xfff) | r.below(20);
      steps.push(
        ...this.#queue([
          [lo ^ this.#odd(3), r.chance(50) ? r.pick(rids) : r.below(2)],
          [r.chance(30) && type !== 5 ? 0 : address, this.#odd(3)],
        ]),
      );
    }
    steps.push(this.#doorbell(), ['r', this.#p.iommu + PAGE.FSTS.at, 4]);
    if (r.chance(15)) steps.push(['ack'], ...(r.chance(50) ? this.enable() : []));
    return steps;
  }

  flood(): Step[] {
    const r = this.#r;
    const { ram, iommu, rids } = this.#p;
    const at = ram + LARGE_QUEUE;
    const size = this.#scalable ? 32 : 16;
    const count = r.pick([0x400, 0x3fff]);
    const tables = ram + TABLES + (r.below(32) << 12);
    const similar = selfSimilar(r, (n) => tables + 0x1000 * n, 0x27, [0xfee0_0000, 0xc000_0000, 0xe000_0000, iommu]);
    const g = r.below(4) << 4;
    const type = r.pick([1, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9]);
    const lo = type | (type === 5 ? 0x20 : g) | (r.below(4) << 16);
    const address = type === 5 ? ram + 0x1000 : (r.next() & ~0xfff) | r.pick([0, 1, 9, 18, 27, 63]);
    return [
      ...similar,
      this.#register(PAGE.GCMD.at, 4, GCMD.TE),
      this.#register(PAGE.IQT.at, 8, 0),
      this.#register(PAGE.IQA.at, 8, at | 7 | (this.#scalable ? 0x800 : 0)),
      this.#register(PAGE.GCMD.at, 4, GCMD.TE | GCMD.QIE),
      stores(at, count, size, lo, r.chance(50) ? r.pick(rids) : 0),
      stores(at + 8, count, size, address, 0, r.pick([0, 0x1000, 0x20_0000]), r.pick([1, 7, 512])),
      this.#register(PAGE.IQT.at, 8, count * size),
      [
        'sweep',
        r.below(2),
        -1,
        r.next() & ~0xfff,
        r.pick([0, 1, 0x7f]),
        r.pick([0x1000, 0x20_0000]),
        r.pick([64, 2000]),
      ],
      this.#register(PAGE.IQT.at, 8, count * size),
      ...(r.chance(70) ? this.enable() : []),
    ];
  }

  completion(address: number): Step[] {
    const r = this.#r;
    // A wait whose status goes there, or the page request queue, or the fault event.
    if (r.chance(70))
      return [
        ...this.#queue([
          [0x25 | (r.below(2) << 6), r.next()],
          [address, 0],
        ]),
        this.#doorbell(),
      ];
    if (r.chance(50)) return [this.#register(PAGE.PQA.at, 8, address & ~0xfff)];
    return [this.#register(PAGE.FEADDR.at, 4, address), this.#register(PAGE.FEDATA.at, 4, r.next())];
  }

  register(): Step[] {
    const r = this.#r;
    const wild = () => (r.chance(50) ? this.#page() | r.below(16) : (r.next() & ~0xfff) | r.below(0x1000));
    return [anyAccess(r, this.#p.iommu, 0x240, 0x1000, wild)];
  }
}
