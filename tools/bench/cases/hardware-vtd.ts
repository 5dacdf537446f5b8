import { ViommuError } from '../../../src/core/errors.ts';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { PhysicalVtd } from '../../../src/piommu/vtd/device.ts';
import { FULL_CAP, FULL_ECAP, type PhysicalVtdOptions } from '../../../src/piommu/vtd/options.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { INV } from '../../../src/spec/vtd/invalidation.ts';
import { GCMD, PAGE, TTM } from '../../../src/spec/vtd/registers.ts';
import { PGTT } from '../../../src/spec/vtd/tables.ts';
import type { Prepared, TimedCase } from '../case.ts';
import { GuestPages } from '../parts/page-tables.ts';
import { shuffled } from '../parts/shuffled.ts';

const PAGES = 65_536;
const RID = 0x10;
const DID = 7;
const RAM = 0x4000_0000;
const RAM_BYTES = 32 << 20;
const ROOT = RAM;
const CONTEXTS = RAM + 0x1000;
const DIRECTORY = RAM + 0x2000;
const PASIDS = RAM + 0x3000;
const TABLES = RAM + 0x1_0000;
/** What the pages map to: 256 MiB that nobody touches. */
const TARGET = 0x1_0000_0000;
const IOVA_HI = 0x1200;

type Mode = 'legacy' | 'second' | 'first' | 'nested';

class Bench {
  readonly memory = new AddressSpace();
  readonly hw: PhysicalVtd;
  readonly order = shuffled(PAGES);
  readonly wide: boolean;
  readonly #pages = new GuestPages(this.memory, TABLES);

  constructor(mode: Mode, options: Partial<PhysicalVtdOptions>) {
    this.memory.addRam(RAM, RAM_BYTES, ramBacking(RAM_BYTES));
    this.hw = new PhysicalVtd({ memory: this.memory, cap: FULL_CAP, ecap: FULL_ECAP, ...options });
    this.wide = mode !== 'legacy';
    this.#store(ROOT, CONTEXTS | 1);
    const table = this.#pages.page();
    const first = mode === 'first' || mode === 'nested';
    const stage = first ? { table: 0x67, leaf: 0x67 } : { table: 3, leaf: 3 };
    const at = IOVA_HI * 2 ** 32;
    for (let page = 0; page < PAGES; page++) this.#pages.map(table, at + page * 4096, TARGET + page * 4096, stage);
    const second = this.#pages.page();
    if (mode === 'nested') {
      const identity = (a: number) => this.#pages.map(second, a, a, { table: 3, leaf: 3 });
      for (let page = 0; page < PAGES; page++) identity(TARGET + page * 4096);
      for (let a = RAM; a < RAM + RAM_BYTES; a += 4096) identity(a);
    }
    this.#entries(mode, table, second);
    this.hw.writeRegister(PAGE.RTADDR.at, BigInt(ROOT) | (BigInt(this.wide ? TTM.SCALABLE : TTM.LEGACY) << 10n));
    this.hw.writeRegister(PAGE.GCMD.at, BigInt(GCMD.SRTP | GCMD.QIE));
    this.hw.writeRegister(PAGE.GCMD.at, BigInt((GCMD.TE | GCMD.QIE) >>> 0));
  }

  #entries(mode: Mode, table: number, second: number): void {
    if (mode === 'legacy') {
      this.#store(CONTEXTS + RID * 16, table | 1);
      this.#store(CONTEXTS + RID * 16 + 8, 2 | (DID << 8));
      return;
    }
    this.#store(CONTEXTS + RID * 32, DIRECTORY | 1);
    this.#store(DIRECTORY, PASIDS | 1);
    this.#store(PASIDS + 8, DID);
    if (mode === 'second') this.#store(PASIDS, table | (PGTT.SECOND << 6) | (2 << 2) | 1);
    else if (mode === 'first') this.#store(PASIDS, (PGTT.FIRST << 6) | 1);
    else this.#store(PASIDS, second | (PGTT.NESTED << 6) | (2 << 2) | 1);
    if (mode !== 'second') this.#store(PASIDS + 16, table);
  }

  #store(at: number, value: number): void {
    this.memory.store64(at, value | 0, (value / 2 ** 32) | 0);
  }

  /** Translates one page and checks the answer. */
  touch(page: number): void {
    const answer = this.hw.translate(RID, NO_PASID, page << 12, IOVA_HI, ACCESS.READ, AT.UNTRANSLATED);
    if (answer !== DMA.OK || this.hw.out !== TARGET + page * 4096) {
      throw new ViommuError('EIO', 'caller', 'the bench translates wrongly', { page, answer, out: this.hw.out });
    }
  }

  fill(pages: number): void {
    for (let page = 0; page < pages; page++) this.touch(page);
  }

  /** A descriptor of `count`, as long as the mode has them. */
  put(list: Int32Array, n: number, w0: number, w1: number, w2: number, w3: number): void {
    list.set([w0, w1, w2, w3], n * this.words);
  }
  get words(): number {
    return this.wide ? 8 : 4;
  }
}

/** Every type once, so that none is met for the first time inside a measurement. */
function warm(b: Bench): void {
  const list = new Int32Array(8);
  for (let round = 0; round < 2000; round++) {
    for (const w0 of [0x31, 0x7777_0032, 0x7777_0022, 0x25, 0x7777_0036, 0x7777_0026, 0x7777_0007, 0x7777_0017]) {
      list[0] = w0;
      b.hw.submit(list, 0, 1);
    }
  }
}

function hits(mode: Mode, options: Partial<PhysicalVtdOptions> = {}): Prepared {
  const b = new Bench(mode, options);
  return {
    ops: PAGES,
    run() {
      for (let n = 0; n < PAGES; n++) b.touch(n & 127);
    },
  };
}

