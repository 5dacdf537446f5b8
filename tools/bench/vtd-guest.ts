import { vtdDefaults } from '../../devices/vtd/properties.ts';
import { ViommuError } from '../../src/core/errors.ts';
import { hostRid } from '../../src/lib/pci/rids.ts';
import { Vm } from '../../src/machine/vm.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../src/ports/dma.ts';
import { INV } from '../../src/spec/vtd/invalidation.ts';
import { GCMD, PAGE } from '../../src/spec/vtd/registers.ts';
import type { BenchCase, Prepared } from './case.ts';

const RAM_BYTES = 64 << 20;
const RID = 0x10;
const DID = 5;
const PAGES = 65_536;
const IOVA_HI = 0x12;
const ROOT = 0x1000;
const CONTEXTS = 0x2000;
const QUEUE = 0x3000;
const STATUS = 0x4000;
const TABLES = 0x10_0000;
/** Where the pages lie, again and again. */
const TARGET = 0x200_0000;
const TARGET_PAGES = 4096;
const QUEUE_BYTES = 4096;
const WAIT = 0x25;

/** A guest of a whole vVT-d in legacy mode: its stores to memory and registers, and the DMA of a function. */
class Guest {
  readonly vm = new Vm({ ram: [{ base: 0, bytes: RAM_BYTES }] });
  readonly unit: VtdUnit;
  readonly order = shuffled(PAGES);
  #next = TABLES;
  #tail = 0;

  constructor() {
    this.unit = new VtdUnit(this.vm, {
      name: 'vtd',
      properties: vtdDefaults('qemu-11.1'),
      irq: { pulse() {}, level() {}, message: () => false },
    });
    this.unit.addFunction([RID], [hostRid(RID)], { name: 'function' });
    const table = this.#page();
    for (let page = 0; page < PAGES; page++) this.#map(table, page);
    this.#store(ROOT, CONTEXTS | 1, 0);
    this.#store(CONTEXTS + 16 * RID, table | 1, 0);
    this.#store(CONTEXTS + 16 * RID + 8, (DID << 8) | 2, 0);
    this.#register(PAGE.IQA.at, QUEUE);
    this.#register(PAGE.GCMD.at, GCMD.QIE);
    this.#register(PAGE.RTADDR.at, ROOT);
    this.#register(PAGE.GCMD.at, GCMD.QIE | GCMD.SRTP);
    this.#register(PAGE.GCMD.at, GCMD.QIE | GCMD.TE);
  }

  #register(at: number, value: number): void {
    this.unit.window.write(at, 4, value | 0, 0);
  }

  #store(at: number, lo: number, hi: number): void {
    this.vm.memory.guest.store64(at, lo, hi);
  }

  #page(): number {
    this.#next += 4096;
    return this.#next - 4096;
  }

  #map(root: number, page: number): void {
    const { guest } = this.vm.memory;
    let table = root;
    for (const index of [(IOVA_HI >>> 7) & 511, ((page >>> 18) | (IOVA_HI << 2)) & 511, (page >>> 9) & 511]) {
      const at = table + 8 * index;
      guest.load64(at);
      if (guest.lo === 0) this.#store(at, this.#page() | 3, 0);
      guest.load64(at);
      table = guest.lo & ~0xfff;
    }
    this.#store(table + 8 * (page & 511), (TARGET + (page % TARGET_PAGES) * 4096) | 3, 0);
  }

  /** The function reads from a page. */
  touch(page: number): void {
    const hw = this.unit.hardware;
    const answer = hw.translate(hostRid(RID), NO_PASID, page << 12, IOVA_HI, ACCESS.READ, AT.UNTRANSLATED);
    if (answer !== DMA.OK) throw new ViommuError('EIO', 'caller', 'the bench translates wrongly', { page, answer });
  }

  fill(pages: number): void {
    for (let n = 0; n < pages; n++) this.touch(n);
  }

  #put(w0: number, w1: number, w2: number, w3: number): void {
    this.#store(QUEUE + this.#tail, w0, w1);
    this.#store(QUEUE + this.#tail + 8, w2, w3);
    this.#tail = (this.#tail + 16) % QUEUE_BYTES;
  }

  /** One descriptor, a wait that writes its status, one doorbell. */
  sync(w0: number, w2: number, w3: number): void {
    this.#put(w0, 0, w2, w3);
    this.#put(WAIT, 1, STATUS, 0);
    this.#register(PAGE.IQT.at, this.#tail);
  }

  unmap(page: number): void {
    this.sync(INV.IOTLB | (3 << 4) | (DID << 16), page << 12, IOVA_HI);
  }

  domain(): void {
    this.sync(INV.IOTLB | (2 << 4) | (DID << 16), 0, 0);
  }

  global(): void {
    this.sync(INV.IOTLB | (1 << 4), 0, 0);
  }

  doorbell(): void {
    this.#register(PAGE.IQT.at, this.#tail);
  }
}

