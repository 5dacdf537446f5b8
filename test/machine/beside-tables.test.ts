import { describe, expect, test } from 'vitest';
import { cfgiSte, sync } from '../devices/smmuv3/guest.ts';
import { Rig as Smmuv3Rig } from './smmuv3/rig.ts';
import { Rig as VtdRig } from './vtd/rig.ts';

/** Addresses at which a guest maps a page that is neither RAM nor a function's. */
const ADDRESSES = 5000;
/** Pieces beside a table of the host's at most. */
const MOST = 64;

interface Case {
  readonly rig: { readonly vm: { usage(): { shadowPieces: { used: number } } }; hostOps(reset?: boolean): object };
  /** @returns whether a write of the function at page `n` of the stage arrives. */
  readonly reaches: (n: number) => boolean;
  /** Takes all of the stage away. */
  readonly flush: () => void;
  /** The function goes to another stage. */
  readonly leave: () => void;
}

/** Every address of the guest's stage 2 leads to the doorbell. */
function smmuv3(): Case {
  const rig = new Smmuv3Rig({ properties: { profile: 'arch' } });
  const { g } = rig;
  rig.plug(8);
  const [l1, l2, l3] = [0x4060_0000, 0x4061_0000, 0x4062_0000];
  for (let i = 0; i < 512; i++) {
    if (i < 64) g.put(l1 + 8 * i, BigInt(l2) | 3n);
    g.put(l2 + 8 * i, BigInt(l3) | 3n);
    g.put(l3 + 8 * i, 0x0809_04ffn);
  }
  g.ste(8, 0xdn, 0n, 0x040c_0059_0000_0007n, BigInt(l1));
  g.setUp(5);
  g.run(cfgiSte(8), sync);
  return {
    rig,
    reaches: (n) => typeof rig.dma(8, n * 4096) === 'number',
    flush: () => void g.run([(7n << 32n) | 0x28n, 0n], sync),
    leave: () => {
      g.ste(8, 1n);
      g.run(cfgiSte(8), sync);
    },
  };
}

function vtd(): Case {
  const rig = new VtdRig({ props: { awBits: 48 } });
  const { g } = rig;
  rig.vm.memory.addHostWindow(0x8000_0000, 4096, { name: 'doorbell', read: () => 0, write: () => {} });
  rig.plug(8);
  const tables = [0x100_0000, 0x100_1000, 0x100_2000, 0x100_3000];
  for (let i = 0; i < 512; i++) {
    for (let l = 0; l < 3; l++) g.store(tables[l]! + 8 * i, BigInt(tables[l + 1]!) | 3n);
    g.store(tables[3]! + 8 * i, 0x8000_0003n);
  }
  rig.legacy(8, 5, tables[0]!);
  g.queueOn();
  g.translateOn(rig.root());
  return {
    rig,
    reaches: (n) => typeof rig.dma(8, 0x1_0000_0000 + n * 4096) === 'number',
    flush: () => g.submit(0x22n | (5n << 16n), 0n),
    leave: () => {
      g.store(0x20_1000 + 16 * 8, 0n, 0n);
      g.submit(0x31n | (5n << 16n) | (8n << 32n), 0n);
    },
  };
}

describe.each([
  ['smmuv3', smmuv3],
  ['vtd', vtd],
])('what a stage of a guest maps beside RAM behind a %s', (_, make) => {
  test('is reached at any number of addresses, and is a few pieces of the host at any time', () => {
    const { rig, reaches, flush, leave } = make();
    const used = () => rig.vm.usage().shadowPieces.used;
    for (let n = 0; n < ADDRESSES; n++) {
      if (!reaches(n)) throw new Error(`page ${n} is not reached`);
      if (used() > MOST) throw new Error(`${used()} pieces behind page ${n}`);
    }
    expect(used()).toBeGreaterThan(MOST / 4);
    for (let n = 0; n < ADDRESSES; n += 97) expect(reaches(n)).toBe(true);
    rig.hostOps(true);
    flush();
    expect(reaches(3)).toBe(true);
    leave();
    expect(used()).toBe(0);
    expect(reaches(3)).toBe(false);
  });
});
