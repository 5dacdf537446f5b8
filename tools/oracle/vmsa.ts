/**
 * A slow and obvious reading of VMSAv8-64 translation as an SMMU does it (Arm ARM D8, IHI 0070 §3.4, §7.3). Every value is
 * a bigint, every descriptor is taken apart where it is needed, nothing is shared with the walkers under test.
 */

/** Physical memory: one aligned 64-bit word, or null where nothing answers. */
export type Read = (address: bigint) => bigint | null;

export interface Access {
  readonly write: boolean;
  readonly exec: boolean;
  readonly priv: boolean;
}

/** What one half of a stage-1 address space says (CD fields of TTB0 or TTB1). */
export interface Half {
  readonly ttb: bigint;
  /** 12n, 14n or 16n. */
  readonly granule: bigint;
  readonly tsz: bigint;
  readonly epd: boolean;
  readonly tbi: boolean;
  readonly had: boolean;
}

export interface Stage1 {
  readonly half0: Half;
  readonly half1: Half;
  /** Bits of intermediate or output address: min(IPS, OAS). */
  readonly outBits: bigint;
  readonly affd: boolean;
  readonly wxn: boolean;
  readonly pan: boolean;
}

export interface Stage2 {
  readonly ttb: bigint;
  readonly granule: bigint;
  readonly t0sz: bigint;
  readonly startLevel: bigint;
  readonly outBits: bigint;
  readonly affd: boolean;
  readonly ptw: boolean;
}

export interface Rights {
  /** [unprivileged, privileged] */
  read: [boolean, boolean];
  write: [boolean, boolean];
  exec: [boolean, boolean];
}

export interface Mapped {
  readonly ok: true;
  readonly out: bigint;
  /** log2 of the piece both stages map contiguously. */
  readonly size: bigint;
  /** log2 of the stage-1 piece; 0 without stage 1. */
  readonly guestSize: bigint;
  readonly rights: Rights;
  readonly global: boolean;
}

export interface Fault {
  readonly ok: false;
  readonly type: 'F_TRANSLATION' | 'F_ADDR_SIZE' | 'F_ACCESS' | 'F_PERMISSION' | 'F_WALK_EABT';
  readonly stage: 1 | 2;
  readonly cls: 'IN' | 'TT';
  readonly level: bigint;
  /** Stage-2 faults. */
  readonly ipa?: bigint;
  /** F_WALK_EABT: the descriptor's physical address. */
  readonly fetch?: bigint;
}

const bit = (v: bigint, n: bigint): boolean => ((v >> n) & 1n) === 1n;
function smaller(a: bigint, b: bigint): bigint {
  if (a < b) return a;
  return b;
}

const ones = (n: bigint): bigint => (1n << n) - 1n;

/** log2 bytes under one descriptor of `level`. */
function span(granule: bigint, level: bigint): bigint {
  return granule + (granule - 3n) * (3n - level);
}

/** First level of a stage-1 walk: as many levels as the input bits need. */
function firstLevel(granule: bigint, bits: bigint): bigint {
  let level = 3n;
  while (span(granule, level - 1n) < bits) level--;
  return level;
}

/** Address field of a descriptor; with a 64K granule and 52-bit addresses, bits 15:12 are address bits 51:48. */
function addressOf(d: bigint, granule: bigint, outBits: bigint): bigint {
  const low = d & ones(48n) & ~ones(granule);
  return granule === 16n && outBits === 52n ? low | (((d >> 12n) & 0xfn) << 48n) : low;
}

function blockLevel(granule: bigint, level: bigint, outBits: bigint): boolean {
  if (granule === 12n) return level === 1n || level === 2n;
  if (granule === 14n) return level === 2n;
  return level === 2n || (level === 1n && outBits === 52n);
}

function contiguousEntries(granule: bigint, level: bigint): bigint {
  if (granule === 12n) return 4n;
  if (granule === 14n) return level === 3n ? 7n : 5n;
  return 5n;
}

