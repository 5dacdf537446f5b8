import { describe, expect, test } from 'vitest';
import { DATA, type Driver } from './driver.ts';
import { LiveGuest } from './live-guest.ts';
import { random } from './mutate.ts';
import { SmmuDriver } from './smmuv3-driver.ts';
import { VtdDriver } from './vtd-driver.ts';

/** VIOMMU_PROGRAMS=N: N programs of each kind; VIOMMU_SEED=S others. */
const PROGRAMS = Number(process.env.VIOMMU_PROGRAMS ?? 5);
const SEED = Number(process.env.VIOMMU_SEED ?? 1);
const STEPS = 60;
/** Pages of the window that programs map in: half of what one last-level table holds, from its start. */
const PAGES = 256;
const WINDOW = 0x4000_0000;
const at = (page: number) => WINDOW + 0x1000 * page;

type Kind = readonly [name: string, make: (ats: boolean) => SmmuDriver | VtdDriver, ats: boolean];

// biome-ignore format: table
const KINDS: readonly Kind[] = [
  ['SMMUv3 stage 1', () => new SmmuDriver(), false],
  ['SMMUv3 stage 1, ATS', (ats) => new SmmuDriver({ ats }), true],
  ['SMMUv3 stage 2', () => new SmmuDriver({ stage2: true }), false],
  ['VT-d legacy', () => new VtdDriver(), false],
  ['VT-d legacy, ATS', (ats) => new VtdDriver({ ats }), true],
  ['VT-d legacy, caching mode', () => new VtdDriver({ cachingMode: true }), false],
  ['VT-d scalable', () => new VtdDriver({ scalable: true }), false],
  ['VT-d scalable, ATS', (ats) => new VtdDriver({ scalable: true, ats }), true],
  ['SMMUv3 on a machine whose memory is compared', () => new SmmuDriver({}, new LiveGuest('smmuv3', false, 'compared').plug(8)), false],
  ['SMMUv3 on a machine whose memory is compared, ATS', (ats) => new SmmuDriver({ ats }, new LiveGuest('smmuv3', false, 'compared').plug(8)), true],
  ['VT-d legacy on a machine whose memory is compared', () => new VtdDriver({}, new LiveGuest('vtd', false, 'compared').plug(8)), false],
  ['VT-d scalable on a machine whose memory is compared', (ats) => new VtdDriver({ ats, scalable: true }, new LiveGuest('vtd', true, 'compared').plug(8)), true],
];

/** A driver that chooses at random among what is legal. */
class LegalProgram {
  readonly d: SmmuDriver | VtdDriver;
  readonly #next: () => number;
  readonly #ats: boolean;
  /** Mapped pages, and where to. */
  readonly #mapped = new Map<number, number>();
  /** Unmapped, and not yet invalidated. */
  #gone: number[] = [];
  /** Of those, what an invalidation of something else has covered. */
  readonly #covered = new Set<number>();
  /** Invalidations that are left out on purpose: the n-th, counted from 0; -1: none. */
  readonly #leaveOut: number;
  #count = 0;
  #queued = 0;
  /** Something was left out. */
  left = false;
  #pages = 0;

  constructor(kind: Kind, seed: number, leaveOut = -1) {
    this.d = kind[1](kind[2]);
    this.#ats = kind[2];
    this.#next = random(seed);
    this.#leaveOut = leaveOut;
  }

  #pick(n: number): number {
    return Math.floor(this.#next() * n);
  }

  run(): this {
    for (let n = 0; n < STEPS; n++) this.#step();
    this.#flush();
    for (let n = 0; n < 4; n++) this.d.submit();
    return this;
  }

