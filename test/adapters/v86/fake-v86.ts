import { vtdDefaults } from '../../../devices/vtd/properties.ts';
import { V86_VERSION, type V86Cpu, type V86Pci } from '../../../src/adapters/v86/internals.ts';
import { plugIntoV86, type V86Options } from '../../../src/adapters/v86/machine.ts';

const BLOCK_SHIFT = 17;
const LAPIC = 0x100;
const IOAPIC = 0x400;
const RAM = 0x1_0000;

type Read = (address: number) => number;
type Write = (address: number, value: number) => void;

/**
 * The parts of v86 an adapter meets, as v86 has them: handlers of 1 and 4 bytes for blocks of 128 KiB, called with signed
 * numbers; RAM in a buffer that is replaced when it grows; its own PCI functions as raw words; APIC structures in memory.
 */
export class FakeV86 implements V86Cpu {
  readonly memory_map_read8: Read[] = [];
  readonly memory_map_write8: Write[] = [];
  readonly memory_map_read32: Read[] = [];
  readonly memory_map_write32: Write[] = [];
  readonly option_roms: { name: string; data: Uint8Array }[] = [];
  readonly memory_size: [number];
  readonly mem8 = { byteOffset: RAM };
  readonly in_hlt = new Uint8Array(1);
  readonly flags = new Int32Array(1);
  wasm_memory: { buffer: ArrayBuffer };
  /** Pages whose compiled code was thrown away. */
  readonly flushed: number[] = [];
  /** What the interrupt controllers were told. */
  readonly raised: string[] = [];
  /** A handler is running. */
  inside = false;
  /** Calls into the CPU from inside a handler. */
  early = 0;
  readonly ports: unknown[] = Array.from({ length: 0x1_0000 }, (_, i) => ({ port: i }));
  readonly pci: V86Pci;

  constructor(bytes = 4 << 20) {
    this.memory_size = [bytes];
    this.wasm_memory = { buffer: new ArrayBuffer(RAM + bytes) };
    for (let i = 0; i < 1 << (32 - BLOCK_SHIFT); i++) this.mmap_register(i * 2 ** BLOCK_SHIFT, 2 ** BLOCK_SHIFT);
    this.pci = new FakePci();
  }

  get devices() {
    return { pci: this.pci };
  }
  get io() {
    return { ports: this.ports, mmap_register: this.mmap_register.bind(this) };
  }

  mmap_register(
    address: number,
    bytes: number,
    r8: Read = () => 0xff,
    w8: Write = () => {},
    r32: Read = () => -1,
    w32: Write = () => {},
  ): void {
    for (let i = address >>> BLOCK_SHIFT; i < (address + bytes) / 2 ** BLOCK_SHIFT; i++) {
      this.memory_map_read8[i] = r8;
      this.memory_map_write8[i] = w8;
      this.memory_map_read32[i] = r32;
      this.memory_map_write32[i] = w32;
    }
  }

  /** The WASM memory grows: everything is at a new place. */
  grow(): void {
    const buffer = new ArrayBuffer(this.wasm_memory.buffer.byteLength + 0x1_0000);
    new Uint8Array(buffer).set(new Uint8Array(this.wasm_memory.buffer));
    new Uint8Array(this.wasm_memory.buffer).fill(0xee);
    this.wasm_memory = { buffer };
  }

  get bytes(): Uint8Array {
    return new Uint8Array(this.wasm_memory.buffer, RAM, this.memory_size[0]);
  }

  write_blob(blob: Uint8Array, address: number): void {
    this.flushed.push(address);
    this.bytes.set(blob.slice(), address);
  }
  handle_irqs(): void {
    this.#told('handle_irqs');
  }
  /** Nothing of its own to do for 100 ms. */
  run_hardware_timers(_acpi: boolean, _now: number): number {
    return 100;
  }
  device_raise_irq(line: number): void {
    this.#told(`raise ${line}`);
  }
  device_lower_irq(line: number): void {
    this.#told(`lower ${line}`);
  }
  get_apic_addr(): number {
    return LAPIC;
  }
  get_ioapic_addr(): number {
    return IOAPIC;
  }
  get lapic(): Uint32Array {
    return new Uint32Array(this.wasm_memory.buffer, LAPIC, 46);
  }
  get ioapic(): Uint32Array {
    return new Uint32Array(this.wasm_memory.buffer, IOAPIC, 52);
  }

