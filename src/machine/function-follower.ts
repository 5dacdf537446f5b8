import { isolationGroupName } from '../../bus/isolation.ts';
import type { RootComplex } from '../../bus/root-complex.ts';
import type { Root, Slot } from '../../bus/topology.ts';
import { extendedCapability } from '../lib/pci/capability-list.ts';
import type { AccessWork } from '../ports/pci.ts';
import { EXT, PASID_CAP } from '../spec/pcie/capabilities.ts';
import { FixedFunction } from './fixed-function.ts';
import type { FunctionDescription, IommuUnit, UnitFunction, UnitSlice } from './unit.ts';
import { requireSupport } from './unit-functions.ts';

/** What a follower connects. */
export interface FollowerParts {
  readonly complex: RootComplex;
  /** Functions below this root are behind the unit. */
  readonly root: Root;
  readonly unit: IommuUnit;
  /** Host-physical page behind the guest's doorbell, or -1 (x86: messages go to the interrupt remapper). */
  readonly doorbell: number;
  /** Hears what host or unit refuse when a guest renumbers buses; the function then stays blocked. */
  readonly report: (error: unknown) => void;
}

/** Units of work of a function whose names change, twice: when it goes and when it comes. An access may cost about 2,000. */
const MOVE_WORK = 64;

/** The functions that share one requester id, as the unit knows them. */
interface Followed {
  /** Behind a bridge to conventional PCI several functions look like one. */
  readonly users: Set<Slot>;
  /** null: the guest has no name for it now, or the host refused it; its DMA is blocked. */
  fn: UnitFunction | null;
}

/**
 * Keeps an IOMMU's list of functions equal to what is plugged in below a root bus. The unit has one entry for each stream,
 * under the requester ids that the guest's bus numbers give it now.
 */
export class FunctionFollower {
  readonly #root: Root;
  readonly #unit: IommuUnit;
  readonly #doorbell: number;
  readonly #report: (error: unknown) => void;
  readonly #streams = new Map<number, Followed>();
  readonly #slices = new Map<Slot, UnitSlice | null>();
  readonly #work: AccessWork;
  /** What is to lose its old names, what is to get its new ones then, and slices of those. */
  #leaving: Followed[] = [];
  #coming: Followed[] = [];
  #apart: Slot[] = [];
  #goesOn = false;

  /** @throws ViommuError what the unit refuses of the functions that are plugged in already. */
  constructor(parts: FollowerParts) {
    const { complex } = parts;
    this.#root = parts.root;
    this.#unit = parts.unit;
    this.#doorbell = parts.doorbell;
    this.#report = parts.report;
    this.#work = complex.work;
    complex.listen({
      plugged: (slot) => this.#plugged(slot),
      unplugged: (slot) => this.#unplugged(slot),
      renumbered: () => this.follow(),
      settle: () => this.#goOn(false),
    });
    for (const slot of complex.slots()) this.#plugged(slot);
  }

