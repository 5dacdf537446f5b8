import { fromWords, toBigint } from '../../../src/core/bits.ts';
import { type GuestWalk, smmuv3GuestWalk, vtdGuestWalk } from '../../../src/history/index.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/index.ts';
import { PAGE } from '../../../src/spec/vtd/index.ts';
import type { IommuKind, TraceEvent } from '../../../src/trace/index.ts';
import { leavesOf, Words } from './paging.ts';
import type { Parked } from './parked.ts';
import type { TraceSession } from './session.ts';
import { streamsOf } from './state.ts';
import { touches } from './stores.ts';

/** How long an address of a stream led to one place. */
export interface MappedTime {
  readonly stream: number;
  /** -1: accesses without one. */
  readonly pasid: number;
  /** Input address, page aligned. */
  readonly iova: bigint;
  /** Number of the event that made it so; -1: it was so from the beginning. */
  readonly from: number;
  /** Number of the event that ended it; -1: nothing did. */
  readonly to: number;
  /** Guest-physical address of the page (bytes); -1: it led nowhere. */
  readonly out: number;
  readonly rights: string;
  /** Why it led nowhere, or where it left the tables. */
  readonly end: string;
}

/** A mapping of the guest page at the event that was asked for. */
export interface Reach {
  readonly stream: number;
  readonly space: string;
  /** PASID or SubstreamID of the accesses it is for; -1: those without one. */
  readonly pasid: number;
  readonly table: string;
  readonly iova: bigint;
  readonly rights: string;
  /** Where the entry lies (bytes). */
  readonly at: number;
}

/** Accesses of a stream to a guest page. */
export interface ReachedBy {
  readonly stream: number;
  readonly iova: bigint;
  readonly first: number;
  readonly last: number;
  readonly count: number;
}

/** Who can reach a guest page, and when. */
export interface PageReach {
  readonly mapped: readonly Reach[];
  readonly accesses: readonly ReachedBy[];
  readonly times: readonly MappedTime[];
}

const PAGE_BYTES = 4096;
const PAGE_MASK = ~0xfffn;
/** Addresses whose whole history is told. */
const MOST_TIMES = 16;

/** Registers that say whether and through which tables accesses go. */
const POINTERS: { readonly [kind in IommuKind]: readonly (readonly [at: number, size: 4 | 8])[] } = {
  smmuv3: [
    [PAGE0.CR0.at, 4],
    [PAGE0.STRTAB_BASE.at, 8],
    [PAGE0.STRTAB_BASE_CFG.at, 4],
  ],
  vtd: [
    [PAGE.GSTS.at, 4],
    [PAGE.RTADDR.at, 8],
  ],
};

/** One address of a stream while a recording is replayed: its walk is made again when something on it changes. */
class Followed {
  readonly times: MappedTime[] = [];
  readonly #stream: number;
  readonly #iova: bigint;
  readonly #pasid: number;
  readonly #kind: IommuKind;
  #walk: GuestWalk | null = null;

  constructor(kind: IommuKind, stream: number, iova: bigint, pasid: number) {
    this.#pasid = pasid;
    this.#kind = kind;
    this.#stream = stream;
    this.#iova = iova & PAGE_MASK;
  }

  touched(e: TraceEvent): boolean {
    return this.#walk?.steps.some((s) => touches(e, s.at, s.bytes)) ?? true;
  }

