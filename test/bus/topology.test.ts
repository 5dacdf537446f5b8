import { describe, expect, test } from 'vitest';
import { Bridge, type BridgeKind } from '../../bus/bridge.ts';
import { ConfigPorts, Ecam } from '../../bus/config-access.ts';
import { PciWindowSpace } from '../../bus/decode.ts';
import { isolationGroup } from '../../bus/isolation.ts';
import type { PciBus } from '../../bus/topology.ts';
import { DmaEngine } from '../../devices/endpoints/dma-engine.ts';
import { AT, DMA, NO_PASID } from '../../src/ports/dma.ts';
import { EXT } from '../../src/spec/pcie/capabilities.ts';
import { config, harness } from './harness.ts';

type H = ReturnType<typeof harness>;

/** A bridge with its bus numbers and a memory window [at, at + 1 MiB) programmed, as firmware does. */
function bridge(h: H, bus: PciBus, devfn: number, kind: BridgeKind, secondary: number, last = secondary, at = 0) {
  const slot = h.complex.plug(bus, devfn, new Bridge({ kind }));
  const c = config(h.complex, slot);
  c.write(0x18, 4, bus.number | (secondary << 8) | (last << 16));
  if (at !== 0) c.write(0x20, 4, ((at >>> 16) | (at & 0xffff_0000)) >>> 0);
  c.write(4, 2, 7);
  return slot;
}

function engine(h: H, bus: PciBus, devfn: number, bar = 0) {
  const e = new DmaEngine({ integrated: bus.parent === null });
  const slot = h.complex.plug(bus, devfn, e.fn);
  const c = config(h.complex, slot);
  if (bar !== 0) c.write(0x10, 4, bar);
  c.master();
  return { e, slot, c, link: h.complex.link(slot)! };
}

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

