import { ViommuError } from '../src/core/errors.ts';
import type { PasidManagement } from '../src/lib/pasid/pasid-management.ts';
import { extendedCapability } from '../src/lib/pci/capability-list.ts';
import type { PciFunction } from '../src/ports/pci.ts';
import { EXT } from '../src/spec/pcie/capabilities.ts';
import { Bridge } from './bridge.ts';
import type { PciBus, Slot } from './topology.ts';

/** How a function is plugged in. */
export interface PlugOptions {
  /** Hardware number of the bus behind a bridge, 0 … 255; by default the lowest free one. */
  readonly hostBus?: number;
  /** The slot was empty while the guest ran: the port above announces it. */
  readonly hot?: boolean;
  /**
   * Further devfns, 0 … 255, on the same bus under whose requester ids the function sends (phantom functions, DMA aliases):
   * it gets a way up for each, in this order. They stay empty otherwise. A function with ATS has none.
   */
  readonly aliases?: readonly number[];
  /** Whose the function's PASIDs are, and those of virtual functions it brings to life. By default its IOMMU decides. */
  readonly pasids?: PasidManagement;
  /** The function is a slice of another one below the same root. */
  readonly slice?: SliceOptions;
}

/** Makes a function a slice of another one: see `Slice`. */
export interface SliceOptions {
  /** The function it is a part of. It is plugged in already, and takes its slices with it when it goes. */
  readonly of: Slot;
  /** PASID of `of` for what the slice sends without one, 0 … 2^20-1. */
  readonly pasid: number;
}

/** A function's place changed: what a machine listens to. */
export interface PlugListener {
  /** A function is at its place now, and not connected yet. What this throws undoes the plugging; the listener has undone its own. */
  plugged?(slot: Slot): void;
  /** It is gone. */
  unplugged?(slot: Slot): void;
  /** Software wrote into a bridge: bus numbers may have changed. */
  renumbered?(): void;
  /** What it does in parts is to come to its end now: the machine is saved. */
  settle?(): void;
}

function refuse(code: 'EBUSY' | 'EINVAL' | 'EOPNOTSUPP', what: string, at: Readonly<Record<string, number>>): never {
  throw new ViommuError(code, 'caller', what, at);
}

/** Whether a function sends under this requester id of the bus, as its own or as an alias. */
function taken(bus: PciBus, devfn: number): boolean {
  if (bus.slots.has(devfn)) return true;
  if (bus.aliased === 0) return false;
  for (const slot of bus.slots.values()) if (slot.aliases.includes(devfn)) return true;
  return false;
}

/**
 * @throws ViommuError `EBUSY`: a place is taken; `EINVAL`: there is no such place, or the options contradict each other;
 *   `EOPNOTSUPP`: the function cannot be plugged in like that.
 */
export function checkPlug(bus: PciBus, devfn: number, fn: PciFunction, options: PlugOptions): void {
  const { aliases = [], slice } = options;
  const places = [devfn, ...aliases];
  for (const [i, place] of places.entries()) {
    if (!Number.isInteger(place) || place < 0 || place > 255) refuse('EINVAL', 'a devfn is 0 … 255', { devfn: place });
    if (taken(bus, place)) refuse('EBUSY', 'the slot is taken', { bus: bus.number, devfn: place });
    if (places.indexOf(place) !== i) refuse('EINVAL', 'a requester id is named twice', { devfn: place });
  }
  if (fn instanceof Bridge && (aliases.length > 0 || slice !== undefined)) {
    refuse('EINVAL', 'a bridge has one requester id, its own', { devfn });
  }
  // An invalidation completion names the function, not which of its requester ids was asked (PCIe ATS §10.3).
  if (aliases.length > 0 && extendedCapability(fn, EXT.ATS) !== 0) {
    refuse('EOPNOTSUPP', `${fn.name} has ATS: with several requester ids its invalidations could not be told apart`, {
      devfn,
    });
  }
  if (slice === undefined) return;
  const { of, pasid } = slice;
  if (aliases.length > 0)
    refuse('EINVAL', 'a slice sends as the function it is a part of: it has no requester ids', { devfn });
  if (of.bus.root !== bus.root) refuse('EINVAL', 'a slice and its function are below one root', { devfn });
  if (of.slice !== null || of.bridge !== null) refuse('EINVAL', 'a slice is a part of an endpoint', { devfn });
  if (!Number.isInteger(pasid) || pasid < 0 || pasid > 0xf_ffff) refuse('EINVAL', 'a PASID has 20 bits', { pasid });
  for (const other of of.slices) {
    if (other.slice!.pasid === pasid) refuse('EBUSY', 'another slice has the PASID', { pasid });
  }
}
