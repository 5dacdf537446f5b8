import { IommuTestdev, TESTDEV } from '../../devices/endpoints/iommu-testdev.ts';
import { smmuv3Defaults } from '../../devices/smmuv3/properties.ts';
import { vtdDefaults } from '../../devices/vtd/properties.ts';
import { ramBacking } from '../../src/lib/memory/address-space.ts';
import { TableReader } from '../../src/lib/walk/table-reader.ts';
import type { Emulator, MachinePlan, MakeUnit } from '../../src/machine/machine-plan.ts';
import { PluggedMachine } from '../../src/machine/plugged-machine.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import type { Said } from '../../src/ports/tell.ts';

// What calls what, seen while it happens: the stack at the far end of a guest's command, of a DMA access and of a fault.

const RAM = 0x4000_0000;
const BYTES = 1 << 20;
const IOMMU = 0x5000_0000;
const ECAM = 0x1000_0000;
const PCI = 0x2000_0000;
const DEVFN = 1 << 3;

/** Files of the tree on the stack, outermost first, each once in a row. */
function filesOnStack(): string[] {
  Error.stackTraceLimit = 100;
  const files = (new Error().stack ?? '')
    .split('\n')
    .map((line) => /((?:src|devices|bus)\/[\w/.-]+\.ts)/.exec(line)?.[1])
    .filter((file) => file !== undefined)
    .reverse();
  return files.filter((file, i) => file !== files[i - 1]);
}

/** A machine whose CPU is the caller; `caught` holds the stack of the last event of the kind that is looked for. */
class Watched implements Emulator {
  readonly backing = ramBacking(BYTES);
  readonly ram = [{ base: RAM, bytes: BYTES, backing: this.backing }];
  readonly interrupts = { line: () => {}, message: () => {} };
  readonly #windows: { readonly base: number; readonly device: MmioDevice }[] = [];
  readonly machine: PluggedMachine;
  wanted: Said['what'] | null = null;
  caught: string[] = [];

  constructor(doorbell: MachinePlan['doorbell'], make: MakeUnit) {
    const tell = (said: Said): void => {
      if (said.what !== this.wanted) return;
      const files = filesOnStack();
      if (files.length > this.caught.length) this.caught = files;
    };
    const plan = { iommu: IOMMU, ecam: { base: ECAM, buses: 1 }, pci: { base: PCI, bytes: 1 << 20 }, doorbell, tell };
    this.machine = new PluggedMachine(this, plan, make);
    this.machine.plug(new IommuTestdev(this.machine.vm.memory.guest), DEVFN);
    this.store(ECAM + DEVFN * 4096 + 0x10, PCI);
    this.store(ECAM + DEVFN * 4096 + 0x04, 6);
  }

  claim(base: number, device: MmioDevice): void {
    this.#windows.push({ base, device });
  }

  #window(address: number): { readonly base: number; readonly device: MmioDevice } {
    return this.#windows.find((w) => address >= w.base && address < w.base + w.device.bytes)!;
  }

  store(address: number, lo: number, hi = 0, size: 4 | 8 = 4): void {
    if (address >= RAM && address < RAM + BYTES) {
      this.backing.words()[(address - RAM) / 4] = lo;
      if (size === 8) this.backing.words()[(address - RAM) / 4 + 1] = hi;
      return;
    }
    const { base, device } = this.#window(address);
    device.write(address - base, size, lo, hi);
  }

  load(address: number): number {
    const { base, device } = this.#window(address);
    return device.read(address - base, 4);
  }

  dma(iova: number): void {
    this.store(PCI + TESTDEV.IOVA_LOW, iova);
    this.store(PCI + TESTDEV.LEN, 4);
    this.store(PCI + TESTDEV.GPA_LOW, RAM + 0x8000);
    this.store(PCI + TESTDEV.DOORBELL, 1);
    this.load(PCI + TESTDEV.TRIGGER);
  }

  /** The stack of the deepest event `what` while `action` runs. */
  during(what: Said['what'], action: () => void): string[] {
    this.wanted = what;
    this.caught = [];
    action();
    this.wanted = null;
    return this.caught;
  }

  /** The deepest stack at which the hardware reads a table while `action` runs. */
  atTables(action: () => void): string[] {
    const { at } = TableReader.prototype;
    let files: string[] = [];
    TableReader.prototype.at = function (lo, hi) {
      const seen = filesOnStack();
      if (seen.length > files.length) files = seen;
      return at.call(this, lo, hi);
    };
    action();
    TableReader.prototype.at = at;
    return files;
  }
}

