import { describe, expect, test } from 'vitest';
import { DATA, type Driver } from './driver.ts';
import { LiveGuest } from './live-guest.ts';
import { SMMU, SmmuDriver, type SmmuOptions } from './smmuv3-driver.ts';
import { GCMD, VTD, VtdDriver, type VtdOptions } from './vtd-driver.ts';

/** Drivers' faults of public record, as guest programs on machines of this package, and the same done right. */
const VA = 0x10_0000;
const HEARINGS = ['told', 'compared'] as const;
type Hearing = (typeof HEARINGS)[number];
const smmu = (o: SmmuOptions = {}, hearing?: Hearing) =>
  new SmmuDriver<LiveGuest>(o, new LiveGuest('smmuv3', false, hearing));
const vtd = (o: VtdOptions = {}, hearing?: Hearing) =>
  new VtdDriver<LiveGuest>(o, new LiveGuest('vtd', o.scalable === true, hearing));
/** Each with stores that are told, and with memory that is compared before every event. */
const MACHINES = HEARINGS.flatMap((h): (readonly [string, (ats?: boolean) => Driver])[] => [
  [`SMMUv3, stores ${h}`, (ats = false) => smmu({ ats }, h)],
  [`VT-d legacy, stores ${h}`, (ats = false) => vtd({ ats }, h)],
  [`VT-d scalable, stores ${h}`, (ats = false) => vtd({ ats, scalable: true }, h)],
]);

function found(d: Driver, severity: 'error' | 'warning' = 'error'): string[] {
  const levels = severity === 'error' ? ['error'] : ['error', 'warning'];
  return [
    ...new Set(
      d.guest
        .judge(d.iommu)
        .filter((f) => levels.includes(f.severity))
        .map((f) => f.rule),
    ),
  ].sort();
}

test('a table of very many pages, stores told: an IRTE is changed without IEC, and not when IEC follows', () => {
  const change = (told: boolean) => {
    const d = vtd();
    // 65536 entries.
    const table = d.guest.alloc(1 << 20);
    d.guest.w(VTD.IRTA, BigInt(table) | 0xfn, 8);
    d.control(GCMD.SIRTP);
    d.control(GCMD.IRE);
    const entry = table + 16 * 40_000;
    d.guest.st(entry + 8, 0x4_0100n).st(entry, 0xef_0009n);
    d.submit();
    d.guest.st(entry, 0x27_0009n);
    if (told) d.descriptor(4n, 0n);
    for (let n = 0; n < 3; n++) d.submit();
    return found(d);
  };

  expect(change(false)).toEqual(['config-change-not-invalidated']);
  expect(change(true)).toEqual([]);
});

describe.each(MACHINES)('%s', (_, make) => {
  test('a driver that maps, lets its function access, unmaps and invalidates is not found', () => {
    const d = make(true);
    for (let n = 0; n < 4; n++) {
      d.map(VA, DATA + 0x1000 * n);
      if (d.iommu === 'vtd') d.submit();
      d.guest.dma(d.sid, VA, DATA + 0x1000 * n);
      d.unmap(VA);
      d.invalidate(VA);
      d.fence();
      d.invalidateDevice(VA);
      d.submit();
    }

    expect(found(d, 'warning')).toEqual([]);
  });

  test('ATC invalidated before the TLB', () => {
    const d = make(true);
    d.map(VA, DATA);
    d.guest.dma(d.sid, VA, DATA);
    d.unmap(VA);
    d.invalidateDevice(VA);
    d.submit();
    d.invalidate(VA);
    d.submit();
    d.map(VA, DATA + 0x1000);

    expect(found(d)).toEqual(['atc-before-iotlb']);
  });

  test('a driver that forgets its invalidation is found, by what it maps next', () => {
    const d = make();
    d.map(VA, DATA);
    if (d.iommu === 'vtd') d.submit();
    d.guest.dma(d.sid, VA, DATA);
    d.unmap(VA);
    d.map(VA, DATA + 0x1000);
    d.guest.dma(d.sid, VA, DATA + 0x1000);

    expect(found(d)).toEqual(['missing-invalidation']);
  });

  test('a table page is freed after an invalidation of the last level only', () => {
    const d = make();
    d.map(VA, DATA);
    d.guest.dma(d.sid, VA, DATA);
    d.unmap(VA);
    const table = d.unlink(VA);
    d.invalidate(VA);
    d.submit();
    d.link(VA + 0x4000_0000, table);

    expect(found(d)).toEqual(['invalidation-too-small']);
  });
});

