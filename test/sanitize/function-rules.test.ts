import { describe, expect, test } from 'vitest';
import { DATA, type Driver, rulesOf } from './driver.ts';
import { SmmuDriver } from './smmuv3-driver.ts';
import { VTD, VtdDriver } from './vtd-driver.ts';

const VA = 0x10_0000;
const DRIVERS = [
  ['SMMUv3', (ats = true) => new SmmuDriver({ ats })],
  ['VT-d', (ats = true) => new VtdDriver({ ats, scalable: true })],
] as const;

/** A page request without PASID, as the IOMMU writes it into its queue: readable, asking for an answer. */
function request(d: SmmuDriver | VtdDriver, group: number): void {
  if (d instanceof SmmuDriver) d.guest.written(d.requests, [d.sid, 0x5000_0000, VA | group, 0]);
  else {
    d.guest.w(VTD.PQA, d.requests, 8);
    d.guest.written(d.requests, [1 | (d.sid << 16), 0, VA | (group << 3) | 5, 0]);
  }
}

function answer(d: SmmuDriver | VtdDriver, group: number): void {
  if (d instanceof SmmuDriver) d.command(0x41n | (BigInt(d.sid) << 32n), BigInt(group) | (2n << 12n));
  else d.descriptor(9n | (BigInt(d.sid) << 16n), BigInt(group) << 3n);
  d.submit();
}

function detach(d: SmmuDriver | VtdDriver): void {
  if (d instanceof SmmuDriver) {
    d.guest.st(d.streams + 64 * d.sid, 1);
    d.config(d.sid);
  } else {
    d.guest.st(d.contexts + 32 * d.sid, 0);
    d.contextCache();
  }
  d.invalidateAll();
  d.submit();
}

function later(d: Driver): void {
  for (let n = 0; n < 4; n++) d.submit();
}

