import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { PagingDomain } from '../../../src/host/kernel/driver.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { HW_INFO, HWPT_DATA, HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { CAP_ALL, ECAP_ALL } from '../../piommu/vtd/rig.ts';
import { Bench, firstStageData, ok, RAM, userData } from './bench.ts';

const SECOND = HWPT_FLAG.DIRTY_TRACKING;

describe('paging domains', () => {
  test.each([
    ['first-stage format', 0],
    ['second-stage format', SECOND],
    ['nest parent', HWPT_FLAG.NEST_PARENT],
  ])('%s: DMA reaches guest memory where the host put it, and nothing after detach', (_, flags) => {
    const b = new Bench();
    const dev = b.device('nic', [0x10]);
    expect(b.dma(0x1234n, 0x10)).toBe(-0x59);
    const domain = b.parent(dev, flags);
    expect(b.attach(dev, domain)).toBe(0);
    expect(b.dma(0x1234n, 0x10)).toBe(0x1234);
    expect(domain.iovaToPhys(0x1234n)).toBe(b.hpa + 0x1234);
    b.detach(dev);
    expect(b.dma(0x1234n, 0x10)).toBe(-0x59);
  });

  test('the same domain on a RID and on PASIDs of two devices; an unmap reaches all of them and their ATCs', () => {
    const b = new Bench();
    const one = b.device('one', [0x10]);
    const two = b.device('two', [0x20]);
    const domain = b.parent(one, HWPT_FLAG.PASID);
    expect([b.attach(one, domain), b.attach(one, domain, 5), b.attach(two, domain, 9)]).toEqual([0, 0, 0]);
    const reach = () => [b.dma(0n, 0x10), b.dma(0n, 0x10, 5), b.dma(0n, 0x20, 9)];
    expect(reach()).toEqual([0, 0, 0]);
    b.functions.invalidations.length = 0;
    b.take();
    expect(domain.unmap(0n, BigInt(RAM))).toBe(BigInt(RAM));
    expect(b.take()).toEqual([
      'p-iotlb page 0 2^10',
      'p-iotlb page 0 2^10',
      'p-iotlb page 0 2^10',
      'device 1ff000 S',
      'p-device 5 1ff000 S',
      'p-device 9 1ff000 S',
    ]);
    expect(b.functions.invalidations.map((i) => [i.rid, i.pasid])).toEqual([
      [0x10, NO_PASID],
      [0x10, 5],
      [0x20, 9],
    ]);
    expect(reach()).toEqual([-0x71, -0x71, -0x71]);
  });

  test('read-only pages refuse writes; write-only pages exist in the second stage', () => {
    const b = new Bench();
    const dev = b.device('nic', [0x10]);
    const domain = b.paging(dev, SECOND);
    expect(domain.map(0n, b.hpa, 4096, 1)).toBe(0);
    expect(domain.map(0x1000n, b.hpa + 4096, 4096, 2)).toBe(0);
    b.attach(dev, domain);
    expect([b.dma(0n, 0x10, NO_PASID, 1), b.dma(0n, 0x10, NO_PASID, 2)]).toEqual([0, -0x85]);
    expect([b.dma(0x1000n, 0x10, NO_PASID, 1), b.dma(0x1000n, 0x10, NO_PASID, 2)]).toEqual([-0x86, 0x1000]);
    expect(domain.map(0x2000n, b.hpa, 4096, 0)).toBe(-E.INVAL);
  });

  test('a nest parent refuses read-only mappings, unless the modelled host is free of the erratum', () => {
    const linux = new Bench();
    const dev = linux.device('nic', [0x10]);
    expect(linux.paging(dev).map(0n, linux.hpa, 4096, 1)).toBe(-E.INVAL);
    expect(linux.paging(dev, SECOND).map(0n, linux.hpa, 4096, 1)).toBe(0);
    expect(linux.driver.hwInfo(dev, HW_INFO.NONE)?.data[0]).toBe(1);
    const free = new Bench({ driver: { errata: false } });
    const other = free.device('nic', [0x10]);
    expect(free.paging(other).map(0n, free.hpa, 4096, 1)).toBe(0);
    expect(free.driver.hwInfo(other, HW_INFO.INTEL_VTD)?.data[0]).toBe(0);
  });

  test('GET_HW_INFO gives CAP and ECAP; other types do not exist', () => {
    const b = new Bench();
    const dev = b.device('nic', [0x10]);
    const data = b.driver.hwInfo(dev, 0)!.data;
    const v = new DataView(data.buffer);
    expect([data.length, v.getUint32(4, true)]).toEqual([24, 0]);
    expect([v.getBigUint64(8, true), v.getBigUint64(16, true)]).toEqual([CAP_ALL, ECAP_ALL]);
    expect(b.driver.hwInfo(dev, HW_INFO.ARM_SMMUV3)).toBe(null);
  });

  test('flags the unit cannot do are EOPNOTSUPP', () => {
    const no = (ecap: bigint, flags: number) => {
      const b = new Bench({ hardware: { ecap } });
      const r = b.driver.allocPaging(b.device('nic', [0x10]), flags, null);
      return typeof r === 'number' ? r : 0;
    };
    const drop = (...bits: number[]) => bits.reduce((e, bit) => e & ~(1n << BigInt(bit)), ECAP_ALL);
    expect(no(drop(26), HWPT_FLAG.NEST_PARENT)).toBe(-E.OPNOTSUPP);
    expect(no(drop(45), HWPT_FLAG.DIRTY_TRACKING)).toBe(-E.OPNOTSUPP);
    expect(no(drop(48), HWPT_FLAG.DIRTY_TRACKING)).toBe(-E.OPNOTSUPP);
    expect(no(drop(46), HWPT_FLAG.NEST_PARENT)).toBe(-E.OPNOTSUPP);
    expect(no(drop(47), 0)).toBe(0);
    expect(no(ECAP_ALL, HWPT_FLAG.NEST_PARENT | HWPT_FLAG.DIRTY_TRACKING | HWPT_FLAG.PASID)).toBe(0);
    expect(no(ECAP_ALL, 0x10)).toBe(-E.OPNOTSUPP);
    const b = new Bench();
    const data = { type: 1, user: userData(new Uint8Array(8)) };
    expect(b.driver.allocPaging(b.device('nic', [0x10]), 0, data)).toBe(-E.OPNOTSUPP);
  });

  test('DMA finds exactly what is mapped, whatever was mapped and unmapped before; all tables come back', () => {
    const run = (flags: number, steps: readonly (readonly [number, number, number, boolean])[]) => {
      const b = new Bench();
      const dev = b.device('nic', [0x10]);
      const before = b.memory.pagesUsed;
      const domain = b.paging(dev, flags);
      b.attach(dev, domain);
      const maps: { page: number; pages: number; to: number }[] = [];
      for (const [page, pages, to, unmap] of steps) {
        const hits = maps.filter((m) => m.page < page + pages && page < m.page + m.pages);
        if (unmap) {
          const gone = maps.filter((m) => m.page >= page && m.page + m.pages <= page + pages);
          const whole = hits.length === gone.length;
          if (!whole) continue;
          domain.unmap(BigInt(page) * 4096n, BigInt(pages) * 4096n);
          for (const m of gone) maps.splice(maps.indexOf(m), 1);
        } else if (hits.length === 0) {
          expect(domain.map(BigInt(page) * 4096n, 0x1_0000_0000 + to * 4096, pages * 4096, 3)).toBe(0);
          maps.push({ page, pages, to });
        }
        for (const probe of [page - 1, page, page + 1, page + pages - 1, page + pages]) {
          if (probe < 0) continue;
          const m = maps.find((x) => probe >= x.page && probe < x.page + x.pages);
          const got = b.dma(BigInt(probe) * 4096n, 0x10) + b.hpa;
          if (m === undefined) expect(got).toBeLessThan(b.hpa);
          else expect(got).toBe(0x1_0000_0000 + (m.to + probe - m.page) * 4096);
        }
      }
      b.detach(dev);
      domain.free();
      expect(b.memory.pagesUsed).toBe(before);
    };
    const step = fc.tuple(
      fc.oneof(fc.integer({ min: 0, max: 3000 }), fc.constantFrom(0, 512, 1024, 0x4_0000, 0x8_0000)),
      fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(512, 1024, 0x4_0000, 0x4_0001)),
      fc.oneof(fc.integer({ min: 0, max: 3000 }), fc.constantFrom(0, 512, 0x4_0000)),
      fc.boolean(),
    );
    fc.assert(
      fc.property(fc.constantFrom(0, SECOND), fc.array(step, { maxLength: 12 }), (flags, steps) => run(flags, steps)),
      { numRuns: 60 },
    );
  });

  test('out of memory leaves the range as it was', () => {
    for (const pages of [6, 7, 8, 9, 12]) {
      const b = new Bench({ pages });
      const dev = b.device('nic', [0x10], { pasidBits: 0 });
      const domain = b.paging(dev, SECOND);
      const used = b.memory.pagesUsed;
      expect(domain.map(0x1000n, b.hpa, 4096 * 3000, 3)).toBe(-E.NOMEM);
      expect(b.memory.pagesUsed).toBe(used);
      expect(domain.iovaToPhys(0x1000n)).toBe(-1);
    }
  });

  test('two instances do not share tables', () => {
    const a = new Bench();
    const b = new Bench();
    const dev = a.device('nic', [0x10]);
    expect(b.paging(dev).attach(dev, NO_PASID, null)).toBe(-E.INVAL);
  });
});