function shuffled(count: number): Int32Array {
  const order = Int32Array.from({ length: count }, (_, n) => n);
  let seed = 1;
  for (let n = count - 1; n > 0; n--) {
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    const other = (seed >>> 0) % (n + 1);
    [order[n], order[other]] = [order[other]!, order[n]!];
  }
  return order;
}

/** A page is invalidated, waited for, and used again. */
function again(cached: number): Prepared {
  const g = new Guest();
  g.fill(cached);
  let n = 0;
  return {
    ops: 64,
    run() {
      for (let i = 0; i < 64; i++, n++) {
        const page = g.order[n % PAGES]! % cached;
        g.unmap(page);
        g.touch(page);
      }
    },
  };
}

/** Pages are invalidated that nobody has used. */
function unknown(cached: number): Prepared {
  const g = new Guest();
  g.fill(cached);
  let n = 0;
  return {
    ops: 64,
    run() {
      for (let i = 0; i < 64; i++) g.unmap(PAGES - 1 - (n++ % 1024));
    },
  };
}

/** Every page used for the first time since the domain was flushed. */
function first(): Prepared {
  const g = new Guest();
  let n = 0;
  return {
    ops: 512,
    run() {
      if (n === 0) g.domain();
      for (let i = 0; i < 512; i++) g.touch(g.order[n + i]!);
      n = (n + 512) % PAGES;
    },
  };
}

/** Everything goes, and `cached` pages are used again: what a flush costs per page with its refill. */
function flush(cached: number, what: 'domain' | 'global'): Prepared {
  const g = new Guest();
  g.fill(cached);
  return {
    ops: 1,
    run() {
      g[what]();
      for (let n = 0; n < Math.min(cached, 4); n++) g.touch(n * 512);
    },
  };
}

function doorbells(): Prepared {
  const g = new Guest();
  g.fill(1);
  return {
    ops: 512,
    run() {
      for (let n = 0; n < 512; n++) g.doorbell();
    },
  };
}

/** The path of a guest of a vVT-d in legacy mode: registers, queue, the copy of its second stage, hardware. */
export const VTD_GUEST_CASES: readonly BenchCase[] = [
  ...[1, 200, 10_000, 60_000].map((cached) => ({
    name: `guest path: VT-d legacy, page, wait, used again, ${cached} cached`,
    setup: () => again(cached),
  })),
  ...[200, 60_000].map((cached) => ({
    name: `guest path: VT-d legacy, page nobody used, wait, ${cached} cached`,
    setup: () => unknown(cached),
  })),
  { name: 'guest path: VT-d legacy, first touch', setup: first },
  ...(['domain', 'global'] as const).map((what) => ({
    name: `guest path: VT-d legacy, ${what} flush, wait, 4 pages used again`,
    setup: () => flush(PAGES, what),
  })),
  { name: 'guest path: VT-d, empty doorbell', setup: doorbells },
];
