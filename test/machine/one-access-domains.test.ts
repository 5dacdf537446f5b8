import { expect, test } from 'vitest';
import { cfgiSte } from '../devices/smmuv3/guest.ts';
import { Rig } from './smmuv3/rig.ts';

const FUNCTIONS = 300;
const COMMANDS = 400;
/** Calls of the host that one access of the guest may cause. */
const MOST_VERBS = 3000;

test('a queue that flushes hundreds of VMIDs with each command goes in parts', () => {
  const rig = new Rig({ ram: 0x800_0000, properties: { profile: 'arch' } });
  const { g } = rig;
  for (let i = 0; i < FUNCTIONS; i++) rig.plug(i);
  g.setUp(9);
  const [l1, l2, l3] = [0x4500_0000, 0x4500_1000, 0x4500_2000];
  g.put(l1, BigInt(l2) | 3n);
  g.put(l2, BigInt(l3) | 3n);
  g.put(l3, 0x4050_0443n);
  for (let i = 0; i < FUNCTIONS; i++) {
    const cd = 0x4440_0000 + 64 * i;
    g.put(cd, 0x1_6204_c000_0019n, BigInt(l1));
    g.ste(i, BigInt(cd) | 0xbn, 0n, BigInt(i + 1), 0n);
    g.run(cfgiSte(i));
    expect(rig.dma(i, 0)).toBe(0x4050_0000);
  }
  const queue = 0x4600_0000;
  g.w(0x20, 5);
  g.w64(0x90, BigInt(queue + 10));
  g.w(0x98, 0);
  g.w(0x9c, 0);
  g.w(0x20, 0xd);
  for (let i = 0; i < COMMANDS; i++) g.put(queue + 16 * i, 0x30n, 0n);
  // Every page leads elsewhere by then: no flush may be lost on the way.
  g.put(l3, 0x4060_0443n);
  rig.hostOps(true);
  const verbs: number[] = [];
  const heads: number[] = [];
  g.w(0x98, COMMANDS);
  do {
    verbs.push(Object.values(rig.hostOps()).reduce((a, b) => a + b, 0));
    rig.hostOps(true);
    heads.push(g.r(0x9c));
  } while (heads.at(-1)! < COMMANDS && heads.length < 5000);
  expect(heads.at(-1)).toBe(COMMANDS);
  expect(heads.length).toBeGreaterThan(10);
  expect(Math.max(...verbs)).toBeGreaterThan(FUNCTIONS);
  expect(Math.max(...verbs)).toBeLessThan(MOST_VERBS);
  for (let i = 0; i < FUNCTIONS; i += 37) expect(rig.dma(i, 0)).toBe(0x4060_0000);
});
