import { describe, expect, test } from 'vitest';
import { Bridge } from '../../bus/bridge.ts';
import { ConfigPorts, Ecam } from '../../bus/config-access.ts';
import { PciWindowSpace } from '../../bus/decode.ts';
import { isolationGroup } from '../../bus/isolation.ts';
import { DmaEngine } from '../../devices/endpoints/dma-engine.ts';
import { bridge, config, engine, harness } from './harness.ts';

describe('configuration routing', () => {
  test('a guest reaches functions behind bridges only through the bus numbers it programmed', () => {
    const h = harness();
    const port = h.complex.plug(h.root.bus, 0x08, new Bridge({ kind: 'root' }));
    const deep = h.complex.plug(port.behind!, 0, new Bridge({ kind: 'upstream' }));
    const down = h.complex.plug(deep.behind!, 0, new Bridge({ kind: 'downstream' }));
    h.complex.plug(down.behind!, 0, new DmaEngine().fn);
    expect(h.complex.configRead(1, 0, 0, 4)).toBe(0xffff_ffff);
    h.complex.configWrite(0, 0x08, 0x18, 4, 0x00_09_05_00);
    h.complex.configWrite(5, 0, 0x18, 4, 0x00_09_06_05);
    h.complex.configWrite(6, 0, 0x18, 4, 0x00_09_09_06);
    expect(h.complex.configRead(9, 0, 0, 4)).toBe(0x00d0_1b36);
    expect(h.complex.byRid(0x900)!.rid).toBe(0x900);
    for (const bus of [1, 4, 7, 8, 10]) expect(h.complex.configRead(bus, 0, 0, 4)).toBe(0xffff_ffff);
  });

  test('below a port only device 0 answers, until ARI forwarding makes device numbers function numbers', () => {
    const h = harness();
    const port = bridge(h, h.root.bus, 0x08, 'root', 1);
    h.complex.plug(port.behind!, 0, new DmaEngine().fn);
    h.complex.plug(port.behind!, 9, new DmaEngine().fn);
    expect(h.complex.configRead(1, 9, 0, 2)).toBe(0xffff);
    const c = config(h.complex, port);
    const pcie = c.read(0x34, 1);
    c.write(pcie + 40, 2, 0x20);
    expect(h.complex.configRead(1, 9, 0, 2)).toBe(0x1b36);
  });

  test('ports and ECAM are two doors to the same storage, at every access size', () => {
    const h = harness();
    engine(h, h.root.bus, 0x18);
    const ecam = new Ecam(h.complex);
    const ports = new ConfigPorts(h.complex);
    ecam.write((0x18 << 12) | 0x3c, 1, 0x5a, 0);
    ports.write(0xcf8, 4, 0x8000_183c);
    expect(ports.read(0xcfc, 1)).toBe(0x5a);
    // The low offset bits count wherever the client puts them.
    ports.write(0xcf8, 4, 0x8000_1802);
    expect(ports.read(0xcfc, 2)).toBe(0x00d0);
    ports.write(0xcf8, 4, 0x8000_1800);
    expect(ports.read(0xcfe, 2)).toBe(0x00d0);
    ports.write(0xcf8, 4, 0x0000_1800);
    expect(ports.read(0xcfc, 4)).toBe(0xffff_ffff);
    const pair = new Int32Array(2);
    ecam.read64(0x18 << 12, pair);
    expect([...pair]).toEqual([0x00d0_1b36, 0x0010_0007]);
  });
});

describe('memory routing', () => {
  test('a BAR behind a bridge answers only inside the window of the bridge, and moves with the next write', () => {
    const h = harness();
    const port = bridge(h, h.root.bus, 0x08, 'root', 1, 1, 0x1000_0000);
    const { c } = engine(h, port.behind!, 0, 0x1000_4000);
    const space = new PciWindowSpace(h.complex, { base: 0x1000_0000, bytes: 0x1000_0000, unclaimed: 0xffff_ffff });
    space.write(0x4008, 4, 0x4000, 0);
    expect(space.read(0x4008, 4)).toBe(0x4000);
    expect(space.read(0x8008, 4)).toBe(0xffff_ffff);
    c.write(0x10, 4, 0x1000_8000);
    expect(space.read(0x8008, 4)).toBe(0x4000);
    expect(space.read(0x4008, 4)).toBe(0xffff_ffff);
    c.write(0x10, 4, 0x1080_0000);
    expect(space.read(0x80_0008, 4)).toBe(0xffff_ffff);
    c.write(0x10, 4, 0x1000_8000);
    c.write(4, 2, 4);
    expect(space.read(0x8008, 4)).toBe(0xffff_ffff);
  });
});

describe('requester ids', () => {
  test('hardware and guest number buses differently, and functions keep their stream when the guest renumbers', () => {
    const h = harness();
    const port = bridge(h, h.root.bus, 0x08, 'root', 1);
    const { slot } = engine(h, port.behind!, 0);
    expect([slot.rid, slot.stream]).toEqual([0x100, 0x4100]);
    h.complex.configWrite(0, 0x08, 0x18, 4, 0x00_07_07_00);
    expect([slot.rid, slot.stream]).toEqual([0x700, 0x4100]);
  });

  test('behind a PCIe-to-PCI bridge everybody is (secondary bus, 00.0); behind a conventional one, the bridge', () => {
    const h = harness();
    const toPci = bridge(h, h.root.bus, 0x08, 'pcie-pci', 1, 2);
    const a = engine(h, toPci.behind!, 0x10).slot;
    const b = engine(h, toPci.behind!, 0x18).slot;
    const inner = bridge(h, toPci.behind!, 0x20, 'pci-pci', 2);
    const c = engine(h, inner.behind!, 0x28).slot;
    expect([a.aliasRid, b.aliasRid, c.aliasRid]).toEqual([0x100, 0x100, 0x100]);
    expect([a.stream, b.stream, c.stream]).toEqual([0x4100, 0x4100, 0x4100]);
    const plain = bridge(h, h.root.bus, 0x30, 'pci-pci', 5);
    const d = engine(h, plain.behind!, 0x10).slot;
    expect([d.aliasRid, d.rid, d.stream]).toEqual([0x30, 0x510, 0x4030]);
  });

  test('devices below a bridge that cannot isolate are one group; below ports with ACS each is its own', () => {
    const h = harness();
    const up = bridge(h, bridge(h, h.root.bus, 0x08, 'root', 1, 4).behind!, 0, 'upstream', 2, 4);
    const ports = [0, 8].map((devfn, i) => bridge(h, up.behind!, devfn, 'downstream', 3 + i));
    const slots = ports.map((p) => engine(h, p.behind!, 0).slot);
    expect(slots.map((s) => isolationGroup(s))).toEqual([[slots[0]!.stream], [slots[1]!.stream]]);

    const plain = h.complex.plug(h.root.bus, 0x10, new Bridge({ kind: 'root', acs: false }));
    const f0 = engine(h, plain.behind!, 0).slot;
    expect(isolationGroup(f0)).toEqual([plain.stream, f0.stream].sort((a, b) => a - b));
    const toPci = bridge(h, h.root.bus, 0x18, 'pcie-pci', 9);
    engine(h, toPci.behind!, 0x10);
    const two = engine(h, toPci.behind!, 0x18).slot;
    expect(isolationGroup(two)).toEqual([toPci.stream, two.stream].sort((a, b) => a - b));
  });
});
