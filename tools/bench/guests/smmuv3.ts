import { type Smmuv3Properties, smmuv3Defaults } from '../../../devices/smmuv3/properties.ts';
import { ViommuError } from '../../../src/core/errors.ts';
import { Smmuv3Unit } from '../../../src/machine/smmuv3-unit.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { GuestPages, type TableFormat } from '../parts/page-tables.ts';
import { BenchMachine, RID } from './machine.ts';

export const ASID = 0x11;
export const VMID = 7;
export const PAGES = 65_536;
const RAM = { base: 0x4000_0000, bytes: 64 << 20 };
const STRTAB = RAM.base + 0x10_0000;
const CD = RAM.base + 0x20_0000;
const CMDQ = RAM.base + 0x30_0000;
const TABLES = RAM.base + 0x40_0000;
/** Where the pages lie, again and again. */
const TARGET = RAM.base + 0x200_0000;
const TARGET_PAGES = 4096;
const CMDQ_LOG2 = 10;
const INDEX = 2 ** (CMDQ_LOG2 + 1);
const IOVA_HI = 0x12;
/** Intermediate addresses of the pages of a guest with two stages: each page has one of its own. */
const IPA = 0x10_0000_0000;
const STAGE1: TableFormat = { table: 3, leaf: 0xc43 };
const STAGE2: TableFormat = { table: 3, leaf: 0x4ff };

/** Which stages the guest has: its own first one, or both. */
export type Smmuv3GuestStages = '1' | 'nested';

/** A guest of a vSMMUv3 with 65,536 pages mapped: its stores to memory and registers. */
export class Smmuv3Guest {
  readonly m: BenchMachine;
  #prod = 0;

  /** @param atc entries of the function's ATC; 0: it has no ATS. */
  constructor(stages: Smmuv3GuestStages, atc = 0) {
    const properties: Smmuv3Properties = { ...smmuv3Defaults('arch'), stage: stages, ats: atc > 0 };
    this.m = new BenchMachine({
      ram: RAM,
      plan: { iommu: 0x0905_0000, doorbell: { base: 0x0809_0000, bytes: 4096 } },
      make: (vm, irq, tell) => new Smmuv3Unit(vm, { name: 'smmuv3', properties, irq, tell, doorbell: 0x0809_0000 }),
      atc,
    });
    this.#tables(stages === 'nested', atc > 0);
    const { m } = this;
    m.write(PAGE0.STRTAB_BASE.at, 8, STRTAB);
    m.write(PAGE0.STRTAB_BASE_CFG.at, 4, 5);
    m.write(PAGE0.CMDQ_BASE.at, 8, CMDQ | CMDQ_LOG2);
    m.write(PAGE0.CR0.at, 4, 0x9);
  }

  #tables(nested: boolean, ats: boolean): void {
    const { m } = this;
    const pages = new GuestPages(m.memory, TABLES);
    const [root1, root2] = [pages.page(), pages.page()];
    for (let page = 0; page < PAGES; page++) {
      const target = TARGET + (page % TARGET_PAGES) * 4096;
      pages.map(root1, IOVA_HI * 2 ** 32 + page * 4096, nested ? IPA + page * 4096 : target, STAGE1);
      if (nested) pages.map(root2, IPA + page * 4096, target, STAGE2);
    }
    if (nested) for (let at = RAM.base; at < RAM.base + RAM.bytes; at += 4096) pages.map(root2, at, at, STAGE2);
    const ste = STRTAB + 64 * RID;
    m.store(ste, CD + (nested ? 0xf : 0xb));
    if (ats) m.store(ste + 8, 1 << 28);
    if (nested) m.memory.store64(ste + 16, VMID, 0x040c_0094);
    if (nested) m.store(ste + 24, root2);
    // T0SZ 16, 4 KiB pages, EPD1, V | IPS 4, AA64, R, A, ASID.
    m.memory.store64(CD, 0xc000_0010 | 0, (ASID << 16) | 0x6204);
    m.store(CD + 8, root1);
  }

  /** A command behind the others; the guest rings later. */
  put(w0: number, w1: number, w2: number, w3: number): void {
    const at = CMDQ + 16 * (this.#prod % (INDEX / 2));
    this.m.memory.store64(at, w0, w1);
    this.m.memory.store64(at + 8, w2, w3);
    this.#prod = (this.#prod + 1) % INDEX;
  }

  /** The same commands as `count` slots ago lie in the ring already. */
  skip(count: number): void {
    this.#prod = (this.#prod + count) % INDEX;
  }

  /** Rings the doorbell. @throws ViommuError `EIO`: not everything was done. */
  ring(): void {
    this.m.write(PAGE0.CMDQ_PROD.at, 4, this.#prod);
    const cons = this.m.read(PAGE0.CMDQ_CONS.at);
    if (cons !== this.#prod)
      throw new ViommuError('EIO', 'guest', 'the bench guest is stuck', { prod: this.#prod, cons });
  }

  sync(): void {
    this.put(OP.SYNC, 0, 0, 0);
    this.ring();
  }

  /** @param rest bits 11:0 of the third word: leaf, TTL and TG. */
  tlbiPage(page: number, rest = 1): void {
    this.put(OP.TLBI_NH_VA, (ASID << 16) | VMID, (page << 12) | rest, IOVA_HI);
  }

  tlbiIpa(page: number): void {
    const ipa = IPA + page * 4096;
    this.put(OP.TLBI_S2_IPA, VMID, ipa | 1, Math.floor(ipa / 2 ** 32));
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
