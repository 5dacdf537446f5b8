import type { Prepared, TimedCase } from '../case.ts';
import { PAGES, VtdGuest, type VtdGuestMode } from '../guests/vtd.ts';
import { shuffled } from '../parts/shuffled.ts';

/** Descriptors of one doorbell; the last of each 64 is a wait. */
const RING = 512;
const GROUP = 64;

type Put = (g: VtdGuest, n: number) => void;

/** The same descriptors over and over, 512 with one doorbell. */
function batches(mode: VtdGuestMode, put: Put, cached = 200, atc = 0): Prepared {
  const g = new VtdGuest(mode, atc);
  g.fill(cached);
  for (let n = 0; n < 2 * RING; n++) {
    if (n % GROUP === GROUP - 1) g.putWait();
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

/** A page is invalidated, waited for, and used again. */
function again(mode: VtdGuestMode, cached: number): Prepared {
  const g = new VtdGuest(mode);
  g.fill(cached);
  const order = shuffled(PAGES);
  let n = 0;
  return {
    ops: 64,
    run() {
      for (let i = 0; i < 64; i++, n++) {
        const page = order[n % PAGES]! % cached;
        if (mode === 'first') g.putPasidPage(page);
        else g.putPage(page);
        g.wait();
        g.touch(page);
      }
    },
  };
}

/** Every page used for the first time since the domain was flushed. */
function first(): Prepared {
  const g = new VtdGuest('legacy');
  const order = shuffled(PAGES);
  let n = 0;
  return {
    ops: 512,
    run() {
      if (n === 0) g.domain();
      for (let i = 0; i < 512; i++) g.touch(order[n + i]!);
      n = (n + 512) % PAGES;
    },
  };
}

/** Everything goes; a few pages are used again, so that there is something to empty the next time. */
function flush(cached: number, what: 'domain' | 'global'): Prepared {
  const g = new VtdGuest('legacy');
  g.fill(cached);
  return {
    ops: 1,
    run() {
      g[what]();
      for (let n = 0; n < 4; n++) g.touch(n * 512);
    },
  };
}

function doorbells(): Prepared {
  const g = new VtdGuest('legacy');
  g.fill(1);
  return {
    ops: 512,
    run() {
      for (let n = 0; n < 512; n++) g.ring();
    },
  };
}

const CACHED = [1, 200, 10_000, 60_000];
/** Pages nobody has used. */
const unused: Put = (g, n) => g.putPage(PAGES - 1 - n);

type Row = Omit<TimedCase, 'path' | 'hot'>;

/** The path of a guest of a vVT-d: registers, queue, the copy of its second stage or its nested domain, hardware. */
const ROWS: readonly Row[] = [
  ...CACHED.map((n) => ({ name: 'VT-d legacy: page, wait, used again', n, setup: () => again('legacy', n) })),
  ...CACHED.map((n) => ({ name: 'VT-d first stage: page, wait, used again', n, setup: () => again('first', n) })),
  { name: 'VT-d legacy: first touch', setup: first },
  ...(['domain', 'global'] as const).flatMap((what) =>
    [10_000, PAGES].map((n) => ({
      name: `VT-d legacy: ${what} flush, wait, 4 pages used again`,
      n,
      setup: () => flush(n, what),
    })),
  ),
  ...CACHED.map((n) => ({
    name: 'VT-d legacy: IOTLB page, 63 and a wait',
    n,
    setup: () => batches('legacy', unused, n),
  })),
  ...CACHED.map((n) => ({
    name: 'VT-d first stage: PASID-IOTLB page, 63 and a wait',
    n,
    setup: () => batches('first', (g, i) => g.putPasidPage(PAGES - 1 - i), n),
  })),
  { name: 'VT-d wait', setup: () => batches('legacy', (g) => g.putWait()) },
  { name: 'VT-d empty doorbell', setup: doorbells },
];

export const VTD_GUEST: readonly TimedCase[] = [
  ...ROWS.map((r) => ({ ...r, path: 'guest path' as const, hot: true })),
  {
    path: "to a real endpoint's ATC",
    hot: true,
    name: 'VT-d device-TLB page, 63 and a wait',
    setup: () => batches('first', (g, n) => g.putDevicePage(n), 200, 64),
  },
];
