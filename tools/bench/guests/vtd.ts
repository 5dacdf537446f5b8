import { vtdDefaults } from '../../../devices/vtd/properties.ts';
import { ViommuError } from '../../../src/core/errors.ts';
import { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import { INV } from '../../../src/spec/vtd/invalidation.ts';
import { GCMD, PAGE } from '../../../src/spec/vtd/registers.ts';
import { PGTT } from '../../../src/spec/vtd/tables.ts';
import { GuestPages } from '../parts/page-tables.ts';
import { BenchMachine, RID } from './machine.ts';

export const DID = 5;
export const PAGES = 65_536;
const RAM = { base: 0, bytes: 64 << 20 };
const ROOT = 0x1000;
const CONTEXTS = 0x2000;
const STATUS = 0x4000;
const DIRECTORY = 0x5000;
const PASIDS = 0x6000;
const TABLES = 0x10_0000;
/** Where the pages lie, again and again. */
const TARGET = 0x200_0000;
const TARGET_PAGES = 4096;
/** Descriptors of the ring: of 16 bytes in legacy mode, of 32 in scalable mode (IQA.DW). */
const ENTRIES = 1024;
const RING = 0x8000;
const IOVA_HI = 0x12;
/** IF and SW of a wait: it writes its status. */
const WAIT = INV.WAIT | 0x20;

/** Legacy mode, or scalable mode with tables of the guest's that the hardware walks. */
export type VtdGuestMode = 'legacy' | 'first';

/** A guest of a vVT-d with 65,536 pages mapped: its stores to memory and registers. */
export class VtdGuest {
  readonly m: BenchMachine;
  /** Bytes of a descriptor. */
  readonly #bytes: number;
  #tail = 0;

  /** @param atc entries of the function's ATC; 0: it has no ATS. */
  constructor(mode: VtdGuestMode, atc = 0) {
    const first = mode === 'first';
    const properties = { ...vtdDefaults(), scalableMode: first, fsts: first, deviceIotlb: atc > 0 };
    this.m = new BenchMachine({
      ram: RAM,
      plan: { iommu: 0xfed9_0000, doorbell: { base: 0xfee0_0000, bytes: 1 << 20 } },
      make: (vm, irq, tell) => new VtdUnit(vm, { name: 'vtd', properties, irq, tell }),
      atc,
    });
    this.#tables(first, atc > 0);
    this.#bytes = first ? 32 : 16;
    this.#register(PAGE.IQA.at, RING | (first ? 0x803 : 2));
    this.#register(PAGE.GCMD.at, GCMD.QIE);
    this.#register(PAGE.RTADDR.at, ROOT | (first ? 1 << 10 : 0));
    this.#register(PAGE.GCMD.at, GCMD.QIE | GCMD.SRTP);
    this.#register(PAGE.GCMD.at, GCMD.QIE | GCMD.TE);
  }

  #tables(first: boolean, ats: boolean): void {
    const { m } = this;
    const pages = new GuestPages(m.memory, TABLES);
    const table = pages.page();
    const format = first ? { table: 0x67, leaf: 0x67 } : { table: 3, leaf: 3 };
    for (let page = 0; page < PAGES; page++) {
      pages.map(table, IOVA_HI * 2 ** 32 + page * 4096, TARGET + (page % TARGET_PAGES) * 4096, format);
    }
    m.store(ROOT, CONTEXTS | 1);
    if (!first) {
      m.store(CONTEXTS + 16 * RID, table | (ats ? 5 : 1));
      m.store(CONTEXTS + 16 * RID + 8, (DID << 8) | 2);
      return;
    }
    m.store(CONTEXTS + 32 * RID, DIRECTORY | (ats ? 5 : 1));
    m.store(DIRECTORY, PASIDS | 1);
    // AW 2: 48 bits.
    m.store(PASIDS, (PGTT.FIRST << 6) | (2 << 2) | 1);
    m.store(PASIDS + 8, DID);
    m.store(PASIDS + 16, table);
  }

  #register(at: number, value: number): void {
    this.m.write(at, 4, value | 0);
  }

  /** A descriptor behind the others; the guest rings later. */
  put(w0: number, w1: number, w2: number, w3: number): void {
    this.m.memory.store64(RING + this.#tail, w0, w1);
    this.m.memory.store64(RING + this.#tail + 8, w2, w3);
    this.skip(1);
  }

  /** The same descriptors as a round ago lie in the ring already. */
  skip(count: number): void {
    this.#tail = (this.#tail + this.#bytes * count) % (this.#bytes * ENTRIES);
  }

  /** Rings the doorbell. @throws ViommuError `EIO`: not everything was done. */
  ring(): void {
    this.#register(PAGE.IQT.at, this.#tail);
    const head = this.m.read(PAGE.IQH.at);
    if (head !== this.#tail)
      throw new ViommuError('EIO', 'guest', 'the bench guest is stuck', { tail: this.#tail, head });
  }

  /** A wait that writes its status. */
  putWait(): void {
    this.put(WAIT, 1, STATUS, 0);
  }

  wait(): void {
    this.putWait();
    this.ring();
  }

  putPage(page: number): void {
    this.put(INV.IOTLB | (3 << 4) | (DID << 16), 0, page << 12, IOVA_HI);
  }

  putPasidPage(page: number): void {
    this.put(INV.PASID_IOTLB | (3 << 4) | (DID << 16), 0, page << 12, IOVA_HI);
  }

  putDevicePage(page: number): void {
    this.put(INV.DEVICE_TLB, RID, page << 12, IOVA_HI);
  }

  domain(): void {
    this.put(INV.IOTLB | (2 << 4) | (DID << 16), 0, 0, 0);
    this.wait();
  }

  global(): void {
    this.put(INV.IOTLB | (1 << 4), 0, 0, 0);
    this.wait();
  }

  touch(page: number): void {
    this.m.translate(page << 12, IOVA_HI);
  }

  fetch(page: number, into: Uint8Array): void {
    this.m.fetch((page << 12) | 0x40, IOVA_HI, into);
  }

  fill(pages: number): void {
    for (let page = 0; page < pages; page++) this.touch(page);
  }
}
