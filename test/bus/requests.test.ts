import { describe, expect, test } from 'vitest';
import { AT, DMA, NO_PASID } from '../../src/ports/dma.ts';
import { EXT } from '../../src/spec/pcie/capabilities.ts';
import { bridge, config, engine, harness } from './harness.ts';

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
