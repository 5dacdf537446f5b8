import { describe, expect, test } from 'vitest';
import { CLASS, EV3, EV3_CLASS_SHIFT, EVENT } from '../../../src/spec/smmuv3/events.ts';
import { CD, cfgiSte, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, space } from './rig.ts';

const PAGE = 0x4040_5000;
const OTHER = 0x4040_7000;
/** No memory of the guest. */
const HOLE = 0x3000_0000;
const EVENTQ_PROD = 0x100a8;
const PROFILES = ['qemu-11.1', 'arch'] as const;
const S2_L1 = 0x4160_0000;

/** A stream whose old tables map 0x6000, and whose next ones map 0x5000; the old ones are in force. `nested`: over its own stage 2. */
function guest(profile: (typeof PROFILES)[number], nested = false) {
  const rig = new Rig({ properties: { profile } });
  const { g } = rig;
  rig.plug(8);
  const old = space(g, 0, 0x11);
  const next = space(g, 1, 0x11);
  old.tables.map(0x6000, PAGE);
  next.tables.map(0x5000, OTHER);
  const s2 = nested ? [0n, 0x040c_0059_0000_0007n, BigInt(S2_L1)] : [0n, 0n, 0n];
  // The guest's stage 2 leaves its first 32 MiB where they are.
  g.put(S2_L1 + 8, BigInt(S2_L1 + 0x1000) | 3n);
  for (let i = 0; i < 16; i++) g.put(S2_L1 + 0x1000 + 8 * i, BigInt(0x4000_0000 + i * 0x20_0000) | 0x4fdn);
  const point = (ste: bigint) => g.ste(8, ste === 0n || !nested ? ste : ste | 4n, ...s2);
  point(old.ste);
  g.setUp(5);
  g.run(cfgiSte(8), sync);
  expect(rig.dma(8, 0x6000)).toBe(PAGE);
  /** The CD in force, rewritten. */
  const cd = (...words: bigint[]) => g.put(CD, ...words);
  const events = () => {
    const out: { type: number; cls: number; s2: boolean; ipa: number }[] = [];
    for (let i = 0; i < (g.r(EVENTQ_PROD) & 0xffff); i++) {
      const e = g.event(i);
      const w3 = Number(e[1]! >> 32n);
      const cls = (w3 >>> EV3_CLASS_SHIFT) & 3;
      out.push({ type: Number(e[0]! & 0xffn), cls, s2: (w3 & EV3.S2) !== 0, ipa: Number(e[3]!) });
    }
    return out;
  };
  /** Where the descriptor for 0x5000 lies, by level. */
  const entry = (level: number) => {
    let at = old.tables.root;
    for (let l = 1; l < level; l++) at = Number(g.get(at) & 0xffff_ffff_f000n);
    return level === 3 ? at + 8 * 5 : at;
  };
  let pages = 0x4170_0000;
  const table = (page: bigint) => {
    pages += 0x1000;
    g.put(pages + 8 * 5, page);
    return pages;
  };
  return { rig, g, old, next, point, cd, events, entry, table, dma: (at = 0x5000) => rig.dma(8, at) };
}

type Guest = ReturnType<typeof guest>;

const REWRITES: readonly [string, (m: Guest) => void][] = [
  ['points its STE at tables that map the page', (m) => m.point(m.next.ste)],
  ['clears its STE', (m) => m.point(0n)],
  ['lets its STE bypass', (m) => m.point(9n)],
  ['points its CD at tables that map the page', (m) => m.cd(m.g.get(CD), BigInt(m.next.tables.root))],
  ['points its CD at no memory', (m) => m.cd(m.g.get(CD), BigInt(HOLE))],
  ['clears its CD', (m) => m.cd(0n, 0n)],
  ['hides faults with its CD', (m) => m.cd(m.g.get(CD) & ~(1n << 45n))],
  [
    'points its CD at tables that forbid writes',
    (m) => {
      m.next.tables.map(0x5000, OTHER, 0x4c3n);
      m.g.put(m.next.tables.root, m.g.get(m.next.tables.root) | (1n << 62n));
      m.cd(m.g.get(CD), BigInt(m.next.tables.root));
    },
  ],
];

