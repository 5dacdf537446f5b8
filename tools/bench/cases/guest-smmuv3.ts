import { OP } from '../../../src/spec/smmuv3/commands.ts';
import type { Prepared, TimedCase } from '../case.ts';
import { RID } from '../guests/machine.ts';
import { ASID, PAGES, Smmuv3Guest, VMID } from '../guests/smmuv3.ts';
import { shuffled } from '../parts/shuffled.ts';

/** Commands of one doorbell; the last of each 64 is a SYNC. */
const RING = 512;
const GROUP = 64;

type Put = (g: Smmuv3Guest, n: number) => void;

/** The same commands over and over, 512 with one doorbell. */
function batches(put: Put, cached = 200, atc = 0): Prepared {
  const g = new Smmuv3Guest('1', atc);
  g.fill(cached);
  for (let n = 0; n < 2 * RING; n++) {
    if (n % GROUP === GROUP - 1) g.put(OP.SYNC, 0, 0, 0);
    else put(g, n);
  }
  return {
    ops: RING,
    run() {
      g.skip(RING);
      g.ring();
    },
  };
}

/** Pages are invalidated that nobody has used: the cost is that of looking. */
const tlbi: Put = (g, n) => g.tlbiPage(PAGES - 1 - n);
/** As Linux sends it with range invalidation: one page, TG 4 KiB, TTL 3, a leaf. */
const ranged: Put = (g, n) => g.tlbiPage(PAGES - 1 - n, 0x701);
const atcInv: Put = (g, n) => g.put(OP.ATC_INV, RID, n << 12, 0x12);
/** As Linux sends it: each page to the SMMU and to the function. */
const both: Put = (g, n) => (n % 2 === 0 ? tlbi(g, n) : atcInv(g, n));

/** A page is invalidated, waited for, and used again, each with a doorbell of its own. */
function again(cached: number): Prepared {
  const g = new Smmuv3Guest('1');
  g.fill(cached);
  const order = shuffled(PAGES);
  let n = 0;
  return {
    ops: 64,
    run() {
      for (let i = 0; i < 64; i++, n++) {
        const page = order[n % PAGES]! % cached;
        g.tlbiPage(page);
        g.ring();
        g.sync();
        g.touch(page);
      }
    },
  };
}

/** The guest takes a page out of its own stage 2, as a hypervisor does, and its guest uses it again. */
function nestedAgain(cached: number): Prepared {
  const g = new Smmuv3Guest('nested');
  g.fill(cached);
  const order = shuffled(PAGES);
  let n = 0;
  return {
    ops: 64,
    run() {
      for (let i = 0; i < 64; i++, n++) {
        const page = order[n % PAGES]! % cached;
        g.tlbiIpa(page);
        g.put(OP.TLBI_NH_ASID, (ASID << 16) | VMID, 0, 0);
        g.sync();
        g.touch(page);
      }
    },
  };
}

/** Everything of the guest's goes. */
function s12(cached: number): Prepared {
  const g = new Smmuv3Guest('nested');
  g.fill(cached);
  return {
    ops: 1,
    run() {
      g.put(OP.TLBI_S12_VMALL, VMID, 0, 0);
      g.sync();
    },
  };
}

/** The same with a few pages in use, so that there is something to empty each time. */
function s12Used(): Prepared {
  const g = new Smmuv3Guest('nested');
  g.fill(10_000);
  return {
    ops: 1,
    run() {
      g.put(OP.TLBI_S12_VMALL, VMID, 0, 0);
      g.sync();
      for (let n = 0; n < 4; n++) g.touch(n * 512);
    },
  };
}

function doorbells(): Prepared {
  const g = new Smmuv3Guest('1');
  g.fill(1);
  return {
    ops: 512,
    run() {
      for (let n = 0; n < 512; n++) g.ring();
    },
  };
}

const CACHED = [1, 200, 10_000, 60_000];

type Row = Omit<TimedCase, 'path' | 'hot'>;

/**
 * A guest's commands all the way: register, queue, batch, iommufd, the kernel's driver, the physical SMMU with its caches,
 * and for ATC_INV the bus, the function and its answer.
 */
const ROWS: readonly Row[] = [
  { name: 'SMMUv3 CFGI_STE, 63 and a SYNC', setup: () => batches((g) => g.put(OP.CFGI_STE, RID, 1, 0)) },
  { name: 'SMMUv3 SYNC', setup: () => batches((g) => g.put(OP.SYNC, 0, 0, 0)) },
  ...CACHED.map((n) => ({ name: 'SMMUv3 TLBI_NH_VA, 63 and a SYNC', n, setup: () => batches(tlbi, n) })),
  { name: 'SMMUv3 TLBI_NH_VA with TG and TTL, 63 and a SYNC', setup: () => batches(ranged) },
  ...CACHED.map((n) => ({ name: 'SMMUv3 TLBI_NH_VA, SYNC, used again, a doorbell each', n, setup: () => again(n) })),
  ...CACHED.map((n) => ({
    name: 'SMMUv3 nested: S2_IPA, NH_ASID, SYNC, used again',
    n,
    setup: () => nestedAgain(n),
  })),
  ...[10_000, 60_000].map((n) => ({ name: 'SMMUv3 nested: S12_VMALL, SYNC', n, setup: () => s12(n) })),
  { name: 'SMMUv3 nested: S12_VMALL, SYNC, 4 pages used again', setup: s12Used },
  { name: 'SMMUv3 empty doorbell', setup: doorbells },
];

export const SMMUV3_GUEST: readonly TimedCase[] = [
  ...ROWS.map((r) => ({ ...r, path: 'guest path' as const, hot: true })),
  {
    path: "to a real endpoint's ATC",
    hot: true,
    name: 'SMMUv3 ATC_INV, 63 and a SYNC',
    setup: () => batches(atcInv, 200, 64),
  },
  {
    path: "to a real endpoint's ATC",
    hot: true,
    name: 'SMMUv3 TLBI_NH_VA and ATC_INV in turn, 63 and a SYNC',
    setup: () => batches(both, 200, 64),
  },
];
