import type { Bridge } from '../../../bus/bridge.ts';
import { Shell, type ShellOptions } from '../../../devices/endpoints/shell.ts';
import { smmuv3Defaults } from '../../../devices/smmuv3/properties.ts';
import { vtdDefaults } from '../../../devices/vtd/properties.ts';
import { GuestMemory, type GuestProgram } from '../../../guest-fixtures/programs/program.ts';
import { Smmuv3Program } from '../../../guest-fixtures/programs/smmuv3.ts';
import { VtdProgram } from '../../../guest-fixtures/programs/vtd.ts';
import type { FailureOptions } from '../../../src/lib/inject/failure-options.ts';
import { ramBacking } from '../../../src/lib/memory/address-space.ts';
import type { MakeUnit } from '../../../src/machine/machine-plan.ts';
import type { PasidLayer } from '../../../src/machine/pasid/pasid-layer.ts';
import { PluggedMachine } from '../../../src/machine/plugged-machine.ts';
import { Smmuv3Unit } from '../../../src/machine/smmuv3-unit.ts';
import { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import { DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { MmioDevice } from '../../../src/ports/mmio.ts';
import type { Said } from '../../../src/ports/tell.ts';

export type Kind = 'smmuv3' | 'vtd';
export const KINDS: readonly Kind[] = ['smmuv3', 'vtd'];

export const RAM = 0x4000_0000;
export const RAM_BYTES = 0x200_0000;
/** The guest program's tables begin at RAM, data of tests here. */
export const DATA = RAM + 0x180_0000;
export const IOMMU = 0x1000_0000;
const ECAM = 0x2000_0000;
export const PCI = 0x3000_0000;
export const DOORBELL = 0x0809_0000;
/** An IOVA for tests. */
export const VA = 0x1234_5000;

export interface PluggedOptions {
  readonly pasids?: PasidLayer;
  readonly failures?: FailureOptions;
  /** The host has Linux's verbs alone. */
  readonly linuxOnly?: boolean;
}

function unitOf(kind: Kind, o: PluggedOptions): MakeUnit {
  return (vm, irq, tell) =>
    kind === 'smmuv3'
      ? new Smmuv3Unit(vm, {
          name: 'smmuv3',
          properties: { ...smmuv3Defaults('arch'), stage: 'nested', ats: true, pri: true, ssidsize: 8 },
          irq,
          tell,
          doorbell: DOORBELL,
          linuxOnly: o.linuxOnly ?? false,
        })
      : new VtdUnit(vm, {
          name: 'vtd',
          properties: {
            ...vtdDefaults('arch'),
            scalableMode: true,
            fsts: true,
            pasidBits: 8,
            deviceIotlb: true,
            svm: true,
          },
          irq,
          tell,
          linuxOnly: o.linuxOnly ?? false,
          ...(o.pasids === undefined ? {} : { pasids: o.pasids }),
        });
}

/** A function whose DMA tests send themselves. */
export function probe(o: Partial<ShellOptions> = {}): Shell {
  const identity = { vendor: 0x1b36, device: 0x00d2, classCode: 0x088000 };
  return new Shell({ name: 'probe', identity, bars: [], ats: null, pri: null, pasid: null, ...o });
}

/** Somebody's emulator with a machine of ours, driven from its guest alone: ECAM, the IOMMU's registers, RAM. */
export class Rig {
  readonly machine: PluggedMachine;
  readonly said: Said[] = [];
  readonly errors: unknown[] = [];
  /** What goes on outside of accesses: the emulator runs it when a test calls `soon`. */
  readonly deferred: (() => void)[] = [];
  /** Address, data and requester of messages. */
  readonly messages: [number, number, number][] = [];
  readonly #windows = new Map<number, MmioDevice>();
  readonly #kind: Kind;
  #guest: GuestProgram | null = null;

  constructor(kind: Kind, o: PluggedOptions = {}) {
    this.#kind = kind;
    this.machine = new PluggedMachine(
      {
        ram: [{ base: RAM, bytes: RAM_BYTES, backing: ramBacking(RAM_BYTES) }],
        claim: (base, window) => void this.#windows.set(base, window),
        interrupts: { line() {}, message: (...message) => void this.messages.push(message) },
        defer: (action) => void this.deferred.push(action),
        report: (error) => this.errors.push(error),
      },
      {
        iommu: IOMMU,
        ecam: { base: ECAM, buses: 8 },
        pci: { base: PCI, bytes: 0x100_0000 },
        doorbell: { base: DOORBELL, bytes: 4096 },
        tell: (said) => this.said.push(said),
        ...(o.failures === undefined ? {} : { failures: o.failures }),
      },
      unitOf(kind, o),
    );
  }

  /** The guest's driver; made at its first use. */
  get guest(): GuestProgram {
    if (this.#guest === null) {
      const memory = new GuestMemory(this.machine.vm.memory.guest, RAM);
      const window = this.#windows.get(IOMMU)!;
      this.#guest =
        this.#kind === 'smmuv3' ? new Smmuv3Program(window, memory, { ssidBits: 8 }) : new VtdProgram(window, memory);
    }
    return this.#guest;
  }

  /** The memory for BARs as the processor reaches it. */
  get bars(): MmioDevice {
    return this.#windows.get(PCI)!;
  }

  /** Registers of the IOMMU as the processor reaches them. */
  get iommu(): MmioDevice {
    return this.#windows.get(IOMMU)!;
  }

  /** Runs what waits for the outside of an access, one of it. @returns false: nothing waited. */
  soon(): boolean {
    const action = this.deferred.shift();
    action?.();
    return action !== undefined;
  }

  /** The kernel's driver of the unit. */
  get driver(): Smmuv3Unit['driver'] | VtdUnit['driver'] {
    return (this.machine.unit as Smmuv3Unit | VtdUnit).driver;
  }

  /** A configuration write of the guest. */
  config(bus: number, devfn: number, at: number, size: number, value: number): void {
    this.#windows.get(ECAM)!.write((bus << 20) | (devfn << 12) | at, size, value, 0);
  }

  read(bus: number, devfn: number, at: number): number {
    return this.#windows.get(ECAM)!.read((bus << 20) | (devfn << 12) | at, 4) >>> 0;
  }

  /** Bus numbers of a bridge on bus `bus`, and its memory and master bits. */
  number(bus: number, devfn: number, secondary: number, subordinate = secondary): void {
    this.config(bus, devfn, 0x18, 4, (subordinate << 16) | (secondary << 8) | bus);
    this.config(bus, devfn, 4, 2, 6);
  }

  /** Lets a function send, with every capability it has. */
  enable(bus: number, devfn: number, fn: Shell): void {
    this.config(bus, devfn, 4, 2, 6);
    const { config } = fn;
    if (config.findExtended(0x1b) !== 0) this.config(bus, devfn, config.findExtended(0x1b) + 6, 2, 7);
    if (config.findExtended(0x0f) !== 0) this.config(bus, devfn, config.findExtended(0x0f) + 6, 2, 0x8000);
    if (config.findExtended(0x13) === 0) return;
    this.config(bus, devfn, config.findExtended(0x13) + 12, 4, 32);
    this.config(bus, devfn, config.findExtended(0x13) + 4, 2, 1);
  }

  /** Plugs a function in behind `at` and lets it send; `bus` is what the guest calls that bus. */
  plug(fn: Shell, devfn: number, at?: Bridge, bus = 0): () => void {
    const away = this.machine.plug(fn, devfn, at);
    this.enable(bus, devfn, fn);
    return away;
  }

  /** Gives a function address space `pasids`, with VA of each mapped to a page of its own. @returns those pages. */
  space(rid: number, pasids: readonly number[] = [NO_PASID], page = 0): number[] {
    this.guest.function(rid, pasids);
    return pasids.map((pasid, i) => {
      const pa = DATA + (page + i) * 4096;
      this.guest.map(rid, pasid, VA, pa);
      return pa;
    });
  }

  /** A write of 4 bytes to VA. @returns a DMA value or PAGE_FAULT. */
  write(fn: Shell, value: number, pasid = NO_PASID, va = VA): number {
    const bytes = new Uint8Array(Int32Array.of(value).buffer);
    return fn.memory.write(pasid, va, 0, bytes, 0, 4);
  }

  load(pa: number): number {
    const { guest } = this.machine.vm.memory;
    guest.load32(pa);
    return guest.lo;
  }

  /** Whether a write of `fn` arrives at `pa`. */
  reaches(fn: Shell, pa: number, pasid = NO_PASID): boolean {
    const value = (this.load(pa) + 1) | 0;
    const r = this.write(fn, value, pasid);
    return r === DMA.OK && this.load(pa) === value;
  }
}