/** A leaf with the contiguous hint counts as the whole group when the group fits the input space and lies together. */
function leafSize(d: bigint, granule: bigint, level: bigint, from: bigint, to: bigint, inBits: bigint): bigint {
  const size = span(granule, level);
  if (!bit(d, 52n)) return size;
  const group = size + contiguousEntries(granule, level);
  if (group > inBits || ((from ^ to) & ones(group)) !== 0n) return size;
  return group;
}

/** What happens at one descriptor: go on to a table, stop at a leaf, or fault. */
type Step =
  | { readonly kind: 'table'; readonly address: bigint }
  | { readonly kind: 'leaf'; readonly address: bigint }
  | { readonly kind: 'fault'; readonly type: 'F_TRANSLATION' | 'F_ADDR_SIZE' };

function step(d: bigint, granule: bigint, level: bigint, outBits: bigint): Step {
  if (!bit(d, 0n)) return { kind: 'fault', type: 'F_TRANSLATION' };
  const address = addressOf(d, granule, outBits);
  if (level < 3n && bit(d, 1n))
    return address >> outBits !== 0n ? { kind: 'fault', type: 'F_ADDR_SIZE' } : { kind: 'table', address };
  const legal = level === 3n ? bit(d, 1n) : blockLevel(granule, level, outBits);
  if (!legal) return { kind: 'fault', type: 'F_TRANSLATION' };
  const base = address & ~ones(span(granule, level));
  return base >> outBits !== 0n ? { kind: 'fault', type: 'F_ADDR_SIZE' } : { kind: 'leaf', address: base };
}

function allowed(r: Rights, a: Access): boolean {
  const who = a.priv ? 1 : 0;
  if (a.write) return r.write[who];
  return a.exec ? r.exec[who] : r.read[who];
}

function stage2Rights(d: bigint): Rights {
  const read = bit(d, 6n);
  const write = bit(d, 7n);
  const xn = (d >> 53n) & 3n;
  // 00 all, 01 unprivileged only, 10 nobody, 11 privileged only (FEAT_XNX; the field is bits 54:53).
  return { read: [read, read], write: [write, write], exec: [xn === 0n || xn === 1n, xn === 0n || xn === 3n] };
}

interface Stage2Result {
  readonly out: bigint;
  readonly size: bigint;
  readonly rights: Rights;
  readonly device: boolean;
}

/** Stage 2 for one IPA. `cls` says what it is for. */
export function walkStage2(
  read: Read,
  s2: Stage2,
  ipa: bigint,
  access: Access,
  cls: 'IN' | 'TT',
): Stage2Result | Fault {
  const bits = 64n - s2.t0sz;
  const fault = (type: Fault['type'], level: bigint): Fault => ({ ok: false, type, stage: 2, cls, level, ipa });
  let level = s2.startLevel;
  if (ipa >> bits !== 0n) return fault('F_TRANSLATION', level);
  // The start table may be several tables joined: its index is all the bits above.
  const startBytes = 1n << (bits - span(s2.granule, level) + 3n);
  let table = s2.ttb & ~((startBytes > 16n ? startBytes : 16n) - 1n);
  let index = ipa >> span(s2.granule, level);
  for (;;) {
    const at = table + index * 8n;
    const d = read(at);
    if (d === null) return { ...fault('F_WALK_EABT', level), fetch: at };
    const s = step(d, s2.granule, level, s2.outBits);
    if (s.kind === 'fault') return fault(s.type, level);
    if (s.kind === 'table') {
      table = s.address;
      level++;
      index = (ipa >> span(s2.granule, level)) & ones(s2.granule - 3n);
      continue;
    }
    if (!bit(d, 10n) && !s2.affd) return fault('F_ACCESS', level);
    const rights = stage2Rights(d);
    if (!allowed(rights, access)) return fault('F_PERMISSION', level);
    const out = s.address | (ipa & ones(span(s2.granule, level)));
    const device = ((d >> 4n) & 3n) === 0n;
    return { out, size: leafSize(d, s2.granule, level, ipa, out, bits), rights, device };
  }
}

