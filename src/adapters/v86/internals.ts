import { ViommuError } from '../../core/errors.ts';

/** The exact version whose undocumented parts this adapter uses. */
export const V86_VERSION = '0.5.462';

/** PCI of v86: the methods its port handlers call through `this`, so an instance override takes effect. */
export interface V86Pci {
  /** Bytes of the last CF8 write: register, function and device, bus, enable. */
  pci_addr: Uint8Array;
  pci_response32: Int32Array;
  pci_status32: Int32Array;
  device_spaces: (Int32Array | undefined)[];
  pci_query(): void;
  pci_write8(address: number, value: number): void;
  pci_write16(address: number, value: number): void;
  pci_write32(address: number, value: number): void;
}

export interface V86Io {
  ports: unknown[];
  mmap_register(
    address: number,
    bytes: number,
    read8: (address: number) => number,
    write8: (address: number, value: number) => void,
    read32: (address: number) => number,
    write32: (address: number, value: number) => void,
  ): void;
}

/** Memory handlers by block of 128 KiB; sparse. */
export interface V86MemoryMap {
  memory_map_read8: (((address: number) => number) | undefined)[];
  memory_map_write8: (((address: number, value: number) => void) | undefined)[];
  memory_map_read32: (((address: number) => number) | undefined)[];
  memory_map_write32: (((address: number, value: number) => void) | undefined)[];
}

/** The parts of `emulator.v86.cpu` that the adapter touches; none is in v86's declarations. */
export interface V86Cpu extends V86MemoryMap {
  io: V86Io;
  devices: { pci: V86Pci };
  wasm_memory: { buffer: ArrayBufferLike };
  mem8: { byteOffset: number };
  memory_size: ArrayLike<number>;
  /** Word 0: not 0 while the CPU is halted. */
  in_hlt: ArrayLike<number>;
  /** Word 0: EFLAGS. */
  flags: ArrayLike<number>;
  option_roms: { name: string; data: Uint8Array }[];
  write_blob(bytes: Uint8Array, address: number): void;
  handle_irqs(): void;
  /** Called at every turn of the CPU, halted or not. @param now milliseconds. @returns in how many to be called again. */
  run_hardware_timers(acpi: boolean, now: number): number;
  device_raise_irq(line: number): void;
  device_lower_irq(line: number): void;
  get_apic_addr(): number;
  get_ioapic_addr(): number;
}

/** The public `V86` object, as far as it is used. */
export interface V86Emulator {
  readonly v86: { readonly cpu: V86Cpu };
  add_listener(event: string, listener: (value: never) => void): void;
  run(): void | Promise<void>;
}

const FUNCTIONS = [
  'write_blob',
  'handle_irqs',
  'run_hardware_timers',
  'device_raise_irq',
  'device_lower_irq',
  'get_apic_addr',
  'get_ioapic_addr',
] as const;
const MAPS = ['memory_map_read8', 'memory_map_write8', 'memory_map_read32', 'memory_map_write32'] as const;
const PCI_FUNCTIONS = ['pci_query', 'pci_write8', 'pci_write16', 'pci_write32'] as const;

/**
 * The CPU of a loaded emulator, checked: everything the adapter needs is there and looks as in V86_VERSION.
 * @param version what the installed package says of itself (`0.5.462` or `0.5.462+…`).
 * @throws ViommuError `E_VERSION` names what is missing and the command that installs the right version.
 */
export function v86Cpu(emulator: unknown, version: string): V86Cpu {
  const remedy = `install it with: npm install v86@${V86_VERSION}`;
  if (version.split('+')[0] !== V86_VERSION) {
    throw new ViommuError(
      'E_VERSION',
      'caller',
      `this adapter is made for v86 ${V86_VERSION}, not ${version}; ${remedy}`,
    );
  }
  const cpu = (emulator as Partial<V86Emulator>).v86?.cpu as Partial<V86Cpu> | undefined;
  const missing: string[] = [];
  if (cpu === undefined) {
    throw new ViommuError('E_VERSION', 'caller', 'v86 has no CPU yet: attach after its emulator-loaded event');
  }
  for (const f of FUNCTIONS) if (typeof cpu[f] !== 'function') missing.push(`cpu.${f}`);
  for (const m of MAPS) if (typeof cpu[m] !== 'object') missing.push(`cpu.${m}`);
  for (const f of PCI_FUNCTIONS) if (typeof cpu.devices?.pci?.[f] !== 'function') missing.push(`cpu.devices.pci.${f}`);
  if (typeof cpu.io?.mmap_register !== 'function') missing.push('cpu.io.mmap_register');
  if (!Array.isArray(cpu.io?.ports)) missing.push('cpu.io.ports');
  if (!Array.isArray(cpu.option_roms)) missing.push('cpu.option_roms');
  // v86 wraps its views in proxies.
  for (const view of ['memory_size', 'in_hlt', 'flags'] as const) {
    if (typeof cpu[view]?.[0] !== 'number') missing.push(`cpu.${view}`);
  }
  if (cpu.wasm_memory?.buffer === undefined) missing.push('cpu.wasm_memory');
  if (missing.length > 0) {
    throw new ViommuError('E_VERSION', 'caller', `this v86 lacks ${missing.join(', ')}; ${remedy}`);
  }
  return cpu as V86Cpu;
}
