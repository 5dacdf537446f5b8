import type { TraceEvent } from '../../src/trace/index.ts';
import { type Mutant, random } from './mutate.ts';
import { type Recording, renumbered, rewritten, type Submitted, submitted } from './spoil.ts';

type Store = Extract<TraceEvent, { t: 'st' }>;
type Words = readonly [number, number, number, number];
type Kinds = Generator<Mutant & { readonly kind: string }>;

const op =
  (...codes: number[]) =>
  (w: Words) =>
    codes.includes(w[0] & 0xff);
const type =
  (code: number, g = -1) =>
  (w: Words) =>
    (w[0] & 0xf) === code && (g < 0 || ((w[0] >>> 4) & 3) === g);
const set =
  (n: number, by: (v: number) => number) =>
  (w: Words): number[] =>
    w.map((v, i) => (i === n ? by(v) | 0 : v));

const TLB = ['missing-invalidation', 'missing-notpresent-invalidation', 'use-after-unmap'];
const SMALL = ['invalidation-too-small', 'missing-notpresent-invalidation', 'use-after-unmap'];
const CONFIG = ['config-change-not-invalidated', 'tag-reused'];
const WAIT = ['invalidation-not-awaited', 'use-after-unmap'];
const TG = (w: Words) => (w[2] >>> 10) & 3;
const TTL = (w: Words) => (w[2] >>> 8) & 3;

interface Kind {
  readonly name: string;
  readonly is: (w: Words) => boolean;
  readonly to: (w: Words) => readonly number[];
  readonly names: readonly string[];
}

// biome-ignore format: table
const SMMU: readonly Kind[] = [
  { name: 'TG of another granule', is: (w) => op(0x12, 0x2a)(w) && TG(w) > 0, to: set(2, (v) => (v & ~0xc00) | ((((v >>> 10) & 3) === 1 ? 3 : 1) << 10)), names: SMALL },
  { name: 'level where there is none', is: (w) => op(0x12, 0x2a)(w) && TG(w) > 0 && TTL(w) === 0, to: set(2, (v) => v | 0x100), names: SMALL },
  { name: 'ASID of all ones', is: op(0x12, 0x11), to: set(1, (v) => v | 0xffff_0000), names: [...SMALL, 'tag-reused'] },
  { name: 'CFGI_STE of the next stream', is: op(3), to: set(1, (v) => v + 8), names: CONFIG },
  { name: 'CFGI_ALL of a range of two', is: op(4), to: (w) => [4, 0, w[2] & ~0x1f, 0], names: CONFIG },
  { name: 'CFGI_STE to CFGI_CD_ALL', is: op(3), to: (w) => [6, w[1], 0, 0], names: CONFIG },
  { name: 'NSNH_ALL to a VMID', is: op(0x30), to: () => [0x28, 9, 0, 0], names: [...SMALL, ...TLB, 'tag-reused'] },
  { name: 'NH_ASID to EL2_ASID', is: op(0x11), to: set(0, () => 0x21), names: [...SMALL, ...TLB, 'tag-reused'] },
  { name: 'S2_IPA to S12 of another VMID', is: op(0x2a), to: (w) => [0x28, w[1] + 1, 0, 0], names: SMALL },
  { name: 'ATC_INV of one page above', is: op(0x40), to: (w) => [w[0], w[1], 0, 1], names: ['invalidation-too-small', 'missing-atc-invalidation'] },
  { name: 'ATC_INV of another SubstreamID', is: (w) => op(0x40)(w) && (w[0] & 0x800) !== 0, to: set(0, (v) => v ^ 0x1000), names: ['invalidation-too-small', 'missing-atc-invalidation'] },
  { name: 'ATC_INV to the IOMMU', is: op(0x40), to: () => [0x12, 0, 0, 0], names: ['missing-atc-invalidation'] },
];