  look({ target, position }: Parked): void {
    const lo = Number(BigInt.asIntN(32, this.#iova));
    const hi = Number(BigInt.asIntN(32, this.#iova >> 32n));
    this.#walk = (this.#kind === 'smmuv3' ? smmuv3GuestWalk : vtdGuestWalk)(target, this.#stream, lo, hi, this.#pasid);
    const { out, perm, end } = this.#walk;
    const rights = out < 0 ? '' : `${perm & ACCESS.READ ? 'r' : ''}${perm & ACCESS.WRITE ? 'w' : ''}`;
    const last = this.times.at(-1);
    if (last !== undefined && last.out === out && last.rights === rights && last.end === end) return;
    if (last !== undefined) this.times[this.times.length - 1] = { ...last, to: position - 1 };
    this.times.push({
      stream: this.#stream,
      pasid: this.#pasid,
      iova: this.#iova,
      from: position - 1,
      to: -1,
      out,
      rights,
      end,
    });
  }
}

function pointers(parked: Parked, kind: IommuKind): string {
  const words = new Words(parked.target);
  return POINTERS[kind].map(([at, size]) => words.register(at, size).join(',')).join(';');
}

/**
 * Where addresses led, over the whole recording, through the tables as they were in guest memory (what caches held may differ).
 * @param asked a stream, an address, and a PASID (SubstreamID) where the accesses have one.
 */
export function mappedTimes(
  session: TraceSession,
  asked: readonly (readonly [stream: number, iova: bigint, pasid?: number])[],
): MappedTime[] {
  const kind = session.header.iommu;
  const followed = asked.map(([stream, iova, pasid = -1]) => new Followed(kind, stream, iova, pasid));
  const parked = session.freshMachine();
  let base = pointers(parked, kind);
  for (const f of followed) f.look(parked);
  for (const e of session.events) {
    parked.forward(session.events, e.i + 1);
    if (e.t === 'w' || e.t === 'reset') {
      const now = pointers(parked, kind);
      if (now !== base) for (const f of followed) f.look(parked);
      base = now;
    } else if (e.t === 'st' || e.t === 'page') {
      for (const f of followed) if (f.touched(e)) f.look(parked);
    }
  }
  return followed.flatMap((f) => f.times);
}

/** Every stream there is: those the header names, and those that accessed. */
export function knownStreams(session: TraceSession): number[] {
  const streams = new Set(session.header.devices.map((d) => d.sid));
  for (const r of session.rows.rows) if (r.stream >= 0) streams.add(r.stream);
  return [...streams].toSorted((a, b) => a - b);
}

/**
 * Who maps an address, and when: every stream in which it led anywhere through tables.
 * @param pasid of the accesses that are meant; -1: those without one.
 */
export function whoMaps(session: TraceSession, iova: bigint, pasid = -1): MappedTime[] {
  const all = mappedTimes(
    session,
    knownStreams(session).map((s) => [s, iova, pasid]),
  );
  const some = new Set(all.filter((t) => t.out >= 0 && t.end === '').map((t) => t.stream));
  return all.filter((t) => some.has(t.stream));
}

function mappedAt(session: TraceSession, page: number, event: number): Reach[] {
  const { target } = session.machineAt(event);
  const words = new Words(target);
  const found: Reach[] = [];
  for (const s of streamsOf(target, session.header))
    for (const space of s.spaces)
      for (const paging of space.tables)
        for (const e of leavesOf(words, paging))
          if (page >= e.to && page < e.to + Number(e.bytes)) {
            const iova = e.input + BigInt(page - e.to);
            found.push({
              stream: s.first,
              space: space.label,
              pasid: space.pasid,
              table: paging.what,
              iova,
              rights: e.rights,
              at: e.at,
            });
          }
  return found;
}

function accessesTo(session: TraceSession, page: number): ReachedBy[] {
  const found = new Map<string, ReachedBy>();
  for (const e of session.events) {
    if (e.t !== 'xlat' || e.out < page || e.out >= page + PAGE_BYTES) continue;
    const iova = toBigint(e.lo, e.hi) & PAGE_MASK;
    const key = `${e.sid}/${iova}`;
    const known = found.get(key) ?? { stream: e.sid, iova, first: e.i, last: e.i, count: 0 };
    found.set(key, { ...known, last: e.i, count: known.count + 1 });
  }
  return [...found.values()];
}

/**
 * Who can reach a guest page: the mappings of it before `event`, every access that arrived there, and for the addresses of
 * both when they led there.
 * @param gpa an address in the page (bytes).
 */
export function whoReaches(session: TraceSession, gpa: number, event: number): PageReach {
  const page = Math.floor(gpa / PAGE_BYTES) * PAGE_BYTES;
  const mapped = mappedAt(session, page, event);
  const accesses = accessesTo(session, page);
  const asked = new Map<string, readonly [number, bigint, number]>();
  const want = (stream: number, iova: bigint, pasid: number) =>
    asked.set(`${stream}/${pasid}/${iova}`, [stream, iova, pasid]);
  for (const m of mapped) want(m.stream, m.iova, m.pasid);
  for (const a of accesses) want(a.stream, a.iova, -1);
  const times = mappedTimes(session, [...asked.values()].slice(0, MOST_TIMES)).filter((t) => t.out === page);
  return { mapped, accesses, times };
}

/** The address of an access event; null: the event is none. */
export function accessOf(
  e: TraceEvent | undefined,
): { readonly stream: number; readonly lo: number; readonly hi: number } | null {
  return e?.t === 'xlat' || e?.t === 'fault' || e?.t === 'prq' ? { stream: e.sid, lo: e.lo, hi: e.hi } : null;
}

/** The guest page of an access that arrived; -1: it did not. */
export function pageOf(e: TraceEvent | undefined): number {
  return e?.t === 'xlat' ? fromWords(e.out | 0, Math.floor(e.out / 2 ** 32)) : -1;
}
