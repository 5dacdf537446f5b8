import type { TraceEvent } from '../../src/trace/index.ts';
import { type Mutant, random } from './mutate.ts';
import { type Recording, renumbered, rewritten, type Submitted, submitted } from './spoil.ts';

type Store = Extract<TraceEvent, { t: 'st' }>;
type Access = Extract<TraceEvent, { t: 'r' | 'w' }>;
type Words = readonly [number, number, number, number];

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
const set =
  (n: number, by: (v: number) => number) =>
  (w: Words): number[] =>
    w.map((v, i) => (i === n ? by(v) | 0 : v));

const TLB = ['missing-invalidation', 'missing-notpresent-invalidation', 'use-after-unmap'];
const SMALL = ['invalidation-too-small', ...TLB];
const CONFIG = ['config-change-not-invalidated', 'tag-reused'];
const ATC = ['missing-atc-invalidation', 'invalidation-too-small'];
const WAIT = ['invalidation-not-awaited', 'use-after-unmap'];

const NUM = (w: Words) => (w[0] >>> 12) & 31;
const SCALE = (w: Words) => (w[0] >>> 20) & 31;
const TG = (w: Words) => (w[2] >>> 10) & 3;
const TTL = (w: Words) => (w[2] >>> 8) & 3;

// biome-ignore format: table
const SMMU: readonly Kind[] = [
  { name: 'NUM one less', is: (w) => op(0x12, 0x2a)(w) && TG(w) > 0 && NUM(w) > 0, to: set(0, (v) => v - 0x1000), names: SMALL },
  { name: 'SCALE one less', is: (w) => op(0x12, 0x2a)(w) && TG(w) > 0 && SCALE(w) > 0, to: set(0, (v) => v - 0x10_0000), names: SMALL },
  { name: 'TTL one less', is: (w) => op(0x12, 0x2a)(w) && TG(w) > 0 && TTL(w) > 1, to: set(2, (v) => v - 0x100), names: SMALL },
  { name: 'address below', is: op(0x12, 0x2a), to: set(2, (v) => v - 0x1000), names: SMALL },
  { name: 'address bit 32', is: op(0x12, 0x2a), to: set(3, (v) => v ^ 1), names: SMALL },
  { name: 'NH_ASID to NH_VA', is: op(0x11), to: (w) => [0x12, w[1], 0, 0], names: [...SMALL, 'tag-reused'] },
  { name: 'S12_VMALL to NH_ALL', is: op(0x28), to: set(0, () => 0x10), names: [...SMALL, 'tag-reused'] },
  { name: 'NH_VA to S2_IPA', is: op(0x12), to: set(0, (v) => (v & ~0xff) | 0x2a), names: SMALL },
  { name: 'S2_IPA to NH_VA', is: op(0x2a), to: set(0, (v) => (v & ~0xff) | 0x12), names: SMALL },
  { name: 'NH_VA to EL2_VA', is: op(0x12), to: set(0, (v) => (v & ~0xff) | 0x22), names: SMALL },
  { name: 'CFGI_STE to CFGI_CD', is: op(3), to: (w) => [5, w[1], 0, 0], names: CONFIG },
  { name: 'CFGI_CD of another SSID', is: op(5), to: set(0, (v) => v + 0x1000), names: CONFIG },
  { name: 'CFGI_CD of another stream', is: op(5), to: set(1, (v) => v + 1), names: CONFIG },
  { name: 'CFGI_CD to CFGI_STE leaf', is: op(5), to: (w) => [3, w[1], 1, 0], names: [] },
  { name: 'CFGI_ALL to one stream', is: op(4), to: (w) => [3, w[1], 1, 0], names: CONFIG },
  { name: 'ATC_INV half', is: (w) => op(0x40)(w) && (w[2] & 0x3f) > 0 && (w[2] & 0x3f) < 52, to: set(2, (v) => v - 1), names: ATC },
  { name: 'ATC_INV everything to one page', is: (w) => op(0x40)(w) && (w[2] & 0x3f) === 52, to: set(2, () => 0), names: ATC },
  { name: 'ATC_INV with a SubstreamID', is: op(0x40), to: set(0, (v) => v | (1 << 11)), names: ATC },
  { name: 'NH_VA to NH_VAA', is: op(0x12), to: set(0, (v) => v + 1), names: [] },
  { name: 'SYNC to another TLBI', is: op(0x46), to: () => [0x12, 0, 0, 0], names: WAIT },
];

