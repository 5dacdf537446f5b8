import { Untranslated } from '../../bus/iommu-ports.ts';
import { RootComplex } from '../../bus/root-complex.ts';
import { Atc } from '../../devices/endpoints/atc.ts';
import { DmaEngine } from '../../devices/endpoints/dma-engine.ts';
import { AddressSpace, ramBacking } from '../../src/lib/memory/address-space.ts';
import { Answering } from './answering.ts';
import type { BenchCase, Prepared } from './case.ts';

const PASIDS = 16;
const PAGES = 64;
const RAM = 0x10_0000;

function lookups(): Prepared {
  const atc = new Atc(2048);
  for (let pasid = 0; pasid < PASIDS; pasid++) {
    for (let page = 0; page < PAGES; page++) atc.insert(pasid, page << 12, 0, RAM + page * 4096, 12, 3, false);
  }
  return {
    ops: PASIDS * PAGES,
    run() {
      for (let n = 0; n < PASIDS * PAGES; n++) {
        atc.lookup(n % PASIDS, ((n * 37) % PAGES) << 12, 0);
      }
    },
  };
}

function engine() {
  const memory = new AddressSpace();
  memory.addRam(RAM, 0x10_0000, ramBacking(0x10_0000));
  const complex = new RootComplex({ memory, irq: null, clock: null });
  const root = complex.addRoot(0, { translate: new Untranslated(), ats: new Answering(RAM), remap: null });
  const { fn } = new DmaEngine({ atc: 2048 });
  complex.plug(root.bus, 8, fn);
  complex.configWrite(0, 8, 4, 2, 6);
  complex.configWrite(0, 8, fn.config.findExtended(0x0f) + 6, 2, 0x8000);
  return fn.memory;
}

function reads(): Prepared {
  const memory = engine();
  const into = new Uint8Array(64);
  return {
    ops: PAGES,
    run() {
      for (let page = 0; page < PAGES; page++) memory.read(-1, page << 12, 0, into, 0, 64);
    },
  };
}

function requests(): Prepared {
  const memory = engine();
  const into = new Uint8Array(4);
  return {
    ops: PAGES,
    run() {
      for (let page = 0; page < PAGES; page++) {
        memory.invalidate(-1, 0, page << 12, 0, false);
        memory.read(-1, page << 12, 0, into, 0, 4);
      }
    },
  };
}

export const ENDPOINT_CASES: readonly BenchCase[] = [
  { name: 'ATC hit, 16 PASIDs of 64 pages', atMost: 4, heapAtMost: 1, setup: lookups },
  { name: '64-byte read with an ATC hit, through the bus', setup: reads },
  { name: 'invalidation, translation request and 4-byte read', atMost: 130, setup: requests },
];
