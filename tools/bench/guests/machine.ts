import { DmaEngine } from '../../../devices/endpoints/dma-engine.ts';
import { ViommuError } from '../../../src/core/errors.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import type { MachinePlan, MakeUnit } from '../../../src/machine/machine-plan.ts';
import { PluggedMachine } from '../../../src/machine/plugged-machine.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { Memory } from '../../../src/ports/memory.ts';
import type { MmioDevice } from '../../../src/ports/mmio.ts';
import { EXT } from '../../../src/spec/pcie/capabilities.ts';

/** The function's requester id, as the guest knows it. */
export const RID = 8;

/** What a guest of the benchmark runs on. */
export interface BenchMachineOptions {
  readonly ram: { readonly base: number; readonly bytes: number };
  readonly plan: MachinePlan;
  readonly make: MakeUnit;
  /** Entries of the function's ATC; 0: its ATS stays off. */
  readonly atc: number;
}

/**
 * A whole machine, as an emulator has it: registers are reached through the window it claimed, and a DMA engine on the bus does
 * the DMA.
 */
export class BenchMachine {
  readonly machine: PluggedMachine;
  /** Guest RAM by guest-physical address. */
  readonly memory: Memory;
  /** The function's memory side: what it reads goes through its ATC, the bus and the IOMMU. */
  readonly dma: DmaEngine['fn']['memory'];
  readonly #windows = new Map<number, MmioDevice>();
  readonly #registers: MmioDevice;
  readonly #later: (() => void)[] = [];

  constructor({ ram, plan, make, atc }: BenchMachineOptions) {
    const words = new Int32Array(ram.bytes / 4);
    const emulator = {
      ram: [{ ...ram, backing: { words: () => words } }],
      interrupts: { line() {}, message() {} },
      claim: (base: number, window: MmioDevice) => void this.#windows.set(base, window),
      defer: (action: () => void) => void this.#later.push(action),
      report(error: unknown) {
        throw error;
      },
    };
    this.machine = new PluggedMachine(emulator, plan, make);
    this.memory = this.machine.vm.memory.guest;
    this.#registers = this.#windows.get(plan.iommu)!;
    const { fn } = new DmaEngine(atc === 0 ? { ats: null, pri: null } : { atc });
    this.machine.plug(fn, RID);
    this.dma = fn.memory;
    const { complex } = this.machine;
    complex.configWrite(0, RID, 4, 2, 6);
    if (atc > 0) complex.configWrite(0, RID, fn.config.findExtended(EXT.ATS) + 6, 2, 0x8000);
  }

  store(at: number, value: number): void {
    this.memory.store64(at, value | 0, (value / 2 ** 32) | 0);
  }

  write(at: number, size: number, lo: number, hi = 0): void {
    this.#registers.write(at, size, lo, hi);
    while (this.#later.length > 0) this.#later.shift()!();
  }

  read(at: number): number {
    return this.#registers.read(at, 4);
  }

  /** One access to an address arrives at the IOMMU. @throws ViommuError `EIO`: it is refused. */
  translate(lo: number, hi: number): void {
    const { translate } = this.machine.unit;
    const answer = translate.translate(hostRid(RID), NO_PASID, lo, hi, ACCESS.READ, AT.UNTRANSLATED);
    if (answer !== DMA.OK) throw new ViommuError('EIO', 'caller', 'the bench translates wrongly', { lo, hi, answer });
  }

  /** The function reads. @throws ViommuError `EIO`: it cannot. */
  fetch(lo: number, hi: number, into: Uint8Array): void {
    const answer = this.dma.read(NO_PASID, lo, hi, into, 0, into.length);
    if (answer !== DMA.OK) throw new ViommuError('EIO', 'caller', 'the bench reads wrongly', { lo, hi, answer });
  }
}
