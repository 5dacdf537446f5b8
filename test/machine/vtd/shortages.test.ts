import { describe, expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { isShortage } from '../../../src/lib/uapi/refusals.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { Rig } from './rig.ts';

const A = 0x100_0000;
const IQE = 0x10;
const PPF = 2;
const STATUS = 0x1f_0000;
/** Where the second function has a reserved region. */
const RESERVED = 0x4000_0000;

function attaches(fn: { vfio: object }, outcome: (real: () => number) => number): void {
  const vfio = fn.vfio as { attach(...a: unknown[]): number };
  const real = vfio.attach.bind(vfio);
  vfio.attach = (...a) => outcome(() => real(...a));
}

describe('without upcalls, a host that refuses', () => {
  test('what can never be is told, and translation comes on for everybody else', () => {
    const rig = new Rig({
      props: { profile: 'qemu-11.1' },
      linuxOnly: true,
      reserved: (name) =>
        name === 'dev17' ? [{ start: BigInt(RESERVED), last: BigInt(RESERVED + 0xfff), kind: 'direct' }] : [],
    });
    const { g } = rig;
    rig.plug(16);
    rig.plug(17);
    const root = rig.page();
    g.map(root, RESERVED, A, 3n, rig.pools[0]!);
    rig.legacy(16, 1, root);
    rig.legacy(17, 1, root);
    g.translateOn(rig.root());
    for (let i = 0; i < 100 && g.r32(PAGE.GSTS.at) >>> 31 === 0; i++);
    expect(g.r32(PAGE.GSTS.at) >>> 31).toBe(1);
    expect([rig.dma(16, RESERVED), g.r32(PAGE.FSTS.at) & PPF]).toEqual([A, PPF]);
  });

  test.each([true, false])(
    'one function for want of memory is not hidden by another whose requester ids disagree for a moment (it is the first: %s)',
    (early) => {
      const rig = new Rig({ props: { profile: 'qemu-11.1' }, linuxOnly: true });
      const { g } = rig;
      const several = () => rig.units[0]!.addFunction([16, 24], [16, 24].map(hostRid), { name: 'several' });
      if (!early) several();
      const single = rig.plug(40);
      if (early) several();
      const [one, two] = [rig.page(), rig.page()];
      g.map(one, 0x5000, A, 3n, rig.pools[0]!);
      g.map(two, 0x5000, A + 0x1000, 3n, rig.pools[0]!);
      const all = (did: number, table: number) => {
        for (const rid of [16, 24, 40]) rig.legacy(rid, did, table);
      };
      all(5, one);
      g.queueOn();
      g.translateOn(rig.root());
      for (let i = 0; i < 100 && g.r32(PAGE.GSTS.at) >>> 31 === 0; i++);
      expect(rig.dma(40, 0x5000)).toBe(A);
      let refused = 0;
      let refuses = true;
      attaches(single, (real) => {
        if (!refuses) return real();
        refused++;
        return -E.NOMEM;
      });
      all(6, two);
      g.submit(0x11n);
      g.submit(0x25n | (7n << 32n), BigInt(STATUS));
      expect(refused).toBeGreaterThan(0);
      expect([g.r32(PAGE.FSTS.at) & IQE, g.load(STATUS) & 0xffn]).toEqual([IQE, 0n]);
      refuses = false;
      g.w32(PAGE.FSTS.at, IQE);
      g.w32(PAGE.IQT.at, g.tail);
      expect([g.r32(PAGE.FSTS.at) & IQE, g.load(STATUS) & 0xffn]).toEqual([0, 7n]);
      for (const rid of [16, 24]) expect(rig.units[0]!.device.attachments().some((a) => a.rid === rid)).toBe(true);
      expect(rig.dma(40, 0x5000)).toBe(A + 0x1000);
    },
  );

  test('an errno is a shortage only when the same request may do better later', () => {
    const shortages = [E.NOMEM, E.IO, E.TIMEDOUT, E.AGAIN, E.INTR];
    for (const errno of Object.values(E)) expect(isShortage(-errno)).toBe((shortages as number[]).includes(errno));
    for (const outcome of [0, 1, E.NOMEM]) expect(isShortage(outcome)).toBe(false);
  });
});
