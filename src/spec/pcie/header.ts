/** PCI Express Base Specification revision 6.0: configuration space header, §7.5.1. */

/** Configuration header, offsets in bytes (PCIe Base Specification, "Configuration Space Registers"). */
// biome-ignore format: table
export const HEADER = {
  VENDOR: 0x00, DEVICE: 0x02, COMMAND: 0x04, STATUS: 0x06, REVISION: 0x08, CLASS: 0x09,
  CACHE_LINE: 0x0c, LATENCY: 0x0d, TYPE: 0x0e, BIST: 0x0f, BAR0: 0x10,
  // type 0
  SUBSYSTEM_VENDOR: 0x2c, SUBSYSTEM: 0x2e, ROM: 0x30, CAPABILITIES: 0x34, INTERRUPT_LINE: 0x3c, INTERRUPT_PIN: 0x3d,
  // type 1
  PRIMARY: 0x18, SECONDARY: 0x19, SUBORDINATE: 0x1a, IO_BASE: 0x1c, IO_LIMIT: 0x1d, SECONDARY_STATUS: 0x1e,
  MEMORY_BASE: 0x20, MEMORY_LIMIT: 0x22, PREFETCH_BASE: 0x24, PREFETCH_LIMIT: 0x26, PREFETCH_BASE_HIGH: 0x28,
  PREFETCH_LIMIT_HIGH: 0x2c, IO_BASE_HIGH: 0x30, IO_LIMIT_HIGH: 0x32, ROM1: 0x38, BRIDGE_CONTROL: 0x3e,
} as const;

/** COMMAND bits. */
export const COMMAND = { IO: 1, MEM: 2, MASTER: 4, PARITY: 0x40, SERR: 0x100, INTX_OFF: 0x400 } as const;

/** STATUS bits; the upper ones are cleared by writing one. */
export const STATUS = {
  INTX: 0x8,
  CAPABILITIES: 0x10,
  SIGNALLED_TARGET_ABORT: 0x800,
  RECEIVED_TARGET_ABORT: 0x1000,
  RECEIVED_MASTER_ABORT: 0x2000,
  W1C: 0xf900,
} as const;

/** Bridge Control bits. */
export const BRIDGE_CONTROL = { PARITY: 1, SERR: 2, ISA: 4, VGA: 8, BUS_RESET: 0x40 } as const;

/** Requester id of bus number and devfn (device << 3 | function). */
export function ridOf(bus: number, devfn: number): number {
  return (bus << 8) | devfn;
}

/** A requester id in its usual notation, bus:device.function. */
export function bdf(rid: number): string {
  const two = (n: number) => n.toString(16).padStart(2, '0');
  return `${two(rid >>> 8)}:${two((rid >>> 3) & 31)}.${rid & 7}`;
}
