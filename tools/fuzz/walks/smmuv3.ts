import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { VmsaWalker } from '../../../src/lib/walk/vmsa.ts';
import { permNeeded, stage1Regime, stage2Regime } from '../../../src/lib/walk/vmsa-regime.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import { CLASS, EVENT_NAMES } from '../../../src/spec/smmuv3/events.ts';
import type { Random } from '../../oracle/random.ts';
import {
  type Access,
  type Fault,
  type Half,
  type Mapped,
  type Rights,
  type Stage1,
  type Stage2,
  walkStage1,
  walkStage2,
} from '../../oracle/vmsa.ts';

const RAM = 0x40_0000;
/** What is walked. */
export type VmsaMode = 'stage1' | 'stage2' | 'nested';
const OAS_FIELD: { readonly [bits: number]: number } = { 32: 0, 36: 1, 40: 2, 42: 3, 44: 4, 48: 5, 52: 6 };

/** RAM full of descriptors that mostly lead somewhere: tables, blocks and pages inside it, and a few of everything else. */
export function fillWithDescriptors(memory: AddressSpace, rnd: Random): void {
  const words = new Int32Array(RAM / 4);
  for (let at = 0; at < words.length; at += 2) {
    const inside = rnd.below(RAM >>> 16) << 16;
    let lo = rnd.next() & 0xb3c;
    let hi = 0;
    if (rnd.chance(97.5)) lo |= inside | (rnd.chance(94) ? 3 : 1);
    else {
      lo |= rnd.next();
      hi |= rnd.next() & (rnd.chance(50) ? 0xffff : 0xfff);
    }
    if (rnd.chance(98)) lo |= 1 << 10;
    if (rnd.chance(98)) lo |= 1 << 6;
    if (rnd.chance(60)) lo |= 1 << 7;
    if (rnd.chance(98)) lo |= 0xc << 2;
    if (rnd.chance(20)) hi |= rnd.next() & (1 << 20);
    if (rnd.chance(20)) hi |= rnd.next() & (0x7f << 21);
    if (rnd.chance(10)) hi |= rnd.next() & (0x1f << 27);
    words[at] = lo;
    words[at + 1] = hi;
  }
  memory.writeBytes(0, new Uint8Array(words.buffer));
}

/** A CD and an STE, as words for the code under test and as what they mean for the oracle. */
export interface VmsaCase {
  readonly cd: Int32Array;
  readonly ste: Int32Array;
  readonly s1: Stage1;
  readonly s2: Stage2;
  readonly oas: number;
}

const GRANULES = [12, 14, 16] as const;
const TG0 = { 12: 0, 16: 1, 14: 2 } as const;
const TG1 = { 14: 1, 12: 2, 16: 3 } as const;

function words(list: readonly bigint[]): Int32Array {
  const out = new Int32Array(16);
  for (const [n, w] of list.entries()) {
    out[2 * n] = Number(w & 0xffff_ffffn);
    out[2 * n + 1] = Number(w >> 32n);
  }
  return out;
}

/** Output bits of a regime with granule `g`: min(field, OAS), 48 at most without the 64K granule. */
function effective(ps: number, oas: number, g: number): number {
  return Math.min(ps, oas, g === 16 ? 52 : 48);
}

