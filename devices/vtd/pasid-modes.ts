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
  /** Host PASIDs of a PASID that is set up. */
  toHost(pasid: number): readonly number[];
  /** The guest's name of a host PASID; UNKNOWN_PASID when it has none. */
  toGuest(host: number): number;
}

const RID: readonly number[] = [NO_PASID];

/** Per-RID: the guest's PASIDs are the host's. */
export const SAME_PASIDS: PasidMode = {
  acquire: (pasid) => [pasid],
  release: () => {},
  toHost: (pasid) => [pasid],
  toGuest: (host) => host,
};

interface Twin {
  readonly global: number;
  users: number;
}

/**
 * The global twins of a VM's local PASIDs, shared by all its RIDs in global mode: ENQCMD carries the twin (the CPU
 * translates), a dedicated queue the local value, so both entries exist. Twins are never part of saved state.
 */
export class GlobalPasids {
  /** Told of every pairing that comes (`global` ≥ 0) and goes (-1). */
  onChange: ((local: number, global: number) => void) | null = null;
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

  /** The twin of a local PASID that is set up, else -1: what the CPU's PASID translation holds. */
  twin(local: number): number {
    return this.#twins.get(local)?.global ?? -1;
  }

  /** The guest's PASID behind one of the host's pool, or -1. */
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
    this.onChange?.(local, global);
    return global;
  }

  /** A function is through with the guest's PASID; with the last one its twin goes back to the pool, once it is drained. */
  release(local: number): void {
    const t = this.#twins.get(local);
    if (t === undefined || --t.users > 0) return;
    this.#twins.delete(local);
    this.#locals.delete(t.global);
    this.onChange?.(local, -1);
    giveBack(this.#space, this.#handle, this.#drain, t.global);
  }

  /** The VM goes: every pairing with it. */
  close(): void {
    for (const [local, t] of [...this.#twins]) {
      t.users = 1;
      this.release(local);
    }
  }
}

/** What was set up under it has been torn down; it is free once nothing of it is in flight. */
function giveBack(space: PasidSpace, handle: PasidHandle, drain: PasidDrain, pasid: number): void {
  if (handle.free(pasid, true)) drain.drain(pasid, () => space.drained(pasid));
}

/** Global: a local PASID and its twin are one address space, and every operation applies to both. */
export function globalMode(globals: GlobalPasids): PasidMode {
  const both = (local: number, global: number): readonly number[] => [local, global];
  return {
    acquire(pasid) {
      if (pasid === NO_PASID) return RID;
      const global = globals.acquire(pasid);
      return global < 0 ? null : both(pasid, global);
    },
    release(pasid) {
      if (pasid !== NO_PASID) globals.release(pasid);
    },
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
      guest.delete(known);
      giveBack(space, handle, drain, known);
    },
    toHost: (pasid) => (pasid === NO_PASID ? [own] : real.has(pasid) ? [real.get(pasid)!] : []),
    toGuest: (host) => (host === own ? NO_PASID : (guest.get(host) ?? UNKNOWN_PASID)),
  };
}
