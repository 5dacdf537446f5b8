import type { Context } from '../../lib/cache/tags.ts';
import { VtdContext, VtdRegime } from '../../lib/walk/vtd-regime.ts';

/** No tags yet: ask the IOTLB for them. */
export const UNTAGGED: Context = { domain: 0, id: 0, tag: 0, sizes: 0, walks: 0, split: 0 };

/** A cached context entry; the cache knows whether it is good. */
export class ContextSlot {
  /** -1: empty. */
  rid = -1;
  generation = 0;
  readonly context = new VtdContext();
}

/** A cached PASID entry (or what a legacy context entry translates with), and where its translations are cached. */
export class RegimeSlot {
  /** -1: empty. */
  rid = -1;
  generation = 0;
  /** As requested: NO_PASID for requests without one. */
  requested = -1;
  /** The context cache was like this when the slot was last checked against it. */
  stamp = -1;
  /** The directory the entry came from; -1 in legacy mode. */
  directory = -1;
  readonly regime = new VtdRegime();
  /** Requests without PASID are privileged (RID_PRIV). */
  priv = false;
  tags: Context = UNTAGGED;
  /** The second stage's own: the same as `tags` unless a first stage takes part. */
  secondTags: Context = UNTAGGED;
}

function check(size: number): void {
  if (size !== 0 && (size < 0 || (size & (size - 1)) !== 0))
    throw new RangeError(`cache size ${size} is not a power of two`);
}

/** The context cache: direct-mapped by requester id. Dropping everything is one increment. */
export class ContextCache {
  readonly #slots: ContextSlot[];
  readonly #mask: number;
  #generation = 0;
  readonly #keeps: boolean;
  /** Changes whenever an entry goes. */
  stamp = 0;

  /** @param size a power of two, or 0: nothing is kept. @throws RangeError for any other. */
  constructor(size: number) {
    check(size);
    this.#keeps = size > 0;
    this.#mask = Math.max(1, size) - 1;
    this.#slots = Array.from({ length: Math.max(1, size) }, () => new ContextSlot());
  }

  #at(rid: number): ContextSlot {
    return this.#slots[(rid ^ (rid >>> 8)) & this.#mask]!;
  }

  find(rid: number): ContextSlot | null {
    const slot = this.#at(rid);
    return this.#keeps && slot.rid === rid && slot.generation === this.#generation ? slot : null;
  }

  /** The slot to fill for a requester; it is found once `keep` was called. */
  claim(rid: number): ContextSlot {
    const slot = this.#at(rid);
    slot.rid = -1;
    return slot;
  }

  keep(slot: ContextSlot, rid: number): void {
    slot.rid = rid;
    slot.generation = this.#generation;
  }

  dropAll(): void {
    this.stamp++;
    this.#generation++;
  }

  /** Legacy entries of a domain. */
  dropDomain(did: number): void {
    this.stamp++;
    for (const s of this.#slots) if (!s.context.scalable && s.context.legacy.did === did) s.rid = -1;
  }

  /** @param fm function mask: how many low bits of the function number (0 to 3, from bit 2 down) are ignored. */
  dropDevice(sid: number, fm: number): void {
    this.stamp++;
    if (fm === 0) {
      const slot = this.#at(sid);
      if (slot.rid === sid) slot.rid = -1;
      return;
    }
    const mask = fm === 1 ? 0xfffb : fm === 2 ? 0xfff9 : 0xfff8;
    for (const s of this.#slots) if (s.rid >= 0 && ((s.rid ^ sid) & mask) === 0) s.rid = -1;
  }

  save(): unknown[] {
    const live = this.#slots.filter((s) => s.rid >= 0 && s.generation === this.#generation);
    return live.map(({ rid, context }) => structuredClone({ rid, context: { ...context } }));
  }

  load(saved: readonly unknown[]): void {
    this.dropAll();
    for (const entry of saved as ContextSlot[]) {
      const slot = this.claim(entry.rid);
      const { legacy, ...rest } = entry.context;
      Object.assign(slot.context, rest);
      Object.assign(slot.context.legacy, legacy);
      this.keep(slot, entry.rid);
    }
  }
}

/** The PASID cache: direct-mapped by requester id and PASID. */
export class PasidCache {
  readonly #slots: RegimeSlot[];
  readonly #mask: number;
  #generation = 0;
  readonly #keeps: boolean;

  /** @param size a power of two, or 0: nothing is kept. @throws RangeError for any other. */
  constructor(size: number) {
    check(size);
    this.#keeps = size > 0;
    this.#mask = Math.max(1, size) - 1;
    this.#slots = Array.from({ length: Math.max(1, size) }, () => new RegimeSlot());
  }

  /** @param pasid as requested, NO_PASID included. The slot may belong to another (requester, PASID), or be stale. */
  at(rid: number, pasid: number): RegimeSlot {
    const slot = this.#slots[(rid ^ (rid >>> 8) ^ Math.imul(pasid + 1, 0x2f)) & this.#mask]!;
    if (!this.#keeps) slot.rid = -1;
    return slot;
  }

  /** Whether the slot's entry was not invalidated since it was read. */
  isLive(slot: RegimeSlot): boolean {
    return slot.generation === this.#generation;
  }

  keep(slot: RegimeSlot): void {
    slot.generation = this.#generation;
  }

  dropAll(): void {
    this.#generation++;
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
    const live = this.#slots.filter((s) => s.rid >= 0 && this.isLive(s));
    return live.map(({ rid, requested, directory, regime, priv }) =>
      structuredClone({ rid, requested, directory, priv, regime: { ...regime } }),
    );
  }

  /** Slots come back unchecked: the next use compares them with the context cache and asks for its tags. */
  load(saved: readonly unknown[]): void {
    this.dropAll();
    for (const entry of saved as RegimeSlot[]) {
      const slot = this.at(entry.rid, entry.requested);
      const { regime, rid, requested, directory, priv } = entry;
      Object.assign(slot.regime, regime);
      Object.assign(slot, { rid, requested, directory, priv, stamp: -1 });
      slot.tags = slot.secondTags = UNTAGGED;
      this.keep(slot);
    }
  }
}
