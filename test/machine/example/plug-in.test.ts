import { expect, test } from 'vitest';
import { IommuTestdev, RESULT, TESTDEV } from '../../../devices/endpoints/iommu-testdev.ts';
import { smmuv3Defaults } from '../../../devices/smmuv3/index.ts';
import { ramBacking } from '../../../src/lib/memory/address-space.ts';
import type { Emulator } from '../../../src/machine/machine-plan.ts';
import { PluggedMachine } from '../../../src/machine/plugged-machine.ts';
import { Smmuv3Unit } from '../../../src/machine/smmuv3-unit.ts';
import type { MmioDevice } from '../../../src/ports/mmio.ts';
import type { Said } from '../../../src/ports/tell.ts';
import { decodeEvent } from '../../../src/spec/smmuv3/events.ts';

// The worked example of README, "Plug it in": an emulator of thirty lines, its machine, and a guest program.

const RAM = 0x4000_0000;
const BYTES = 1 << 20;
const SMMU = 0x0905_0000;
const ECAM = 0x1000_0000;
const PCI = 0x2000_0000;
const DOORBELL = 0x0809_0000;

/** Somebody's emulator: RAM as words, windows, and a list where interrupts arrive. */
class TinyEmulator implements Emulator {
  readonly backing = ramBacking(BYTES);
  readonly ram = [{ base: RAM, bytes: BYTES, backing: this.backing }];
  readonly arrived: string[] = [];
  readonly interrupts = {
    line: (n: number, asserted: boolean) => void this.arrived.push(`line ${n} ${asserted ? 'up' : 'down'}`),
    message: (address: number, data: number) => void this.arrived.push(`message ${address.toString(16)} ${data}`),
  };
  #later: (() => void)[] = [];
  readonly #windows: { readonly base: number; readonly device: MmioDevice }[] = [];

  claim(base: number, device: MmioDevice): void {
    this.#windows.push({ base, device });
  }

  defer(action: () => void): void {
    this.#later.push(action);
  }

  #window(address: number): { base: number; device: MmioDevice } {
    return this.#windows.find((w) => address >= w.base && address < w.base + w.device.bytes)!;
  }

  /** What the CPU does with a load or store outside RAM; afterwards, outside of the access, what was put off. */
  read(address: number): number {
    const { base, device } = this.#window(address);
    const value = device.read(address - base, 4);
    for (const action of this.#later.splice(0)) action();
    return value;
  }

  write(address: number, lo: number, hi = 0, size = 4): void {
    const { base, device } = this.#window(address);
    device.write(address - base, size, lo, hi);
    for (const action of this.#later.splice(0)) action();
  }

  store64(address: number, lo: number, hi = 0): void {
    const words = this.backing.words();
    words[(address - RAM) / 4] = lo;
    words[(address - RAM) / 4 + 1] = hi;
  }
}

function plugIn(): { emulator: TinyEmulator; machine: PluggedMachine; said: Said[] } {
  const emulator = new TinyEmulator();
  const said: Said[] = [];
  const machine = new PluggedMachine(
    emulator,
    {
      iommu: SMMU,
      lines: [106, 107, 108, 109],
      ecam: { base: ECAM, buses: 1 },
      pci: { base: PCI, bytes: 1 << 20 },
      doorbell: { base: DOORBELL, bytes: 4096 },
      tell: (what) => said.push(what),
    },
    (vm, irq, tell) =>
      new Smmuv3Unit(vm, { name: 'smmuv3', properties: smmuv3Defaults(), irq, tell, doorbell: DOORBELL }),
  );
  machine.plug(new IommuTestdev(machine.vm.memory.guest), 1 << 3);
  return { emulator, machine, said };
}

/** A bare-metal guest: finds the function, maps one page for it, and switches the SMMU on. */
function guest(e: TinyEmulator): void {
  const config = ECAM + (1 << 15);
  expect(e.read(config)).toBe(0x0005_1b36);
  e.write(config + 0x10, PCI);
  e.write(config + 0x04, 0x6);

  // Stream 8: a linear table of 16 entries, its context, three levels of tables; 0x2000 is mapped to RAM + 0x8000.
  e.store64(RAM + 0x1000 + 8 * 64, (RAM + 0x2000) | 0xb);
  e.store64(RAM + 0x2000, (25 | (1 << 30) | (1 << 31)) >>> 0, 4 | (1 << 9) | (3 << 13) | (7 << 16));
  e.store64(RAM + 0x2008, RAM + 0x3000);
  e.store64(RAM + 0x3000, (RAM + 0x4000) | 3);
  e.store64(RAM + 0x4000, (RAM + 0x5000) | 3);
  e.store64(RAM + 0x5010, (RAM + 0x8000) | 0x443);

  e.write(SMMU + 0x80, RAM + 0x1000, 0, 8); // STRTAB_BASE
  e.write(SMMU + 0x88, 4); // STRTAB_BASE_CFG
  e.write(SMMU + 0xa0, (RAM + 0x6000) | 4, 0, 8); // EVENTQ_BASE
  e.write(SMMU + 0x50, 0x4); // IRQ_CTRL: EVENTQ_IRQEN
  e.write(SMMU + 0x20, 0x5); // CR0: SMMUEN, EVENTQEN
  expect(e.read(SMMU + 0x24)).toBe(0x5);
}

function dma(e: TinyEmulator, iova: number, verifyAt: number): number {
  e.write(PCI + TESTDEV.IOVA_LOW, iova);
  e.write(PCI + TESTDEV.LEN, 4);
  e.write(PCI + TESTDEV.GPA_LOW, verifyAt);
  e.write(PCI + TESTDEV.DOORBELL, 1);
  e.read(PCI + TESTDEV.TRIGGER);
  return e.read(PCI + TESTDEV.RESULT);
}

test("a device of the emulator's guest writes through both stages, and every arrow on the way is heard", () => {
  const { emulator, said } = plugIn();
  guest(emulator);

  expect(dma(emulator, 0x2000, RAM + 0x8000)).toBe(RESULT.OK);
  expect(emulator.backing.words()[0x8000 / 4]).toBe(0x1234_5678);
  const verbs = said.filter((s) => s.what === 'host').map((s) => s.verb);
  expect(verbs).toContain('VIOMMU_ALLOC');
  expect(verbs.slice(-3)).toEqual(['VDEVICE_ALLOC', 'HWPT_ALLOC', 'ATTACH']);
});

test('a page that is not mapped becomes an event record and an interrupt, outside of the access that caused it', () => {
  const { emulator } = plugIn();
  guest(emulator);

  expect(dma(emulator, 0x3000, RAM + 0x8000)).toBe(RESULT.WRITE_FAILED);
  expect(emulator.arrived).toEqual(['line 106 up', 'line 106 down']);
  const record = decodeEvent(emulator.backing.words().subarray(0x6000 / 4, 0x6000 / 4 + 8));
  expect(record).toMatchObject({ type: 'F_TRANSLATION', sid: 8, read: false, class: 'IN', input: 0x3000n });
});