// biome-ignore format: table
const VTD: readonly Kind[] = [
  { name: 'AM one less', is: (w) => (type(2, 3)(w) || type(6, 3)(w)) && (w[2] & 0x3f) > 0, to: set(2, (v) => v - 1), names: SMALL },
  { name: 'address below', is: (w) => type(2, 3)(w) || type(6, 3)(w), to: (w) => set(2, (v) => v - (0x1000 << (w[2] & 0x3f)))(w), names: SMALL },
  { name: 'address bit 32', is: (w) => type(2, 3)(w) || type(6, 3)(w), to: set(3, (v) => v ^ 1), names: SMALL },
  { name: 'IOTLB to PASID-IOTLB', is: type(2, 3), to: (w) => [(w[0] & ~0xff) | 0x36, 0, w[2], w[3]], names: SMALL },
  { name: 'domain to one page', is: type(2, 2), to: (w) => [w[0] | 0x30, w[1], 0, 0], names: SMALL },
  { name: 'PASID to one page', is: type(6, 2), to: (w) => [w[0] | 0x30, w[1], 0, 0], names: SMALL },
  { name: 'global IOTLB to domain 0xfff', is: type(2, 1), to: (w) => [(w[0] & 0xffff & ~0x30) | 0x20 | 0xfff_0000, w[1], 0, 0], names: [...SMALL, 'tag-reused'] },
  { name: 'context of another function', is: type(1, 3), to: set(1, (v) => v ^ 1), names: CONFIG },
  { name: 'context of another domain', is: type(1, 3), to: set(0, (v) => v + 0x1_0000), names: CONFIG },
  { name: 'global context to one function', is: type(1, 1), to: (w) => [w[0] | 0x30, 0xffff, 0, 0], names: CONFIG },
  { name: 'PASID cache of another PASID', is: type(7, 1), to: set(1, (v) => v + 1), names: CONFIG },
  { name: 'PASID cache of another domain', is: (w) => type(7, 0)(w) || type(7, 1)(w), to: set(0, (v) => v + 0x1_0000), names: CONFIG },
  { name: 'PASID cache to context cache', is: type(7), to: () => [0x11, 0, 0, 0], names: CONFIG },
  { name: 'IEC mask one less', is: (w) => type(4)(w) && (w[0] & 0x10) !== 0 && ((w[0] >>> 27) & 31) > 0, to: set(0, (v) => v - 0x800_0000), names: CONFIG },
  { name: 'IEC index below', is: (w) => type(4)(w) && (w[0] & 0x10) !== 0, to: set(1, (v) => v - 1), names: CONFIG },
  { name: 'global IEC to one index', is: (w) => type(4)(w) && (w[0] & 0x10) === 0, to: (w) => [w[0] | 0x10, 0xffff, 0, 0], names: CONFIG },
  { name: 'device TLB of everything to one page', is: (w) => type(3)(w) && (w[2] & 1) !== 0, to: set(2, (v) => v & 0xffe), names: ATC },
  { name: 'device TLB one page below', is: (w) => type(3)(w) && (w[2] & 1) === 0, to: set(2, (v) => v - 0x1000), names: ATC },
  { name: 'device TLB under a PASID', is: type(3), to: (w) => [8 | ((w[1] & 0xffff) << 16), 7, w[2], w[3]], names: ATC },
  { name: 'wait to another invalidation', is: type(5), to: () => [0x21, 0, 0, 0], names: WAIT },
];

/** Command `b` where `a` was and the other way round. */
function exchanged(r: Recording, a: Submitted, b: Submitted): TraceEvent[] {
  const events = rewritten(r, a, b.words);
  const moved = (events.length - r.events.length) / 2;
  return rewritten({ ...r, events }, moved === 0 ? b : { ...b, doorbell: b.doorbell + 2 * moved }, a.words);
}

/** Stores of one entry that follow each other. */
interface Burst {
  readonly kind: string;
  readonly at: readonly number[];
}

const ENTRY_BYTES: Readonly<Record<string, number>> = {
  ste: 64,
  cd: 64,
  ctx: 16,
  pasidtbl: 64,
  pasiddir: 8,
  root: 16,
  irt: 16,
  strtab: 8,
};