describe('requests upstream', () => {
  const bytes = new Uint8Array([1, 2, 3, 4]);

  test('nothing leaves a function without bus mastering, its own or that of any bridge above', () => {
    const h = harness();
    const port = bridge(h, h.root.bus, 0x08, 'root', 1);
    const { c, link, slot } = engine(h, port.behind!, 0);
    h.iommu.map(slot.stream, NO_PASID, 0x5000, 0x10_0000);
    const write = () => link.write(NO_PASID, 0x5000, 0, 2, AT.UNTRANSLATED, bytes, 0, 4);
    expect(write()).toBe(DMA.OK);
    c.write(4, 2, 2);
    expect(write()).toBe(DMA.ABORT);
    c.master();
    h.complex.configWrite(0, 0x08, 4, 2, 2);
    expect(write()).toBe(DMA.ABORT);
    h.complex.configWrite(0, 0x08, 4, 2, 6);
    expect(write()).toBe(DMA.OK);
    expect([...h.bytes(0x10_0000, 4)]).toEqual([1, 2, 3, 4]);
  });

  test('a request over a page boundary is two translations, and stops where the second fails', () => {
    const h = harness();
    const { link, slot } = engine(h, h.root.bus, 0x08);
    h.iommu.map(slot.stream, NO_PASID, 0x5000, 0x10_0000);
    expect(link.write(NO_PASID, 0x5ffe, 0, 2, AT.UNTRANSLATED, bytes, 0, 4)).toBe(DMA.ABORT);
    expect(link.done).toBe(2);
    h.iommu.map(slot.stream, NO_PASID, 0x6000, 0x10_8000);
    expect(link.write(NO_PASID, 0x5ffe, 0, 2, AT.UNTRANSLATED, bytes, 0, 4)).toBe(DMA.OK);
    expect([...h.bytes(0x10_0ffe, 2), ...h.bytes(0x10_8000, 2)]).toEqual([1, 2, 3, 4]);
    // Addresses are 64 bits: the page behind 4 GiB - 1.
    h.iommu.map(slot.stream, NO_PASID, 0xffff_f000, 0x10_0000);
    h.iommu.map(slot.stream, NO_PASID, 0x1_0000_0000, 0x10_8000);
    expect(link.write(NO_PASID, 0xffff_fffe | 0, 0, 2, AT.UNTRANSLATED, bytes, 0, 4)).toBe(DMA.OK);
  });

  test("QEMU's test device tries the rest of a failing access piece by piece: 1, 2, 1 bytes", () => {
    const h = harness();
    const { link } = engine(h, h.root.bus, 0x08);
    link.insist = true;
    expect(link.write(NO_PASID, 0x5567, 0, 2, AT.UNTRANSLATED, bytes, 0, 4)).toBe(DMA.ABORT);
    expect(h.iommu.seen).toHaveLength(3);
  });

  test('ACS translation blocking refuses translated requests and translation requests at the port', () => {
    const h = harness();
    const port = bridge(h, h.root.bus, 0x08, 'root', 1);
    const { link } = engine(h, port.behind!, 0);
    const translated = () => link.write(NO_PASID, 0x10_0000, 0, 2, AT.TRANSLATED, bytes, 0, 4);
    expect(translated()).toBe(DMA.OK);
    const c = config(h.complex, port);
    c.write(c.extended(EXT.ACS) + 6, 2, 2);
    h.iommu.seen.length = 0;
    expect(translated()).toBe(DMA.ABORT);
    expect(link.translationRequest(NO_PASID, 0, 0, 1)).not.toBe(0);
    expect(h.iommu.seen).toEqual([]);
    expect(c.read(c.extended(EXT.AER) + 4) & 0x20_0000).not.toBe(0);
  });

  test('ACS source validation stops a function that pretends to be another; without it the IOMMU believes it', () => {
    const h = harness();
    const port = bridge(h, h.root.bus, 0x08, 'root', 1);
    const { link } = engine(h, port.behind!, 0);
    const victim = engine(h, h.root.bus, 0x10).slot;
    h.iommu.map(victim.stream, NO_PASID, 0x5000, 0x10_0000);
    link.forged = victim.stream;
    const write = () => link.write(NO_PASID, 0x5000, 0, 2, AT.UNTRANSLATED, bytes, 0, 4);
    expect(write()).toBe(DMA.OK);
    const c = config(h.complex, port);
    c.write(c.extended(EXT.ACS) + 6, 2, 1);
    expect(write()).toBe(DMA.ABORT);
  });

  test('peer to peer below a switch goes straight across until ACS redirects it to the IOMMU', () => {
    const h = harness();
    const up = bridge(h, bridge(h, h.root.bus, 0x08, 'root', 1, 4).behind!, 0, 'upstream', 2, 4);
    const ports = [0, 8].map((devfn, i) => bridge(h, up.behind!, devfn, 'downstream', 3 + i));
    const a = engine(h, ports[0]!.behind!, 0);
    const b = engine(h, ports[1]!.behind!, 0);
    const window = h.complex.expose(b.slot, 0, 0x9000_0000);
    h.memory.addWindow(window.base, window.bytes, window);
    const ring = new Uint8Array([0x40, 0, 0, 0]);
    const write = (at: number) => a.link.write(NO_PASID, 0x9000_0008 | 0, 0, 2, at, ring, 0, 4);
    h.iommu.seen.length = 0;
    expect(write(AT.UNTRANSLATED)).toBe(DMA.OK);
    expect(h.iommu.seen).toEqual([]);
    expect(b.e.fn.barRead(0, 8, 4)).toBe(0x40);

    const c = config(h.complex, ports[0]!);
    c.write(c.extended(EXT.ACS) + 6, 2, 4);
    expect(write(AT.UNTRANSLATED)).toBe(DMA.ABORT);
    expect(h.iommu.seen).toEqual([`untranslated ${a.slot.stream}`]);
    h.iommu.map(a.slot.stream, NO_PASID, 0x9000_0000, 0x9000_0000);
    expect(write(AT.UNTRANSLATED)).toBe(DMA.OK);

    // Direct translated P2P: redirected untranslated requests, but translated ones go across.
    c.write(c.extended(EXT.ACS) + 6, 2, 4 | 0x40);
    h.iommu.seen.length = 0;
    expect(write(AT.TRANSLATED)).toBe(DMA.OK);
    expect(h.iommu.seen).toEqual([]);
  });
});

