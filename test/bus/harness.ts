import { Bridge, type BridgeKind } from '../../bus/bridge.ts';
import { RootComplex, type RootComplexDeps } from '../../bus/root-complex.ts';
import type { PciBus, Slot } from '../../bus/topology.ts';
import { DmaEngine } from '../../devices/endpoints/dma-engine.ts';
import { VirtualClock } from '../../src/lib/clock/virtual-clock.ts';
import { AddressSpace, ramBacking } from '../../src/lib/memory/address-space.ts';
import { EXT } from '../../src/spec/pcie/capabilities.ts';
import { PagedIommu } from './paged-iommu.ts';

/** Messages and wires as they arrive. */
export class SeenInterrupts {
  readonly messages: [address: number, data: number][] = [];
  readonly levels: [line: number, asserted: boolean][] = [];

  pulse(): void {}

  level(line: number, asserted: boolean): void {
    this.levels.push([line, asserted]);
  }

  message(address: number, data: number): boolean {
    this.messages.push([address, data]);
    return true;
  }
}

/** A root complex over 1 MiB of memory at 0x100000 with one paged IOMMU. */
export function harness(latency?: RootComplexDeps['latency']) {
  const memory = new AddressSpace();
  memory.addRam(0x10_0000, 0x10_0000, ramBacking(0x10_0000));
  const clock = new VirtualClock();
  const irq = new SeenInterrupts();
  const complex = new RootComplex({ memory, irq, clock, ...(latency === undefined ? {} : { latency }) });
  const iommu = new PagedIommu();
  const root = complex.addRoot(0, { translate: iommu, ats: iommu, remap: null });
  iommu.endpoints = root.endpoints;
  const bytes = (at: number, n: number) => {
    const into = new Uint8Array(n);
    memory.readBytes(at, into);
    return into;
  };
  return { memory, clock, irq, complex, iommu, root, bytes };
}

/** A driver's configuration accesses to one function. */
export function config(complex: RootComplex, slot: Slot) {
  const read = (at: number, size = 4) => complex.configRead(slot.bus.number, slot.devfn, at, size);
  const write = (at: number, size: number, value: number) =>
    complex.configWrite(slot.bus.number, slot.devfn, at, size, value);
  const extended = (id: number) => {
    for (let at = 0x100; at !== 0; at = read(at) >>> 20) if ((read(at) & 0xffff) === id) return at;
    throw new Error(`no extended capability ${id}`);
  };
  return {
    read,
    write,
    extended,
    master: () => write(4, 2, 7),
    ats: (on: boolean) => write(extended(EXT.ATS) + 6, 2, on ? 0x8000 : 0),
    pri: (on: boolean) => {
      write(extended(EXT.PRI) + 12, 4, 32);
      write(extended(EXT.PRI) + 4, 2, on ? 1 : 0);
    },
    pasid: (on: boolean) => write(extended(EXT.PASID) + 6, 2, on ? 1 : 0),
  };
}

/** What `harness` makes. */
export type Harness = ReturnType<typeof harness>;

/** A bridge with its bus numbers and a memory window [at, at + 1 MiB) programmed, as firmware does. */
export function bridge(
  h: Harness,
  bus: PciBus,
  devfn: number,
  kind: BridgeKind,
  secondary: number,
  last = secondary,
  at = 0,
) {
  const slot = h.complex.plug(bus, devfn, new Bridge({ kind }));
  const c = config(h.complex, slot);
  c.write(0x18, 4, bus.number | (secondary << 8) | (last << 16));
  if (at !== 0) c.write(0x20, 4, ((at >>> 16) | (at & 0xffff_0000)) >>> 0);
  c.write(4, 2, 7);
  return slot;
}

/** A DMA engine that may send, with its driver's view and its way up. */
export function engine(h: Harness, bus: PciBus, devfn: number, bar = 0) {
  const e = new DmaEngine({ integrated: bus.parent === null });
  const slot = h.complex.plug(bus, devfn, e.fn);
  const c = config(h.complex, slot);
  if (bar !== 0) c.write(0x10, 4, bar);
  c.master();
  return { e, slot, c, link: h.complex.link(slot)! };
}
