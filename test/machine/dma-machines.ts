import { DmaEngine, ENGINE } from '../../devices/endpoints/dma-engine.ts';
import type { Shell } from '../../devices/endpoints/shell.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { createQemuMachine } from '../../src/machine/qemu-machine.ts';
import type { Vm } from '../../src/machine/vm.ts';
import { ACCESS, AT, NO_PASID } from '../../src/ports/dma.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import { BELL, SCRATCH } from './dma-world.ts';
import type { DmaGuest } from './dma-writers.ts';
import { DOORBELL, IOMMU, type Kind, PCI, probe, RAM, Rig } from './plugged/rig.ts';

/** Device and function of the sender, and of an engine whose registers are reached. */
const SENDER = 0x10;
const ENGINE_AT = 0x18;
const TRANSLATER = 0x0809_0040;

/** A machine as its guest's processor reaches it, by address. */
interface Reached {
  readonly vm: Vm;
  readonly machine: { save(): unknown; load(state: never): void };
  write(at: number, size: number, lo: number, hi: number): void;
  read(at: number): number;
  readonly sender: Shell;
  readonly errors: readonly unknown[];
  /** Addresses of interrupt messages. */
  readonly messages: readonly number[];
}

/** A whole machine, and where things are in it. */
export interface MachineKind {
  readonly name: string;
  readonly kind: Kind;
  /** Whether its IOMMU has messages of its own, which QEMU's SMMUv3 has not. */
  readonly speaks: boolean;
  readonly ram: number;
  readonly iommu: number;
  /** Registers of the engine. */
  readonly bar: number;
  /** Other places to aim at, by name. */
  readonly places: Readonly<Record<string, number>>;
  make(): Reached;
}

function sender(): Shell {
  return probe({ ats: {}, pri: { capacity: 32 }, pasid: { width: 8 } });
}

function qemu(line: string, profile: string, ram: number, bar: number): Reached {
  const errors: unknown[] = [];
  const messages: number[] = [];
  const report = (e: unknown) => void errors.push(e);
  const m = createQemuMachine(parseQemuArgs(line), { nic: false, vga: false, profile, report });
  m.irq.to = {
    pulse() {},
    level() {},
    message: (address) => {
      messages.push(address);
      return true;
    },
  };
  const { board, map, vm } = m;
  const config = (devfn: number, at: number, size: number, value: number) =>
    board!.complex.configWrite(0, devfn, at, size, value);
  const fn = sender();
  board!.plug(fn, SENDER);
  const engine = new DmaEngine({ integrated: true });
  board!.plug(engine.fn, ENGINE_AT);
  // PCIEXBAR: the ECAM at 0xb0000000.
  if (ram === 0) config(0, 0x60, 4, 0xb000_0001 | 0);
  enable(fn, (at, size, value) => config(SENDER, at, size, value));
  config(ENGINE_AT, 0x10, 4, bar);
  config(ENGINE_AT, 0x14, 4, 0);
  config(ENGINE_AT, 4, 2, 6);
  return {
    vm: vm!,
    machine: m,
    write: (at, size, lo, hi) => map!.write(at, size, lo, hi),
    read: (at) => {
      map!.read(at, 4);
      return map!.lo >>> 0;
    },
    sender: fn,
    errors,
    messages,
  };
}

function enable(fn: Shell, config: (at: number, size: number, value: number) => void): void {
  config(4, 2, 6);
  const { config: c } = fn;
  config(c.findExtended(0x1b) + 6, 2, 7);
  config(c.findExtended(0x0f) + 6, 2, 0x8000);
  config(c.findExtended(0x13) + 12, 4, 32);
  config(c.findExtended(0x13) + 4, 2, 1);
}

function plugged(kind: Kind): Reached {
  const rig = new Rig(kind);
  const fn = sender();
  rig.plug(fn, SENDER);
  const engine = new DmaEngine({ integrated: true });
  rig.machine.plug(engine.fn, ENGINE_AT);
  rig.config(0, ENGINE_AT, 0x10, 4, PCI);
  rig.config(0, ENGINE_AT, 0x14, 4, 0);
  rig.config(0, ENGINE_AT, 4, 2, 6);
  const window = (at: number): readonly [MmioDevice, number] =>
    at >= PCI ? [rig.bars, at - PCI] : [rig.iommu, at - IOMMU];
  return {
    vm: rig.machine.vm,
    machine: rig.machine,
    write: (at, size, lo, hi) => {
      const [to, offset] = window(at);
      to.write(offset, size, lo, hi);
    },
    read: (at) => {
      const [to, offset] = window(at);
      return to.read(offset, 4) >>> 0;
    },
    sender: fn,
    errors: rig.errors,
    get messages() {
      rig.machine.interrupts.flush();
      return rig.messages.map(([address]) => address);
    },
  };
}

