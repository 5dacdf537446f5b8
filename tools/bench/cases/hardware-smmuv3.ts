import { ViommuError } from '../../../src/core/errors.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { PhysicalSmmuv3 } from '../../../src/piommu/smmuv3/device.ts';
import type { Smmuv3CacheSizes } from '../../../src/piommu/smmuv3/options.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { HwEvents } from '../../../src/ports/hw.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { CR0, PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import type { Prepared, TimedCase } from '../case.ts';
import { GuestPages } from '../parts/page-tables.ts';
import { shuffled } from '../parts/shuffled.ts';

const PAGES = 65_536;
const SID = 8;
const ASID = 0x11;
const RAM = 0x4000_0000;
const STRTAB = RAM;
const CD = RAM + 0x1_0000;
const S2_START = RAM + 0x10_0000;
const S2_TABLES = RAM + 0x20_0000;
const S1_START = RAM + 0x400_0000;
const S1_TABLES = S1_START + 0x1000;
const RAM_BYTES = 128 << 20;
/** What the pages map to: 256 MiB that nobody touches. */
const TARGET = 0x1_0000_0000;
/** Intermediate address = physical address + this. */
const IPA = 0x20_0000_0000;
const IOVA_HI = 0x1200;

const silent: HwEvents = {
  streamMiss: () => false,
  stageTwoMiss: () => false,
  fault() {},
  pageRequest() {},
  completed() {},
};

class Bench {
  readonly memory = new AddressSpace();
  readonly hw: PhysicalSmmuv3;
  readonly order = shuffled(PAGES);
  readonly #stage1 = new GuestPages(this.memory, S1_TABLES);
  readonly #stage2 = new GuestPages(this.memory, S2_TABLES);
  readonly #nested: boolean;

  constructor(nested: boolean, caches: Smmuv3CacheSizes) {
    this.#nested = nested;
    this.memory.addRam(RAM, RAM_BYTES, ramBacking(RAM_BYTES));
    this.hw = new PhysicalSmmuv3({
      memory: this.memory,
      idr0: 0x0d44_101b,
      idr1: 0x0273_0010,
      idr3: 0x1414,
      idr5: 0x74,
      events: silent,
      clock: new VirtualClock(),
      caches,
    });
    this.hw.writeRegister(PAGE0.STRTAB_BASE.at, BigInt(STRTAB));
    this.hw.writeRegister(PAGE0.STRTAB_BASE_CFG.at, 8n);
    this.hw.writeRegister(PAGE0.CR0.at, BigInt(CR0.SMMUEN | CR0.EVENTQEN | CR0.CMDQEN));
    this.#tables();
  }

  /** Four levels on both sides: 48-bit stage 1, 44-bit stage 2 from level 0. */
  #tables(): void {
    const at = this.#nested ? IPA : 0;
    const ste = STRTAB + SID * 64;
    this.#store(ste, (CD + at) | 0 | (this.#nested ? 0xf : 0xb), ((CD + at) / 2 ** 32) | 0);
    this.#store(ste + 16, 7, 0x040c_0094);
    this.#store(ste + 24, S2_START, 0);
    // T0SZ 16, EPD1, V | IPS 4, AA64, R, A, ASID.
    this.#store(CD, 0xc000_0010 | 0, (ASID << 16) | 0x6204);
    this.#store(CD + 8, (S1_START + at) | 0, ((S1_START + at) / 2 ** 32) | 0);
    for (let page = 0; page < PAGES; page++) {
      this.#map1(page, TARGET + page * 4096 + at);
      if (this.#nested) this.#map2(TARGET + page * 4096 + at, TARGET + page * 4096);
    }
    if (this.#nested) for (let pa = RAM; pa < RAM + RAM_BYTES; pa += 4096) this.#map2(pa + at, pa);
  }

  #store(address: number, lo: number, hi: number): void {
    this.memory.store64(address, lo, hi);
  }

  #map1(page: number, out: number): void {
    const address = IOVA_HI * 2 ** 32 + page * 4096;
    this.#stage1.map(S1_START, address, out, { table: 3, leaf: 0xc43, shift: this.#nested ? IPA : 0 });
  }

  #map2(ipa: number, out: number): void {
    this.#stage2.map(S2_START, ipa, out, { table: 3, leaf: 0x4ff });
  }

  /** Translates one page and checks the answer. */
  touch(page: number): void {
    const answer = this.hw.translate(SID, NO_PASID, page << 12, IOVA_HI, ACCESS.READ, AT.UNTRANSLATED);
    if (answer !== DMA.OK || this.hw.out !== TARGET + page * 4096) {
      throw new ViommuError('EIO', 'caller', 'the bench translates wrongly', { page, answer, out: this.hw.out });
    }
  }

  fill(pages: number): void {
    for (let page = 0; page < pages; page++) this.touch(page);
  }
}

/** Every opcode once, so that none is met for the first time inside a measurement. */
function warm(hw: PhysicalSmmuv3): void {
  const words = new Int32Array(4);
  for (let round = 0; round < 2000; round++) {
    for (const op of Object.values(OP)) {
      words[0] = op;
      words[1] = 0x7777_0000 | 0;
      hw.submit(words, 0, 1);
    }
  }
}

/** Translations in random order over all pages. */
function misses(nested: boolean, caches: Smmuv3CacheSizes): Prepared {
  const b = new Bench(nested, caches);
  return {
    ops: PAGES,
    run() {
      for (let n = 0; n < PAGES; n++) b.touch(b.order[n]!);
    },
  };
}

