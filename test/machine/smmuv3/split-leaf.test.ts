import { expect, test } from 'vitest';
import { CD, cfgiSte, nhVa, RAM, sync } from '../../devices/smmuv3/guest.ts';
import { Rig } from './rig.ts';

const L1 = 0x4041_0000;

test('one TLBI by any address of a guest block takes all of it, also what the host holds in smaller pieces', () => {
  for (const named of [0x8000_0000, 0x8123_4000, 0xbfff_f000]) {
    const rig = new Rig();
    const { g } = rig;
    rig.plug(8);
    g.put(CD, 0x0011_6204_c000_0019n, BigInt(L1));
    g.put(L1 + 16, BigInt(RAM) | 0xc41n); // not global, 1 GiB at 0x80000000; the host maps 64 MiB of RAM in 2 MiB blocks
    g.ste(8, BigInt(CD) | 0xbn);
    g.setUp();
    g.run(cfgiSte(8), sync);
    const places = [0, 0x20_0000, 0x123_4000, 0x3ff_f000];
    for (const p of places) expect(rig.dma(8, 0x8000_0000 + p)).toBe(RAM + p);
    g.put(L1 + 16, 0);
    g.run(nhVa(0, 0x12, named), sync);
    for (const p of places) expect(rig.dma(8, 0x8000_0000 + p), 'another ASID').toBe(RAM + p);
    g.run(nhVa(0, 0x11, named), sync);
    for (const p of places) expect(rig.dma(8, 0x8000_0000 + p), `0x${p.toString(16)}`).toBe('ABORT');
  }
});
