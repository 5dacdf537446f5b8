import type { TraceEvent } from '../../src/trace/index.ts';
import { NO_COMMAND, NO_DESCRIPTOR } from './planted.ts';
import { type Recording, renumbered, rewritten, type Submitted, submitted } from './spoil.ts';

type Store = Extract<TraceEvent, { t: 'st' }>;
type Words = readonly [number, number, number, number];

/** A recording with one fault planted in it. */
export interface Mutant {
  /** What was done, and to what. */
  readonly what: string;
  readonly events: TraceEvent[];
  /** Rules of error level that name the fault; anything else is a wrong name. */
  readonly names: readonly string[];
}

/** The same numbers for the same seed, below 1. */
export function random(seed: number): () => number {
  let s = seed >>> 0;
  return () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = s;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Kind {
  readonly name: string;
  readonly is: (w: Words) => boolean;
  readonly to: (w: Words) => readonly number[];
  readonly names: readonly string[];
}

const op =
  (...codes: number[]) =>
  (w: Words) =>
    codes.includes(w[0] & 0xff);
const type =
  (code: number, g = -1) =>
  (w: Words) =>
    (w[0] & 0xf) === code && (g < 0 || ((w[0] >>> 4) & 3) === g);
const add =
  (n: number, by: number) =>
  (w: Words): number[] =>
    w.map((v, i) => (i === n ? (v + by) | 0 : v));
const put =
  (n: number, clear: number, set = 0) =>
  (w: Words): number[] =>
    w.map((v, i) => (i === n ? (v & ~clear) | set : v));

const TLB = ['missing-invalidation', 'missing-notpresent-invalidation', 'use-after-unmap'];
const SMALL = ['invalidation-too-small', 'missing-notpresent-invalidation', 'use-after-unmap'];
const CONFIG = ['config-change-not-invalidated', 'tag-reused'];
const ATC = ['missing-atc-invalidation'];
const WAIT = ['invalidation-not-awaited', 'use-after-unmap'];

// biome-ignore format: table
const SMMU: readonly Kind[] = [
  { name: 'withhold TLBI', is: op(0x12, 0x13, 0x2a), to: NO_COMMAND, names: TLB },
  { name: 'withhold TLBI all', is: op(0x11, 0x10, 0x28, 0x30), to: NO_COMMAND, names: [...TLB, 'tag-reused'] },
  { name: 'withhold CFGI_STE', is: op(3), to: NO_COMMAND, names: CONFIG },
  { name: 'withhold CFGI_CD', is: op(5), to: NO_COMMAND, names: CONFIG },
  { name: 'withhold ATC_INV', is: op(0x40), to: NO_COMMAND, names: ATC },
  { name: 'withhold CMD_SYNC', is: op(0x46), to: NO_COMMAND, names: WAIT },
  { name: 'retag ASID', is: op(0x12, 0x11), to: add(1, 0x1_0000), names: SMALL },
  { name: 'retag VMID', is: op(0x12, 0x2a), to: add(1, 1), names: SMALL },
  { name: 'retag STE', is: op(3), to: add(1, 1), names: CONFIG },
  { name: 'retag ATC', is: op(0x40), to: add(1, 1), names: ['invalidation-too-small', 'missing-atc-invalidation'] },
  { name: 'narrow range', is: (w) => op(0x12, 0x2a)(w) && (w[0] & 0x1f1_f000) !== 0, to: put(0, 0x1f1_f000), names: SMALL },
  { name: 'narrow to nothing', is: op(0x12, 0x2a), to: add(2, 0x1000), names: SMALL },
  { name: 'leaf only', is: (w) => op(0x12, 0x2a)(w) && (w[2] & 1) === 0, to: put(2, 0, 1), names: SMALL },
];
const AM = 0x3f;
// biome-ignore format: table
const VTD: readonly Kind[] = [
  { name: 'withhold IOTLB', is: type(2), to: NO_DESCRIPTOR, names: [...TLB, 'tag-reused'] },
  { name: 'withhold PIOTLB', is: type(6), to: NO_DESCRIPTOR, names: [...TLB, 'tag-reused'] },
  { name: 'withhold context', is: type(1), to: NO_DESCRIPTOR, names: CONFIG },
  { name: 'withhold PASID cache', is: type(7), to: NO_DESCRIPTOR, names: CONFIG },
  { name: 'withhold IEC', is: type(4), to: NO_DESCRIPTOR, names: CONFIG },
  { name: 'withhold device TLB', is: type(3), to: NO_DESCRIPTOR, names: ATC },
  { name: 'withhold PASID device TLB', is: type(8), to: NO_DESCRIPTOR, names: ATC },
  { name: 'wait that only fences', is: type(5), to: NO_DESCRIPTOR, names: WAIT },
  { name: 'retag DID', is: type(2, 3), to: add(0, 0x1_0000), names: SMALL },
  // A flush queue's invalidation comes late: that it names another domain, which it reaches nothing of, is not always seen.
  { name: 'retag a whole DID', is: type(2, 2), to: add(0, 0x1_0000), names: [...SMALL, ...TLB] },
  { name: 'retag PASID', is: type(6), to: add(1, 1), names: SMALL },
  { name: 'retag PIOTLB DID', is: type(6, 3), to: add(0, 0x1_0000), names: SMALL },
  { name: 'retag a whole PIOTLB DID', is: type(6, 2), to: add(0, 0x1_0000), names: [...SMALL, ...TLB] },
  { name: 'retag IEC', is: (w) => type(4)(w) && (w[0] & 0x10) !== 0, to: add(1, 1), names: CONFIG },
  { name: 'retag device TLB', is: type(3), to: add(1, 8), names: ['invalidation-too-small', 'missing-atc-invalidation'] },
  { name: 'narrow AM', is: (w) => (type(2, 3)(w) || type(6, 3)(w)) && (w[2] & AM) !== 0, to: put(2, AM), names: SMALL },
  { name: 'narrow to nothing', is: (w) => type(2, 3)(w) || type(6, 3)(w), to: (w) => add(2, 0x1000 << (w[2] & AM))(w), names: SMALL },
  { name: 'leaf only', is: (w) => (type(2, 3)(w) || type(6, 3)(w)) && (w[2] & 0x40) === 0, to: put(2, 0, 0x40), names: SMALL },
];

/** Puts off a store until after the next write of a register and the guest's read behind it. */
function delayed(events: TraceEvent[], i: number): TraceEvent[] {
  const [store] = events.splice(i, 1);
  let at = i;
  while (at < events.length && events[at]!.t !== 'w') at++;
  while (at + 1 < events.length && (events[at + 1]!.t === 'r' || events[at + 1]!.t === 'dst')) at++;
  events.splice(at + 1, 0, store!);
  return events;
}

interface StoreKind {
  readonly name: string;
  readonly page: string;
  readonly is: (e: Store, was: bigint) => boolean;
  readonly to: (events: TraceEvent[], i: number) => TraceEvent[];
  readonly names: readonly string[];
}

const valid = (e: Store) => (e.lo & 3) !== 0;
const clears = (e: Store, was: bigint) => (e.lo & 3) === 0 && (was & 3n) !== 0n;
const maps = (e: Store, was: bigint) => (was & 3n) === 0n && valid(e);

function halves(events: TraceEvent[], i: number, lowFirst: boolean): TraceEvent[] {
  const e = events[i] as Store;
  const low = { ...e, size: 4, hi: 0 };
  const high = { ...e, gpa: e.gpa + 4, size: 4, lo: e.hi, hi: 0 };
  events.splice(i, 1, ...(lowFirst ? [low, high] : [high, low]));
  return events;
}

// biome-ignore format: table
const STORES: readonly StoreKind[] = [
  { name: 'drop a clearing store', page: 'pt', is: clears, to: (ev, i) => ev.filter((_, n) => n !== i), names: ['break-before-make', 'missing-invalidation'] },
  { name: 'delay a clearing store', page: 'pt', is: clears, to: delayed, names: ['missing-invalidation', 'missing-atc-invalidation', 'use-after-unmap'] },
  { name: 'duplicate a mapping store', page: 'pt', is: maps, to: (ev, i) => { const e = ev[i]!; ev.splice(i, 0, e); return ev; }, names: [] },
  { name: 'tear a mapping, low half first', page: 'pt', is: (e, was) => maps(e, was) && e.hi !== 0, to: (ev, i) => halves(ev, i, true), names: ['valid-before-filled'] },
  { name: 'tear a mapping, high half first', page: 'pt', is: (e, was) => maps(e, was) && e.hi !== 0, to: (ev, i) => halves(ev, i, false), names: [] },
  { name: 'tear a clearing, high half first', page: 'pt', is: (e, was) => clears(e, was) && (was >> 32n) !== 0n, to: (ev, i) => halves(ev, i, false), names: ['torn-entry'] },
  { name: 'flip an output bit beyond', page: 'pt', is: maps, to: (ev, i) => { const e = ev[i] as Store; ev[i] = { ...e, hi: e.hi | 0x8_8000 }; return ev; }, names: ['beyond-output-size'] },
];

/** Stores of entries of tables; a page that was a table and is a queue now holds none. */
function stores(r: Recording, kind: StoreKind): number[] {
  const queued = new Set(submitted(r).flatMap((c) => c.stores));
  const pages = new Set<number>();
  const words = new Map<number, bigint>();
  const found: number[] = [];
  r.events.forEach((e, i) => {
    if (e.t === 'page') {
      if (e.kind === kind.page) pages.add(e.gpa);
      else pages.delete(e.gpa);
      const view = e.data === null ? null : new DataView(e.data.buffer, e.data.byteOffset, e.data.length);
      for (let at = 0; at < 4096; at += 8) words.set(e.gpa + at, view === null ? 0n : view.getBigUint64(at, true));
    } else if (e.t === 'st' && e.size === 8) {
      const was = words.get(e.gpa) ?? 0n;
      words.set(e.gpa, (BigInt(e.hi >>> 0) << 32n) | BigInt(e.lo >>> 0));
      if (pages.has(e.gpa - (e.gpa % 4096)) && !queued.has(i) && kind.is(e, was)) found.push(i);
    }
  });
  return found;
}

/** Two commands that follow each other in one submission, exchanged. */
function swapped(r: Recording, a: Submitted, b: Submitted): TraceEvent[] {
  const events = rewritten(r, a, b.words);
  // Stores put in before the doorbell have moved it.
  const moved = (events.length - r.events.length) / 2;
  return rewritten({ ...r, events }, { ...b, doorbell: b.doorbell + moved }, a.words);
}

/** Every kind of fault in a recording, each at up to `each` places. */
export function* mutants(r: Recording, seed: number, each: number): Generator<Mutant> {
  const next = random(seed);
  const smmu = r.header.iommu === 'smmuv3';
  const all = submitted(r);
  const pick = <T>(from: readonly T[]): T[] => {
    const left = [...from];
    const out: T[] = [];
    while (out.length < each && left.length > 0) out.push(...left.splice(Math.floor(next() * left.length), 1));
    return out;
  };
  for (const kind of smmu ? SMMU : VTD) {
    for (const c of pick(all.filter((x) => kind.is(x.words) && x.stores.some((s) => s >= 0)))) {
      const events = rewritten(r, c, kind.to(c.words));
      yield { what: `${kind.name} at ${c.doorbell}`, events, names: r.seen ? [...kind.names, ...TLB] : kind.names };
    }
  }
  const pairs = all.flatMap((a, n) => {
    const b = all[n + 1];
    return b !== undefined && a.doorbell === b.doorbell && [...a.stores, ...b.stores].every((s) => s >= 0)
      ? [[a, b] as const]
      : [];
  });
  const sync = smmu ? op(0x46) : type(5);
  const tlb = smmu ? op(0x12, 0x2a) : (w: Words) => type(2)(w) || type(6)(w);
  const atc = smmu ? op(0x40) : (w: Words) => type(3)(w) || type(8)(w);
  for (const [a, b] of pick(pairs.filter(([x, y]) => tlb(x.words) && sync(y.words))))
    yield { what: `TLBI behind its sync at ${a.doorbell}`, events: swapped(r, a, b), names: WAIT };
  for (const [a, b] of pick(pairs.filter(([x, y]) => tlb(x.words) && atc(y.words))))
    yield { what: `ATC before TLBI at ${a.doorbell}`, events: swapped(r, a, b), names: ['atc-before-iotlb'] };
  for (const kind of STORES) {
    for (const i of pick(stores(r, kind)))
      yield { what: `${kind.name} at ${i}`, events: renumbered(kind.to([...r.events], i)), names: kind.names };
  }
}