describe.each(PROFILES.flatMap((profile) => [false, true].map((nested) => ({ profile, nested }))))(
  'a guest that rewrites its configuration and has not invalidated it yet ($profile, own stage 2: $nested)',
  ({ profile, nested }) => {
    test.each(REWRITES)('%s: an access is refused and recorded by what was in force', (_, rewrite) => {
      const m = guest(profile, nested);
      rewrite(m);
      expect([m.dma(0x6000), m.dma()]).toEqual([PAGE, 'ABORT']);
      expect(m.events().map((e) => [e.type, e.s2])).toEqual([[EVENT.F_TRANSLATION, false]]);
    });
  },
);

/** What a guest makes of the descriptor at `at`, which points to a table of the next level. */
const ABOVE: readonly [string, (m: Guest, at: number) => bigint][] = [
  ['points it at a table with the page', (m) => BigInt(m.table(BigInt(OTHER) | 0x443n)) | 3n],
  ['points it at an empty table', (m) => BigInt(m.table(0n)) | 3n],
  ['clears it', () => 0n],
  ['forbids writes in it', (m, at) => m.g.get(at) | (1n << 62n)],
  ['points it beyond its output size', (m, at) => m.g.get(at) | (1n << 46n)],
  ['points it at no memory', () => BigInt(HOLE) | 3n],
];

/** What the last-level descriptor in force says, and the event of a write through it; null: it just fails. */
const LEAVES: readonly [string, bigint, number | null][] = [
  ['is not valid', 0n, EVENT.F_TRANSLATION],
  ['forbids writes', BigInt(PAGE) | 0x4c3n, EVENT.F_PERMISSION],
  ['has no access flag', BigInt(PAGE) | 0x043n, EVENT.F_ACCESS],
  ['leads out of memory', BigInt(HOLE) | 0x443n, null],
];

describe.each(PROFILES.flatMap((profile) => [false, true].map((nested) => ({ profile, nested }))))(
  'a guest that rewrites a table descriptor and has not invalidated it yet ($profile, own stage 2: $nested)',
  ({ profile, nested }) => {
    describe.each(LEAVES)('whose last-level descriptor %s', (_, leaf, event) => {
      // What leaves the guest's stage 2 is a fault of that.
      const s2 = event === null && nested;
      const expected = event !== null ? [[event, false]] : nested ? [[EVENT.F_TRANSLATION, true]] : [];
      // QEMU caches no tables, and permission of a table comes first with it: it would see the one that is new.
      const above = ABOVE.filter(([name]) => profile === 'arch' || name !== 'forbids writes in it');
      test.each(above)('and %s: an access is refused and recorded by what the SMMU went through', (_name, rewrite) => {
        for (const level of [1, 2]) {
          const m = guest(profile, nested);
          m.g.put(m.entry(3), leaf);
          const at = m.entry(level);
          m.g.put(at, rewrite(m, at));
          expect([level, m.dma(0x6000), m.dma()]).toEqual([level, PAGE, 'ABORT']);
          const events = m.events();
          expect([level, events.map((e) => [e.type, e.s2])]).toEqual([level, expected]);
          if (s2) expect([events[0]!.cls, events[0]!.ipa]).toEqual([CLASS.IN, HOLE]);
        }
      });
    });
  },
);

describe.each(PROFILES)('what the hardware met behind a CD that has been rewritten since, %s', (profile) => {
  test('a page outside of memory just fails', () => {
    const m = guest(profile);
    m.old.tables.map(0x7000, HOLE);
    m.cd(0n, 0n);
    expect(m.dma(0x7000)).toBe('ABORT');
    expect(m.events()).toEqual([]);
  });

  test('a table outside of memory is an aborted walk', () => {
    const m = guest(profile);
    m.old.tables.map(0x4000_0000, PAGE);
    m.g.put(m.old.tables.root + 8, BigInt(HOLE) | 3n);
    m.cd(0n, 0n);
    expect(m.dma(0x4000_0000)).toBe('ABORT');
    expect(m.events()).toEqual([{ type: EVENT.F_WALK_EABT, cls: CLASS.TT, s2: false, ipa: HOLE }]);
  });

  test('a page that the guest’s stage 2 does not map is a stage-2 fault with its address', () => {
    const m = guest(profile, true);
    m.old.tables.map(0x7000, HOLE);
    m.cd(0n, 0n);
    expect(m.dma(0x7000)).toBe('ABORT');
    expect(m.events()).toEqual([{ type: EVENT.F_TRANSLATION, cls: CLASS.IN, s2: true, ipa: HOLE }]);
  });
});