/** A random one. */
export function vmsaCase(rnd: Random): VmsaCase {
  const oas = rnd.pick([44, 48, 48, 52]);
  const ips = rnd.pick([32, 36, 40, 42, 44, 48, 52]);
  const g0 = rnd.pick(GRANULES);
  const g1 = rnd.chance(50) ? g0 : rnd.pick(GRANULES);
  const flag = (percent: number) => (rnd.chance(percent) ? 1 : 0);
  const [epd0, epd1, affd, wxn, pan, had0, had1, tbi0, tbi1] = [5, 5, 20, 15, 15, 20, 20, 30, 30].map(flag);
  const ttb = () => BigInt(rnd.below(RAM >>> 4)) << 4n;
  const [t0, t1, tb0, tb1] = [16 + rnd.below(24), 16 + rnd.below(24), ttb(), ttb()];
  const b = (value: number | undefined, at: number) => BigInt(value ?? 0) << BigInt(at);
  const cd0 =
    b(t0, 0) |
    b(TG0[g0], 6) |
    b(epd0, 14) |
    b(t1, 16) |
    b(TG1[g1], 22) |
    b(epd1, 30) |
    b(1, 31) |
    b(OAS_FIELD[ips], 32) |
    b(affd, 35) |
    b(wxn, 36) |
    b(tbi0, 38) |
    b(tbi1, 39) |
    b(pan, 40) |
    b(1, 41) |
    b(3, 45);
  const half = (
    t: bigint,
    g: number,
    tsz: number,
    epd: number | undefined,
    tbi: number | undefined,
    had: number | undefined,
  ): Half => ({
    ttb: t,
    granule: BigInt(g),
    tsz: BigInt(tsz),
    epd: epd === 1,
    tbi: tbi === 1,
    had: had === 1,
  });
  // Both halves share IPS; where their effective sizes differ the case is made with one granule.
  const same = effective(ips, oas, g0) === effective(ips, oas, g1);
  const half0 = half(tb0, g0, t0, epd0, tbi0, had0);
  const half1 = half(tb1, g1, t1, same ? epd1 : 1, tbi1, had1);
  const cd = words([same ? cd0 : cd0 | (1n << 30n), tb0 | b(had0, 1), tb1 | b(had1, 1)]);
  const s1: Stage1 = {
    half0,
    half1,
    outBits: BigInt(effective(ips, oas, g0)),
    affd: affd === 1,
    wxn: wxn === 1,
    pan: pan === 1,
  };
  return { cd, s1, oas, ...stage2(rnd, oas) };
}

function stage2(rnd: Random, oas: number): { ste: Int32Array; s2: Stage2 } {
  const g = rnd.pick(GRANULES);
  const ps = rnd.pick([32, 36, 40, 42, 44, 48, 52]);
  for (;;) {
    const t0sz = Math.max(64 - oas, g === 16 ? 0 : 16) + rnd.below(24);
    const sl0 = rnd.below(3);
    const level = (g === 12 ? 2 : 3) - sl0;
    const startBits = 64 - t0sz - (g + (g - 3) * (3 - level));
    if (t0sz > 39 || startBits < 1 || startBits > g - 3 + 4) continue;
    const [affd, ptw] = [rnd.chance(20), rnd.chance(20)];
    const ttb = BigInt(rnd.below(RAM >>> 4)) << 4n;
    const b = (value: number, at: number) => BigInt(value) << BigInt(at);
    const w2 =
      b(t0sz, 32) |
      b(sl0, 38) |
      b(TG0[g], 46) |
      b(OAS_FIELD[ps]!, 48) |
      b(1, 51) |
      b(affd ? 1 : 0, 53) |
      b(ptw ? 1 : 0, 54);
    const s2: Stage2 = {
      ttb,
      granule: BigInt(g),
      t0sz: BigInt(t0sz),
      startLevel: BigInt(level),
      outBits: BigInt(effective(ps, oas, g)),
      affd,
      ptw,
    };
    return { ste: words([0n, 0n, w2, ttb]), s2 };
  }
}

function input(rnd: Random, s1: Stage1): bigint {
  const upper = rnd.chance(45);
  const half = upper ? s1.half1 : s1.half0;
  const bits = 64 - Number(half.tsz) + (rnd.chance(3) ? 2 : 0);
  const low = rnd.bits(bits) & (rnd.chance(30) ? ~0xf000n : ~0n);
  let va = upper ? ((1n << 64n) - 1n) ^ ((1n << BigInt(bits)) - 1n) ^ low : low;
  if (rnd.chance(20)) va = (va & ((1n << 56n) - 1n)) | (rnd.bits(8) << 56n);
  return va & ((1n << 64n) - 1n);
}

function rights(r: Rights): number {
  const one = (n: 0 | 1) => (r.read[n] ? 1 : 0) | (r.write[n] ? 2 : 0) | (r.exec[n] ? 4 : 0);
  return one(0) | (one(1) << 3);
}

/** Both answers in one shape. */
function expected(r: Mapped | Fault): object {
  if (r.ok)
    return {
      out: Number(r.out),
      size: Number(r.size),
      guest: Number(r.guestSize),
      perm: rights(r.rights),
      global: r.global,
    };
  const f: Record<string, unknown> = { fault: r.type, stage: r.stage, cls: r.cls };
  if (r.level >= 0n) f.level = Number(r.level);
  if (r.ipa !== undefined) f.ipa = Number(r.ipa);
  if (r.fetch !== undefined) f.fetch = Number(r.fetch);
  return f;
}

