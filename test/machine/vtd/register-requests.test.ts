import { describe, expect, test } from 'vitest';
import type { ProfileName } from '../../../src/lib/profile/profile.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { Rig } from './rig.ts';

const FUNCTIONS = 240;
const FIRST = 8;
const A = 0x100_0000;
const B = 0x101_0000;
const TE = 0x8000_0000;
const QIE = 0x0400_0000;
const ICC = 0x8000_0000;
/** CCMD and IOTLB, global: their high words. */
const CONTEXTS = ICC | (1 << 29) | 0;
const TRANSLATIONS = ICC | (1 << 28) | 0;
const LOOKS = 20_000;
const PROFILES = ['qemu-11.1', 'arch'] as const satisfies readonly ProfileName[];

/** A legacy guest with the queue off and so many functions that nothing about all of them is done in one access. */
function crowd(profile: ProfileName) {
  const rig = new Rig({ props: { profile } });
  const { g } = rig;
  const rids = Array.from({ length: FUNCTIONS }, (_, i) => FIRST + i);
  for (const rid of rids) rig.plug(rid);
  const [one, two] = [rig.page(), rig.page()];
  g.map(one, 0x5000, A, 3n, rig.pools[0]!);
  g.map(two, 0x5000, B, 3n, rig.pools[0]!);
  // Deferred work comes late: each read of the guest is an occasion.
  rig.vm.defer = () => {};
  const until = (at: number, bit: number, value: number) => {
    let n = 0;
    while (n < LOOKS && (g.r32(at) & bit) >>> 0 !== value) n++;
    expect(n).toBeLessThan(LOOKS);
    return n;
  };
  const all = (did: number, table: number) => {
    for (const rid of rids) rig.legacy(rid, did, table);
  };
  const reached = () => new Set(rids.map((rid) => rig.dma(rid, 0x5000)));
  g.w64(PAGE.RTADDR.at, rig.root());
  g.w32(PAGE.GCMD.at, 0x4000_0000);
  until(PAGE.GSTS.at, 0x4000_0000, 0x4000_0000);
  const ccmd = () => g.registers.write(PAGE.CCMD.at, 8, 0, CONTEXTS);
  const iotlb = () => g.registers.write(PAGE.IOTLB.at, 8, 0, TRANSLATIONS);
  const on = () => {
    g.w32(PAGE.GCMD.at, TE);
    until(PAGE.GSTS.at, TE, TE);
  };
  return { rig, g, one, two, until, all, reached, ccmd, iotlb, on };
}

describe.each(PROFILES)('a request through registers (%s)', (profile) => {
  test.each(['ccmd', 'iotlb'] as const)(
    '%s while translation is being switched on leaves no function untranslated',
    (what) => {
      const m = crowd(profile);
      m.all(5, m.one);
      m.g.w32(PAGE.GCMD.at, TE);
      m[what]();
      m.until(PAGE.GSTS.at, TE, TE);
      m.until(PAGE.CCMD.at + 4, ICC, 0);
      m.until(PAGE.IOTLB.at + 4, ICC, 0);
      expect(m.g.r32(what === 'ccmd' ? PAGE.CCMD.at + 4 : PAGE.IOTLB.at + 4) & 0x1e00_0000).not.toBe(0);
      expect(m.reached()).toEqual(new Set([A]));
    },
  );

  test('and one while it is being switched off leaves none translated', () => {
    const m = crowd(profile);
    m.all(5, m.one);
    m.on();
    expect(m.reached()).toEqual(new Set([A]));
    m.g.w32(PAGE.GCMD.at, 0);
    m.ccmd();
    m.until(PAGE.GSTS.at, TE, 0);
    m.until(PAGE.CCMD.at + 4, ICC, 0);
    expect(m.reached()).toEqual(new Set([0x5000]));
  });

  test.each([
    ['ccmd', 'iotlb'],
    ['iotlb', 'ccmd'],
    ['ccmd', 'ccmd'],
  ] as const)('%s and %s behind it are both done', (first, second) => {
    const m = crowd(profile);
    m.all(5, m.one);
    m.on();
    expect(m.reached()).toEqual(new Set([A]));
    m.all(6, m.two);
    m[first]();
    m[second]();
    m.until(PAGE.CCMD.at + 4, ICC, 0);
    m.until(PAGE.IOTLB.at + 4, ICC, 0);
    expect(m.reached()).toEqual(new Set([B]));
  });

  test('a write of CCMD that asks for nothing does not disturb what is under way', () => {
    const m = crowd(profile);
    m.all(5, m.one);
    m.on();
    m.reached();
    m.all(6, m.two);
    m.iotlb();
    m.ccmd();
    m.g.w32(PAGE.IOTLB.at, 0);
    m.until(PAGE.CCMD.at + 4, ICC, 0);
    m.until(PAGE.IOTLB.at + 4, ICC, 0);
    expect(m.reached()).toEqual(new Set([B]));
  });

  test('a queue that is switched on behind one waits for it', () => {
    const m = crowd(profile);
    m.all(5, m.one);
    m.on();
    m.reached();
    m.all(6, m.two);
    m.ccmd();
    const queue = BigInt(m.g.queue);
    m.g.w64(PAGE.IQA.at, queue);
    m.g.store(m.g.queue, 0x25n | (0x55n << 32n), 0x60_0000n);
    m.g.w32(PAGE.GCMD.at, TE | QIE | 0);
    m.g.w32(PAGE.IQT.at, 16);
    m.until(PAGE.IQH.at, 0xffff, 16);
    expect([m.g.load(0x60_0000), m.g.r32(PAGE.CCMD.at + 4) >>> 31]).toEqual([0x55n, 0]);
    expect(m.reached()).toEqual(new Set([B]));
  });

  test('a reset in the middle forgets it', () => {
    const m = crowd(profile);
    m.all(5, m.one);
    m.on();
    m.reached();
    m.ccmd();
    m.iotlb();
    m.rig.units[0]!.reset();
    expect(m.g.r32(PAGE.CCMD.at + 4) >>> 31).toBe(0);
    m.g.w64(PAGE.RTADDR.at, m.rig.root());
    m.g.w32(PAGE.GCMD.at, 0x4000_0000);
    m.until(PAGE.GSTS.at, 0x4000_0000, 0x4000_0000);
    m.on();
    m.all(6, m.two);
    m.iotlb();
    m.until(PAGE.IOTLB.at + 4, ICC, 0);
    expect(m.g.r32(PAGE.CCMD.at + 4) >>> 31).toBe(0);
  });
});