describe.each(DRIVERS)('%s', (_, make) => {
  test('ats-order: the IOMMU refuses what only a function with ATS on sends', () => {
    const d = make(false);
    d.guest.refused(d.sid, VA, d.iommu === 'smmuv3' ? 0x05 : 0x44);

    expect(rulesOf(d)).toEqual(['ats-order']);
  });

  test('not ats-order: it refuses something else', () => {
    const d = make(false);
    d.guest.refused(d.sid, VA, d.iommu === 'smmuv3' ? 0x13 : 0x85);

    expect(rulesOf(d)).toEqual([]);
  });

  test('ats-order: on in the function first, off in the IOMMU first; not the right way round', () => {
    const early = make(false);
    early.guest.add({ t: 'ats', sid: early.sid, on: true });
    expect(rulesOf(early)).toEqual(['ats-order']);

    const late = (off: boolean) => {
      const d = make();
      d.guest.add({ t: 'ats', sid: d.sid, on: true });
      if (off) d.guest.add({ t: 'ats', sid: d.sid, on: false });
      detach(d);
      return rulesOf(d);
    };
    expect(late(false)).toEqual(['ats-order']);
    expect(late(true)).toEqual([]);
  });

  test('response-missing: a request that asks for an answer never gets one; not when it does', () => {
    const d = make();
    request(d, 3);
    later(d);
    expect(rulesOf(d)).toEqual(['response-missing']);

    const good = make();
    request(good, 3);
    answer(good, 3);
    later(good);
    expect(rulesOf(good)).toEqual([]);
  });

  test('response-twice: the same group again; not a new group of the same index', () => {
    const d = make();
    request(d, 3);
    answer(d, 3);
    answer(d, 3);
    expect(rulesOf(d)).toEqual(['response-twice']);

    const good = make();
    for (let n = 0; n < 2; n++) {
      request(good, 3);
      answer(good, 3);
    }
    expect(rulesOf(good)).toEqual([]);
  });

  test('response-unknown: a group nobody asked for; not one that was asked for', () => {
    const answered = (group: number) => {
      const d = make();
      request(d, 3);
      request(d, 4);
      answer(d, 3);
      answer(d, group);
      if (group !== 4) answer(d, 4);
      return rulesOf(d);
    };

    expect(answered(5)).toEqual(['response-unknown']);
    expect(answered(4)).toEqual([]);
  });

  test('page-request-after-teardown: of an address space that is gone; not of one that is there', () => {
    const d = make();
    detach(d);
    request(d, 1);
    answer(d, 1);
    expect(rulesOf(d)).toEqual(['page-request-after-teardown']);

    const good = make();
    request(good, 1);
    answer(good, 1);
    detach(good);
    expect(rulesOf(good)).toEqual([]);
  });

  test('never-used: mapped and unmapped without an access; not after one', () => {
    const use = (used: boolean) => {
      const d = make(false);
      d.map(VA, DATA);
      d.map(VA + 0x1000, DATA + 0x1000);
      d.guest.dma(d.sid, VA, DATA);
      if (used) d.guest.dma(d.sid, VA + 0x1000, DATA + 0x1000);
      d.unmap(VA + 0x1000);
      return rulesOf(d, true);
    };

    expect(use(false)).toEqual(['never-used']);
    expect(use(true)).toEqual([]);
  });

  test('never-written: mapped for writing and only read; not when it was written', () => {
    const use = (write: boolean) => {
      const d = make(false);
      d.map(VA, DATA);
      d.guest.add({ t: 'xlat', sid: d.sid, lo: VA, hi: 0, access: write ? 2 : 1, out: DATA, perm: -2 });
      d.unmap(VA);
      return rulesOf(d, true);
    };

    expect(use(false)).toEqual(['never-written']);
    expect(use(true)).toEqual([]);
  });

  test('wider-than-used: 32 MiB mapped, one page used; not when most of it is', () => {
    const use = (step: number) => {
      const d = make(false);
      for (let n = 0; n < 8192; n++) d.map(VA + 0x1000 * n, DATA + 0x1000 * (8191 - n));
      for (let n = 0; n < 8192; n += step) d.guest.dma(d.sid, VA + 0x1000 * n, DATA + 0x1000 * (8191 - n));
      return rulesOf(d, true);
    };

    expect(use(8192)).toEqual(['wider-than-used']);
    expect(use(8)).toEqual([]);
  });

  test('dma-before-protection: an access while the IOMMU is off; not while it is on', () => {
    const on = make(false);
    on.map(VA, DATA);
    on.guest.dma(on.sid, VA, DATA);
    expect(rulesOf(on, true)).toEqual([]);

    const d = make(false);
    if (d instanceof SmmuDriver) d.control(0xc);
    else {
      d.levels -= 0x8000_0000;
      d.guest.w(VTD.GCMD, d.levels).r(VTD.GSTS, d.levels + 0x4000_0000);
    }
    d.guest.add({ t: 'xlat', sid: d.sid, lo: VA, hi: 0, access: 1, out: VA, perm: -2 });

    expect(rulesOf(d, true)).toEqual(['dma-before-protection']);
  });

  test('identity-of-all-memory: a stream that passes; not one that is translated', () => {
    const d = make(false);
    if (d instanceof SmmuDriver) d.guest.st(d.streams + 64 * d.sid, 9);
    else d.guest.st(d.pasids, 0x101);
    if (d instanceof SmmuDriver) d.config(d.sid);
    else d.descriptor(7n | (1n << 4n) | (BigInt(d.did) << 16n), 0n);
    d.invalidateAll();
    d.submit();
    d.guest.add({ t: 'xlat', sid: d.sid, lo: VA, hi: 0, access: 1, out: VA, perm: -2 });
    expect(rulesOf(d, true)).toEqual(['identity-of-all-memory']);

    const good = make(false);
    good.map(VA, DATA);
    good.guest.dma(good.sid, VA, DATA);
    expect(rulesOf(good, true)).toEqual([]);
  });
});

describe('stalls (SMMUv3)', () => {
  const stall = (d: SmmuDriver) => d.guest.written(d.events, [0x10, d.sid, 0x8000_0000 | 7 | 0, 0, VA, 0, 0, 0]);

  test('stall-never-resumed; not when it is resumed or the stream is terminated', () => {
    const d = new SmmuDriver();
    stall(d);
    later(d);
    expect(rulesOf(d)).toEqual(['stall-never-resumed']);

    for (const command of [0x44n | (1n << 12n), 0x45n]) {
      const good = new SmmuDriver();
      stall(good);
      good.command(command | (BigInt(good.sid) << 32n), command === 0x45n ? 0n : 7n);
      good.submit();
      expect(rulesOf(good)).toEqual([]);
    }
  });
});
