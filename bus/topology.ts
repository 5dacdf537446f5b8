import type { AccessGate } from '../src/lib/access/access-gate.ts';
import type { PasidManagement } from '../src/lib/pasid/pasid-management.ts';
import type { EndpointPort } from '../src/ports/dma.ts';
import type { PciFunction } from '../src/ports/pci.ts';
import { Bridge } from './bridge.ts';
import type { IommuPorts } from './iommu-ports.ts';

/** What a root bus is made of. */
export interface RootParts {
  /** Bus number as software sees it, 0 … 255. */
  readonly number: number;
  /** The hardware's number of the bus (see `PciBus.hostNumber`). */
  readonly hostNumber: number;
  /** What the requests of the root pass. */
  readonly iommu: IommuPorts;
  /** What the IOMMU of this root sends down to functions. */
  readonly endpoints: EndpointPort;
}

/** A root bus with its IOMMU. */
export class Root {
  /** Bus number of its bus. */
  readonly number: number;
  /** Its bus. */
  readonly bus: PciBus;
  /** What requests of functions below meet on their way to memory. */
  iommu: IommuPorts;
  /** Where the IOMMU sends its messages to functions of this root. */
  readonly endpoints: EndpointPort;

  constructor(parts: RootParts) {
    this.number = parts.number;
    this.iommu = parts.iommu;
    this.endpoints = parts.endpoints;
    this.bus = new PciBus(this, null, parts.hostNumber);
  }
}

/** A bus: up to 256 functions, behind a root or behind a bridge. */
export class PciBus {
  /** The root above it. */
  readonly root: Root;
  /** The bridge above; null on a root bus. */
  readonly parent: Slot | null;
  /** The hardware's own number of this bus. It makes the stream ids and does not follow what a guest programs. */
  readonly hostNumber: number;
  /** What is plugged in, by devfn. */
  readonly slots = new Map<number, Slot>();
  /** Further requester ids of all of them. */
  aliased = 0;

  /** @param parent the bridge it lies behind; null: a root bus. @param hostNumber the hardware's number of it. */
  constructor(root: Root, parent: Slot | null, hostNumber: number) {
    this.root = root;
    this.parent = parent;
    this.hostNumber = hostNumber;
  }

  /** Bus number as software sees it now; 0 behind a bridge that has not been given one. */
  get number(): number {
    return this.parent === null ? this.root.number : this.parent.bridge!.secondary;
  }
}

/** A function that is a part of another one: its requests go out as the other's, under PASIDs of the other (SIOV). */
export interface Slice {
  /** The function it is a part of. */
  readonly parent: Slot;
  /** The parent's PASID of what the slice sends without one. */
  readonly pasid: number;
  /** The parent's PASID of what the slice sends under `pasid`; -1: not set up. Whoever puts the slice behind an IOMMU sets it. */
  hostPasid: (pasid: number) => number;
  /** The slice's own name of a PASID of the parent (NO_PASID: none); -2: it is not the slice's. Set together with `hostPasid`. */
  guestPasid: (host: number) => number;
  /** A request under a PASID that is not set up could not be sent: the IOMMU tells software why. */
  refused: (pasid: number, lo: number, hi: number, access: number) => void;
}

/** What a slot is made of. */
export interface SlotParts {
  /** The function. */
  readonly fn: PciFunction;
  /** The bus it is on. */
  readonly bus: PciBus;
  /** Device and function number, 0 … 255. */
  readonly devfn: number;
  /** The hardware's number of the bus behind a bridge. */
  readonly hostBehind: number;
  /** Further devfns under whose requester ids the function sends. */
  readonly aliases: readonly number[];
  /** Whose its PASIDs are, when its owner has said. */
  readonly pasids: PasidManagement | null;
  /** What it is a part of; null: a function of its own. */
  readonly slice: Slice | null;
  /** Stands before its registers. */
  readonly gate: AccessGate;
}

