import { COMMAND, HEADER, STATUS } from '../../spec/pcie/header.ts';
import type { ConfigSpace } from './config-space.ts';

/** What the header of a function says it is. */
export interface PciIdentity {
  /** Vendor ID, 16 bits. */
  readonly vendor: number;
  /** Device ID, 16 bits. */
  readonly device: number;
  /** 24 bits: base class, sub-class, programming interface. */
  readonly classCode: number;
  /** Revision ID (default: 0). */
  readonly revision?: number;
  /** Subsystem Vendor ID (default: QEMU's 0x1af4). */
  readonly subsystemVendor?: number;
  /** Subsystem ID (default: QEMU's 0x1100). */
  readonly subsystem?: number;
  /** INTx pin 1 … 4, 0 for none. */
  readonly pin?: number;
  /** Software looks for functions 1 to 7 of the device as well (default: no). */
  readonly multifunction?: boolean;
}

function common(config: ConfigSpace, id: PciIdentity, type: number): void {
  config.preset(HEADER.VENDOR, 2, id.vendor);
  config.preset(HEADER.DEVICE, 2, id.device);
  config.preset(HEADER.REVISION, 4, ((id.classCode << 8) | (id.revision ?? 0)) >>> 0);
  config.preset(HEADER.TYPE, 1, type | (id.multifunction === true ? 0x80 : 0));
  config.preset(HEADER.INTERRUPT_PIN, 1, id.pin ?? 0);
  // IO, MEM and MASTER stick on every function, also without an I/O BAR: clients check that they read back.
  const { IO, MEM, MASTER, SERR, INTX_OFF } = COMMAND;
  config.writable(HEADER.COMMAND, 2, IO | MEM | MASTER | SERR | INTX_OFF);
  config.clearable(HEADER.STATUS, 2, STATUS.W1C);
  config.writable(HEADER.CACHE_LINE, 1, 0xff);
  config.writable(HEADER.INTERRUPT_LINE, 1, 0xff);
}

/** Fills in a type 0 header (an endpoint). */
export function endpointHeader(config: ConfigSpace, id: PciIdentity): void {
  common(config, id, 0);
  config.preset(HEADER.SUBSYSTEM_VENDOR, 2, id.subsystemVendor ?? 0x1af4);
  config.preset(HEADER.SUBSYSTEM, 2, id.subsystem ?? 0x1100);
}

/** Fills in a type 1 header (a bridge): bus numbers, memory, prefetchable and I/O windows are software's. */
export function bridgeHeader(config: ConfigSpace, id: PciIdentity): void {
  common(config, id, 1);
  config.writable(HEADER.PRIMARY, 4, 0x00ff_ffff);
  // Bases above limits: after a reset nothing is passed on.
  config.preset(HEADER.IO_BASE, 2, 0x00f0);
  config.writable(HEADER.IO_BASE, 2, 0xf0f0);
  config.clearable(HEADER.SECONDARY_STATUS, 2, STATUS.W1C);
  config.preset(HEADER.MEMORY_BASE, 4, 0x0000_fff0);
  config.writable(HEADER.MEMORY_BASE, 4, 0xfff0_fff0);
  config.preset(HEADER.PREFETCH_BASE, 4, 0x0001_fff1);
  config.writable(HEADER.PREFETCH_BASE, 4, 0xfff0_fff0);
  config.writable(HEADER.PREFETCH_BASE_HIGH, 4, 0xffff_ffff);
  config.writable(HEADER.PREFETCH_LIMIT_HIGH, 4, 0xffff_ffff);
  config.writable(HEADER.IO_BASE_HIGH, 4, 0xffff_ffff);
  config.writable(HEADER.BRIDGE_CONTROL, 2, 0x0fff);
}