export interface Ways {
  readonly command: readonly string[];
  readonly access: readonly string[];
  readonly fault: readonly string[];
}

/** A guest with stage 1 tables of its own for one stream. */
export function smmuv3Ways(): Ways {
  const e = new Watched({ base: 0x0809_0000, bytes: 4096 }, (vm, irq, tell) => {
    const unit = new Smmuv3Unit(vm, { name: 'smmuv3', properties: smmuv3Defaults(), irq, tell, doorbell: 0x0809_0000 });
    unit.hardware.tell = tell;
    return unit;
  });
  const put = (at: number, lo: number, hi = 0) => e.store(RAM + at, lo, hi, 8);
  put(0x1000 + DEVFN * 64, (RAM + 0x2000) | 0xb);
  put(0x2000, (25 | (1 << 30) | (1 << 31)) >>> 0, 4 | (1 << 9) | (3 << 13) | (7 << 16));
  put(0x2008, RAM + 0x3000);
  put(0x3000, (RAM + 0x4000) | 3);
  put(0x4000, (RAM + 0x5000) | 3);
  put(0x5010, (RAM + 0x8000) | 0x443);
  put(0x5018, (RAM + 0x9000) | 0x443);
  e.store(IOMMU + 0x80, RAM + 0x1000, 0, 8); // STRTAB_BASE
  e.store(IOMMU + 0x88, 4); // STRTAB_BASE_CFG
  e.store(IOMMU + 0x90, (RAM + 0x7000) | 4, 0, 8); // CMDQ_BASE
  e.store(IOMMU + 0xa0, (RAM + 0x6000) | 4, 0, 8); // EVENTQ_BASE
  e.store(IOMMU + 0x20, 0xd); // CR0: SMMUEN, EVENTQEN, CMDQEN
  e.dma(0x2000);
  put(0x7000, 0x12, 7 << 16); // CMD_TLBI_NH_VA of ASID 7
  put(0x7008, 0x2000 | 1);
  put(0x7010, 0x46); // CMD_SYNC
  const command = e.during('hw.command', () => e.store(IOMMU + 0x98, 2));
  const access = e.atTables(() => e.dma(0x3000));
  const fault = e.during('record', () => e.dma(0x4000));
  return { command, access, fault };
}

/** A guest in scalable mode with first-stage tables of its own for requests without PASID. */
export function vtdWays(): Ways {
  const properties = { ...vtdDefaults(), scalableMode: true, fsts: true };
  const e = new Watched({ base: 0xfee0_0000, bytes: 1 << 20 }, (vm, irq, tell) => {
    const unit = new VtdUnit(vm, { name: 'vtd', properties, irq, tell });
    unit.hardware.tell = tell;
    return unit;
  });
  const put = (at: number, lo: number, hi = 0) => e.store(RAM + at, lo, hi, 8);
  put(0x1000, (RAM + 0x2000) | 1); // root entry, lower half
  put(0x2000 + 32 * DEVFN, (RAM + 0x3000) | 1); // context entry: PASID directory
  put(0x3000, (RAM + 0x4000) | 1);
  put(0x4000, 1 | (1 << 6)); // PASID entry 0: present, first stage only
  put(0x4008, 1); // domain 1
  put(0x4010, RAM + 0x5000); // first-stage pointer, four levels
  put(0x5000, (RAM + 0x6000) | 0x27);
  put(0x6000, (RAM + 0x7000) | 0x27);
  put(0x7000, (RAM + 0x8000) | 0x27);
  put(0x8010, (RAM + 0x9000) | 0x67);
  put(0x8018, (RAM + 0xa000) | 0x67);
  e.store(IOMMU + 0x20, (RAM + 0x1000) | (1 << 10), 0, 8); // RTADDR: scalable mode
  e.store(IOMMU + 0x18, 0x4000_0000); // GCMD.SRTP
  e.store(IOMMU + 0x90, (RAM + 0xb000) | (1 << 11), 0, 8); // IQA: descriptors of 256 bits
  e.store(IOMMU + 0x18, 0x0400_0000); // GCMD.QIE
  e.store(IOMMU + 0x38, 0); // FECTL: not masked
  e.store(IOMMU + 0x18, 0x8400_0000); // GCMD.TE
  e.dma(0x2000);
  put(0xb000, 0x36 | (1 << 16)); // PASID-based IOTLB, page selective, domain 1
  put(0xb008, 0x2000);
  const command = e.during('hw.command', () => e.store(IOMMU + 0x88, 32));
  const access = e.atTables(() => e.dma(0x3000));
  const fault = e.during('frcd', () => e.dma(0x4000));
  return { command, access, fault };
}
