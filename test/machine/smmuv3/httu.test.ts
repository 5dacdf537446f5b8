import { expect, test } from 'vitest';
import { ACCESS } from '../../../src/ports/dma.ts';
import { CD, cfgiSte, nhVa, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, type RigOptions, space } from './rig.ts';

const PAGE = 0x4040_5000;
const AF = 1n << 10n;
const READ_ONLY = 1n << 7n;
const DBM = 1n << 51n;
/** A page never used: unprivileged, read-only as long as it is clean. */
const FRESH = 0x43n | READ_ONLY | DBM;
const HD_HA = 3n << 42n;

function running(httu: 0 | 1 | 2, bits: bigint, cd: bigint) {
  const options: RigOptions = { properties: { profile: 'arch', httu } };
  const rig = new Rig(options);
  const { g } = rig;
  rig.plug(8);
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, PAGE, bits);
  g.put(CD + g.base, g.get(CD + g.base) | cd);
  g.ste(8, ste);
  g.setUp();
  g.run(cfgiSte(8), sync);
  // The leaf is the only descriptor that holds the page.
  const leaf = () => {
    for (let at = tables.root; ; at += 8) if ((g.get(at) & 0xfff_ffff_f000n) === BigInt(PAGE)) return g.get(at);
  };
  return { rig, g, leaf };
}

test('with IDR0.HTTU = 2 the hardware sets the access flag and makes a written page dirty, in guest memory', () => {
  const { rig, g, leaf } = running(2, FRESH, HD_HA);
  expect((rig.units[0]!.device.read(0, 4) >>> 6) & 3).toBe(2);
  expect(rig.dma(8, 0x5000, ACCESS.READ)).toBe(PAGE);
  expect(leaf() & (AF | READ_ONLY)).toBe(AF | READ_ONLY);
  expect(rig.dma(8, 0x5004, ACCESS.WRITE)).toBe(PAGE + 4);
  expect(leaf() & (AF | READ_ONLY)).toBe(AF);
  // The guest cleans the page, invalidates, and the next write shows again.
  const { tables } = space(g, 0, 0x11);
  tables.map(0x5000, PAGE, FRESH | AF);
  g.put(CD + g.base, g.get(CD + g.base) | HD_HA);
  g.run(nhVa(0, 0x11, 0x5000), sync);
  expect(rig.dma(8, 0x5008, ACCESS.WRITE)).toBe(PAGE + 8);
  expect(leaf() & READ_ONLY).toBe(0n);
});

test('with HTTU = 1 access flags only: a write to a clean page is a permission fault', () => {
  const { rig, leaf } = running(1, FRESH, 1n << 43n);
  expect(rig.dma(8, 0x5000, ACCESS.READ)).toBe(PAGE);
  expect(leaf() & AF).toBe(AF);
  expect(rig.dma(8, 0x5000, ACCESS.WRITE)).toBe('ABORT');
  expect(leaf() & READ_ONLY).toBe(READ_ONLY);
});

test('without it a CD that asks for updates is bad, and nothing is updated', () => {
  const { rig, leaf } = running(0, FRESH, HD_HA);
  expect(rig.dma(8, 0x5000, ACCESS.READ)).toBe('ABORT');
  expect(leaf() & AF).toBe(0n);
});
