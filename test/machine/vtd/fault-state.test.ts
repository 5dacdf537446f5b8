import { describe, expect, test } from 'vitest';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { FAULT } from '../../../src/spec/vtd/faults.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { FIRST, Rig, SECOND } from './rig.ts';

const RID = 0x10;
const A = 0x100_0000;
const B = 0x101_0000;
const PROFILES = ['qemu-11.1', 'arch'] as const;
const MODES = ['legacy', 'second', 'first', 'pasid'] as const;

/** Fault reasons recorded since the last call. */
function reasonsOf(g: Rig['g']): number[] {
  const out: number[] = [];
  for (let i = 0; i < Number((g.r64(PAGE.CAP.at) >> 40n) & 0xffn) + 1; i++) {
    const at = PAGE.FRCD_LO.at + 16 * i;
    const w3 = g.r32(at + 12);
    if (w3 >>> 31 === 0) continue;
    out.push(w3 & 0xff);
    expect([g.r32(at) & ~0xfff, g.r32(at + 8) & 0xffff]).toEqual([0x5000, RID]);
    g.w32(at + 12, 0x8000_0000);
  }
  return out;
}

/** One function whose old tables map 0x6000 and whose new ones map 0x5000; the old ones are in force. */
function guest(profile: (typeof PROFILES)[number], mode: (typeof MODES)[number]) {
  const first = mode === 'first' || mode === 'pasid';
  const scalable = mode !== 'legacy';
  const rig = new Rig({ props: { profile, scalableMode: scalable, fsts: first, pasidBits: first ? 8 : 0 } });
  const { g } = rig;
  rig.plug(RID, 0, { maxPasids: 256 });
  const flags = first ? 7n : 3n;
  const [old, next] = [rig.page(), rig.page()];
  g.map(old, 0x6000, A, flags, rig.pools[0]!);
  g.map(next, 0x5000, B, flags, rig.pools[0]!);
  const pasid = mode === 'pasid' ? 3 : NO_PASID;
  const point = (root: number | null, bits = 0n) => {
    if (mode === 'legacy') {
      rig.legacy(RID, 5, root ?? 0);
      g.store(0x20_1000 + 16 * RID, root === null ? bits : BigInt(root) | 1n | bits);
    } else {
      const entry = first ? FIRST(5, root ?? 0) : SECOND(5, root ?? 0);
      rig.scalable(RID, Math.max(pasid, 0), root === null ? [bits] : [entry[0]! | bits, ...entry.slice(1)]);
    }
  };
  const reasons = () => reasonsOf(g);
  point(old);
  g.queueOn(scalable);
  g.translateOn(rig.root(scalable ? 1 : 0));
  const dma = (iova = 0x5000, access: number = ACCESS.WRITE) => rig.dma(RID, iova, access, pasid);
  expect(dma(0x6000)).toBe(A);
  const missing = first ? FAULT.FS_P : mode === 'second' && profile === 'arch' ? FAULT.SS_NONE : FAULT.WRITE;
  return { rig, g, old, next, point, dma, reasons, missing };
}

describe.each(PROFILES.flatMap((profile) => MODES.map((mode) => ({ profile, mode }))))(
  'a guest that rewrites an entry and has not invalidated it yet ($profile, $mode)',
  ({ profile, mode }) => {
    test.each([
      ['points it at tables that map the page', (m: ReturnType<typeof guest>) => m.point(m.next)],
      ['clears it', (m: ReturnType<typeof guest>) => m.point(null)],
      ['hides faults with it', (m: ReturnType<typeof guest>) => m.point(null, 2n)],
      [
        'fills it with reserved bits',
        (m: ReturnType<typeof guest>) => m.point(m.next, mode === 'legacy' ? 0x40n : 0xe00n),
      ],
    ])('and %s: an access is refused and recorded by what was in force', (_, rewrite) => {
      const m = guest(profile, mode);
      rewrite(m);
      expect([m.dma(0x6000), m.dma()]).toEqual([A, 'ABORT']);
      expect(m.reasons()).toEqual([m.missing]);
    });
  },
);

/** Levels of the entry that a guest rewrites above the last-level table that its unit has in its cache. */
const LEVELS = [4, 3, 2] as const;
const RESERVED = 1n << 51n;
const HOLE = 0x3000_0000n;

/** What a guest makes of the entry at `at`, which points to a table. */
const ABOVE: readonly [string, (m: ReturnType<typeof paged>, at: number) => bigint][] = [
  ['points it at a table with the page', (m) => BigInt(m.table([BigInt(B) | 7n])) | 7n],
  ['points it at an empty table', (m) => BigInt(m.rig.page()) | 7n],
  ['clears it', () => 0n],
  ['fills it with reserved bits', (m, at) => m.g.load(at) | RESERVED],
  ['forbids writes in it', (m, at) => m.g.load(at) & ~2n],
  ['forbids user accesses in it', (m, at) => m.g.load(at) & ~4n],
  ['points it at no memory', () => HOLE | 7n],
];

