import { Shell } from '../../devices/endpoints/shell.ts';
import { smmuv3Defaults } from '../../devices/smmuv3/properties.ts';
import { vtdDefaults } from '../../devices/vtd/properties.ts';
import { GuestMemory, type GuestProgram } from '../../guest-fixtures/programs/program.ts';
import { Smmuv3Program } from '../../guest-fixtures/programs/smmuv3.ts';
import { VtdProgram } from '../../guest-fixtures/programs/vtd.ts';
import { ramBacking } from '../../src/lib/memory/address-space.ts';
import { PluggedMachine } from '../../src/machine/plugged-machine.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';
import { DMA } from '../../src/ports/dma.ts';
import type { HwPort } from '../../src/ports/hw.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import type { Plant } from './target.ts';

export const RAM = 0x4000_0000;
const RAM_BYTES = 0x100_0000;
/** Pages that DMA is let into; tables are below. */
export const DATA = RAM + 0xc0_0000;
const IOMMU = 0x1000_0000;
const ECAM = 0x2000_0000;
const DOORBELL = 0x0809_0000;

/** The physical unit's caches: its own sizes, a few entries, none. */
export type Caches = 'full' | 'tiny' | 'off';

const SIZES = {
  smmuv3: {
    full: {},
    tiny: { iotlb: 16, walks: 2, streams: 2, contexts: 2 },
    off: { iotlb: 0, walks: 0, streams: 0, contexts: 0 },
  },
  vtd: {
    full: {},
    tiny: { iotlb: 16, walks: 2, contexts: 2, pasids: 2 },
    off: { iotlb: 0, walks: 0, contexts: 0, pasids: 0 },
  },
} as const;

/** A machine of either kind whose guest is a program that invalidates what it changes. */
export class ProgramMachine {
  readonly machine: PluggedMachine;
  readonly guest: GuestProgram;
  readonly errors: unknown[] = [];
  readonly #windows = new Map<number, MmioDevice>();

  constructor(kind: 'smmuv3' | 'vtd', caches: Caches, plant: Plant) {
    this.machine = new PluggedMachine(
      {
        ram: [{ base: RAM, bytes: RAM_BYTES, backing: ramBacking(RAM_BYTES) }],
        claim: (base, window) => void this.#windows.set(base, window),
        interrupts: { line() {}, message() {} },
        defer: () => {},
        report: (error) => this.errors.push(error),
      },
      { iommu: IOMMU, ecam: { base: ECAM, buses: 1 }, doorbell: { base: DOORBELL, bytes: 4096 } },
      (vm, irq, tell) => {
        const common = { name: kind, irq, tell, caches: SIZES[kind][caches], wrapHw: (hw: HwPort) => plant('hw', hw) };
        if (kind === 'vtd') {
          const more = { scalableMode: true, fsts: true, pasidBits: 8, deviceIotlb: true, svm: true };
          return new VtdUnit(vm, { ...common, properties: { ...vtdDefaults('arch'), ...more } });
        }
        const more = { stage: 'nested', ats: true, pri: true, ssidsize: 8 } as const;
        return new Smmuv3Unit(vm, {
          ...common,
          properties: { ...smmuv3Defaults('arch'), ...more },
          doorbell: DOORBELL,
        });
      },
    );
    const memory = new GuestMemory(this.machine.vm.memory.guest, RAM);
    const window = this.#windows.get(IOMMU)!;
    this.guest =
      kind === 'smmuv3' ? new Smmuv3Program(window, memory, { ssidBits: 8 }) : new VtdProgram(window, memory);
  }

  /** Plugs a function in that can send, and translates by itself or not. */
  plug(devfn: number, ats: boolean): Shell {
    const identity = { vendor: 0x1b36, device: 0x00d2, classCode: 0x088000 };
    const pasid = { width: 8 };
    const fn = new Shell({
      name: 'probe',
      identity,
      bars: [],
      ats: ats ? {} : null,
      pri: null,
      pasid,
      integrated: true,
    });
    this.machine.plug(fn, devfn);
    const config = (at: number, value: number) => this.#windows.get(ECAM)!.write((devfn << 12) | at, 2, value, 0);
    config(4, 6);
    const { config: c } = fn;
    if (c.findExtended(0x1b) !== 0) config(c.findExtended(0x1b) + 6, 1);
    if (c.findExtended(0x0f) !== 0) config(c.findExtended(0x0f) + 6, 0x8000);
    return fn;
  }

  /** Saves and loads the machine, in place. */
  reload(): void {
    this.machine.load(JSON.parse(JSON.stringify(this.machine.save())) as ReturnType<PluggedMachine['save']>);
  }

  /** A write of 4 bytes. @returns the page of DATA that has changed, -1: refused, -2: it went elsewhere. */
  write(fn: Shell, pasid: number, va: number, value: number, pages: number): number {
    const bytes = new Uint8Array(Int32Array.of(value).buffer);
    const r = fn.memory.write(pasid, va | 0, 0, bytes, 0, 4);
    if (r !== DMA.OK) return -1;
    const { guest } = this.machine.vm.memory;
    for (let page = 0; page < pages; page++) {
      guest.load32(DATA + page * 4096 + (va & 0xfff));
      if (guest.lo === value) return page;
    }
    return -2;
  }
}
