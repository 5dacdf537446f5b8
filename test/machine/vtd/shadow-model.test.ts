import { expect, test } from 'vitest';
import { ACCESS } from '../../../src/ports/dma.ts';
import { Random } from '../../../tools/oracle/random.ts';
import { type Said, ShadowHistory } from '../shadow-history.ts';
import { RIG_RAM, Rig, SECOND } from './rig.ts';

const STEPS = Number(process.env.VIOMMU_SHADOW_STEPS ?? 400);
const RID = 0x10;
const OTHER = 0x18;
const DID = 5;
/** RAM that comes and goes. */
const FAR = 0x4000_0000;
const FAR_BYTES = 0x40_0000;
/** Where a nested guest's memory lies in its second stage. */
const L1 = 0x80_0000_0000;
const REGION = 0x20_0000;
/** Pieces of 2 MiB that the guest uses, by their input address. */
const REGIONS = [0x4000_0000, 0x4020_0000, 0x8000_0000, 0x70_0000_0000];
/** Pages it uses in each. */
const PAGES = [0, 1, 7, 8, 255, 511];
const MODES = ['legacy', 'second', 'nested'] as const;

/** A guest with one domain, two functions in it, and memory that is plugged while it runs. */
class Guest {
  readonly rig: Rig;
  readonly mode: (typeof MODES)[number];
  readonly history = new ShadowHistory((gpa) => gpa < RIG_RAM || (this.unplug !== null && gpa < FAR + FAR_BYTES));
  readonly #second: number;
  /** The table of each region; null: a 2 MiB leaf is there, or nothing. */
  readonly #tables: number[] = [];
  readonly #entries: number[] = [];
  readonly #leaf: Said[] = REGIONS.map(() => null);
  readonly #paged = REGIONS.map(() => true);
  readonly #pages = new Map<number, Said>();
  unplug: (() => void) | null = null;