function bursts(r: Recording): Burst[] {
  const kinds = new Map<number, string>();
  const out: Burst[] = [];
  let key = '';
  let open: number[] = [];
  r.events.forEach((e, i) => {
    if (e.t === 'page') kinds.set(e.gpa, e.kind);
    if (e.t !== 'st') {
      if (e.t !== 'page' && e.t !== 'drop') key = '';
      return;
    }
    const kind = kinds.get(e.gpa - (e.gpa % 4096)) ?? '';
    const bytes = ENTRY_BYTES[kind];
    if (bytes === undefined) {
      key = '';
      return;
    }
    const k = `${kind}${Math.floor(e.gpa / bytes)}`;
    if (k === key) open.push(i);
    else {
      key = k;
      open = [i];
      out.push({ kind, at: open });
    }
  });
  return out;
}

/** Behind the next doorbell and what the guest reads there. */
function behindDoorbell(events: readonly TraceEvent[], from: number): number {
  let at = from;
  while (at < events.length && events[at]!.t !== 'w') at++;
  while (at + 1 < events.length && ['r', 'dst'].includes(events[at + 1]!.t)) at++;
  return at + 1;
}

function moved(events: readonly TraceEvent[], which: readonly number[], to: number): TraceEvent[] {
  const gone = new Set(which);
  const out: TraceEvent[] = [];
  events.forEach((e, i) => {
    if (i === to) for (const n of which) out.push(events[n]!);
    if (!gone.has(i)) out.push(e);
  });
  return renumbered(out);
}

const without = (events: readonly TraceEvent[], gone: ReadonlySet<number>) =>
  renumbered(events.filter((_, i) => !gone.has(i)));

const low = (e: Store) => ({ ...e, size: 4, hi: 0 });
const high = (e: Store) => ({ ...e, gpa: e.gpa + 4, size: 4, lo: e.hi, hi: 0 });

interface BurstKind {
  readonly name: string;
  readonly is: (b: Burst) => boolean;
  readonly to: (r: Recording, b: Burst) => TraceEvent[];
  readonly names: readonly string[];
}

/** Where in an entry the pointer stands that is spoiled. */
const POINTER: Readonly<Record<string, number>> = {
  ste: 0,
  cd: 8,
  ctx: 0,
  root: 0,
  pasiddir: 0,
  pasidtbl: 0,
  strtab: 0,
};
const pointsAt = (kind: string, e: Store) =>
  e.gpa % ENTRY_BYTES[kind]! === POINTER[kind] && e.lo !== 0 && (kind !== 'pasidtbl' || (e.lo & 0x1c0) === 0x80);

const several = (b: Burst) => b.at.length > 1;

// biome-ignore format: table
const BURSTS: readonly BurstKind[] = [
  { name: 'last store first', is: several, to: (r, b) => moved(r.events, [b.at.at(-1)!], b.at[0]!), names: ['valid-before-filled', 'torn-entry'] },
  { name: 'stored after the command', is: () => true, to: (r, b) => moved(r.events, b.at, behindDoorbell(r.events, b.at[b.at.length - 1]!)), names: CONFIG },
  { name: 'last store after the command', is: several, to: (r, b) => moved(r.events, [b.at[b.at.length - 1]!], behindDoorbell(r.events, b.at[b.at.length - 1]!)), names: [...CONFIG, 'torn-entry', 'valid-before-filled'] },
  { name: 'stored twice', is: () => true, to: (r, b) => renumbered(r.events.flatMap((e, i) => (i === b.at[b.at.length - 1] ? [e, ...b.at.map((n) => r.events[n]!)] : [e]))), names: [] },
  { name: 'halves, low first', is: () => true, to: (r, b) => renumbered(r.events.flatMap((e, i) => (i === b.at.at(-1) && e.t === 'st' && e.size === 8 ? [low(e), high(e)] : [e]))), names: ['valid-before-filled', 'torn-entry'] },
  { name: 'halves, high first', is: () => true, to: (r, b) => renumbered(r.events.flatMap((e, i) => (i === b.at.at(-1) && e.t === 'st' && e.size === 8 ? [high(e), low(e)] : [e]))), names: ['valid-before-filled', 'torn-entry'] },
  { name: 'pointer beyond', is: (b) => b.kind in POINTER, to: (r, b) => renumbered(r.events.map((e, i) => (b.at.includes(i) && e.t === 'st' && e.size === 8 && pointsAt(b.kind, e) ? { ...e, hi: e.hi | 0x8_0000 } : e))), names: ['beyond-output-size'] },
];