function hits(nested: boolean): Prepared {
  const b = new Bench(nested, {});
  return {
    ops: PAGES,
    run() {
      for (let n = 0; n < PAGES; n++) b.touch(n & 127);
    },
  };
}

function command(w0: number, w1: number, w2: number, w3: number): number[] {
  return [w0, w1, w2, w3];
}

/** CFGI_ALL, TLBI_NSNH_ALL and one translation. */
function fullMiss(nested: boolean): Prepared {
  const b = new Bench(nested, {});
  warm(b.hw);
  const words = Int32Array.from([...command(OP.CFGI_STE_RANGE, 0, 31, 0), ...command(OP.TLBI_NSNH_ALL, 0, 0, 0)]);
  return {
    ops: 1024,
    run() {
      for (let n = 0; n < 1024; n++) {
        b.hw.submit(words, 0, 2);
        b.touch(b.order[n]!);
      }
    },
  };
}

const BATCH = 512;

/** The same command 512 times in one submission, with `cached` translations in the cache. */
function commands(cached: number, make: (n: number) => number[]): Prepared {
  const b = new Bench(false, {});
  warm(b.hw);
  b.fill(cached);
  const list = new Int32Array(BATCH * 4);
  for (let n = 0; n < BATCH; n++) list.set(make(n), n * 4);
  return {
    ops: BATCH,
    run() {
      b.hw.submit(list, 0, BATCH);
    },
  };
}

/** TLBI_NH_VA of pages nobody has cached: the cost is that of looking. */
const tlbiVa = (n: number) => command(OP.TLBI_NH_VA, (ASID << 16) | 0, ((PAGES + n) << 12) | 1, IOVA_HI);
/** One range of 512 pages per command (TG 4K, NUM 31, SCALE 4). */
const tlbiRange = (n: number) =>
  command(OP.TLBI_NH_VA | (31 << 12) | (4 << 20), ASID << 16, ((PAGES + n * 512) << 12) | (1 << 10) | 1, IOVA_HI);

/** Map, use, unmap: TLBI_NH_VA, SYNC, and the page walked again. */
function unmap(cached: number): Prepared {
  const b = new Bench(false, {});
  warm(b.hw);
  b.fill(cached);
  const words = new Int32Array(8);
  words.set(command(OP.SYNC, 0, 0, 0), 4);
  return {
    ops: 1024,
    run() {
      for (let n = 0; n < 1024; n++) {
        const page = n & 127;
        words[0] = OP.TLBI_NH_VA;
        words[1] = ASID << 16;
        words[2] = (page << 12) | 1;
        words[3] = IOVA_HI;
        b.hw.submit(words, 0, 2);
        b.touch(page);
      }
    },
  };
}

type Row = Omit<TimedCase, 'path' | 'hot'>;

const command200 = (name: string, make: (n: number) => number[]): Row => ({ name, setup: () => commands(200, make) });

/** The emulated SMMUv3 hardware, straight at its ports. Caches of 256 entries make every access of the loop a miss. */
const ROWS: readonly Row[] = [
  { name: 'SMMUv3 IOTLB hit', setup: () => hits(false) },
  { name: 'SMMUv3 nested IOTLB hit', setup: () => hits(true) },
  { name: 'SMMUv3 hit', n: PAGES, setup: () => misses(false, {}) },
  { name: 'SMMUv3 stage-1 miss', setup: () => misses(false, { iotlb: 256 }) },
  { name: 'SMMUv3 stage-1 miss, no walk cache', setup: () => misses(false, { iotlb: 256, walks: 0 }) },
  { name: 'SMMUv3 nested miss, walk caches warm', setup: () => misses(true, { iotlb: 256 }) },
  { name: 'SMMUv3 nested miss, no caches at all', setup: () => misses(true, { iotlb: 0, walks: 0 }) },
  { name: 'SMMUv3 everything invalidated, then stage 1', setup: () => fullMiss(false) },
  { name: 'SMMUv3 everything invalidated, then nested', setup: () => fullMiss(true) },
  command200('SMMUv3 SYNC', () => command(OP.SYNC, 0, 0, 0)),
  command200('SMMUv3 CFGI_STE', () => command(OP.CFGI_STE, SID, 1, 0)),
  ...[1, 200, 10_000, 60_000].map((n) => ({ name: 'SMMUv3 TLBI_NH_VA', n, setup: () => commands(n, tlbiVa) })),
  ...[1, 200, 10_000, 60_000].map((n) => ({
    name: 'SMMUv3 TLBI_NH_VA of 512 pages',
    n,
    setup: () => commands(n, tlbiRange),
  })),
  ...[1, 200, 10_000, 60_000].map((n) => ({
    name: 'SMMUv3 TLBI_NH_ASID of another',
    n,
    setup: () => commands(n, () => command(OP.TLBI_NH_ASID, 0x2222_0000, 0, 0)),
  })),
  ...[1, 200, 10_000, 60_000].map((n) => ({
    name: 'SMMUv3 TLBI_NH_VA, SYNC, walked again',
    n,
    setup: () => unmap(n),
  })),
];

export const SMMUV3_HARDWARE: readonly TimedCase[] = ROWS.map((r) => ({ ...r, path: 'hardware only', hot: true }));
