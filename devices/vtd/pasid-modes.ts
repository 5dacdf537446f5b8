import { DRAINED, type PasidDrain } from '../../src/lib/pasid/pasid-drain.ts';
import type { PasidHandle, PasidSpace } from '../../src/lib/pasid/pasid-space.ts';
import { NO_PASID } from '../../src/ports/dma.ts';

/** No guest PASID stands behind a host PASID. */
export const UNKNOWN_PASID = -2;

/** How the PASIDs a guest uses on one function relate to those the host's hardware sees. */
export interface PasidMode {
  /** The PASID is set up: every host PASID it is attached under (NO_PASID: the RID). Null: none can be had. */
  acquire(pasid: number): readonly number[] | null;
  /** It was torn down and drained. */
  release(pasid: number): void;
  /** The PASIDs of the VM go: none is to be had any more. What is set up stays until it is released. */
  close(): void;
  /** Host PASIDs of a PASID that is set up. */
  toHost(pasid: number): readonly number[];
  /** The guest's name of a host PASID; UNKNOWN_PASID when it has none. */
  toGuest(host: number): number;
}

const RID: readonly number[] = [NO_PASID];

/** Per-RID: the guest's PASIDs are the host's. @param taken PASIDs of the function that its slices have. */
export function sameMode(taken: (pasid: number) => boolean): PasidMode {
  return {
    acquire: (pasid) => (taken(pasid) ? null : [pasid]),
    release: () => {},
    close: () => {},
    toHost: (pasid) => [pasid],
    toGuest: (host) => host,
  };
}

/** Hears of every pairing that comes (`global` ≥ 0) and goes (-1): what translates a processor's ENQCMD. */
export type PairingListener = (local: number, global: number) => void;

interface Twin {
  readonly global: number;
  users: number;
}

/**
 * The global twins of a VM's local PASIDs, shared by all its RIDs in global mode: ENQCMD carries the twin (the CPU
 * translates), a dedicated queue the local value, so both entries exist. Twins are never part of saved state.
 */
export class GlobalPasids {
  readonly #listeners = new Set<PairingListener>();
  readonly #units: ((local: number) => void)[] = [];
  readonly #space: PasidSpace;
  readonly #drain: PasidDrain;
  readonly #handle: PasidHandle;
  readonly #twins = new Map<number, Twin>();
  readonly #locals = new Map<number, number>();
  /** Local PASIDs lie below it. */
  readonly min: number;

  /** @param drain what must be through before a twin is used for somebody else. */
  constructor(space: PasidSpace, drain: PasidDrain = DRAINED) {
    this.#space = space;
    this.#drain = drain;
    this.#handle = space.open();
    this.min = space.min;
  }

  /** Tells a listener of the pairings there are, and of every change from now on. @returns stops it. */
  listen(listener: PairingListener): () => void {
    this.#listeners.add(listener);
    for (const [local, { global }] of this.#twins) listener(local, global);
    return () => void this.#listeners.delete(listener);
  }

  /** A unit of the VM sets local PASIDs up that it finds in its guest's tables when somebody misses them. */
  onMissing(setUp: (local: number) => void): void {
    this.#units.push(setUp);
  }

  /** A processor has no twin for a local PASID. @returns it, if the guest's tables have the PASID after all; else -1. */
  missing(local: number): number {
    if (local >= 1 && local < this.min) for (const setUp of this.#units) setUp(local);
    return this.twin(local);
  }

  #told(local: number, global: number): void {
    for (const listener of [...this.#listeners]) listener(local, global);
  }

  /** The twin of a local PASID that is set up, else -1: what the CPU's PASID translation holds. */
  twin(local: number): number {
    return this.#twins.get(local)?.global ?? -1;
  }

  /** The guest's PASID behind one of the host's pool, or UNKNOWN_PASID. */
  localOf(global: number): number {
    return this.#locals.get(global) ?? UNKNOWN_PASID;
  }

  /** @returns the twin, allocated with its first user; -1 when the pool is empty or `local` is not a local one. */
  acquire(local: number): number {
    const known = this.#twins.get(local);
    if (known !== undefined) {
      known.users++;
      return known.global;
    }
    const global = local < this.min ? this.#handle.allocate() : -1;
    if (global < 0) return -1;
    this.#twins.set(local, { global, users: 1 });
    this.#locals.set(global, local);
    this.#told(local, global);
    return global;
  }

  /** A function is through with the guest's PASID; with the last one its twin goes back to the pool, once it is drained. */
  release(local: number): void {
    const t = this.#twins.get(local);
    if (t === undefined || --t.users > 0) return;
    this.#twins.delete(local);
    this.#told(local, -1);
    // Until it is drained, what the hardware says of it is still about the guest's PASID.
    giveBack(this.#space, this.#handle, this.#drain, t.global, () => this.#locals.delete(t.global));
  }

  /** No local PASID gets a twin any more. */
  shut(): void {
    this.#handle.shut();
  }

  /** The VM goes: every pairing with it. */
  close(): void {
    this.shut();
    for (const [local, t] of [...this.#twins]) {
      t.users = 1;
      this.release(local);
    }
  }
}

/** What was set up under it has been torn down; it is free once nothing of it is in flight. */
function giveBack(space: PasidSpace, handle: PasidHandle, drain: PasidDrain, pasid: number, through: () => void): void {
  if (!handle.free(pasid, true)) {
    through();
    return;
  }
  drain.drain(pasid, () => {
    through();
    space.drained(pasid);
  });
}

/**
 * Global: a local PASID and its twin are one address space, and every operation applies to both.
 * @param taken PASIDs of the function that its slices have.
 */
export function globalMode(globals: GlobalPasids, taken: (pasid: number) => boolean): PasidMode {
  const both = (local: number, global: number): readonly number[] => [local, global];
  return {
    acquire(pasid) {
      if (pasid === NO_PASID) return RID;
      if (taken(pasid)) return null;
      const global = globals.acquire(pasid);
      return global < 0 ? null : both(pasid, global);
    },
    release(pasid) {
      if (pasid !== NO_PASID) globals.release(pasid);
    },
    close: () => globals.shut(),
    toHost(pasid) {
      const global = pasid === NO_PASID ? -1 : globals.twin(pasid);
      return global < 0 ? [pasid] : both(pasid, global);
    },
    toGuest: (host) => (host >= globals.min ? globals.localOf(host) : host),
  };
}

/**
 * A slice of a parent function: requests of the slice carry `own`, and each guest PASID gets a real one when it is set up.
 * The parent's other PASIDs are somebody else's.
 */
export function sliceMode(own: number, space: PasidSpace, drain: PasidDrain = DRAINED): PasidMode {
  const handle = space.open();
  const real = new Map<number, number>();
  const guest = new Map<number, number>();
  return {
    acquire(pasid) {
      if (pasid === NO_PASID) return [own];
      const known = real.get(pasid) ?? handle.allocate();
      if (known < 0) return null;
      real.set(pasid, known);
      guest.set(known, pasid);
      return [known];
    },
    release(pasid) {
      const known = real.get(pasid);
      if (known === undefined) return;
      real.delete(pasid);
      giveBack(space, handle, drain, known, () => guest.delete(known));
    },
    close: () => handle.shut(),
    toHost: (pasid) => (pasid === NO_PASID ? [own] : real.has(pasid) ? [real.get(pasid)!] : []),
    toGuest: (host) => (host === own ? NO_PASID : (guest.get(host) ?? UNKNOWN_PASID)),
  };
}
