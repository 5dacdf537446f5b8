import { describe, expect, test } from 'vitest';
import { Bridge } from '../../../bus/bridge.ts';
import { PciWindowSpace } from '../../../bus/decode.ts';
import { DmaEngine } from '../../../devices/endpoints/dma-engine.ts';
import { AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { EXT } from '../../../src/spec/pcie/capabilities.ts';
import { config, harness } from '../../bus/harness.ts';

function machine(total = 4) {
  const h = harness();
  const port = h.complex.plug(h.root.bus, 0x08, new Bridge({ kind: 'root' }));
  const p = config(h.complex, port);
  p.write(0x18, 4, 0x0001_0100);
  p.write(0x20, 4, 0x1ff0_1000);
  p.write(4, 2, 7);
  const engine = new DmaEngine({ virtualFunctions: total });
  const slot = h.complex.plug(port.behind!, 0, engine.fn);
  const c = config(h.complex, slot);
  const at = c.extended(EXT.SRIOV);
  const space = new PciWindowSpace(h.complex, { base: 0x1000_0000, bytes: 0x1000_0000, unclaimed: 0xffff_ffff });
  const enable = (n: number) => {
    c.write(at + 0x24, 4, 0x1010_0000);
    c.write(at + 0x10, 2, n);
    c.write(at + 8, 2, 0x9);
  };
  return { h, engine, slot, c, at, space, enable, bus: port.behind! };
}

describe('virtual functions', () => {
  test('VF Enable brings NumVFs functions to life, each with its requester id, stream and window', () => {
    const m = machine();
    expect([...m.bus.slots.keys()]).toEqual([0]);
    m.enable(3);
    expect([...m.bus.slots.keys()]).toEqual([0, 1, 2, 3]);
    expect([...m.bus.slots.values()].map((s) => [s.rid, s.stream])).toEqual([
      [0x100, 0x4100],
      [0x101, 0x4101],
      [0x102, 0x4102],
      [0x103, 0x4103],
    ]);
    // Ids of a virtual function read as ones; its window is its share of the VF BAR.
    expect(m.h.complex.configRead(1, 2, 0, 4)).toBe(0xffff_ffff);
    m.space.write(0x10_1008, 4, 0x4000, 0);
    expect(m.space.read(0x10_1008, 4)).toBe(0x4000);
    expect(m.space.read(0x10_0008, 4)).toBe(0);
    expect(m.space.read(0x10_3008, 4)).toBe(0xffff_ffff);
  });

  test('a guest that asks for more than there are gets what there are', () => {
    const m = machine(2);
    m.enable(7);
    expect(m.engine.sriov!.count).toBe(2);
  });

  test('a virtual function needs its own bus mastering, and its DMA is translated as its own', () => {
    const m = machine();
    m.enable(1);
    const vf = m.bus.slots.get(1)!;
    const link = m.h.complex.link(vf)!;
    m.h.iommu.map(vf.stream, NO_PASID, 0x5000, 0x10_0000);
    const write = () => link.write(NO_PASID, 0x5000, 0, 2, AT.UNTRANSLATED, new Uint8Array(4), 0, 4);
    expect(write()).toBe(DMA.ABORT);
    m.h.complex.configWrite(1, 1, 4, 2, 4);
    expect(write()).toBe(DMA.OK);
  });

  for (const [how, act] of [
    ['VF Enable cleared', (m: ReturnType<typeof machine>) => m.c.write(m.at + 8, 2, 0)],
    [
      'function level reset of the physical function',
      (m: ReturnType<typeof machine>) => m.c.write(m.engine.fn.config.find(0x10) + 8, 2, 0x8000),
    ],
    ['the physical function pulled', (m: ReturnType<typeof machine>) => m.h.complex.unplug(m.slot)],
  ] as const) {
    test(`${how}: they are gone, and nothing of theirs is answered`, () => {
      const m = machine();
      m.enable(4);
      const link = m.h.complex.link(m.bus.slots.get(4)!)!;
      act(m);
      expect([...m.bus.slots.keys()].filter((d) => d > 0)).toEqual([]);
      expect(link.message(0, 0, 0)).toBe(DMA.ABORT);
    });
  }
});