describe('dirty tracking', () => {
  const dirtyPages = (domain: PagingDomain, noClear = false): bigint[] => {
    const pages: bigint[] = [];
    domain.dirty!.read(0n, BigInt(RAM), noClear, {
      dirty: (iova, bytes) => {
        for (let i = 0n; i < BigInt(bytes); i += 4096n) pages.push((iova + i) / 4096n);
      },
    });
    return pages;
  };

  test('pages written by DMA are reported once per write, through a nested domain too', () => {
    const b = new Bench();
    const dev = b.device('nic', [0x10]);
    const parent = b.paging(dev, HWPT_FLAG.NEST_PARENT | HWPT_FLAG.DIRTY_TRACKING);
    for (let page = 0; page < 64; page++) parent.map(BigInt(page) * 4096n, b.hpa + page * 4096, 4096, 3);
    b.attach(dev, parent);
    b.dma(0x3000n, 0x10, NO_PASID, 2);
    expect(dirtyPages(parent)).toEqual([]);
    parent.dirty!.set(true);
    b.dma(0x3000n, 0x10, NO_PASID, 1);
    expect(dirtyPages(parent)).toEqual([]);
    b.dma(0x3000n, 0x10, NO_PASID, 2);
    expect(dirtyPages(parent, true)).toEqual([3n]);
    expect(dirtyPages(parent)).toEqual([3n]);
    expect(dirtyPages(parent)).toEqual([]);
    b.dma(0x3000n, 0x10, NO_PASID, 2);
    expect(dirtyPages(parent)).toEqual([3n]);
    b.guestMap(0x1_0000, 0x7000n, 0x5000n);
    b.attach(dev, b.nested(dev, parent, firstStageData(0x1_0000n)));
    expect(b.dma(0x7000n, 0x10, NO_PASID, 2)).toBe(0x5000);
    // Reads of the guest's tables count as writes under SSADE.
    expect(dirtyPages(parent)).toEqual([5n, 16n, 17n, 18n, 19n]);
    parent.dirty!.set(false);
    b.dma(0x7000n, 0x10, NO_PASID, 2);
    expect(dirtyPages(parent)).toEqual([]);
  });

  test('ordinary domains have none', () => {
    const b = new Bench();
    expect(b.paging(b.device('nic', [0x10]), 0).dirty).toBe(null);
  });
});

