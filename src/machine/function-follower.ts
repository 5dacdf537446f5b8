import type { PciWindowSpace } from '../../bus/decode.ts';
import { isolationGroup } from '../../bus/isolation.ts';
import type { RootComplex } from '../../bus/root-complex.ts';
import type { Root, Slot } from '../../bus/topology.ts';
import type { DeviceControl } from '../host/kernel/driver.ts';
import type { MemoryWindow } from '../ports/memory.ts';
import type { PciFunction } from '../ports/pci.ts';
import { EXT, PASID_CAP } from '../spec/pcie/capabilities.ts';
import { FixedFunction } from './fixed-function.ts';
import type { IommuUnit } from './unit.ts';

interface Followed {
  /** As the guest names it; -1: it has no name now. */
  readonly rid: number;
  readonly detach: () => void;
  readonly users: Set<Slot>;
}

/** Offset of an extended capability of a function, 0 when it has none. */
export function extendedCapability(fn: PciFunction, id: number): number {
  let at = 0x100;
  for (let i = 0; i < 960 && at >= 0x100; i++) {
    const head = fn.configRead(at, 4);
    if (head === 0 || head === 0xffff_ffff) return 0;
    if ((head & 0xffff) === id) return at;
    at = (head >>> 20) & 0xffc;
  }
  return 0;
}

/**
 * Keeps an IOMMU's list of functions equal to what is plugged in below a root bus: one entry a stream (functions with one
 * alias share it), under the requester id the guest's bus numbers give it now.
 */
export class FunctionFollower {
  readonly #root: Root;
  readonly #unit: IommuUnit;
  readonly #doorbell: number;
  readonly #streams = new Map<number, Followed>();

  /** @param doorbell host-physical page behind the guest's doorbell, or -1 (x86). */
  constructor(complex: RootComplex, root: Root, unit: IommuUnit, doorbell: number) {
    this.#root = root;
    this.#unit = unit;
    this.#doorbell = doorbell;
    complex.listen({
      plugged: (slot) => this.#plugged(slot),
      unplugged: (slot) => this.#unplugged(slot),
      renumbered: () => this.follow(),
    });
    for (const slot of complex.slots()) this.#plugged(slot);
  }

  #plugged(slot: Slot): void {
    // What is only there to be found sends nothing.
    if (slot.bus.root !== this.#root || slot.bridge !== null || slot.fn instanceof FixedFunction) return;
    const known = this.#streams.get(slot.stream);
    if (known !== undefined) known.users.add(slot);
    else this.#attach(slot, new Set([slot]));
  }

  #attach(slot: Slot, users: Set<Slot>): void {
    const rid = nameOf(slot);
    // Two bridges may pass through one bus number while a guest renumbers them.
    if (rid < 0 || [...this.#streams.values()].some((f) => f.rid === rid)) {
      this.#streams.set(slot.stream, { rid: -1, detach: () => {}, users });
      return;
    }
    const { fn, stream } = slot;
    const pasid = extendedCapability(fn, EXT.PASID);
    const capability = pasid === 0 ? 0 : fn.configRead(pasid + PASID_CAP.CAP, 2);
    const { remove: detach } = this.#unit.addFunction([rid], [stream], {
      name: `${fn.name}@${stream.toString(16)}`,
      // Functions whose requests can pass for, or reach, each other are one group of the host's.
      group: `pci${isolationGroup(slot)[0]}`,
      ats: extendedCapability(fn, EXT.ATS) !== 0,
      control: atsControl(slot),
      pri: extendedCapability(fn, EXT.PRI) !== 0,
      pasidBits: (capability >>> 8) & 0x1f,
      pasidExec: (capability & PASID_CAP.EXEC) !== 0,
      pasidPriv: (capability & PASID_CAP.PRIV) !== 0,
      ...(this.#doorbell < 0 ? {} : { msiDoorbell: this.#doorbell }),
    });
    this.#streams.set(stream, { rid, detach, users });
  }

  #unplugged(slot: Slot): void {
    const known = slot.bus.root === this.#root ? this.#streams.get(slot.stream) : undefined;
    if (known === undefined || !known.users.delete(slot) || known.users.size > 0) return;
    this.#streams.delete(slot.stream);
    known.detach();
  }

  /** Requester ids follow the bus numbers the guest gives its bridges. */
  follow(): void {
    const moved = [...this.#streams].filter(([, f]) => f.rid !== nameOf([...f.users][0]!));
    for (const [stream, f] of moved) {
      f.detach();
      this.#streams.delete(stream);
    }
    for (const [, f] of moved) this.#attach([...f.users][0]!, f.users);
  }
}

/** The host's hand on a physical function: it switches its ATS; page requests follow what the guest set up. */
export function atsControl(slot: Slot): DeviceControl {
  return {
    setAts: (on) => {
      slot.hostAts = on;
    },
    setPri: () => {},
  };
}

/** The requester id the guest sees; -1 behind a bridge that has no bus number. */
function nameOf(slot: Slot): number {
  for (let bus = slot.bus; bus.parent !== null; bus = bus.parent.bus) if (bus.number === 0) return -1;
  return slot.aliasRid;
}

/** A processor's window as other functions see it. */
export function windowOf(device: PciWindowSpace): MemoryWindow {
  return {
    name: device.name,
    claims: (offset) => device.claims(offset),
    read: (offset, size) => device.read(offset, size),
    write: (offset, size, value) => device.write(offset, size, value | 0, 0),
  };
}