  #told(what: string): void {
    if (this.inside) this.early++;
    this.raised.push(what);
  }

  /** A guest's access: 2 bytes are two of 1, 8 are two of 4; the handler sees signed numbers, and its throw is the end. */
  load(address: number, size: number): bigint {
    if (size === 2 || size === 8) {
      const half = size === 2 ? 1 : 4;
      return this.load(address, half) | (this.load(address + half, half) << BigInt(8 * half));
    }
    if (address + size <= this.memory_size[0]) {
      const b = this.bytes.slice(address, address + size);
      return b.reduceRight((v, x) => (v << 8n) | BigInt(x), 0n);
    }
    this.inside = true;
    const value = (size === 1 ? this.memory_map_read8 : this.memory_map_read32)[address >>> BLOCK_SHIFT]!(address | 0);
    this.inside = false;
    return BigInt.asUintN(8 * size, BigInt(value));
  }

  store(address: number, size: number, value: bigint): void {
    if (size === 2 || size === 8) {
      const half = size === 2 ? 1 : 4;
      this.store(address, half, BigInt.asUintN(8 * half, value));
      this.store(address + half, half, value >> BigInt(8 * half));
      return;
    }
    if (address + size <= this.memory_size[0]) {
      for (let i = 0; i < size; i++) this.bytes[address + i] = Number((value >> BigInt(8 * i)) & 0xffn);
      return;
    }
    this.inside = true;
    (size === 1 ? this.memory_map_write8 : this.memory_map_write32)[address >>> BLOCK_SHIFT]!(
      address | 0,
      Number(BigInt.asIntN(32, value)),
    );
    this.inside = false;
  }

  /** A configuration read as port CF8/CFC makes it. */
  config(bdf: number, register: number): number {
    this.pci.pci_addr.set([register & 0xfc, bdf & 0xff, bdf >>> 8, 0x80]);
    this.pci.pci_query();
    return this.pci.pci_response32[0]! >>> 0;
  }
  configWrite(bdf: number, register: number, size: 1 | 2 | 4, value: number): void {
    this.pci.pci_addr.set([register & 0xfc, bdf & 0xff, bdf >>> 8, 0x80]);
    const address = 0x8000_0000 | (bdf << 8) | register | 0;
    const write = `pci_write${(8 * size) as 8 | 16 | 32}` as const;
    this.pci[write](address, value);
  }
}

/** v86's own functions: raw words, and no thought for one that is not there. */
class FakePci implements V86Pci {
  readonly pci_addr = new Uint8Array(4);
  readonly pci_response32 = new Int32Array(1);
  readonly pci_status32 = new Int32Array(1);
  readonly device_spaces: (Int32Array | undefined)[] = [];

  constructor() {
    this.device_spaces[0] = new Int32Array(64);
    this.device_spaces[0][0] = 0x1237_8086;
  }
  pci_query(): void {
    const space = this.device_spaces[(this.pci_addr[2]! << 8) | this.pci_addr[1]!];
    this.pci_response32[0] = space === undefined ? -1 : space[this.pci_addr[0]! >>> 2]!;
    this.pci_status32[0] = space === undefined ? 0 : 0x8000_0000 | 0;
  }
  #bytes(address: number): Uint8Array {
    return new Uint8Array(this.device_spaces[(address >>> 8) & 0xffff]!.buffer);
  }
  pci_write8(address: number, value: number): void {
    this.#bytes(address)[address & 0xff] = value;
  }
  pci_write16(address: number, value: number): void {
    this.#bytes(address).set([value, value >>> 8], address & 0xff);
  }
  pci_write32(address: number, value: number): void {
    this.device_spaces[(address >>> 8) & 0xffff]![(address & 0xff) >>> 2] = value;
  }
}

export const FAKE_PROPS = { ...vtdDefaults('qemu-11.1'), intremap: false, deviceIotlb: true };

/** The adapter on a fake v86. */
export function plugged(options: Partial<V86Options> = {}, ram?: number) {
  const cpu = new FakeV86(ram);
  const errors: unknown[] = [];
  const v86 = plugIntoV86(
    { v86: { cpu } },
    { version: V86_VERSION, properties: FAKE_PROPS, report: (e) => errors.push(e), ...options },
  );
  return { cpu, errors, v86, machine: v86.machine };
}

/** Until everything that was put off has run. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
}