/** Random order over all pages. */
function misses(mode: Mode, options: Partial<PhysicalVtdOptions>): Prepared {
  const b = new Bench(mode, options);
  return {
    ops: PAGES,
    run() {
      for (let n = 0; n < PAGES; n++) b.touch(b.order[n]!);
    },
  };
}

/** Context cache, PASID cache and IOTLB emptied before every translation. */
function fullMiss(mode: Mode): Prepared {
  const b = new Bench(mode, {});
  warm(b);
  const list = new Int32Array(3 * b.words);
  b.put(list, 0, INV.CONTEXT | (1 << 4), 0, 0, 0);
  b.put(list, 1, INV.IOTLB | (1 << 4), 0, 0, 0);
  if (b.wide) b.put(list, 2, INV.PASID_CACHE | (3 << 4), 0, 0, 0);
  return {
    ops: 1024,
    run() {
      for (let n = 0; n < 1024; n++) {
        b.hw.submit(list, 0, b.wide ? 3 : 2);
        b.touch(b.order[n]!);
      }
    },
  };
}

const BATCH = 512;

/** One descriptor 512 times in a submission, with `cached` translations in the cache. */
function descriptors(mode: Mode, cached: number, make: (n: number) => [number, number, number, number]): Prepared {
  const b = new Bench(mode, {});
  warm(b);
  b.fill(cached);
  const list = new Int32Array(BATCH * b.words);
  for (let n = 0; n < BATCH; n++) b.put(list, n, ...make(n));
  return {
    ops: BATCH,
    run() {
      b.hw.submit(list, 0, BATCH);
    },
  };
}

/** Map, use, unmap: the page's descriptor, a wait, and the page walked again. */
function unmap(mode: Mode, cached: number): Prepared {
  const b = new Bench(mode, {});
  warm(b);
  b.fill(cached);
  const list = new Int32Array(2 * b.words);
  b.put(list, 1, INV.WAIT | 0x40, 0, 0, 0);
  return {
    ops: 1024,
    run() {
      for (let n = 0; n < 1024; n++) {
        const page = n & 127;
        if (mode === 'first') b.put(list, 0, INV.PASID_IOTLB | (3 << 4) | (DID << 16), 0, (page << 12) | 0x40, IOVA_HI);
        else b.put(list, 0, INV.IOTLB | (3 << 4) | (DID << 16), 0, (page << 12) | 0x40, IOVA_HI);
        b.hw.submit(list, 0, 2);
        b.touch(page);
      }
    },
  };
}

/** Pages nobody has cached: the cost is that of looking. */
const page = (n: number): [number, number, number, number] => [
  INV.IOTLB | (3 << 4) | (DID << 16),
  0,
  (PAGES + n) << 12,
  IOVA_HI,
];
const range = (n: number): [number, number, number, number] => [
  INV.IOTLB | (3 << 4) | (DID << 16),
  0,
  ((PAGES + n * 512) << 12) | 9,
  IOVA_HI,
];
const pasidPage = (n: number): [number, number, number, number] => [
  INV.PASID_IOTLB | (3 << 4) | (DID << 16),
  0,
  (PAGES + n) << 12,
  IOVA_HI,
];

const STOCK = { caches: { iotlb: 1024 } };

type Row = Omit<TimedCase, 'path' | 'hot'>;
const CACHED = [1, 200, 10_000, 60_000];

/** The emulated VT-d hardware, straight at its ports. Caches of 1024 entries make every access of the loop a miss. */
const ROWS: readonly Row[] = [
  { name: 'VT-d legacy IOTLB hit', setup: () => hits('legacy') },
  { name: 'VT-d first-stage IOTLB hit', setup: () => hits('first') },
  { name: 'VT-d nested IOTLB hit', setup: () => hits('nested') },
  { name: 'VT-d hit', n: PAGES, setup: () => misses('legacy', {}) },
  { name: 'VT-d second-stage miss', setup: () => misses('legacy', STOCK) },
  { name: 'VT-d first-stage miss', setup: () => misses('first', STOCK) },
  { name: 'VT-d nested miss', setup: () => misses('nested', STOCK) },
  { name: 'VT-d everything invalidated, then legacy', setup: () => fullMiss('legacy') },
  { name: 'VT-d everything invalidated, then nested', setup: () => fullMiss('nested') },
  { name: 'VT-d wait', setup: () => descriptors('legacy', 200, () => [INV.WAIT | 0x40, 0, 0, 0]) },
  ...CACHED.map((n) => ({ name: 'VT-d IOTLB page', n, setup: () => descriptors('legacy', n, page) })),
  ...CACHED.map((n) => ({ name: 'VT-d IOTLB of 512 pages', n, setup: () => descriptors('legacy', n, range) })),
  ...CACHED.map((n) => ({
    name: 'VT-d IOTLB of another domain',
    n,
    setup: () => descriptors('legacy', n, () => [INV.IOTLB | (2 << 4) | (0x77 << 16), 0, 0, 0]),
  })),
  ...CACHED.map((n) => ({ name: 'VT-d PASID-IOTLB page', n, setup: () => descriptors('first', n, pasidPage) })),
  ...CACHED.map((n) => ({
    name: 'VT-d PASID-IOTLB of another PASID',
    n,
    setup: () => descriptors('first', n, () => [INV.PASID_IOTLB | (2 << 4) | (0x77 << 16), 1, 0, 0]),
  })),
  ...(['legacy', 'first'] as const).flatMap((mode) =>
    CACHED.map((n) => ({ name: `VT-d ${mode}: page, wait, walked again`, n, setup: () => unmap(mode, n) })),
  ),
];

export const VTD_HARDWARE: readonly TimedCase[] = ROWS.map((r) => ({ ...r, path: 'hardware only', hot: true }));