  /** Whether a slot is this follower's: what is only there to be found sends nothing. */
  #mine(slot: Slot): boolean {
    return slot.bus.root === this.#root && slot.bridge === null && !(slot.fn instanceof FixedFunction);
  }

  #plugged(slot: Slot): void {
    if (!this.#mine(slot)) return;
    if (slot.slice !== null) {
      this.#attachSlice(slot);
      return;
    }
    const known = this.#streams.get(slot.stream);
    if (known !== undefined) {
      known.users.add(slot);
      return;
    }
    const followed: Followed = { users: new Set([slot]), fn: null };
    this.#attach(followed, slot);
    this.#streams.set(slot.stream, followed);
    // Its name may still be that of one which is about to lose it.
    if (followed.fn === null && this.#waits) this.#coming.push(followed);
  }

  #unplugged(slot: Slot): void {
    if (!this.#mine(slot)) return;
    this.#slices.get(slot)?.remove();
    if (this.#slices.delete(slot) || slot.slice !== null) return;
    const known = this.#streams.get(slot.stream);
    if (known === undefined || !known.users.delete(slot) || known.users.size > 0) return;
    this.#streams.delete(slot.stream);
    known.fn?.remove();
  }

  /** Whether the guest calls something else so now: two bridges may pass through one bus number while it renumbers them. */
  #taken(rid: number): boolean {
    if (this.#unit.functionOf(rid) !== undefined) return true;
    for (const slice of this.#slices.values()) if (slice?.rid === rid) return true;
    return false;
  }

  #attach(followed: Followed, slot: Slot): void {
    const rids = namesOf(slot);
    requireSupport(this.#unit, slot.pasids, false);
    if (rids === null || rids.some((rid) => this.#taken(rid))) return;
    followed.fn = this.#unit.addFunction(rids, [...new Set(slot.streams)], this.#describe(slot));
  }

  #describe(slot: Slot): FunctionDescription {
    const { fn, stream, pasids } = slot;
    const pasid = extendedCapability(fn, EXT.PASID);
    const capability = pasid === 0 ? 0 : fn.configRead(pasid + PASID_CAP.CAP, 2);
    return {
      name: `${fn.name}@${stream.toString(16)}`,
      // Functions whose requests can pass for, or reach, each other are one group of the host's.
      group: `${this.#unit.name} ${isolationGroupName(slot)}`,
      ats: extendedCapability(fn, EXT.ATS) !== 0,
      pri: extendedCapability(fn, EXT.PRI) !== 0,
      // The host switches the function's ATS; page requests follow what the guest set up.
      control: {
        setAts: (on) => {
          slot.hostAts = on;
        },
        setPri: () => {},
      },
      pasidBits: (capability >>> 8) & 0x1f,
      pasidExec: (capability & PASID_CAP.EXEC) !== 0,
      pasidPriv: (capability & PASID_CAP.PRIV) !== 0,
      ...(pasids === null ? {} : { pasids }),
      ...(this.#doorbell < 0 ? {} : { msiDoorbell: this.#doorbell }),
    };
  }

  /** Some have names yet that they are to lose, or none yet that they are to get. */
  get #waits(): boolean {
    return this.#leaving.length + this.#coming.length > 0;
  }

  #attachSlice(slot: Slot): void {
    const slice = slot.slice!;
    requireSupport(this.#unit, slot.pasids, true);
    const parent = this.#streams.get(slice.parent.stream)?.fn ?? null;
    const rid = namesOf(slot)?.[0] ?? -1;
    if (parent === null || rid < 0 || this.#taken(rid)) {
      this.#slices.set(slot, null);
      if (this.#waits) this.#apart.push(slot);
      return;
    }
    const own = this.#unit.addSlice(rid, parent, slice.pasid);
    slice.hostPasid = (pasid) => own.hostPasid(pasid);
    slice.guestPasid = (host) => own.guestPasid(host);
    slice.refused = (pasid, lo, hi, access) => own.refused(pasid, lo, hi, access);
    this.#slices.set(slot, own);
  }

  /**
   * Requester ids follow the bus numbers the guest gives its bridges. Everything that moves is taken away before anything
   * comes back, because two buses may change their numbers with each other. What one access may not cost goes on soon after it.
   */
  follow(): void {
    const moved = [...this.#streams.values()].filter((f) => !sameNames(f.fn, [...f.users][0]!));
    const parents = new Set(moved.map((f) => f.fn));
    const slices = [...this.#slices].filter(
      ([slot, own]) => own === null || parents.has(own.parent) || namesOf(slot)?.[0] !== own.rid,
    );
    for (const [slot, own] of slices) {
      own?.remove();
      slot.slice!.hostPasid = () => -1;
      slot.slice!.guestPasid = () => -2;
      slot.slice!.refused = () => {};
      this.#slices.set(slot, null);
    }
    this.#leaving = moved.filter((f) => f.fn !== null);
    this.#coming = moved;
    this.#apart = slices.map(([slot]) => slot);
    this.#goOn(true);
  }

  /** @param inParts what one access may not cost goes on later. */
  #goOn(inParts: boolean): void {
    const work = this.#work;
    for (let f = this.#next(inParts); f !== undefined; f = this.#next(inParts)) {
      work.spend(MOVE_WORK);
      const [slot] = f.users;
      if (f.fn !== null) {
        f.fn.remove();
        f.fn = null;
      } else if (slot !== undefined) this.#try(() => this.#attach(f, slot));
    }
    if (this.#waits) {
      if (!this.#goesOn) work.later(() => this.#occasion());
      this.#goesOn = true;
      return;
    }
    for (const slot of this.#apart.splice(0)) {
      if (this.#slices.get(slot) === null) this.#try(() => this.#attachSlice(slot));
    }
  }

  /** The next one to go or, when all of those have, to come; undefined: the access has cost enough, or none is left. */
  #next(inParts: boolean): Followed | undefined {
    if (inParts && this.#work.spent) return undefined;
    for (let f = this.#leaving.shift(); f !== undefined; f = this.#leaving.shift()) if (f.fn !== null) return f;
    for (let f = this.#coming.shift(); f !== undefined; f = this.#coming.shift()) if (f.fn === null) return f;
    return undefined;
  }

  #occasion(): void {
    this.#goesOn = false;
    this.#goOn(true);
  }

  /** A guest's write has caused it: what the host refuses must not come back as an exception out of the access. */
  #try(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#report(error);
    }
  }
}

/** The requester ids the guest sees, its own first; null behind a bridge that has no bus number. */
function namesOf(slot: Slot): readonly number[] | null {
  for (let bus = slot.bus; bus.parent !== null; bus = bus.parent.bus) if (bus.number === 0) return null;
  return [...new Set([0, ...slot.aliases.map((_, i) => i + 1)].map((i) => slot.aliasRidOf(i)))];
}

function sameNames(fn: UnitFunction | null, slot: Slot): boolean {
  const names = namesOf(slot);
  if (fn === null || names === null) return fn === null && names === null;
  return names.length === fn.rids.length && names.every((rid, i) => rid === fn.rids[i]);
}