function found(code: number, w: VmsaWalker, want: Mapped | Fault): object {
  if (code === 0) return { out: w.out, size: w.outShift, guest: w.guestShift, perm: w.perm, global: w.global };
  const cls = w.cls === CLASS.IN ? 'IN' : w.cls === CLASS.TT ? 'TT' : 'CD';
  const f: Record<string, unknown> = { fault: EVENT_NAMES.get(code), stage: w.stage, cls };
  if (!want.ok && want.level >= 0n) f.level = w.level;
  if (!want.ok && want.ipa !== undefined) f.ipa = w.ipa;
  if (!want.ok && want.fetch !== undefined) f.fetch = w.fetch;
  return f;
}

/** Both walkers over one memory. */
export class VmsaComparison {
  readonly memory = new AddressSpace();
  readonly walker = new VmsaWalker(this.memory);
  readonly s1 = stage1Regime();
  readonly s2 = stage2Regime();
  readonly seen = new Map<string, number>();

  constructor() {
    this.memory.addRam(0, RAM, ramBacking(RAM));
  }

  readonly read = (at: bigint): bigint | null => {
    if (at >= 1n << 52n || !this.memory.load64(Number(at))) return null;
    return (BigInt(this.memory.hi >>> 0) << 32n) | BigInt(this.memory.lo >>> 0);
  };

  /**
   * One random access. @param plant stands between the fast walker's answer and the comparison.
   * @returns how the two differ; null: they agree.
   */
  one(rnd: Random, c: VmsaCase, mode: VmsaMode, plant: (answer: string) => string = (a) => a): string | null {
    const access: Access = { write: rnd.chance(40), exec: rnd.chance(10), priv: rnd.chance(30) };
    const bits =
      (access.write ? ACCESS.WRITE : ACCESS.READ) | (access.exec ? ACCESS.EXEC : 0) | (access.priv ? ACCESS.PRIV : 0);
    const need = permNeeded(bits);
    let want: Mapped | Fault;
    let code: number;
    let what: string;
    if (mode === 'stage2') {
      const ipa =
        rnd.bits(Math.min(52, 64 - Number(c.s2.t0sz) + (rnd.chance(3) ? 2 : 0))) & (rnd.chance(30) ? ~0xf000n : ~0n);
      const r = walkStage2(this.read, c.s2, ipa, access, 'IN');
      want = 'ok' in r ? r : { ok: true, out: r.out, size: r.size, guestSize: 0n, rights: r.rights, global: false };
      code = this.walker.stage2(this.s2, Number(ipa), need, CLASS.IN);
      what = `ipa 0x${ipa.toString(16)}`;
    } else {
      const va = input(rnd, c.s1);
      want = walkStage1(this.read, c.s1, mode === 'nested' ? c.s2 : null, va, access);
      const lo = Number(va & 0xffff_ffffn) | 0;
      const hi = Number(va >> 32n) | 0;
      code = this.walker.stage1(this.s1, mode === 'nested' ? this.s2 : null, lo, hi, need);
      what = `va 0x${va.toString(16)}`;
    }
    const [w, g] = [JSON.stringify(expected(want)), plant(JSON.stringify(found(code, this.walker, want)))];
    if (w !== g) return `${mode} ${what} access ${bits} ${describeCase(c)}: oracle ${w}, walker ${g}`;
    const granule = mode === 'stage2' ? c.s2.granule : c.s1.half0.granule;
    const key = want.ok ? `${mode} ${granule} mapped` : `${mode} stage ${want.stage} ${want.cls} ${want.type}`;
    this.seen.set(key, (this.seen.get(key) ?? 0) + 1);
    if (want.ok) this.seen.set(`${mode} size ${want.size}`, (this.seen.get(`${mode} size ${want.size}`) ?? 0) + 1);
    return null;
  }
}

function describeCase(c: VmsaCase): string {
  return JSON.stringify({ s1: c.s1, s2: c.s2, oas: c.oas }, (_, v) =>
    typeof v === 'bigint' ? `0x${v.toString(16)}` : v,
  );
}