describe('interrupts', () => {
  test('an MSI-X message is a write that is translated like any other, and masked vectors stay pending', () => {
    const h = harness();
    const { e, slot, c } = engine(h, h.root.bus, 0x08);
    h.memory.addWindow(0x809_0000, 4096, {
      name: 'doorbell',
      read: () => 0,
      write: (offset, _, value) => void h.irq.message(0x809_0000 + offset, value),
    });
    h.iommu.map(slot.stream, NO_PASID, 0xfff0_0000, 0x809_0000);
    const msix = e.fn.config.find(0x11);
    const entry = (i: number, word: number, value: number) => e.fn.barWrite(0, 0x800 + i * 16 + word * 4, 4, value);
    entry(1, 0, 0xfff0_0040);
    entry(1, 2, 77);
    c.write(msix + 2, 2, 0x8000);
    e.fn.interrupts.raise(1);
    expect(h.irq.messages).toEqual([]);
    expect(e.fn.barRead(0, 0xc00, 4)).toBe(2);
    entry(1, 3, 0);
    expect(h.irq.messages).toEqual([[0x809_0040, 77]]);
    expect(e.fn.barRead(0, 0xc00, 4)).toBe(0);
    h.iommu.unmap(slot.stream, NO_PASID, 0xfff0_0000);
    e.fn.interrupts.raise(1);
    expect(h.irq.messages).toHaveLength(1);
  });

  test('pins are swizzled through bridges and shared: the line drops when the last one lets go', () => {
    const h = harness();
    const toPci = bridge(h, h.root.bus, 0x08, 'pcie-pci', 1);
    const a = engine(h, toPci.behind!, 0x10);
    const b = engine(h, h.root.bus, 0x18);
    a.e.fn.interrupts.raise(0);
    b.e.fn.interrupts.raise(0);
    expect(h.irq.levels).toEqual([[3, true]]);
    a.e.fn.interrupts.clear(0);
    expect(h.irq.levels).toHaveLength(1);
    h.complex.unplug(b.slot);
    expect(h.irq.levels).toEqual([
      [3, true],
      [3, false],
    ]);
  });

  test('INTx Disable and an enabled MSI-X keep the pin down', () => {
    const h = harness();
    const { e, c } = engine(h, h.root.bus, 0x08);
    e.fn.interrupts.raise(0);
    expect(c.read(6, 2) & 8).toBe(8);
    c.write(4, 2, 0x407);
    expect(h.irq.levels.at(-1)).toEqual([1, false]);
    c.write(4, 2, 7);
    expect(h.irq.levels.at(-1)).toEqual([1, true]);
  });
});

describe('hot-plug', () => {
  test('a card that is pulled disappears from configuration space and memory, and its port says so', () => {
    const h = harness();
    const slot = h.complex.plug(h.root.bus, 0x08, new Bridge({ kind: 'root', hotplug: true }));
    const c = config(h.complex, slot);
    c.write(0x18, 4, 0x0001_0100);
    const card = h.complex.plug(slot.behind!, 0, new DmaEngine().fn, { hot: true });
    const status = c.read(0x34, 1) + 26;
    expect(c.read(status, 2) & 0x48).toBe(0x48);
    c.write(status, 2, 0x108);
    h.complex.unplug(card);
    expect(c.read(status, 2) & 0x148).toBe(0x108);
    expect(h.complex.configRead(1, 0, 0, 4)).toBe(0xffff_ffff);
    expect(h.root.endpoints.invalidate(card.stream, NO_PASID, 0, 0, 0, false)).toBe(false);
  });

  test('a slot raises its interrupt for the changes the guest enabled, until it clears them', () => {
    const h = harness();
    const slot = h.complex.plug(h.root.bus, 0x08, new Bridge({ kind: 'root', hotplug: true }));
    const c = config(h.complex, slot);
    const control = c.read(0x34, 1) + 24;
    const levels = () => h.irq.levels.splice(0);
    levels();
    h.complex.unplug(h.complex.plug(slot.behind!, 0, new DmaEngine().fn, { hot: true }));
    expect(levels()).toEqual([]); // nothing enabled
    c.write(control + 2, 2, 0x108);
    c.write(control, 2, 0x28); // interrupt, presence detect changed
    expect(levels()).toEqual([]);
    const card = h.complex.plug(slot.behind!, 0, new DmaEngine().fn, { hot: true });
    expect(levels()).toEqual([[1, true]]);
    expect(c.read(6, 2) & 8).toBe(8);
    c.write(control + 2, 2, 0x100); // the other change: the cause is still there
    expect(levels()).toEqual([]);
    c.write(control + 2, 2, 0x008);
    expect(levels()).toEqual([[1, false]]);
    h.complex.unplug(card);
    c.write(control, 2, 0x08);
    expect(levels()).toEqual([
      [1, true],
      [1, false],
    ]);
  });

  test('a secondary bus reset puts everything behind the bridge back to power-on', () => {
    const h = harness();
    const port = bridge(h, h.root.bus, 0x08, 'root', 1);
    const { c, e } = engine(h, port.behind!, 0);
    e.fn.barWrite(0, 8, 4, 0x4000);
    h.complex.configWrite(0, 0x08, 0x3e, 2, 0x40);
    expect(c.read(4, 2)).toBe(0);
    expect(e.fn.barRead(0, 8, 4)).toBe(0);
  });
});