// biome-ignore format: table
const VTD: readonly Kind[] = [
  { name: 'domain 0', is: (w) => type(2, 2)(w) || type(2, 3)(w), to: set(0, (v) => v & 0xffff), names: [...SMALL, ...TLB] },
  { name: 'IOTLB to context cache', is: type(2), to: (w) => [(w[0] & 0xffff_0000) | 0x21, 0, 0, 0], names: TLB },
  { name: 'PIOTLB to PASID cache', is: type(6), to: (w) => [(w[0] & 0xffff_0000) | 0x17, w[1], 0, 0], names: TLB },
  { name: 'PIOTLB to second stage by page', is: type(6, 3), to: (w) => [(w[0] & ~0xff) | 0x32, 0, w[2], w[3]], names: SMALL },
  { name: 'context of the next function', is: type(1, 3), to: set(1, (v) => v + 8), names: CONFIG },
  { name: 'context cache to IOTLB', is: type(1), to: (w) => [(w[0] & 0xffff_0000) | 0x22, 0, 0, 0], names: CONFIG },
  { name: 'PASID cache of one PASID of many', is: type(7, 0), to: (w) => [w[0] | 0x10, 0xffff, 0, 0], names: CONFIG },
  { name: 'global PASID cache to a domain', is: type(7, 3), to: () => [0x7 | 0xfff_0000, 0, 0, 0], names: CONFIG },
  { name: 'IEC of one index', is: (w) => type(4)(w) && (w[0] & 0x10) !== 0 && ((w[0] >>> 27) & 31) > 0, to: set(0, (v) => v & 0x7ff_ffff), names: CONFIG },
  { name: 'IEC to context cache', is: type(4), to: () => [0x11, 0, 0, 0], names: CONFIG },
  { name: 'device TLB one page far above', is: type(3), to: (w) => [w[0], w[1], 0, 1], names: ['invalidation-too-small', 'missing-atc-invalidation'] },
  { name: 'device TLB to IOTLB', is: type(3), to: () => [0x22, 0, 0, 0], names: ['missing-atc-invalidation'] },
  { name: 'wait for nobody', is: type(5), to: set(0, (v) => v & ~0x30), names: WAIT },
  { name: 'wait whose status is another one', is: (w) => type(5)(w) && (w[0] & 0x20) !== 0, to: set(1, (v) => v ^ 0x55), names: WAIT },
  { name: 'page response to another group', is: type(9), to: set(2, (v) => v ^ 8), names: ['response-unknown', 'response-twice'] },
];

/** Valid leaves of tables of pages: for each word the value now. */
class Tables {
  readonly pages = new Set<number>();
  readonly words = new Map<number, bigint>();

  event(e: TraceEvent): void {
    if (e.t === 'page') {
      if (e.kind === 'pt') this.pages.add(e.gpa);
      else this.pages.delete(e.gpa);
      const view = e.data === null ? null : new DataView(e.data.buffer, e.data.byteOffset, e.data.length);
      for (let at = 0; at < 4096; at += 8) this.words.set(e.gpa + at, view === null ? 0n : view.getBigUint64(at, true));
    } else if (e.t === 'st' && e.size === 8) {
      this.words.set(e.gpa, (BigInt(e.hi >>> 0) << 32n) | BigInt(e.lo >>> 0));
    }
  }

  at(e: Store): bigint {
    return this.words.get(e.gpa) ?? 0n;
  }

  has(e: Store): boolean {
    return this.pages.has(e.gpa - (e.gpa % 4096));
  }
}

const outOf = (word: bigint) => Number((word >> 12n) & 0xff_ffff_ffffn);
const wordOf = (e: Store) => (BigInt(e.hi >>> 0) << 32n) | BigInt(e.lo >>> 0);

/** Stores that clear a leaf, each with the accesses through it since it was written, and what the entry is given next. */
interface Cleared {
  readonly at: number;
  readonly was: bigint;
  /** The last access that may have gone through it; -1: none. */
  readonly access: number;
  readonly mapped: number;
  next: number;
}

