import { expect, test } from 'vitest';
import { cfgiAll, cfgiSte, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, space } from './rig.ts';

const PAGE = 0x4040_5000;
const S2 = [0n, 0x040c_0059_0000_0009n, 0x4060_0000n] as const;

test('devices come and go in a running guest, and with the last one every page and object of the host is back', () => {
  const rig = new Rig();
  const { g } = rig;
  const a = space(g, 0, 0x11);
  const b = space(g, 1, 0x11);
  a.tables.map(0x5000, PAGE);
  b.tables.map(0x5000, PAGE + 0x1000);
  g.put(0x4060_0000, 0x4000_04fdn, 0x4000_04fdn);
  g.setUp(5);
  const pages = () => rig.vm.hostMemory.pagesUsed;
  let idle = 0;
  let busy = 0;
  for (let round = 0; round < 5; round++) {
    const fns = [8, 9, 16, 17].map((sid) => rig.plug(sid));
    g.ste(8, a.ste, 0, 0, 0);
    g.ste(9, b.ste, 0, 7, 0);
    g.ste(16, 0xdn, ...S2);
    g.ste(17, a.ste | 4n, ...S2);
    g.run(cfgiAll, [0x30, 0], sync);
    expect([8, 9, 16, 17].map((sid) => rig.dma(sid, sid === 16 ? PAGE : 0x5000))).toEqual([
      PAGE,
      PAGE + 0x1000,
      PAGE,
      PAGE,
    ]);
    if (round === 1) busy = pages();
    if (round > 1) expect(pages()).toBe(busy);
    // In another order each time; those that stay keep working.
    const order = [0, 1, 2, 3].map((i) => fns[(i + round) % 4]!);
    for (const [i, fn] of order.entries()) {
      fn.remove();
      const left = order[i + 1];
      if (left !== undefined) expect(typeof rig.dma(left.rids[0]!, left.rids[0] === 16 ? PAGE : 0x5000)).toBe('number');
    }
    expect(rig.units[0]!.device.domains.length).toBe(0);
    if (round === 1) idle = pages();
    if (round > 1) expect(pages()).toBe(idle);
  }
  const left = Object.entries(rig.hostOps());
  const made = left.filter(([verb]) => /_ALLOC$/.test(verb) && verb !== 'IOAS_ALLOC').reduce((n, [, c]) => n + c, 0);
  expect(rig.hostOps().DESTROY).toBe(made + rig.hostOps().IOAS_ALLOC! - 1);
});

test('a function that comes back under its old StreamID starts from nothing', () => {
  const rig = new Rig();
  const { g } = rig;
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, PAGE);
  g.ste(8, ste);
  g.setUp(5);
  const fn = rig.plug(8);
  g.run(cfgiSte(8), sync);
  expect(rig.dma(8, 0x5000)).toBe(PAGE);
  fn.remove();
  expect(rig.dma(8, 0x5000)).toBe('ABORT');
  expect(g.run(cfgiSte(8), [(8n << 32n) | 5n, 1], sync)).toBe(5);
  rig.plug(8);
  expect(rig.dma(8, 0x5000), 'first use').toBe(PAGE);
});