describe('advanced error reporting', () => {
  const AER = 0x100;
  const DEVCTL = 8;

  /** A root port, a switch below it, and what the guest sees of a card pulled out of the switch. */
  function surprise(prepare: (root: ReturnType<typeof config>, port: ReturnType<typeof config>) => void) {
    const h = harness();
    const root = bridge(h, h.root.bus, 0x08, 'root', 1, 3);
    const up = bridge(h, root.behind!, 0, 'upstream', 2, 3);
    const down = bridge(h, up.behind!, 0x10, 'downstream', 3);
    const card = h.complex.plug(down.behind!, 0, new DmaEngine().fn);
    const [r, u, d] = [root, up, down].map((s) => config(h.complex, s)) as [
      ReturnType<typeof config>,
      ReturnType<typeof config>,
      ReturnType<typeof config>,
    ];
    for (const c of [r, u]) c.write(0x3e, 2, 2); // SERR#: error messages from below go on
    d.write(d.read(0x34, 1) + DEVCTL, 2, 0x7);
    r.write(AER + 44, 4, 7);
    prepare(r, d);
    h.irq.levels.splice(0);
    h.complex.unplug(card);
    return { h, r, u, d, rid: down.rid };
  }

  test('a card pulled out of a slot not made for it: the port says so, the root port raises its interrupt', () => {
    const { h, r, d, rid } = surprise(() => {});
    expect(d.read(AER + 4, 4)).toBe(0x20);
    expect(d.read(AER + 24, 4) & 0x1f).toBe(5);
    expect(d.read(d.read(0x34, 1) + DEVCTL + 2, 2) & 0xf).toBe(4); // fatal error detected
    expect(r.read(AER + 48, 4)).toBe(0x54); // uncorrectable, the first one fatal, fatal received
    expect(r.read(AER + 54, 2)).toBe(rid);
    expect(h.irq.levels.splice(0)).toEqual([[1, true]]);
    r.write(AER + 48, 4, 0x7f);
    expect(h.irq.levels).toEqual([[1, false]]);
  });

  test.each<[string, (r: ReturnType<typeof config>, d: ReturnType<typeof config>) => void, number, number]>([
    ['severity: not fatal', (_, d) => d.write(AER + 12, 4, 0), 0x24, 1],
    ['masked: recorded only', (_, d) => d.write(AER + 8, 4, 0x20), 0, 0],
    ['reporting off', (_, d) => d.write(d.read(0x34, 1) + DEVCTL, 2, 0), 0, 0],
    [
      'reporting off but SERR# on',
      (_, d) => {
        d.write(d.read(0x34, 1) + DEVCTL, 2, 0);
        d.write(4, 2, 0x107);
      },
      0x54,
      1,
    ],
    ['a bridge that does not forward', (r) => r.write(0x3e, 2, 0), 0, 0],
    ['the root port told, its interrupt off', (r) => r.write(AER + 44, 4, 0), 0x54, 0],
  ])('%s', (_, prepare, status, interrupts) => {
    const { h, r, d } = surprise(prepare);
    expect(d.read(AER + 4, 4)).toBe(0x20);
    expect(r.read(AER + 48, 4)).toBe(status);
    expect(h.irq.levels.length).toBe(interrupts);
  });

  test('a second message is counted, the source stays the first', () => {
    const { h, r, rid } = surprise(() => {});
    const other = h.complex.plug(h.root.bus, 0x20, new Bridge({ kind: 'root' }));
    (h.root.bus.slots.get(0x08)!.fn as Bridge).errorMessage(0x0208, false);
    expect(r.read(AER + 48, 4)).toBe(0x7c);
    expect(r.read(AER + 54, 2)).toBe(rid);
    expect(config(h.complex, other).read(AER + 48, 4)).toBe(0);
  });
});

describe('saving', () => {
  test('a bus with bridges, pins and work in flight goes on after it was packed and unpacked', () => {
    const make = () => {
      const h = harness();
      const port = h.complex.plug(h.root.bus, 0x08, new Bridge({ kind: 'root' }));
      const e = new DmaEngine();
      const slot = h.complex.plug(port.behind!, 0, e.fn);
      return { h, port, e, slot };
    };
    const a = make();
    a.h.complex.configWrite(0, 0x08, 0x18, 4, 0x0001_0100);
    a.h.complex.configWrite(0, 0x08, 4, 2, 7);
    const c = config(a.h.complex, a.slot);
    c.master();
    c.ats(true);
    a.e.fn.interrupts.raise(0);
    const state = JSON.parse(JSON.stringify(a.h.complex.save()));

    const b = make();
    b.h.complex.load(state);
    expect(b.slot.rid).toBe(0x100);
    expect(config(b.h.complex, b.slot).read(4, 2)).toBe(7);
    expect(b.e.fn.memory.ats!.enabled).toBe(true);
    b.e.fn.interrupts.clear(0);
    expect(b.h.irq.levels.at(-1)).toEqual([1, false]);
    expect(b.h.complex.save().lines).toEqual([0, 0, 0, 0]);

    b.h.complex.unplug(b.slot);
    expect(() => b.h.complex.load(state)).toThrow(/no function at a saved place/);
  });
});