/** What the last-level entry in force says, and the reason of a write through it; null: it just fails. */
const LEAVES: readonly [string, bigint, number | null][] = [
  ['is not present', 0n, FAULT.FS_P],
  ['has reserved bits', BigInt(A) | 7n | RESERVED, FAULT.FS_RESERVED],
  ['forbids writes', BigInt(A) | 5n, FAULT.SM_WRITE],
  ['forbids user accesses', BigInt(A) | 3n, FAULT.US],
  ['leads out of memory', HOLE | 7n, null],
];

/** One function with a page at 0x6000 that it has used, beside which `leaf` is what 0x5000 has. */
function paged(profile: (typeof PROFILES)[number], pasid: boolean, nested: boolean, leaf: bigint) {
  const mode = pasid ? 'pasid' : 'first';
  const m = nested ? nestedGuest() : guest(profile, mode);
  const { rig, g, old } = m;
  const entry = (level: number) => {
    let at = old;
    for (let l = 4; ; l--) {
      const e = at + 8 * (Math.floor(0x5000 / 2 ** (3 + 9 * l)) % 512);
      if (l === level) return e;
      at = Number(g.load(e) & 0xf_ffff_f000n);
    }
  };
  g.store(entry(1), leaf);
  const table = (leaves: readonly bigint[]) => {
    const page = rig.page();
    g.store(page + 8 * 5, ...leaves);
    return page;
  };
  return { ...m, entry, table };
}

/** A guest that nests, with a second stage of its own: its memory one to one. */
function nestedGuest() {
  const rig = new Rig({ props: { profile: 'arch', scalableMode: true, fsts: true, pasidBits: 8 } });
  const { g } = rig;
  rig.plug(RID, 0, { maxPasids: 256 });
  const second = rig.page();
  for (let at = 0x20_0000; at < 0x28_0000; at += 4096) g.map(second, at, at, 3n, rig.pools[0]!);
  for (const at of [A, B]) g.map(second, at, at, 3n, rig.pools[0]!);
  const old = rig.page();
  g.map(old, 0x6000, A, 7n, rig.pools[0]!);
  g.map(old, 0x5000, B, 7n, rig.pools[0]!);
  rig.scalable(RID, 0, [BigInt(second) | 0xc9n, 5n, BigInt(old)]);
  g.queueOn(true);
  g.translateOn(rig.root(1));
  const dma = (iova = 0x5000, access: number = ACCESS.WRITE) => rig.dma(RID, iova, access);
  expect(dma(0x6000)).toBe(A);
  return { rig, g, old, dma, reasons: () => reasonsOf(g) };
}

const PAGED = [
  ...PROFILES.flatMap((profile) => [false, true].map((pasid) => ({ profile, pasid, nested: false }))),
  { profile: 'arch' as const, pasid: false, nested: true },
];

describe.each(PAGED)(
  'a guest that rewrites a paging entry and has not invalidated it yet ($profile, PASID $pasid, nested $nested)',
  ({ profile, pasid, nested }) => {
    describe.each(LEAVES)('whose last-level entry %s', (_, leaf, reason) => {
      // What leaves the guest's second stage is a fault of that.
      const expected = reason !== null ? [reason] : nested ? [FAULT.SS_NONE] : [];
      // Without a second stage of the guest, nothing tells which of the two the unit has found no memory for.
      const above = ABOVE.filter(([name]) => nested || reason !== null || name !== 'points it at no memory');
      test.each(above)('and %s: an access is refused and recorded by what the unit went through', (_name, rewrite) => {
        for (const level of LEVELS) {
          const m = paged(profile, pasid, nested, leaf);
          const at = m.entry(level);
          m.g.store(at, rewrite(m, at));
          expect([level, m.dma(0x6000), m.dma(), m.reasons()]).toEqual([level, A, 'ABORT', expected]);
        }
      });

      test('the same access without a rewritten entry', () => {
        const m = paged(profile, pasid, nested, leaf);
        expect([m.dma(), m.reasons()]).toEqual(['ABORT', expected]);
      });
    });
  },
);

test.each(PROFILES)('a PASID that the host cannot have is a recorded fault, not silence (%s)', (profile) => {
  const rig = new Rig({ props: { profile, scalableMode: true, fsts: true, pasidBits: 8 } });
  const { g } = rig;
  // The guest's table has more PASIDs than the function.
  rig.plug(RID, 0, { maxPasids: 4 });
  const table = rig.page();
  g.map(table, 0x5000, A, 7n, rig.pools[0]!);
  for (const pasid of [3, 5]) rig.scalable(RID, pasid, FIRST(5, table));
  g.queueOn(true);
  g.translateOn(rig.root(1));
  expect([rig.dma(RID, 0x5000, ACCESS.WRITE, 3), reasonsOf(g)]).toEqual([A, []]);
  expect([rig.dma(RID, 0x5000, ACCESS.WRITE, 5), reasonsOf(g)]).toEqual(['ABORT', [FAULT.PASID_UNREADABLE]]);
});
