import { describe, expect, test } from 'vitest';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { CMDQ, RAM } from '../../devices/smmuv3/guest.ts';
import type { Rig } from './rig.ts';

import { ABORT_STE, BYPASS_STE, C_BAD_STE, device, events, F_STE_FETCH, ILL, PAGE } from './streams-device.ts';

describe('linux-only: the host has one configuration for all StreamIDs of a device', () => {
  /** Skips the refused command, as a guest does. */
  const skip = (g: Rig['g']) => {
    g.put(CMDQ + 16 * (g.r(PAGE0.CMDQ_CONS.at) & 7), 0x46n, 0n);
    g.w(PAGE0.GERRORN.at, g.r(PAGE0.GERROR.at));
  };

  test('the entry that asks for another one is refused, and that stream gets nothing', () => {
    const { rig, g, set, dma } = device([8, 9], { linuxOnly: true });
    g.setUp(5);
    expect(set(8, ABORT_STE)).toBe(2);
    expect(set(9, BYPASS_STE)).toBe(ILL + 2);
    expect(dma(RAM + 0x5000)).toEqual(['ABORT', 'ABORT']);
    skip(g);
    // Both ask for the same now.
    set(8, BYPASS_STE);
    expect(dma(RAM + 0x5000)).toEqual([RAM + 0x5000, RAM + 0x5000]);
    expect(set(9, ABORT_STE) & ILL).toBe(ILL);
    skip(g);
    expect(rig.dma(9, RAM + 0x5000)).toBe('ABORT');
  });

  test('a stream that has no valid entry gets nothing from the others', () => {
    const { g, set, dma } = device([8, 9], { linuxOnly: true });
    g.setUp(5);
    expect(set(8, BYPASS_STE) & ILL).toBe(0);
    expect(dma(RAM + 0x5000)).toEqual(['ABORT', 'ABORT']);
    set(9, BYPASS_STE);
    expect(dma(RAM + 0x5000)).toEqual([RAM + 0x5000, RAM + 0x5000]);
  });

  test('a stage 1 is refused, and the stream aborts instead of going on as before', () => {
    const { g, a, set, dma } = device([8, 9], { linuxOnly: true });
    g.setUp(5);
    set(8, BYPASS_STE);
    set(9, BYPASS_STE);
    expect(set(8, a.ste) & ILL).toBe(ILL);
    expect(dma(RAM + 0x5000)).toEqual(['ABORT', 'ABORT']);
  });

  test('what loses its configuration is named in a record, since nobody hears of what it sends', () => {
    const { rig, g, a, set, dma } = device([8, 9, 10], { linuxOnly: true });
    g.setUp(5);
    for (const sid of [8, 9, 10]) set(sid, BYPASS_STE);
    expect([events(g), dma(RAM + 0x5000).includes('ABORT')]).toEqual([[], false]);
    set(9, ABORT_STE);
    expect(events(g)).toEqual([
      [C_BAD_STE, 9],
      [C_BAD_STE, 8],
      [C_BAD_STE, 10],
    ]);
    skip(g);
    expect(dma(RAM + 0x5000)).toEqual(['ABORT', 'ABORT', 'ABORT']);
    set(10, a.ste);
    expect(events(g)).toEqual([[C_BAD_STE, 10]]);
    skip(g);
    for (const sid of [9, 10]) set(sid, BYPASS_STE);
    skip(g);
    expect([events(g).length, rig.dma(8, RAM + 0x5000)]).toEqual([1, RAM + 0x5000]);
  });

  test('a refusal for a reason of the host’s own does not blame the entry', () => {
    const { rig, g, a, set } = device([8], { linuxOnly: true });
    g.setUp(5);
    const fd = rig.vm.iommufd as unknown as { hwptAlloc: () => number };
    const real = fd.hwptAlloc.bind(fd);
    fd.hwptAlloc = () => -12;
    expect(set(8, a.ste) & ILL).toBe(ILL);
    expect(events(g)).toEqual([[F_STE_FETCH, 8]]);
    fd.hwptAlloc = real;
    g.w(PAGE0.GERRORN.at, g.r(PAGE0.GERROR.at));
    expect([rig.dma(8, 0x5000), events(g)]).toEqual([PAGE, []]);
  });

  test('entries that are there before translation, or before their device, count without a command', () => {
    const { rig, g, a, dma } = device([8], { linuxOnly: true });
    g.ste(8, a.ste);
    g.ste(16, BYPASS_STE);
    g.setUp(5);
    expect(dma()).toEqual([PAGE]);
    rig.plug([16]);
    expect(rig.dma(16, RAM + 0x5000)).toBe(RAM + 0x5000);
    // Off and on again, with what was written meanwhile.
    g.w(PAGE0.CR0.at, 0xc);
    expect(rig.dma(8, RAM + 0x5000)).toBe(RAM + 0x5000);
    g.ste(8, ABORT_STE);
    g.ste(16, a.ste);
    g.w(PAGE0.CR0.at, 0xd);
    expect([g.r(PAGE0.CR0ACK.at), ...dma(), rig.dma(16, 0x5000), events(g)]).toEqual([0xd, 'ABORT', PAGE, []]);
  });

  test('entries that contradict each other before translation are told when it is switched on', () => {
    const { g, a, dma } = device([8, 9, 10], { linuxOnly: true });
    for (const [i, ste] of [ABORT_STE, BYPASS_STE, a.ste].entries()) g.ste(8 + i, ste);
    g.setUp(5);
    expect(dma(RAM + 0x5000)).toEqual(['ABORT', 'ABORT', 'ABORT']);
    expect(events(g).sort((x, y) => x[1] - y[1])).toEqual([
      [C_BAD_STE, 9],
      [C_BAD_STE, 10],
    ]);
  });

  test('save and load keep the refusal', () => {
    const one = device([8, 9], { linuxOnly: true });
    one.g.setUp(5);
    one.set(8, ABORT_STE);
    one.set(9, BYPASS_STE);
    const two = device([8, 9], { linuxOnly: true });
    two.rig.units[0]!.load(JSON.parse(JSON.stringify(one.rig.units[0]!.save())));
    expect(two.dma(RAM + 0x5000)).toEqual(['ABORT', 'ABORT']);
  });
});
