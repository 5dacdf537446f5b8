import { expect, test } from 'vitest';
import { cfgiAll, cfgiSte, nhAll, nhVa, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, space } from './rig.ts';

const PAGE_A = 0x4040_5000;
const PAGE_B = 0x4060_7000;

test('two vSMMUs of one machine with equal StreamIDs and equal ASIDs keep their DMA apart', () => {
  const rig = new Rig({ units: 2 });
  rig.guests.forEach((g, unit) => {
    rig.plug(8, unit);
    const { tables, ste } = space(g, 0, 0x11);
    tables.map(0x5000, unit === 0 ? PAGE_A : PAGE_B);
    g.ste(8, ste);
    g.setUp();
    g.run(cfgiSte(8), sync);
  });
  const both = () => [0, 1].map((unit) => rig.dma(8, 0x5123, 2, unit));
  expect(both()).toEqual([PAGE_A + 0x123, PAGE_B + 0x123]);
  // One takes its mapping away and says so; the other keeps its own.
  space(rig.guests[0]!, 0, 0x11).tables.unmap(0x5000);
  rig.guests[0]!.run(nhVa(0, 0x11, 0x5000), sync);
  expect(both()).toEqual(['ABORT', PAGE_B + 0x123]);
  rig.guests[1]!.run([0x30, 0], sync);
  expect(both()).toEqual(['ABORT', PAGE_B + 0x123]);
});

test('two VMIDs of one guest with equal ASIDs keep their DMA apart, and a TLBI empties its own VMID only', () => {
  const rig = new Rig();
  const { g } = rig;
  const a = space(g, 0, 0x11);
  const b = space(g, 1, 0x11);
  a.tables.map(0x5000, PAGE_A);
  b.tables.map(0x5000, PAGE_B);
  rig.plug(8);
  rig.plug(16);
  g.ste(8, a.ste, 0, 0);
  g.ste(16, b.ste, 0, 7);
  g.setUp(5);
  g.run(cfgiAll, sync);
  const both = () => [8, 16].map((sid) => rig.dma(sid, 0x5000));
  expect(both()).toEqual([PAGE_A, PAGE_B]);
  a.tables.map(0x5000, PAGE_B);
  b.tables.map(0x5000, PAGE_A);
  expect(both(), 'cached').toEqual([PAGE_A, PAGE_B]);
  g.run(nhVa(7, 0x11, 0x5000), sync);
  expect(both()).toEqual([PAGE_A, PAGE_A]);
  g.run(nhAll(0), sync);
  expect(both()).toEqual([PAGE_B, PAGE_A]);
});

test('two streams of one VMID with equal ASIDs share what is cached, as the architecture lets them', () => {
  const rig = new Rig();
  const { g } = rig;
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, PAGE_A);
  for (const sid of [8, 16]) {
    rig.plug(sid);
    g.ste(sid, ste);
  }
  g.setUp(5);
  g.run(cfgiAll, sync);
  expect([8, 16].map((sid) => rig.dma(sid, 0x5000))).toEqual([PAGE_A, PAGE_A]);
  tables.unmap(0x5000);
  g.run(nhVa(0, 0x11, 0x5000), sync);
  expect([8, 16].map((sid) => rig.dma(sid, 0x5000))).toEqual(['ABORT', 'ABORT']);
});

test('a stream whose VMID changes under running DMA never reaches the other VMID', () => {
  const rig = new Rig();
  const { g } = rig;
  const a = space(g, 0, 0x11);
  const b = space(g, 1, 0x11);
  a.tables.map(0x5000, PAGE_A);
  b.tables.map(0x5000, PAGE_B);
  rig.plug(8);
  g.ste(8, a.ste, 0, 0);
  g.setUp();
  for (const [ste, vmid, page] of [
    [a.ste, 0, PAGE_A],
    [b.ste, 7, PAGE_B],
    [a.ste, 7, PAGE_A],
    [b.ste, 0, PAGE_B],
  ] as const) {
    g.ste(8, ste, 0, vmid);
    g.run(cfgiSte(8), nhAll(vmid), sync);
    expect(rig.dma(8, 0x5000)).toBe(page);
  }
});