test('an entry that is changed in place, and invalidated then, was not broken before it was made', () => {
  for (const hearing of HEARINGS) {
    const d = smmu({}, hearing);
    d.map(VA, DATA);
    d.guest.dma(d.sid, VA);
    d.map(VA, DATA + 0x1000);
    d.invalidate(VA);
    d.submit();

    expect(found(d)).toEqual(['break-before-make']);
  }
});

describe('SMMUv3', () => {
  test('a stream table and queues that are not aligned to their size', () => {
    const d = smmu();
    d.control(0);
    d.guest.w(SMMU.STRTAB_BASE, d.streams + 0x40, 8).w(SMMU.CMDQ_BASE, BigInt(d.commands) + 0x200n + 6n, 8);
    d.guest.w(SMMU.EVENTQ_BASE, BigInt(d.events) + 0x20n + 5n, 8);
    d.control(0x4);
    d.control(0xd);

    expect(found(d)).toEqual(['table-not-aligned']);
    expect(d.guest.judge().filter((f) => f.rule === 'table-not-aligned')).toHaveLength(3);
  });

  test('an STE that is made valid before its second word', () => {
    const d = smmu({ ssid: 1, ats: true });
    const at = d.streams + 64 * 16;
    d.guest.st(at, d.steWords()[0]!).st(at + 8, d.steWords()[1]!);
    d.config(16);

    expect(found(d)).toEqual(['valid-before-filled']);
  });

  test('GERROR is enabled and nobody acknowledges', () => {
    const d = smmu();
    d.guest.w(SMMU.IRQ_CTRL, 1).r(SMMU.IRQ_CTRLACK, 1);
    d.command(0xffn, 0n);
    d.submit(false);
    for (let n = 0; n < 80; n++) d.guest.r(SMMU.CONS, 0);

    expect(found(d, 'warning')).toContain('error-not-acknowledged');
    expect(found(d, 'warning')).toContain('interrupt-without-handler');
  });
});

describe('VT-d', () => {
  test('a PASID entry is zeroed while present', () => {
    const d = vtd({ scalable: true });
    d.map(VA, DATA);
    d.guest.dma(d.sid, VA);
    for (let n = 0; n < 8; n++) d.guest.st(d.pasids + 8 * n, 0);
    d.descriptor(7n | (1n << 4n) | (BigInt(d.did) << 16n), 0n);
    d.invalidateAll();
    d.submit();

    expect(found(d)).toEqual(['torn-entry']);
  });

  test('an IRTE is changed without an invalidation of the interrupt entry cache', () => {
    const d = vtd();
    d.guest.st(d.interrupts + 16, 0x30_0001).st(d.interrupts + 24, 0);
    d.guest.w(VTD.IRTA, BigInt(d.interrupts) | 7n, 8);
    d.control(GCMD.SIRTP);
    d.control(GCMD.IRE);
    d.submit();
    d.guest.st(d.interrupts + 16, 0x31_0001);
    for (let n = 0; n < 3; n++) d.submit();

    expect(found(d)).toEqual(['config-change-not-invalidated']);
  });

  test('one domain id is given to two tables', () => {
    const d = vtd();
    d.context(d.did, d.guest.alloc(), 16);
    d.contextCache();
    d.submit();

    expect(found(d)).toEqual(['tag-shared']);
  });

  test('a PASID is freed with page requests queued', () => {
    const d = vtd({ scalable: true, ats: true, pri: true });
    d.guest.w(VTD.PQA, d.requests, 8);
    d.pasid(1, 9, d.guest.alloc());
    d.guest.dma(d.sid, VA);
    d.guest.pageRequest(d.sid, 1, VA);
    d.guest.st(d.pasids + 64, 0x40);
    d.descriptor(7n | (1n << 4n) | (9n << 16n) | (1n << 32n), 0n);
    d.descriptor(6n | (2n << 4n) | (9n << 16n) | (1n << 32n), 0n);
    d.submit();

    expect(found(d)).toEqual(['pasid-not-drained']);
  });
});
