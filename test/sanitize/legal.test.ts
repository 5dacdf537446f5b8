import { describe, expect, test } from 'vitest';
import { DATA, type Driver, rulesOf } from './driver.ts';
import { SmmuDriver } from './smmuv3-driver.ts';
import { VtdDriver } from './vtd-driver.ts';

/** What drivers in use do, and may: none of it is found. */
const VA = 0x10_0000;
const PAGES = 8;

function mapped(d: Driver, pages = PAGES, to = DATA): void {
  for (let n = 0; n < pages; n++) d.map(VA + 0x1000 * n, to + 0x1000 * n);
}

function unmapped(d: Driver, pages = PAGES): void {
  for (let n = 0; n < pages; n++) d.unmap(VA + 0x1000 * n);
}

describe.each([
  ['SMMUv3', () => new SmmuDriver()],
  ['VT-d legacy', () => new VtdDriver()],
  ['VT-d scalable', () => new VtdDriver({ scalable: true })],
] as const)('%s', (_, make) => {
  test('a flush queue: many pages go, everything is invalidated once, then the addresses come back', () => {
    const d = make();
    mapped(d);
    unmapped(d);
    for (let n = 0; n < 6; n++) d.submit();
    d.invalidateAll();
    d.submit();
    mapped(d, PAGES, DATA + 0x10_0000);

    expect(rulesOf(d)).toEqual([]);
  });

  test('one range for a gather of pages, the last level only', () => {
    const d = make();
    mapped(d);
    unmapped(d);
    d.invalidate(VA, PAGES);
    d.submit();
    mapped(d, PAGES, DATA + 0x10_0000);

    expect(rulesOf(d)).toEqual([]);
  });

  test('a table is freed: the walk is invalidated with it, and its page becomes another table', () => {
    const d = make();
    mapped(d);
    unmapped(d);
    d.invalidate(VA, PAGES);
    const table = d.unlink(VA);
    d.invalidate(0, 512, false);
    d.submit();
    d.link(VA + 0x4000_0000, table);

    expect(rulesOf(d)).toEqual([]);
  });

  test('several invalidations wait for one completion', () => {
    const d = make();
    mapped(d);
    for (let n = 0; n < PAGES; n++) {
      d.unmap(VA + 0x1000 * n);
      d.invalidate(VA + 0x1000 * n);
      d.submit(false);
    }
    d.submit();
    mapped(d, PAGES, DATA + 0x10_0000);

    expect(rulesOf(d)).toEqual([]);
  });

  test('the same page comes back at the same address before its invalidation', () => {
    const d = make();
    mapped(d);
    unmapped(d);
    mapped(d);
    d.invalidate(VA, PAGES);
    d.submit();

    expect(rulesOf(d)).toEqual([]);
  });
});

