import { Atc } from '../../../devices/endpoints/atc.ts';
import type { Prepared, TimedCase } from '../case.ts';
import type { BenchMachine } from '../guests/machine.ts';
import { Smmuv3Guest } from '../guests/smmuv3.ts';
import { VtdGuest } from '../guests/vtd.ts';

const PAGES = 64;
const ATC_PAGES = 64;
/** Bits 47:32 of the pages of both guests. */
const IOVA_HI = 0x12;

interface Fetching {
  readonly m: BenchMachine;
  fetch(page: number, into: Uint8Array): void;
}

/** A function reads from 64 pages in turn. */
function reads(g: Fetching, bytes: number): Prepared {
  const into = new Uint8Array(bytes);
  return {
    ops: PAGES,
    run() {
      for (let page = 0; page < PAGES; page++) g.fetch(page, into);
    },
  };
}

/** Its ATC forgets a page, asks for it again, and reads. */
function requests(g: Fetching): Prepared {
  const into = new Uint8Array(4);
  return {
    ops: PAGES,
    run() {
      for (let page = 0; page < PAGES; page++) {
        // Without the message: nobody waits for an answer.
        g.m.dma.atc.invalidate(-1, page << 12, IOVA_HI, 12, false);
        g.fetch(page, into);
      }
    },
  };
}

function lookups(pasids: number): Prepared {
  const atc = new Atc(pasids * ATC_PAGES * 2);
  for (let pasid = 0; pasid < pasids; pasid++) {
    for (let page = 0; page < ATC_PAGES; page++) atc.insert(pasid, page << 12, 0, page * 4096, 12, 3, false);
  }
  const ops = 1024;
  return {
    ops,
    run() {
      for (let n = 0; n < ops; n++) atc.lookup(n % pasids, ((n * 37) % ATC_PAGES) << 12, 0);
    },
  };
}

const bus = (name: string, setup: () => Prepared): TimedCase => ({ path: 'through the bus', hot: true, name, setup });
const atc = (name: string, setup: () => Prepared): TimedCase => ({
  path: "to a real endpoint's ATC",
  hot: true,
  name,
  setup,
});

/** DMA of a function: requester, link, bus, IOMMU, memory. */
export const BUS: readonly TimedCase[] = [
  bus('SMMUv3 read of 8 bytes, IOTLB hit', () => reads(new Smmuv3Guest('1'), 8)),
  bus('VT-d legacy read of 8 bytes, IOTLB hit', () => reads(new VtdGuest('legacy'), 8)),
  bus('VT-d first-stage read of 8 bytes, IOTLB hit', () => reads(new VtdGuest('first'), 8)),
  // More than 64 bytes are moved through a view of the storage, which is an object.
  { ...bus('SMMUv3 read of 512 bytes, IOTLB hit', () => reads(new Smmuv3Guest('1'), 512)), hot: false },
  { ...bus('SMMUv3 read of 4032 bytes, IOTLB hit', () => reads(new Smmuv3Guest('1'), 4032)), hot: false },
  atc('SMMUv3 read of 8 bytes, ATC hit', () => reads(new Smmuv3Guest('1', 256), 8)),
  atc('VT-d first-stage read of 8 bytes, ATC hit', () => reads(new VtdGuest('first', 256), 8)),
  atc('SMMUv3 page forgotten, asked for, read', () => requests(new Smmuv3Guest('1', 256))),
  atc('VT-d first-stage page forgotten, asked for, read', () => requests(new VtdGuest('first', 256))),
  ...[1, 16, 1024].map((n) => ({ ...atc('a lookup', () => lookups(n)), n, of: 'PASIDs' })),
];