interface RegisterKind {
  readonly name: string;
  readonly smmu: boolean;
  /** Writes it can be planted at. */
  readonly is: (e: Access) => boolean;
  readonly to: (events: readonly TraceEvent[], i: number) => TraceEvent[];
  readonly names: readonly string[];
}

const write =
  (...offsets: number[]) =>
  (e: Access) =>
    e.t === 'w' && offsets.includes(e.off);

/** Reads of a register up to the next write. */
function unpolled(events: readonly TraceEvent[], i: number, off: number): TraceEvent[] {
  const gone = new Set<number>();
  for (let n = i + 1; n < events.length; n++) {
    const e = events[n]!;
    if (e.t === 'w') break;
    if (e.t === 'r' && e.off === off) gone.add(n);
  }
  return without(events, gone);
}

const all = (is: (e: Access) => boolean) => (events: readonly TraceEvent[], from: number) =>
  without(events, new Set(events.flatMap((e, n) => (n >= from && (e.t === 'r' || e.t === 'w') && is(e) ? [n] : []))));

const inserted =
  (off: number, size: number, change: (lo: number) => number) => (events: readonly TraceEvent[], i: number) => {
    let last: Access | null = null;
    for (const e of events.slice(0, i)) if (e.t === 'w' && e.off === off) last = e;
    if (last === null) return [...events];
    const again = { ...last, size, lo: change(last.lo) } as TraceEvent;
    return renumbered([...events.slice(0, i), again, ...events.slice(i)]);
  };
/** Where the stream table is in use: else its base may be written. */
const insertedInUse =
  (off: number, size: number, change: (lo: number) => number) => (events: readonly TraceEvent[], i: number) => {
    const cr0 = events.slice(0, i).findLast((e) => e.t === 'w' && e.off === 0x20);
    return cr0?.t === 'w' && (cr0.lo & 1) !== 0 ? inserted(off, size, change)(events, i) : [...events];
  };
const changedWrite = (change: (lo: number) => number) => (events: readonly TraceEvent[], i: number) =>
  events.map((e, n) => (n === i && e.t === 'w' ? { ...e, lo: change(e.lo) } : e));