describe('SMMUv3', () => {
  const STE = (d: SmmuDriver, word: number) => d.streams + 64 * d.sid + 8 * word;
  const CD = (d: SmmuDriver, word: number, ssid = 0) => d.cds + 64 * ssid + 8 * word;
  const cd = (d: SmmuDriver, ssid = 0, leaf = 1n) => {
    d.command(0x05n | (BigInt(ssid) << 12n) | (BigInt(d.sid) << 32n), leaf);
    d.submit();
  };

  test('Linux detaches and attaches again: Config alone, then the words nobody looks at', () => {
    const d = new SmmuDriver({ ats: true });
    for (let n = 0; n < 2; n++) {
      d.guest.st(STE(d, 0), 1);
      d.config(d.sid);
      d.guest.st(STE(d, 1), 0);
      d.config(d.sid);
      d.invalidateAll();
      d.submit();
      d.guest.st(STE(d, 1), d.steWords()[1]!);
      d.config(d.sid);
      d.guest.st(STE(d, 0), d.steWords()[0]!);
      d.config(d.sid);
    }
    expect(rulesOf(d)).toEqual([]);
  });

  test('Linux goes from one CD table to another by way of an STE that is not valid', () => {
    const d = new SmmuDriver();
    const cds = d.guest.alloc();
    d.guest.st(cds + 8, d.guest.alloc()).st(cds, d.cdWord(6));
    d.guest.st(STE(d, 0), 0);
    d.config(d.sid);
    d.guest.st(STE(d, 1), 1n << 44n);
    d.config(d.sid);
    d.guest.st(STE(d, 0), 0xbn | BigInt(cds));
    d.config(d.sid);

    expect(rulesOf(d)).toEqual([]);
  });

  test('Linux gives a CD another ASID in one store', () => {
    const d = new SmmuDriver();
    d.guest.st(CD(d, 0), d.cdWord(9));
    cd(d);
    d.invalidateAll();
    d.submit();

    expect(rulesOf(d)).toEqual([]);
  });

  test('Linux installs a CD of a substream, takes its table away behind EPD0, and removes it', () => {
    const d = new SmmuDriver({ ssid: 2 });
    d.guest.st(CD(d, 1, 1), d.guest.alloc());
    cd(d, 1);
    d.guest.st(CD(d, 0, 1), d.cdWord(7));
    cd(d, 1);
    d.guest.st(CD(d, 0, 1), d.cdWord(7) | (1n << 14n));
    cd(d, 1);
    d.guest.st(CD(d, 1, 1), 0);
    cd(d, 1);
    d.command(0x11n | (7n << 48n), 0n);
    d.submit();
    d.guest.st(CD(d, 0, 1), 0);
    cd(d, 1);

    expect(rulesOf(d)).toEqual([]);
  });

  test('Linux switches ATS on behind the STE and off before it, and the function forgets behind the SMMU', () => {
    const d = new SmmuDriver({ ats: true });
    d.guest.add({ t: 'ats', sid: d.sid, on: true });
    mapped(d);
    d.guest.dma(d.sid, VA, DATA);
    unmapped(d);
    d.invalidate(VA, PAGES);
    d.submit();
    d.command(0x40n | (BigInt(d.sid) << 32n), BigInt(VA) | 3n);
    d.submit();
    mapped(d, PAGES, DATA + 0x10_0000);
    d.guest.add({ t: 'ats', sid: d.sid, on: false });
    d.command(0x40n | (BigInt(d.sid) << 32n), 52n);
    d.submit();
    d.guest.st(STE(d, 0), 1);
    d.config(d.sid);

    expect(rulesOf(d)).toEqual([]);
  });

  test('FreeBSD writes the words of an STE, invalidates, then the first one, and invalidates', () => {
    const d = new SmmuDriver();
    const at = d.streams + 64 * 16;
    d.guest
      .st(at + 8, 1n << 44n)
      .st(at + 16, 0)
      .st(at + 24, 0);
    d.config(16);
    d.guest.st(at, 0x9);
    d.config(16);

    expect(rulesOf(d)).toEqual([]);
  });

  test('the first STE of a stream while the SMMU is on, and no invalidation: that it was not valid may be cached', () => {
    const d = new SmmuDriver();
    d.guest.st(d.streams + 64 * 16, 0x9);
    for (let n = 0; n < 3; n++) d.submit();

    expect(rulesOf(d)).toEqual(['config-change-not-invalidated']);
  });

  test('Linux before 6.9 detaches by three stores and one invalidation: a mixture is readable', () => {
    const d = new SmmuDriver({ stage2: true });
    d.guest
      .st(STE(d, 0), 1)
      .st(STE(d, 1), 1n << 44n)
      .st(STE(d, 2), 0);
    d.config(d.sid);

    expect(rulesOf(d)).toEqual(['torn-entry']);
  });
});

describe('VT-d', () => {
  test('Linux replaces a PASID entry: P goes, caches go, the words come, P last', () => {
    const d = new VtdDriver({ scalable: true });
    mapped(d);
    d.guest.st(d.pasids, 0x40);
    d.descriptor(7n | (1n << 4n) | (BigInt(d.did) << 16n), 0n);
    d.invalidateAll();
    d.submit();
    d.pasid(0, d.did, d.guest.alloc());
    d.submit();

    expect(rulesOf(d)).toEqual([]);
  });

  test('what was not present needs no invalidation without caching mode: a context entry, an IRTE', () => {
    const d = new VtdDriver();
    d.context(d.did, d.root, 16);
    d.guest.st(d.interrupts + 32, 0x31_0001).st(d.interrupts + 40, 0);
    for (let n = 0; n < 3; n++) d.submit();

    expect(rulesOf(d)).toEqual([]);
  });

  test('a context entry goes: contexts first, then the domain', () => {
    const d = new VtdDriver();
    d.guest.st(d.contexts + 16 * d.sid, 0).st(d.contexts + 16 * d.sid + 8, 0);
    d.contextCache();
    d.submit();
    d.invalidateAll();
    d.submit();
    d.context(d.did, d.guest.alloc());

    expect(rulesOf(d)).toEqual([]);
  });

  test('Xen joins pages into a larger one in one store and invalidates behind it', () => {
    const d = new VtdDriver();
    for (let n = 0; n < 512; n++) d.map(0x20_0000 + 0x1000 * n, DATA + 0x1000 * n);
    d.entry(0x20_0000, BigInt(DATA) | 0x83n, 2);
    d.invalidate(0x20_0000, 512, false);
    d.submit();
    d.guest.dma(d.sid, 0x20_1000, DATA + 0x1000);

    expect(rulesOf(d)).toEqual([]);
  });
});