const Q35 = '-machine q35 -m 16 -device intel-iommu,scalable-mode=on,fsts=on,svm=on,pasid-bits=8,device-iotlb=on';
const VIRT = {
  'qemu-11.1': '-M virt,iommu=smmuv3 -m 16',
  arch: '-M virt -device arm-smmuv3,primary-bus=pcie.0,ats=on,pri=on -m 16',
};

/** Machines of QEMU in both profiles, and machines that an emulator plugs in. */
export const MACHINES: readonly MachineKind[] = [
  ...(['qemu-11.1', 'arch'] as const).map((profile) => ({
    name: `q35 (${profile})`,
    kind: 'vtd' as const,
    speaks: true,
    ram: 0,
    iommu: 0xfed9_0000,
    bar: 0xc000_0000,
    places: {
      'the IOAPIC': 0xfec0_0010,
      'the window of messages': 0xfee0_0000,
      'the HPET': 0xfed0_0010,
      'configuration space': 0xb000_0000 + (ENGINE_AT << 12) + 0x10,
      'the window of the display': 0xa_0000,
    },
    make: () => qemu(Q35, profile, 0, 0xc000_0000),
  })),
  ...(['qemu-11.1', 'arch'] as const).map((profile) => ({
    name: `virt (${profile})`,
    kind: 'smmuv3' as const,
    speaks: profile === 'arch',
    ram: 0x4000_0000,
    iommu: profile === 'arch' ? 0x0c00_0000 : 0x0905_0000,
    bar: 0x1000_0000,
    places: {
      'the ITS': TRANSLATER,
      'the distributor': 0x0800_0000,
      'the UART': 0x0900_0000,
      'the flash': 0x1000,
      ports: 0x3eff_0cf8,
    },
    make: () => qemu(VIRT[profile], profile, 0x4000_0000, 0x1000_0000),
  })),
  ...(['smmuv3', 'vtd'] as const).map((kind) => ({
    name: `a ${kind} that is plugged in`,
    kind,
    speaks: true,
    ram: RAM,
    iommu: IOMMU,
    bar: PCI,
    places: { 'the doorbell': DOORBELL + 0x40, 'configuration space': 0x2000_0000 + (ENGINE_AT << 12) + 0x10 },
    make: () => plugged(kind),
  })),
];

/** The guest of such a machine. */
export class MachineGuest implements DmaGuest {
  readonly ram: number;
  readonly reached: Reached;
  readonly #kind: MachineKind;

  constructor(kind: MachineKind) {
    this.#kind = kind;
    this.ram = kind.ram;
    this.reached = kind.make();
  }

  /** Places to aim at, by name; RAM and the IOMMU's own registers among them. */
  get targets(): Readonly<Record<string, number>> {
    const { kind, iommu, bar, places, ram } = this.#kind;
    return {
      'its own registers': iommu + SCRATCH[kind],
      'its own doorbell': iommu + BELL[kind],
      'registers of an engine': bar + ENGINE.TAIL,
      RAM: ram + 0x80_0000,
      nothing: ram === 0 ? 0x7000_0000 : 0x1800_0000,
      ...places,
    };
  }

  w(at: number, value: number): void {
    this.reached.write(this.#kind.iommu + at, 4, value | 0, 0);
  }
  w64(at: number, value: number): void {
    this.reached.write(this.#kind.iommu + at, 8, value | 0, Math.floor(value / 2 ** 32) | 0);
  }
  r(at: number): number {
    return this.reached.read(this.#kind.iommu + at);
  }
  put(at: number, ...words: number[]): void {
    for (const [i, x] of words.entries()) this.reached.vm.memory.guest.store32(at + 4 * i, x | 0);
  }
  load(at: number): number {
    const { guest } = this.reached.vm.memory;
    return guest.load32(at) ? guest.lo : -1;
  }
  dma(): void {
    this.reached.sender.upstream!.write(NO_PASID, 0x5000, 0, ACCESS.WRITE, AT.UNTRANSLATED, new Uint8Array(4), 0, 4);
  }
  ask(): void {
    const pasid = this.#kind.kind === 'smmuv3' ? NO_PASID : 1;
    this.reached.sender.upstream!.pageRequest(pasid, 0x9000, 0, ACCESS.READ, 3, true);
  }
  interrupt(): void {
    this.reached.sender.upstream!.write(
      NO_PASID,
      0xfee0_0018 | 0,
      0,
      ACCESS.WRITE,
      AT.UNTRANSLATED,
      new Uint8Array(4),
      0,
      4,
    );
  }
}