  #step(): void {
    const roll = this.#pick(12);
    if (roll < 5) this.#map();
    else if (roll < 7) this.#dma();
    else if (roll < 10) this.#unmap();
    else if (roll === 10) this.#flush();
    else this.#otherwise();
  }

  #map(): void {
    const first = this.#pick(PAGES);
    const count = 1 + this.#pick(8);
    let some = false;
    for (let page = first; page < Math.min(PAGES, first + count); page++) {
      if (this.#mapped.has(page) || this.#gone.includes(page)) continue;
      const to = DATA + 0x1000 * (this.#pages++ % 0x1000);
      this.#mapped.set(page, to);
      this.d.map(at(page), to, this.#pick(4) > 0);
      some = true;
    }
    if (some) this.#told();
  }

  #dma(): void {
    const all = [...this.#mapped];
    if (all.length === 0) return;
    const [page, to] = all[this.#pick(all.length)]!;
    this.d.guest.dma(this.d.sid, at(page), to, 1);
  }

  #unmap(): void {
    const all = [...this.#mapped.keys()].sort((a, b) => a - b);
    if (all.length === 0) return;
    const from = this.#pick(all.length);
    for (const page of all.slice(from, from + 1 + this.#pick(12))) {
      this.d.unmap(at(page));
      this.#mapped.delete(page);
      this.#gone.push(page);
    }
    if (this.#pick(3) > 0) this.#flush();
  }

  /** What was unmapped is invalidated, in one of the ways there are, and waited for. */
  #flush(): void {
    if (this.#gone.length === 0) return;
    const { d } = this;
    const pages = this.#gone;
    this.#gone = [];
    const leaf = this.#pick(2) === 0;
    const skip = this.#count++ === this.#leaveOut;
    if (skip && pages.some((page) => !this.#covered.has(page))) this.left = true;
    this.#covered.clear();
    const way = this.#pick(4);
    if (skip) d.fence();
    else if (way === 0) d.invalidateAll();
    else if (way === 1) for (const page of pages) this.#one(page, leaf);
    else if (way === 2) this.#range(Math.min(...pages), Math.max(...pages), leaf);
    else if (d instanceof SmmuDriver) this.#everything(d);
    else d.descriptor(2n | (1n << 4n), 0n);
    d.submit();
    if (this.#ats) this.#devices(pages);
    // What was not forgotten is used again at once: nothing later makes up for it.
    for (const page of skip ? pages : []) {
      this.#mapped.set(page, DATA + 0x100_0000 + 0x1000 * page);
      d.map(at(page), this.#mapped.get(page)!);
    }
    if (skip) this.#told();
  }

  /** In caching mode what was not present is told to be forgotten. */
  #told(): void {
    const { d } = this;
    if (!(d instanceof VtdDriver) || d.o.cachingMode !== true) return;
    d.invalidateAll();
    d.submit();
    for (const page of this.#gone) this.#covered.add(page);
  }

  /** Functions forget behind the IOMMU. */
  #devices(pages: readonly number[]): void {
    const { d } = this;
    if (this.#pick(2) === 0) for (const page of pages) this.#device(page);
    else this.#wholeDevice();
    d.submit();
  }

  #one(page: number, leaf: boolean): void {
    const { d } = this;
    d.invalidate(at(page), 1, leaf);
    this.#some();
  }

  /** One range around all of it: a power of two, aligned to it. */
  #range(first: number, last: number, leaf: boolean): void {
    let size = 2;
    while (Math.floor(first / size) !== Math.floor(last / size)) size *= 2;
    this.d.invalidate(at(Math.floor(first / size) * size), size, leaf);
  }

  #everything(d: SmmuDriver): void {
    // Of all of the VMID, with or without stage 2, or of everything there is.
    const nested = d.steWords()[0] === 0xdn;
    const one = nested ? 0x28n | (BigInt(d.vmid) << 32n) : 0x10n;
    d.command(this.#pick(2) === 0 ? one : 0x30n, 0n);
  }

  #device(page: number): void {
    this.d.invalidateDevice(at(page));
    this.#some();
  }

  /** Rings now and then, and before the queue is full. */
  #some(): void {
    if (++this.#queued % 16 === 0 || this.#pick(5) === 0) this.d.submit();
  }

  #wholeDevice(): void {
    const { d } = this;
    if (d instanceof SmmuDriver) d.command(0x40n | (BigInt(d.sid) << 32n), 52n);
    else d.descriptor(3n | (BigInt(d.sid) << 32n), 0x7fff_ffff_ffff_f001n);
  }

  /** Configuration: another stream comes and goes, or the window's table does. */
  #otherwise(): void {
    const { d } = this;
    if (this.#pick(2) === 0 && this.#gone.length === 0 && this.#mapped.size === 0 && this.#pages > 0) {
      const table = d.unlink(WINDOW);
      d.invalidate(WINDOW, 512, false);
      d.submit();
      if (this.#ats) {
        this.#wholeDevice();
        d.submit();
      }
      d.link(WINDOW, table);
      this.#told();
    } else if (d instanceof SmmuDriver) {
      const ste = d.streams + 64 * 16;
      d.guest.st(ste, this.#pick(2) === 0 ? 9 : 1);
      d.config(16);
      d.guest.st(ste, 0);
      d.config(16);
    } else if (d.o.scalable !== true) {
      const entry = d.contexts + 16 * 16;
      const other = d.guest.alloc();
      d.guest.st(entry + 8, 2n | (77n << 8n)).st(entry, BigInt(other) | 1n);
      const forget = (did: bigint) => {
        d.descriptor(1n | (3n << 4n) | (did << 16n) | (16n << 32n), 0n);
        d.descriptor(2n | (2n << 4n) | (77n << 16n), 0n);
        d.submit();
      };
      if (d.o.cachingMode) forget(0n);
      else d.submit();
      d.guest.st(entry, 0).st(entry + 8, 0);
      forget(77n);
    }
  }
}

function errors(d: Driver): string[] {
  return d.guest.judge(d.iommu).flatMap((f) => (f.severity === 'hint' ? [] : [`${f.rule}: ${f.message}`]));
}

/** What an invalidation that never came is called. */
const MISSING = ['missing-invalidation', 'use-after-unmap', 'atc-before-iotlb', 'missing-atc-invalidation'];

describe.each(KINDS)('random programs: %s', (...kind) => {
  test('what is legal is not found', () => {
    for (let n = 0; n < PROGRAMS; n++) {
      const seed = SEED * 10_000 + n;
      expect([seed, errors(new LegalProgram(kind, seed).run().d)]).toEqual([seed, []]);
    }
  });

  test('an invalidation that is left out is found when its addresses are used again, and by no other name', () => {
    let found = 0;
    for (let n = 0; n < PROGRAMS; n++) {
      const seed = SEED * 10_000 + n;
      const program = new LegalProgram(kind, seed, 1 + (n % 3)).run();
      const rules = [...new Set(errors(program.d).map((text) => text.split(':')[0]!))];
      // Where memory is compared, what comes and goes between two events was never there.
      const sure = !kind[0].includes('compared');
      if (sure)
        expect([seed, rules]).toEqual([seed, program.left ? expect.arrayContaining(['missing-invalidation']) : []]);
      if (rules.length > 0) found++;
      expect([seed, rules.filter((r) => !MISSING.includes(r))]).toEqual([seed, []]);
    }
    expect(found).toBeGreaterThan(0);
  });
});
