import { AddressSpace } from '../../../src/lib/memory/address-space.ts';
import { VtdWalker } from '../../../src/lib/walk/vtd.ts';
import { VtdRegime } from '../../../src/lib/walk/vtd-regime.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import type { PagingLimits } from '../../../src/spec/vtd/paging.ts';
import { PGTT } from '../../../src/spec/vtd/tables.ts';
import { type OracleRegime, oracleWalk } from '../../oracle/vtd-walk.ts';

const KINDS = { first: PGTT.FIRST, second: PGTT.SECOND, nested: PGTT.NESTED, 'pass-through': PGTT.PASS_THROUGH };
const BASE = 0x1_0000_0000n;
/**
 * First-stage pages, then second-stage pages (page FIRST + i is a table of level i % 5 + 1, the last five of them and one
 * first-stage page cannot be written).
 */
const FIRST = 25;
const SECOND = 30;
const PAGES = FIRST + SECOND;
const READ_ONLY = 5;
/** Only these indices of a table are used, so that random addresses meet random entries. */
const INDICES = [0, 1, 3, 511];

function generator(seed: number): (n: number) => number {
  let x = seed | 1;
  return (n) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % n;
  };
}

class World {
  readonly words = new Int32Array(PAGES * 1024);
  readonly pristine: Int32Array;
  readonly space = new AddressSpace();
  readonly #rnd: (n: number) => number;
  readonly #nested: boolean;

  constructor(rnd: (n: number) => number, nested: boolean, flaws: number) {
    this.#rnd = rnd;
    this.#nested = nested;
    const backing = { words: () => this.words };
    const writable = (PAGES - READ_ONLY) * 4096;
    this.space.addRam(Number(BASE), writable, backing);
    this.space.addRam(Number(BASE) + writable, READ_ONLY * 4096, backing, false, writable);
    for (let page = 0; page < FIRST; page++) this.#fill(page, () => this.#firstEntry(flaws));
    for (let page = FIRST; page < PAGES; page++)
      this.#fill(page, () => this.#secondEntry(((page - FIRST) % 5) + 1, flaws));
    this.pristine = this.words.slice();
  }

