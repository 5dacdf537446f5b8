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
  /** Fault reasons recorded since the last call. */
  const reasons = () => {
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
  };
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

describe.each(PROFILES)('a guest that replaces a first-stage table and has not invalidated it yet, %s', (profile) => {
  test('hears of an access that the unit refused by the old one', () => {
    const m = guest(profile, 'first');
    const { rig, g, old } = m;
    // A second last-level table, with the page, takes the place of the one that the unit has in its cache.
    let at = old;
    for (const level of [3, 2])
      at = Number(g.load(at + 8 * (Math.floor(0x5000 / 2 ** (12 + 9 * level)) % 512)) & ~0xfffn);
    const table = rig.page();
    g.store(table + 8 * 5, BigInt(B) | 7n);
    g.store(at, BigInt(table) | 7n);
    const got = m.dma();
    const reasons = m.reasons();
    expect([got, reasons]).toEqual(got === 'ABORT' ? ['ABORT', [FAULT.FS_P]] : [B, []]);
    expect(got).toBe('ABORT');
  });
});

test('a PASID that the host cannot have is a recorded fault, not silence', () => {
  const rig = new Rig({ props: { profile: 'qemu-11.1', scalableMode: true, fsts: true, pasidBits: 8 } });
  const { g } = rig;
  rig.plug(RID, 0, { maxPasids: 256 });
  const table = rig.page();
  g.map(table, 0x5000, A, 7n, rig.pools[0]!);
  rig.scalable(RID, 0, FIRST(5, table));
  g.queueOn(true);
  g.translateOn(rig.root(1));
  expect(rig.dma(RID, 0x5000)).toBe(A);
  // PASID 0 is RID_PASID of every function on the host.
  expect(rig.dma(RID, 0x5000, ACCESS.WRITE, 0)).toBe('ABORT');
  expect([g.r32(PAGE.FSTS.at) & 2, g.r32(PAGE.FRCD_HI.at + 4) & 0xff]).toEqual([2, FAULT.PASID_UNREADABLE]);
});
