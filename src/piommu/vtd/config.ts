import type { Context } from '../../lib/cache/tags.ts';
import { VtdContext, VtdRegime } from '../../lib/walk/vtd-regime.ts';

/** No tags yet: ask the IOTLB for them. */
export const UNTAGGED: Context = { domain: 0, id: 0, tag: 0, sizes: 0, walks: 0 };

/** A cached context entry. */
export class ContextSlot {
  /** −1: empty. */
  rid = -1;
  readonly context = new VtdContext();
}

/** A cached PASID entry (or what a legacy context entry translates with), and where its translations are cached. */
export class RegimeSlot {
  /** −1: empty. */
  rid = -1;
  /** As requested: NO_PASID for requests without one. */
  requested = -1;
  /** The context cache was like this when the slot was last checked against it. */
  stamp = -1;
  /** The directory the entry came from; −1 in legacy mode. */
  directory = -1;
  readonly regime = new VtdRegime();
  /** Requests without PASID are privileged (RID_PRIV). */
  priv = false;
  tags: Context = UNTAGGED;
}

function check(size: number): void {
  if (!(size > 0 && (size & (size - 1)) === 0)) throw new RangeError(`cache size ${size} is not a power of two`);
}

/** The context cache: direct-mapped by requester id. A slot whose `rid` fits is good. */
export class ContextCache {
  readonly #slots: ContextSlot[];
  readonly #mask: number;
  /** Changes whenever an entry goes. */
  stamp = 0;

  /** @throws RangeError when `size` is not a power of two. */
  constructor(size: number) {
    check(size);
    this.#mask = size - 1;
    this.#slots = Array.from({ length: size }, () => new ContextSlot());
  }

  /** The slot of a requester: `slot.rid === rid` means a hit, else it may be filled. */
  at(rid: number): ContextSlot {
    return this.#slots[(rid ^ (rid >>> 8)) & this.#mask]!;
  }

  dropAll(): void {
    this.stamp++;
    for (const s of this.#slots) s.rid = -1;
  }

  /** Legacy entries of a domain. */
  dropDomain(did: number): void {
    this.stamp++;
    for (const s of this.#slots) if (!s.context.scalable && s.context.legacy.did === did) s.rid = -1;
  }

  /** @param fm function mask: how many low bits of the function number (0 to 3, from bit 2 down) are ignored. */
  dropDevice(sid: number, fm: number): void {
    const mask = fm === 0 ? 0xffff : fm === 1 ? 0xfffb : fm === 2 ? 0xfff9 : 0xfff8;
    this.stamp++;
    for (const s of this.#slots) if (s.rid >= 0 && ((s.rid ^ sid) & mask) === 0) s.rid = -1;
  }

  save(): unknown[] {
    return this.#slots.filter((s) => s.rid >= 0).map((s) => structuredClone({ ...s }));
  }

  load(saved: readonly unknown[]): void {
    this.dropAll();
    for (const entry of saved as ContextSlot[]) {
      const slot = this.at(entry.rid);
      slot.rid = entry.rid;
      const { legacy, ...rest } = entry.context;
      Object.assign(slot.context, rest);
      Object.assign(slot.context.legacy, legacy);
    }
  }
}

/** The PASID cache: direct-mapped by requester id and PASID. */
export class PasidCache {
  readonly #slots: RegimeSlot[];
  readonly #mask: number;

  /** @throws RangeError when `size` is not a power of two. */
  constructor(size: number) {
    check(size);
    this.#mask = size - 1;
    this.#slots = Array.from({ length: size }, () => new RegimeSlot());
  }

  /** @param pasid as requested, NO_PASID included. The slot may belong to another (requester, PASID). */
  at(rid: number, pasid: number): RegimeSlot {
    return this.#slots[(rid ^ (rid >>> 8) ^ Math.imul(pasid + 1, 0x2f)) & this.#mask]!;
  }

  dropAll(): void {
    for (const s of this.#slots) s.rid = -1;
  }

  dropDomain(did: number): void {
    for (const s of this.#slots) if (s.directory >= 0 && s.regime.did === did) s.rid = -1;
  }

  dropPasid(did: number, pasid: number): void {
    for (const s of this.#slots) {
      if (s.directory >= 0 && s.regime.did === did && s.regime.pasid === pasid) s.rid = -1;
    }
  }

  save(): unknown[] {
    return this.#slots.filter((s) => s.rid >= 0).map((s) => structuredClone({ ...s, tags: null }));
  }

  /** Slots come back unchecked: the next use compares them with the context cache and asks for its tags. */
  load(saved: readonly unknown[]): void {
    this.dropAll();
    for (const entry of saved as RegimeSlot[]) {
      const slot = this.at(entry.rid, entry.requested);
      const { regime, rid, requested, directory, priv } = entry;
      Object.assign(slot.regime, regime);
      Object.assign(slot, { rid, requested, directory, priv, stamp: -1 });
      slot.tags = UNTAGGED;
    }
  }
}