// biome-ignore format: table
const REGISTERS: readonly RegisterKind[] = [
  { name: 'CR0ACK not polled', smmu: true, is: write(0x20), to: (ev, i) => unpolled(ev, i, 0x24), names: ['handshake-not-awaited'] },
  { name: 'IRQ_CTRLACK not polled', smmu: true, is: write(0x50), to: (ev, i) => unpolled(ev, i, 0x54), names: ['handshake-not-awaited'] },
  { name: 'CMDQ_CONS never read again', smmu: true, is: write(0x98), to: all((e) => e.t === 'r' && e.off === 0x9c), names: ['invalidation-not-awaited', 'queue-overrun', 'command-overwritten', 'command-refused', 'use-after-unmap'] },
  { name: 'CMDQ_CONS not read once', smmu: true, is: write(0x98), to: (ev, i) => unpolled(ev, i, 0x9c), names: ['invalidation-not-awaited', 'queue-overrun', 'command-overwritten', 'command-refused', 'use-after-unmap'] },
  { name: 'GERRORN never written', smmu: true, is: write(0x64), to: all(write(0x64)), names: ['error-not-acknowledged', 'command-refused'] },
  { name: 'EVENTQ_CONS never written', smmu: true, is: write(0x100ac, 0xac), to: all(write(0x100ac, 0xac)), names: [] },
  { name: 'CMDQ_BASE written again', smmu: true, is: write(0x98), to: inserted(0x90, 8, (lo) => lo), names: ['base-changed-while-enabled'] },
  { name: 'CMDQ_BASE moved', smmu: true, is: write(0x98), to: inserted(0x90, 8, (lo) => lo + 0x10_0000), names: ['base-changed-while-enabled'] },
  { name: 'STRTAB_BASE moved', smmu: true, is: write(0x98), to: insertedInUse(0x80, 8, (lo) => lo + 0x10_0000), names: ['base-changed-while-enabled'] },
  { name: 'EVENTQ_BASE moved', smmu: true, is: write(0x98), to: inserted(0xa0, 8, (lo) => lo + 0x10_0000), names: ['base-changed-while-enabled'] },
  { name: 'STRTAB_BASE_CFG changed', smmu: true, is: write(0x98), to: insertedInUse(0x88, 4, (lo) => lo ^ 1), names: ['base-changed-while-enabled'] },
  { name: 'CMDQ_PROD too far', smmu: true, is: write(0x98), to: wrapped, names: ['queue-overrun'] },
  { name: 'doorbell twice', smmu: true, is: write(0x98), to: inserted(0x98, 4, (lo) => lo), names: [] },
  { name: 'CMDQ_BASE misaligned', smmu: true, is: write(0x90), to: changedWrite((lo) => lo | 0x20), names: ['table-not-aligned'] },
  { name: 'EVENTQ_BASE misaligned', smmu: true, is: write(0xa0), to: changedWrite((lo) => lo | 0x20), names: ['table-not-aligned'] },
  { name: 'STRTAB_BASE misaligned', smmu: true, is: write(0x80), to: changedWrite((lo) => lo | 0x40), names: ['table-not-aligned'] },
  { name: 'reserved bit of CR0', smmu: true, is: write(0x20), to: changedWrite((lo) => lo | 0x8000_0000), names: [] },
  { name: 'GSTS not polled', smmu: false, is: write(0x18), to: (ev, i) => unpolled(ev, i, 0x1c), names: ['handshake-not-awaited'] },
  { name: 'two bits of GCMD', smmu: false, is: write(0x18), to: (ev, i) => merged(ev, i), names: ['one-bit-at-a-time'] },
  { name: 'IQA written again', smmu: false, is: write(0x88), to: inserted(0x90, 8, (lo) => lo), names: ['base-changed-while-enabled'] },
  { name: 'IQA moved', smmu: false, is: write(0x88), to: inserted(0x90, 8, (lo) => lo + 0x10_0000), names: ['base-changed-while-enabled'] },
  { name: 'RTADDR moved', smmu: false, is: write(0x88), to: inserted(0x20, 8, (lo) => lo + 0x10_0000), names: [] },
  { name: 'IRTA moved', smmu: false, is: write(0x88), to: inserted(0xb8, 8, (lo) => lo + 0x10_0000), names: [] },
  { name: 'IQT twice', smmu: false, is: write(0x88), to: inserted(0x88, 4, (lo) => lo), names: [] },
  { name: 'FSTS never written', smmu: false, is: write(0x34), to: all(write(0x34)), names: ['error-not-acknowledged', 'command-refused'] },
  { name: 'FRCD never cleared', smmu: false, is: (e) => e.t === 'w' && e.off >= 0x220 && e.off < 0x400, to: all((e) => e.t === 'w' && e.off >= 0x220 && e.off < 0x400), names: ['error-not-acknowledged'] },
  { name: 'CCMD not polled', smmu: false, is: write(0x28, 0x2c), to: (ev, i) => unpolled(unpolled(ev, i, 0x28), i, 0x2c), names: ['handshake-not-awaited'] },
  { name: 'IOTLB register not polled', smmu: false, is: write(0xf8, 0xfc), to: (ev, i) => unpolled(unpolled(ev, i, 0xf8), i, 0xfc), names: ['handshake-not-awaited'] },
  { name: 'IOTLB register never written', smmu: false, is: write(0xf8, 0xfc), to: (ev, i) => without(ev, new Set([i])), names: [...TLB, 'tag-reused'] },
  { name: 'CCMD never written', smmu: false, is: write(0x28, 0x2c), to: (ev, i) => without(ev, new Set([i])), names: CONFIG },
];

/** The wrap bit of CMDQ_PROD is the other one: as many entries again as the queue has. */
function wrapped(events: readonly TraceEvent[], i: number): TraceEvent[] {
  let log2 = 0;
  for (const e of events.slice(0, i)) if (e.t === 'w' && e.off === 0x90) log2 = e.lo & 31;
  return changedWrite((lo) => lo ^ (1 << log2))(events, i);
}

