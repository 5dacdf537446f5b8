import { type VtdProperties, vtdDefaults } from '../../../devices/vtd/properties.ts';
import { ramBacking } from '../../../src/lib/memory/address-space.ts';
import type { Emulator } from '../../../src/machine/machine-plan.ts';
import { PluggedMachine } from '../../../src/machine/plugged-machine.ts';
import { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import type { MmioDevice } from '../../../src/ports/mmio.ts';

interface Trap {
  readonly base: number;
  readonly bytes: number;
  read(offset: number, size: number): bigint;
  write(offset: number, size: number, value: bigint): void;
}

/** Somebody's emulator, as small as one can be: RAM, traps, an interrupt controller that keeps a list, and "later". */
export class ToyEmulator {
  readonly bytes = 0x40_0000;
  readonly ram = ramBacking(this.bytes);
  readonly interrupts: string[] = [];
  readonly errors: unknown[] = [];
  /** An access is being served. */
  inside = false;
  /** Interrupts that came from inside an access. */
  early = 0;
  readonly #split: boolean;
  readonly #traps: Trap[] = [];
  #later: (() => void)[] = [];

  /** @param split its CPU makes two accesses of 4 bytes of one of 8, low first, and two of 1 byte of one of 2. */
  constructor(split = false) {
    this.#split = split;
  }

  trap(trap: Trap): void {
    this.#traps.push(trap);
  }
  interrupt(what: string): void {
    if (this.inside) this.early++;
    this.interrupts.push(what);
  }
  later(action: () => void): void {
    this.#later.push(action);
  }

  /** The CPU between two instructions. */
  #step(): void {
    const due = this.#later;
    this.#later = [];
    for (const action of due) action();
  }

  load(address: number, size: number): bigint {
    const half = size === 8 ? 4 : size === 2 ? 1 : 0;
    if (this.#split && half > 0) {
      return this.load(address, half) | (this.load(address + half, half) << BigInt(8 * half));
    }
    const t = this.#traps.find((x) => address >= x.base && address < x.base + x.bytes);
    this.inside = true;
    const value = t === undefined ? this.#ram(address, size) : t.read(address - t.base, size);
    this.inside = false;
    this.#step();
    return value;
  }

  store(address: number, size: number, value: bigint): void {
    const half = size === 8 ? 4 : size === 2 ? 1 : 0;
    if (this.#split && half > 0) {
      this.store(address, half, BigInt.asUintN(8 * half, value));
      this.store(address + half, half, value >> BigInt(8 * half));
      return;
    }
    const t = this.#traps.find((x) => address >= x.base && address < x.base + x.bytes);
    this.inside = true;
    if (t === undefined) this.#ram(address, size, value);
    else t.write(address - t.base, size, value);
    this.inside = false;
    this.#step();
  }

  #ram(address: number, size: number, value?: bigint): bigint {
    if (address + size > this.bytes) return 2n ** BigInt(8 * size) - 1n;
    const words = this.ram.words();
    const bytes = new Uint8Array(words.buffer, words.byteOffset + address, size);
    let seen = 0n;
    for (let i = 0; i < size; i++) {
      if (value !== undefined) bytes[i] = Number((value >> BigInt(8 * i)) & 0xffn);
      seen |= BigInt(bytes[i]!) << BigInt(8 * i);
    }
    return seen;
  }
}

/** Where the parts of the toy's machine sit. */
export const TOY = { IOMMU: 0xfed9_0000, ECAM: 0xe000_0000, PCI: 0xc000_0000, DOORBELL: 0xfee0_0000 } as const;

export const TOY_PROPS: VtdProperties = { ...vtdDefaults('qemu-11.1'), intremap: false, deviceIotlb: true };

/** The whole adapter: what the machine port asks of an emulator, answered by the toy. */
export function plugIntoToy(toy: ToyEmulator, props: VtdProperties = TOY_PROPS): PluggedMachine {
  const halves = new Int32Array(2);
  const wide = () => (BigInt(halves[1]! >>> 0) << 32n) | BigInt(halves[0]! >>> 0);
  const trap = (base: number, w: MmioDevice): Trap => ({
    base,
    bytes: w.bytes,
    read(offset, size) {
      if (size < 8) return BigInt(w.read(offset, size) >>> 0);
      w.read64(offset, halves);
      return wide();
    },
    write: (offset, size, value) => w.write(offset, size, Number(value & 0xffff_ffffn) | 0, Number(value >> 32n) | 0),
  });
  const emulator: Emulator = {
    ram: [{ base: 0, bytes: toy.bytes, backing: toy.ram }],
    claim: (base, window) => toy.trap(trap(base, window)),
    interrupts: {
      line: (number, asserted) => toy.interrupt(`line ${number} ${asserted ? 'up' : 'down'}`),
      message: (address, data) => toy.interrupt(`message ${address.toString(16)} ${data.toString(16)}`),
    },
    defer: (action) => toy.later(action),
    report: (error) => toy.errors.push(error),
  };
  const plan = {
    iommu: TOY.IOMMU,
    intx: [16, 17, 18, 19],
    ecam: { base: TOY.ECAM, buses: 1 },
    pci: { base: TOY.PCI, bytes: 0x100_0000 },
    doorbell: { base: TOY.DOORBELL, bytes: 0x10_0000 },
  };
  return new PluggedMachine(
    emulator,
    plan,
    (vm, irq, tell) => new VtdUnit(vm, { name: 'vtd', properties: props, irq, tell }),
  );
}
