import { DmaEngine } from '../../devices/endpoints/dma-engine.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { createQemuMachine, type QemuMachine } from '../../src/machine/index.ts';
import type { PhysicalMap } from '../../src/machine/physical-map.ts';
import { VIRT } from '../../src/machine/virt.ts';
import type { Tell } from '../../src/ports/tell.ts';
import type { GuestImage } from './guests.ts';
import type { CpuWindow } from './unicorn.ts';

/** PL011 data register: the guests' console. */
export const UART = 0x0900_0000;
const PAGE = 4096;

/** Memory the guests share with the SMMU and the devices (guest-fixtures/aarch64/src/guest.h). */
export const SHARED = { base: 0x4100_0000, size: 0x400_0000 };

/** Where the processor's accesses leave RAM, as windows of whole pages. */
const WINDOWS: readonly (readonly [base: number, bytes: number])[] = [
  [VIRT.SMMU, 0x2_0000],
  [VIRT.SMMU_DEVICES, 0x2_0000],
  [VIRT.PCI, 0x10_0000],
  [VIRT.ECAM, 0x10_0000],
];

const REST = '-cpu cortex-a57 -smp 1 -m 128 -net none -device iommu-testdev -device iommu-testdev';

/** QEMU's words for a guest's machine. */
export function machineOf(guest: GuestImage): string {
  if (guest.onQemu) return `-machine virt,acpi=off,gic-version=3,iommu=smmuv3 ${REST}`;
  return `-machine virt,acpi=off,gic-version=3 ${REST} -device arm-smmuv3,primary-bus=pcie.0,stage=1,ssidsize=16,stall=on`;
}

/** Stands up the machine; an architecture guest finds a DMA engine at 00:03.0 that sends PASIDs and stalls. */
export function buildMachine(guest: GuestImage, tell: Tell | null): QemuMachine {
  const machine = createQemuMachine(parseQemuArgs(`qemu-system-aarch64 ${machineOf(guest)}`), {
    nic: false,
    vga: false,
    tell,
    profile: guest.onQemu ? 'qemu-11.1' : 'arch',
    canStall: (name) => name === 'dma-engine',
  });
  const map = machine.map!;
  if (!guest.onQemu) machine.board!.plug(new DmaEngine({ integrated: true }).fn, 3 << 3);
  // Interrupts by message are writes: into memory where the guest wants them, else to the doorbell.
  machine.irq.to = {
    pulse() {},
    level() {},
    message(address, data) {
      if (!map.space.locate(address - (address % 4))) return address === VIRT.DOORBELL;
      map.write(address, 4, data | 0, 0);
      return true;
    },
  };
  return machine;
}

/** The processor's windows onto a machine's devices, and its console. */
export function windowsOf(map: PhysicalMap, say: (byte: number) => void): [base: number, bytes: number, CpuWindow][] {
  const onto = (base: number): CpuWindow => ({
    read(offset, size) {
      map.read(base + offset, size);
      const low = map.lo >>> 0;
      return size === 8 ? (BigInt(map.hi >>> 0) << 32n) | BigInt(low) : low;
    },
    write(offset, size, value) {
      map.write(base + offset, size, Number(value & 0xffff_ffffn) | 0, Number(value >> 32n) | 0);
    },
  });
  const console: CpuWindow = {
    read: () => 0,
    write: (offset, _size, value) => void (offset === 0 && say(Number(value))),
  };
  return [
    ...WINDOWS.map(([base, bytes]) => [base, bytes, onto(base)] as [number, number, CpuWindow]),
    [UART, PAGE, console],
  ];
}