/** Rights of a stage-1 leaf, with what the tables above it take away. */
function stage1Rights(s1: Stage1, d: bigint, tables: bigint): Rights {
  const unpriv = bit(d, 6n) && !bit(tables, 61n);
  const writable = !bit(d, 7n) && !bit(tables, 62n);
  const unprivWritable = unpriv && writable;
  const uxn = bit(d, 54n) || bit(tables, 60n) || (s1.wxn && unprivWritable);
  // What unprivileged code can write, privileged code never executes.
  const pxn = bit(d, 53n) || bit(tables, 59n) || unprivWritable || (s1.wxn && writable);
  const panned = s1.pan && unpriv;
  return {
    read: [unpriv, !panned],
    write: [unprivWritable, writable && !panned],
    exec: [!uxn, !pxn],
  };
}

function both(a: Rights, b: Rights): Rights {
  const and = (x: [boolean, boolean], y: [boolean, boolean]): [boolean, boolean] => [x[0] && y[0], x[1] && y[1]];
  return { read: and(a.read, b.read), write: and(a.write, b.write), exec: and(a.exec, b.exec) };
}

const TABLE_READ: Access = { write: false, exec: false, priv: false };

/** Stage 1 for a 64-bit input address, nested in `s2` unless that is null. */
export function walkStage1(read: Read, s1: Stage1, s2: Stage2 | null, va: bigint, access: Access): Mapped | Fault {
  const upper = bit(va, 55n);
  const half = upper ? s1.half1 : s1.half0;
  const bits = 64n - half.tsz;
  let level = firstLevel(half.granule, bits);
  const fault = (type: Fault['type'], cls: 'IN' | 'TT' = 'IN'): Fault => ({ ok: false, type, stage: 1, cls, level });
  const compared = half.tbi ? 56n : 64n;
  const topBits = (va & ones(compared)) >> bits;
  if (half.epd || topBits !== (upper ? ones(compared - bits) : 0n)) return fault('F_TRANSLATION');

  const input = va & ones(bits);
  const startBytes = 1n << (bits - span(half.granule, level) + 3n);
  let table = half.ttb & ~((startBytes > 16n ? startBytes : 16n) - 1n);
  let index = input >> span(half.granule, level);
  let inherited = 0n;
  for (;;) {
    let at = table + index * 8n;
    if (s2 !== null) {
      const t = walkStage2(read, s2, at, TABLE_READ, 'TT');
      if ('ok' in t) return t;
      if (s2.ptw && t.device) return { ok: false, type: 'F_PERMISSION', stage: 2, cls: 'TT', level: -1n, ipa: at };
      at = t.out;
    }
    const d = read(at);
    if (d === null) return { ...fault('F_WALK_EABT', 'TT'), fetch: at };
    const s = step(d, half.granule, level, s1.outBits);
    if (s.kind === 'fault') return fault(s.type);
    if (s.kind === 'table') {
      if (!half.had) inherited |= d & (0x1fn << 59n);
      table = s.address;
      level++;
      index = (input >> span(half.granule, level)) & ones(half.granule - 3n);
      continue;
    }
    if (!bit(d, 10n) && !s1.affd) return fault('F_ACCESS');
    const rights = stage1Rights(s1, d, inherited);
    if (!allowed(rights, access)) return fault('F_PERMISSION');
    const out = s.address | (va & ones(span(half.granule, level)));
    const guestSize = leafSize(d, half.granule, level, va, out, bits);
    const global = !bit(d, 11n);
    if (s2 === null) return { ok: true, out, size: guestSize, guestSize, rights, global };
    const t = walkStage2(read, s2, out, access, 'IN');
    if ('ok' in t) return t;
    const mapped = { ok: true as const, out: t.out, guestSize, rights: both(rights, t.rights), global };
    return { ...mapped, size: smaller(t.size, guestSize) };
  }
}