describe('nested domains', () => {
  const alloc = (b: Bench, parent: PagingDomain, data: Uint8Array, type: number = HWPT_DATA.VTD_S1, flags = 0) => {
    const r = b.driver.allocNested(b.device('other', [0x50]), parent, flags, { type, user: userData(data) });
    return typeof r === 'number' ? r : 0;
  };

  test('allocation checks type, parent and length, and nothing of the content', () => {
    const b = new Bench();
    const dev = b.device('nic', [0x10]);
    const good = firstStageData(0x1000n);
    const cases: [PagingDomain, Uint8Array, number, number][] = [
      [b.paging(dev), good, HWPT_DATA.ARM_SMMUV3, 0],
      [b.paging(dev), good, HWPT_DATA.VTD_S1, HWPT_FLAG.DIRTY_TRACKING],
      [b.paging(dev, 0), good, HWPT_DATA.VTD_S1, 0],
      [b.paging(dev, SECOND), good, HWPT_DATA.VTD_S1, 0],
      [b.paging(dev), good.subarray(0, 16), HWPT_DATA.VTD_S1, 0],
      [b.paging(dev), new Uint8Array(32), HWPT_DATA.VTD_S1, 0],
    ];
    const results = cases.map(([parent, data, type, flags], i) => {
      const r = b.driver.allocNested(dev, parent, flags, { type, user: userData(data) });
      return [i, typeof r === 'number' ? r : 0];
    });
    expect(results).toEqual([
      [0, -E.OPNOTSUPP],
      [1, -E.OPNOTSUPP],
      [2, -E.INVAL],
      [3, -E.INVAL],
      [4, -E.INVAL],
      [5, -E.INVAL],
    ]);
    expect(alloc(b, b.paging(dev), firstStageData(0xdead_beefn, 7, ~0n & 0xffff_ffff_ffff_ffffn))).toBe(0);
  });

  test('attach judges the content; a refused RID attach leaves the device blocked, a refused PASID attach nothing', () => {
    const poor = ECAP_ALL & ~((1n << 31n) | (1n << 34n));
    const b = new Bench({ hardware: { ecap: poor, cap: CAP_ALL & ~(1n << 60n) } });
    const dev = b.device('nic', [0x10]);
    const parent = b.parent(dev);
    for (const data of [
      firstStageData(0n, 47),
      firstStageData(0n, 57),
      firstStageData(0n, 48, 1n),
      firstStageData(0n, 48, 2n),
    ]) {
      b.attach(dev, parent);
      expect(b.dma(0n, 0x10)).toBe(0);
      expect(b.attach(dev, b.nested(dev, parent, data))).toBe(-E.INVAL);
      expect(b.dma(0n, 0x10)).toBe(-0x59);
      b.detach(dev);
      expect(b.attach(dev, parent, 5)).toBe(0);
      expect(b.attach(dev, b.nested(dev, parent, data), 5)).toBe(-E.INVAL);
      expect(b.dma(0n, 0x10, 5)).toBe(0);
      b.detach(dev, 5);
    }
    // WPE without SRE, and flags nobody knows, are ignored.
    expect(b.attach(dev, b.nested(dev, parent, firstStageData(0n, 48, 0xf0n | 4n)))).toBe(0);
  });

  test('DMA goes through the guest table and the parent; PASIDs have tables of their own', () => {
    const b = new Bench();
    const dev = b.device('nic', [0x10]);
    const parent = b.parent(dev);
    b.guestMap(0x1_0000, 0x7f12_3456_7000n, 0x5000n);
    b.guestMap(0x2_0000, 0x7f12_3456_7000n, 0x6000n);
    expect(b.attach(dev, b.nested(dev, parent, firstStageData(0x1_0000n)))).toBe(0);
    expect(b.attach(dev, b.nested(dev, parent, firstStageData(0x2_0000n)), 3)).toBe(0);
    expect(b.attach(dev, parent, 4)).toBe(0);
    expect(b.dma(0x7f12_3456_7abcn, 0x10)).toBe(0x5abc);
    expect(b.dma(0x7f12_3456_7abcn, 0x10, 3)).toBe(0x6abc);
    expect(b.dma(0x5000n, 0x10, 4)).toBe(0x5000);
    expect(b.dma(0x5000n, 0x10, 5)).toBe(-0x59);
    expect(b.dma(0x5000n, 0x10)).toBe(-0x71);
  });

  test('each nested domain has its own domain id; when they are used up, ENOSPC', () => {
    const b = new Bench({ hardware: { cap: CAP_ALL & ~7n } });
    const dev = b.device('nic', [0x10]);
    const parent = b.parent(dev);
    const nested = Array.from({ length: 15 }, () => b.nested(dev, parent, firstStageData(0x1_0000n)));
    // 16 ids, of which the kernel keeps 0 and 1.
    const results = nested.map((n, i) => b.attach(dev, n, i + 1));
    expect(results).toEqual([...new Array<number>(14).fill(0), -E.NOSPC]);
    b.detach(dev, 3);
    expect(b.attach(dev, nested[14]!, 15)).toBe(0);
  });

  test('a device without PASIDs: EOPNOTSUPP; a PASID beyond its table: ENODEV', () => {
    const b = new Bench();
    const plain = b.device('plain', [0x10], { pasidBits: 0 });
    const domain = b.parent(plain, 0);
    expect(domain.attach(plain, 5, null)).toBe(-E.OPNOTSUPP);
    const small = b.device('small', [0x20], { pasidBits: 4 });
    expect(domain.attach(small, 0x8000, null)).toBe(-E.NODEV);
    expect(domain.attach(small, 2 ** 20, null)).toBe(-E.INVAL);
  });

  test('the interrupt window and the RMRRs of a device are reserved', () => {
    const rmrr = { start: 0xe_0000n, last: 0xf_ffffn, kind: 'direct' } as const;
    const b = new Bench({ driver: { reserved: (d) => (d.name === 'gpu' ? [rmrr] : []) } });
    const msi = { start: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi' };
    expect(b.driver.reservedRegions(b.device('gpu', [0x10]))).toEqual([rmrr, msi]);
    expect(b.driver.reservedRegions(b.device('nic', [0x18]))).toEqual([msi]);
  });

  test('it is not a vIOMMU', () => {
    const b = new Bench();
    expect([b.driver.viommuSupported(), b.driver.viommuInit()]).toEqual([false, -E.OPNOTSUPP]);
    expect(ok(b.driver.allocPaging(b.device('nic', [0x10]), 0, null)).nestParent).toBe(false);
  });
});