/** The next write of GCMD comes with this one. */
function merged(events: readonly TraceEvent[], i: number): TraceEvent[] {
  const next = events.findIndex((e, n) => n > i && e.t === 'w' && e.off === 0x18);
  if (next < 0) return [...events];
  const gone = new Set<number>();
  for (let n = i; n < next; n++) {
    const e = events[n]!;
    if (n === i || (e.t === 'r' && e.off === 0x1c)) gone.add(n);
  }
  const one = events[i] as Access;
  const two = events[next] as Access;
  const both = events.map((e, n) => (n === next ? { ...two, lo: one.lo | two.lo } : e)) as TraceEvent[];
  return without(both, gone);
}

/** Further kinds of faults in a recording, each at up to `each` places. */
export function* further(r: Recording, seed: number, each: number): Generator<Mutant & { readonly kind: string }> {
  const next = random(seed);
  const smmu = r.header.iommu === 'smmuv3';
  const commands = submitted(r);
  const stored = commands.filter((x) => x.stores.every((s) => s >= 0));
  const pick = <T>(from: readonly T[]): T[] => {
    const left = [...from];
    const out: T[] = [];
    while (out.length < each && left.length > 0) out.push(...left.splice(Math.floor(next() * left.length), 1));
    return out;
  };
  for (const k of smmu ? SMMU : VTD) {
    for (const c of pick(commands.filter((x) => k.is(x.words) && x.stores.some((s) => s >= 0)))) {
      const events = rewritten(r, c, k.to(c.words));
      yield { kind: k.name, what: `${k.name} at ${c.doorbell}`, events, names: k.names };
    }
  }
  const sync = smmu ? op(0x46) : type(5);
  const tlb = smmu ? op(0x12, 0x2a) : (w: Words) => type(2)(w) || type(6)(w);
  const atc = smmu ? op(0x40) : (w: Words) => type(3)(w) || type(8)(w);
  const config = smmu ? op(3, 4, 5, 6) : (w: Words) => type(1)(w) || type(7)(w) || type(4)(w);
  const pairs = (a: (w: Words) => boolean, b: (w: Words) => boolean, far: boolean) => {
    const out: (readonly [Submitted, Submitted])[] = [];
    for (let n = 0; n < stored.length; n++) {
      if (!a(stored[n]!.words)) continue;
      for (let m = n + 1; m < Math.min(stored.length, n + 40); m++) {
        if (!b(stored[m]!.words) || (stored[n]!.doorbell !== stored[m]!.doorbell) !== far) continue;
        if (stored[n]!.words.every((v, i) => v === stored[m]!.words[i])) continue;
        out.push([stored[n]!, stored[m]!]);
        break;
      }
    }
    return out;
  };
  // biome-ignore format: table
  const swaps: readonly (readonly [string, readonly (readonly [Submitted, Submitted])[], readonly string[]])[] = [
    ['invalidation delayed to the next', pairs(tlb, tlb, true), [...SMALL, ...WAIT, 'missing-atc-invalidation', 'atc-before-iotlb']],
    ['ATC before its sync', pairs(sync, atc, false), ['atc-before-iotlb']],
    ['ATC behind its sync', pairs(atc, sync, false), r.seen ? [...WAIT, ...ATC] : WAIT],
    ['configuration behind its sync', pairs(config, sync, false), [...WAIT, ...CONFIG, 'valid-before-filled', 'torn-entry']],
    ['configuration delayed', pairs(config, config, true), [...CONFIG, ...WAIT, ...SMALL]],
    ['configuration behind the TLB', pairs(config, tlb, false), ['tag-reused', ...TLB]],
  ];
  for (const [name, list, names] of swaps)
    for (const [a, b] of pick(list))
      yield { kind: name, what: `${name} at ${a.doorbell}`, events: exchanged(r, a, b), names };
  if (!r.seen) {
    const every = bursts(r);
    for (const kind of new Set(every.map((b) => b.kind)))
      for (const k of BURSTS)
        for (const b of pick(every.filter((x) => x.kind === kind && k.is(x))))
          yield {
            kind: `${kind}: ${k.name}`,
            what: `${kind}: ${k.name} at ${b.at[0]}`,
            events: k.to(r, b),
            names: k.names,
          };
  }
  for (const k of REGISTERS) {
    if (k.smmu !== smmu) continue;
    const at = r.events.flatMap((e, i) => ((e.t === 'r' || e.t === 'w') && k.is(e) ? [i] : []));
    for (const i of pick(at))
      yield { kind: k.name, what: `${k.name} at ${i}`, events: k.to(r.events, i), names: k.names };
  }
}