function cleared(r: Recording): Cleared[] {
  const tables = new Tables();
  const queued = new Set(submitted(r).flatMap((c) => c.stores));
  const out: Cleared[] = [];
  const mapped = new Map<number, number>();
  const last = new Map<number, Cleared>();
  const accesses = new Map<number, number>();
  r.events.forEach((e, i) => {
    if (e.t === 'xlat') accesses.set(Math.floor(e.out / 4096), i);
    if (e.t === 'st' && e.size === 8 && tables.has(e) && !queued.has(i)) {
      const was = tables.at(e);
      const now = wordOf(e);
      if ((was & 3n) === 0n && (now & 3n) !== 0n) {
        mapped.set(e.gpa, i);
        const before = last.get(e.gpa);
        if (before !== undefined && before.next < 0 && outOf(before.was) !== outOf(now)) before.next = i;
      } else if ((was & 3n) !== 0n && (now & 3n) === 0n) {
        const from = mapped.get(e.gpa) ?? -1;
        const access = accesses.get(outOf(was)) ?? -1;
        const c = { at: i, was, access: access > from ? access : -1, mapped: from, next: -1 };
        out.push(c);
        last.set(e.gpa, c);
      }
    }
    tables.event(e);
  });
  return out;
}

function moved(events: readonly TraceEvent[], from: number, to: number): TraceEvent[] {
  const out = events.filter((_, i) => i !== from);
  out.splice(to > from ? to - 1 : to, 0, events[from]!);
  return renumbered(out);
}

const replaced = (events: readonly TraceEvent[], at: number, by: TraceEvent) =>
  events.map((e, i) => (i === at ? by : e));

/** The doorbell that passes a command is written before its last one. */
function shorter(r: Recording, doorbell: number): TraceEvent[] {
  const e = r.events[doorbell];
  if (e?.t !== 'w') return [...r.events];
  const smmu = r.header.iommu === 'smmuv3';
  let bytes = 1;
  if (!smmu)
    for (const b of r.events.slice(0, doorbell))
      if (b.t === 'w' && b.off === 0x90) bytes = (b.lo & 0x800) !== 0 ? 32 : 16;
  return replaced(r.events, doorbell, { ...e, lo: e.lo - bytes });
}

/** Further faults that no driver of the recordings has: up to `each` of a kind. */
export function* unlisted(r: Recording, seed: number, each: number): Kinds {
  const next = random(seed);
  const smmu = r.header.iommu === 'smmuv3';
  const commands = submitted(r);
  const pick = <T>(from: readonly T[]): T[] => {
    const left = [...from];
    const out: T[] = [];
    while (out.length < each && left.length > 0) out.push(...left.splice(Math.floor(next() * left.length), 1));
    return out;
  };
  const one = (kind: string, at: number, events: TraceEvent[], names: readonly string[]) => ({
    kind,
    what: `${kind} at ${at}`,
    events,
    names,
  });
  for (const k of smmu ? SMMU : VTD)
    for (const c of pick(commands.filter((x) => k.is(x.words) && x.stores.some((s) => s >= 0))))
      yield one(k.name, c.doorbell, rewritten(r, c, k.to(c.words)), k.names);
  yield* doorbells(r, commands, pick, one);
  if (r.seen) return;
  const clears = cleared(r);
  for (const c of pick(clears.filter((x) => x.access > 0)))
    yield one('cleared before the last access', c.at, moved(r.events, c.at, c.access), ['use-after-unmap']);
  for (const c of pick(clears.filter((x) => x.next > 0)))
    yield one('mapped anew in the same batch', c.next, moved(r.events, c.next, c.at + 1), [
      ...TLB,
      'break-before-make',
    ]);
  for (const c of pick(clears)) {
    const e = r.events[c.at] as Store;
    const other = c.was ^ 0x1000n;
    const kept = { ...e, lo: Number(BigInt.asIntN(32, other)), hi: Number(BigInt.asIntN(32, other >> 32n)) };
    yield one('given another output, not cleared', c.at, replaced(r.events, c.at, kept), ['break-before-make', ...TLB]);
  }
}

function* doorbells(
  r: Recording,
  commands: readonly Submitted[],
  pick: <T>(from: readonly T[]) => T[],
  one: (kind: string, at: number, events: TraceEvent[], names: readonly string[]) => Mutant & { readonly kind: string },
): Kinds {
  const bells = [...new Set(commands.map((c) => c.doorbell))];
  const late = [
    ...TLB,
    ...CONFIG,
    ...WAIT,
    'missing-atc-invalidation',
    'torn-entry',
    'queue-overrun',
    'command-overwritten',
  ];
  for (const d of pick(bells)) yield one('doorbell withheld', d, renumbered(r.events.filter((_, i) => i !== d)), late);
  for (const d of pick(bells)) yield one('doorbell one short', d, shorter(r, d), late);
}