  #fill(page: number, make: () => bigint): void {
    for (const i of INDICES) {
      const e = make();
      this.words[page * 1024 + 2 * i] = Number(BigInt.asIntN(32, e));
      this.words[page * 1024 + 2 * i + 1] = Number(BigInt.asIntN(32, e >> 32n));
    }
  }

  address(page: number): bigint {
    return BASE + BigInt(page) * 4096n;
  }

  #chance(oneIn: number): boolean {
    return this.#rnd(oneIn) === 0;
  }

  /** Now and then far away, in the interrupt window or beyond the width. */
  #odd(flaws: number): bigint | null {
    if (this.#chance(flaws)) return BigInt(this.#rnd(0x10_0000)) * 4096n;
    if (this.#chance(flaws)) return 0xfee0_0000n + BigInt(this.#rnd(512)) * 4096n;
    return this.#chance(flaws) ? 1n << BigInt(36 + this.#rnd(16)) : null;
  }

  firstPointer(large: boolean): bigint {
    if (this.#nested) {
      let a = 0n;
      for (let level = 1; level <= 3; level++) a |= BigInt(INDICES[this.#rnd(4)]!) << BigInt(3 + 9 * level);
      return large ? a & ~0x3fff_ffffn : a;
    }
    return large ? BASE : this.address(this.#rnd(FIRST));
  }

  #firstEntry(flaws: number): bigint {
    const large = this.#chance(6);
    let e = (this.#odd(flaws) ?? this.firstPointer(large)) | 0x27n | (large ? 0x80n : 0n);
    if (this.#chance(flaws)) e &= ~1n;
    if (this.#chance(6)) e &= ~2n;
    if (this.#chance(8)) e &= ~4n;
    if (this.#chance(2)) e &= ~0x20n;
    if (this.#chance(3)) e |= 0x440n;
    if (this.#chance(flaws)) e |= 1n << BigInt(this.#rnd(64));
    return e;
  }

  #secondEntry(level: number, flaws: number): bigint {
    const large = (level === 2 || level === 3) && this.#chance(5);
    const below = FIRST + level - 2 + 5 * this.#rnd(SECOND / 5);
    const target = large ? BASE : this.address(level === 1 ? this.#rnd(PAGES) : below);
    let e = (this.#odd(flaws) ?? target) | 3n | (large ? 0x80n : 0n);
    if (this.#chance(flaws)) e &= ~3n;
    if (this.#chance(12)) e &= ~1n;
    if (this.#chance(12)) e &= ~2n;
    if (this.#chance(2)) e |= 0x100n;
    if (this.#chance(3)) e |= 0x300n;
    if (this.#chance(flaws)) e |= 1n << BigInt(this.#rnd(64));
    return e;
  }
}

const limitsOf = (rnd: (n: number) => number): PagingLimits => ({
  haw: [36, 39, 46, 48, 52][rnd(5)]!,
  ss2m: rnd(5) > 0,
  ss1g: rnd(3) > 0,
  fs1g: rnd(3) > 0,
  snp: rnd(2) === 0,
  tm: rnd(4) === 0,
});

function randomRegime(rnd: (n: number) => number, w: World, r: VtdRegime, kind: OracleRegime['kind']): OracleRegime {
  const scalable = kind !== 'second' && kind !== 'pass-through' ? true : rnd(2) === 0;
  const secondLevels = 3 + rnd(3);
  const g: OracleRegime = {
    kind,
    scalable,
    firstRoot: rnd(40) === 0 ? 1n << BigInt(30 + rnd(22)) : w.firstPointer(false),
    firstLevels: 4 + rnd(2),
    wpe: rnd(2) === 0,
    eafe: rnd(4) === 0,
    secondRoot: rnd(60) === 0 ? 0x9_9999_9000n : w.address(FIRST + secondLevels - 1 + 5 * rnd(SECOND / 5)),
    secondLevels,
    ssade: scalable && rnd(3) === 0,
  };
  r.pgtt = KINDS[kind];
  r.scalable = g.scalable;
  r.firstRoot = Number(g.firstRoot);
  r.firstBits = 12 + 9 * g.firstLevels;
  r.wpe = g.wpe;
  r.eafe = g.eafe;
  r.secondRoot = Number(g.secondRoot);
  r.secondLevels = g.secondLevels;
  r.ssade = g.ssade;
  return g;
}

function randomAddress(rnd: (n: number) => number, levels: number): bigint {
  let a = BigInt(rnd(4096) & ~3);
  for (let level = 1; level <= levels; level++) a |= BigInt(INDICES[rnd(4)]!) << BigInt(3 + 9 * level);
  if (rnd(20) === 0) return a | (1n << BigInt(rnd(64)));
  const top = BigInt(12 + 9 * levels);
  return rnd(2) === 0 && (a >> (top - 1n)) & 1n ? a | ((-1n << top) & 0xffff_ffff_ffff_ffffn) : a;
}

/** What was met, by reason, and who stands between the fast walker's answer and the comparison. */
export interface VtdComparison {
  readonly seen: Map<number, number>;
  readonly plant?: (answer: string) => string;
}

/** Runs `cases` random requests of one kind. @returns everything needed to repeat the first difference; null: there is none. */
export function compareVtdWalks(
  seed: number,
  kind: OracleRegime['kind'],
  cases: number,
  o: VtdComparison,
): string | null {
  const { seen, plant = (a) => a } = o;
  const rnd = generator(seed);
  const w = new World(rnd, kind === 'nested', (kind === 'nested' ? 100 : 25) + rnd(400));
  const limits = limitsOf(rnd);
  const walker = new VtdWalker(w.space, limits);
  const unit = {
    haw: limits.haw,
    pages2m: limits.ss2m,
    pages1g: limits.ss1g,
    firstPages1g: limits.fs1g,
    snoop: limits.snp,
    transient: limits.tm,
  };
  const end = BASE + BigInt(PAGES) * 4096n;
  const at = (a: bigint) => Number(a - BASE) / 4;
  const memory = {
    read: (a: bigint) =>
      a >= BASE && a < end ? (BigInt(w.words[at(a) + 1]! >>> 0) << 32n) | BigInt(w.words[at(a)]! >>> 0) : null,
    canWrite: (a: bigint) => a >= BASE && a < end - BigInt(READ_ONLY) * 4096n,
  };
  const r = new VtdRegime();
  for (let n = 0; n < cases; n++) {
    const g = randomRegime(rnd, w, r, kind);
    const address = randomAddress(rnd, kind === 'second' ? g.secondLevels : g.firstLevels);
    const access = 1 + rnd(3) + (kind === 'first' || kind === 'nested' ? 8 * rnd(2) : 0);
    const want = oracleWalk(memory, unit, g, {
      address,
      read: (access & ACCESS.READ) !== 0,
      write: (access & ACCESS.WRITE) !== 0,
      privileged: (access & ACCESS.PRIV) !== 0,
    });
    const ok = walker.walk(r, Number(BigInt.asIntN(32, address)), Number(BigInt.asIntN(32, address >> 32n)), access);
    const got = ok
      ? [0, BigInt(walker.out), 1n << BigInt(walker.shift), walker.perm]
      : [walker.reason, walker.secondMissing ? BigInt(walker.ipa) : null];
    const expected =
      'out' in want
        ? [0, want.out, want.size, (want.read ? 1 : 0) | (want.write ? 2 : 0)]
        : [want.fault, want.missing === null ? null : want.missing];
    const [g1, w1] = [plant(text(got)), text(expected)];
    if (g1 !== w1) return text({ seed, n, g, limits, address, access, got: g1, expected: w1 });
    seen.set(want.fault, (seen.get(want.fault) ?? 0) + 1);
    for (const [a, v] of want.stores) {
      if (memory.read(a) !== v) return text({ seed, n, stored: a, expected: v, found: memory.read(a) });
      w.words[at(a)] = w.pristine[at(a)]!;
      w.words[at(a) + 1] = w.pristine[at(a) + 1]!;
    }
  }
  // Whatever is left differs because the walker wrote where the oracle did not.
  if (Buffer.compare(Buffer.from(w.words.buffer), Buffer.from(w.pristine.buffer)) !== 0) {
    return text({ seed, stray: w.words.findIndex((v, i) => v !== w.pristine[i]) });
  }
  return null;
}

function text(value: unknown): string {
  return JSON.stringify(value, (_, v: unknown) => (typeof v === 'bigint' ? `0x${v.toString(16)}` : v));
}