/** A function at its place. */
export class Slot {
  /** The function. */
  readonly fn: PciFunction;
  /** The bus it is on. */
  readonly bus: PciBus;
  /** Device number << 3 | function number. */
  readonly devfn: number;
  /** The function as a bridge, with the bus behind it. */
  readonly bridge: Bridge | null;
  /** The bus behind the function when it is a bridge; else null. */
  readonly behind: PciBus | null;
  /** Further devfns under whose requester ids it sends. */
  readonly aliases: readonly number[];
  /** Whose its PASIDs are; null: as its IOMMU has it by default. */
  readonly pasids: PasidManagement | null;
  /** Set for a slice of another function. */
  readonly slice: Slice | null;
  /** Stands before its registers, and behind its requests. */
  readonly gate: AccessGate;
  /** Slices of this function. */
  readonly slices = new Set<Slot>();
  /**
   * Requester ids the hardware IOMMU sees: its own, then one for each of `aliases`. Host numbering, behind bridges the
   * bridge's; for a slice the parent's.
   */
  readonly streams: readonly number[];
  /**
   * The host has the function's ATS on. Whether the guest lets it translate is in its own configuration space; without that
   * it has nothing cached, and answers invalidations all the same.
   */
  hostAts = false;
  /** Another function brought it to life (a virtual function). */
  spawned = false;

  constructor(parts: SlotParts) {
    const { fn, bus, devfn, aliases, slice } = parts;
    this.fn = fn;
    this.bus = bus;
    this.devfn = devfn;
    this.aliases = aliases;
    this.pasids = parts.pasids;
    this.slice = slice;
    this.gate = parts.gate;
    this.bridge = fn instanceof Bridge ? fn : null;
    this.behind = this.bridge === null ? null : new PciBus(bus.root, this, parts.hostBehind);
    this.streams = slice === null ? [devfn, ...aliases].map((d) => this.#above(d, true)) : slice.parent.streams;
  }

  /** The first of `streams`. */
  get stream(): number {
    return this.streams[0]!;
  }

  /** Requester id as software sees it now. */
  get rid(): number {
    return this.ridOf(0);
  }

  /** Requester id as software sees it now. @param i 0: its own, from 1 on those of `aliases`. */
  ridOf(i: number): number {
    return (this.bus.number << 8) | this.#devfnOf(i);
  }

  /** Requester id its requests carry above the last bridge, in software's numbering. */
  get aliasRid(): number {
    return this.aliasRidOf(0);
  }

  /** The same for requests under one of its further requester ids. */
  aliasRidOf(i: number): number {
    return this.#above(this.#devfnOf(i), false);
  }

  #devfnOf(i: number): number {
    return i === 0 ? this.devfn : this.aliases[i - 1]!;
  }

  /**
   * A PCIe-to-PCI bridge sends on what comes from conventional devices as (secondary bus, 00.0), a conventional bridge
   * under its own id (PCI Express to PCI/PCI-X Bridge Specification §2.3).
   */
  #above(devfn: number, host: boolean): number {
    let rid = ((host ? this.bus.hostNumber : this.bus.number) << 8) | devfn;
    for (let above = this.bus.parent; above !== null; above = above.bus.parent) {
      const kind = above.bridge!.kind;
      if (kind === 'pcie-pci') rid = (host ? above.behind!.hostNumber : above.bridge!.secondary) << 8;
      else if (kind === 'pci-pci') rid = ((host ? above.bus.hostNumber : above.bus.number) << 8) | above.devfn;
    }
    return rid;
  }

  /** Whether every bridge above forwards requests upstream. */
  get forwarded(): boolean {
    for (let above = this.bus.parent; above !== null; above = above.bus.parent) {
      if (!above.bridge!.master) return false;
    }
    return true;
  }

  /** ACS control of the nearest port above that has the capability; 0 when there is none. */
  get acs(): number {
    const above = this.bus.parent;
    return above === null ? 0 : above.bridge!.acs;
  }
}

/** Where a function is plugged in, independent of bus numbers: number of the root bus, then the devfn on each bus below. */
export function pathOf(slot: Slot): number[] {
  const above = slot.bus.parent;
  return [...(above === null ? [slot.bus.root.number] : pathOf(above)), slot.devfn];
}