  constructor(mode: (typeof MODES)[number], cachingMode: boolean) {
    this.mode = mode;
    const scalableMode = mode !== 'legacy';
    const nested = mode === 'nested' ? { profile: 'arch' as const, fsts: true } : {};
    this.rig = new Rig({ props: { scalableMode, cachingMode, ...nested } });
    const { rig } = this;
    const { g } = rig;
    this.#second = rig.page();
    for (const at of REGIONS) {
      // The way down, and an empty table at its end.
      g.map(this.#second, at, 0, 3n, rig.pools[0]!, 0n);
      let table = this.#second;
      for (let level = 3; level > 0; level--) {
        const entry = table + 8 * (Math.floor(at / 2 ** (12 + 9 * level)) % 512);
        if (level === 1) this.#entries.push(entry);
        table = Number(g.load(entry) & 0xf_ffff_ffff_f000n);
      }
      this.#tables.push(table);
    }
    for (const rid of [RID, OTHER]) {
      rig.plug(rid);
      if (mode === 'legacy') rig.legacy(rid, DID, this.#second);
      else rig.scalable(rid, 0, mode === 'second' ? SECOND(DID, this.#second) : this.#nested());
    }
    g.queueOn(scalableMode);
    g.translateOn(rig.root(scalableMode ? 1 : 0));
  }

  /** A first stage of 1 GiB leaves that changes nothing, in tables that the second stage has at L1 + x. */
  #nested(): bigint[] {
    const { g } = this.rig;
    const pool = this.rig.pools[0]!;
    const [l4, l3] = [this.rig.page(), this.rig.page()];
    g.store(l4, BigInt(L1 + l3) | 7n);
    for (const at of REGIONS)
      g.store(l3 + 8 * Math.floor(at / 2 ** 30), BigInt(Math.floor(at / 2 ** 30) * 2 ** 30) | 0x87n);
    for (const at of [l4, l3]) g.map(this.#second, L1 + at, at, 3n, pool);
    return [BigInt(this.#second) | 0xc9n, BigInt(DID), BigInt(L1 + l4)];
  }

  /** Changes a page; where there was a large leaf, a table takes its place. */
  page(region: number, index: number, now: Said): void {
    const { g } = this.rig;
    if (!this.#paged[region]) {
      this.#paged[region] = true;
      g.store(this.#entries[region]!, BigInt(this.#tables[region]!) | 3n);
    }
    this.#pages.set(region * 512 + index, now);
    g.store(this.#tables[region]! + 8 * index, now === null ? 0n : BigInt(now.gpa) | BigInt(now.perm));
    this.#tell(region);
  }

  /** Puts a 2 MiB leaf in the place of a table, or takes the region away. */
  leaf(region: number, now: Said): void {
    this.#paged[region] = false;
    this.#leaf[region] = now;
    this.rig.g.store(this.#entries[region]!, now === null ? 0n : BigInt(now.gpa) | BigInt(now.perm) | 0x80n);
    this.#tell(region);
  }

  #tell(region: number): void {
    for (const index of PAGES) {
      const leaf = this.#leaf[region]!;
      const now = this.#paged[region]
        ? (this.#pages.get(region * 512 + index) ?? null)
        : leaf && { gpa: leaf.gpa + index * 4096, perm: leaf.perm };
      this.history.changed(this.#number(region, index), now);
    }
  }

  #number(region: number, index: number): number {
    return REGIONS[region]! / 4096 + index;
  }

  /** An invalidation, and a wait behind it. @param g 1 global, 2 domain, 3 2^am pages around `page`. */
  invalidate(g: number, page: number, am: number, did: number): void {
    const queue = this.rig.g;
    queue.submit(BigInt(2 | (g << 4)) | (BigInt(did) << 16n), (BigInt(page) * 4096n) | BigInt(am));
    queue.submit(0x25n | (1n << 32n), 0x60_0000n);
    if (g !== 1 && did !== DID) return;
    const first = page - (page % 2 ** am);
    for (const [r] of REGIONS.entries()) {
      for (const index of PAGES) {
        const n = this.#number(r, index);
        if (g !== 3 || (n >= first && n < first + 2 ** am)) this.history.forget(n);
      }
    }
  }

  access(region: number, index: number, offset: number, access: number, rid: number): void {
    const page = this.#number(region, index);
    const got = this.rig.dma(rid, page * 4096 + offset, access);
    expect(this.history.judge(page, offset, access, got)).toBe('');
  }

  plug(): void {
    if (this.unplug === null) this.unplug = this.rig.vm.addRam(FAR, FAR_BYTES);
    else {
      this.unplug();
      this.unplug = null;
    }
  }
}

test.each(MODES.flatMap((mode) => [false, true].map((cachingMode) => ({ mode, cachingMode }))))(
  'whatever a guest does to its tables and what it invalidates, an access sees what they said since ($mode, caching mode $cachingMode)',
  ({ mode, cachingMode }) => {
    for (let seed = 1; seed <= 4; seed++) {
      const random = new Random(seed * 7919 + mode.length);
      const pick = (n: number): number => random.below(n);
      const g = new Guest(mode, cachingMode);
      const target = (align: number): Said => {
        const far = pick(4) === 0;
        const base = far ? FAR : 0x100_0000;
        const room = far ? FAR_BYTES + 2 * align : 0x80_0000;
        return { gpa: base + pick(room / align) * align, perm: 1 + pick(3) };
      };
      let region = 0;
      let index = 0;
      for (let step = 0; step < STEPS; step++) {
        // What was touched last is touched again more often than not: caches hold it.
        if (random.chance(30)) region = pick(REGIONS.length);
        if (random.chance(30)) index = random.pick(PAGES);
        const page = REGIONS[region]! / 4096 + index;
        const what = pick(20);
        if (what < 4) g.page(region, index, pick(4) === 0 ? null : target(4096));
        else if (what < 5) g.leaf(region, pick(4) === 0 ? null : target(REGION));
        else if (what < 8) g.invalidate(3, page, [0, 0, 1, 3, 9, 18][pick(6)]!, pick(5) === 0 ? DID + 1 : DID);
        else if (what < 9) g.invalidate([1, 2][pick(2)]!, 0, 0, pick(5) === 0 ? DID + 1 : DID);
        else if (what < 10 && pick(4) === 0) g.plug();
        else g.access(region, index, 8 * pick(512), pick(2) === 0 ? ACCESS.READ : ACCESS.WRITE, pick(2) ? RID : OTHER);
      }
    }
  },
);
