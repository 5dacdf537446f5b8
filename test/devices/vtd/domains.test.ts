import { describe, expect, test } from 'vitest';
import { Guest, READ, WRITE } from './guest.ts';
import { first, L, legacy, PASIDS, RID, ROOT, scalable, withDevices } from './guests.ts';

describe('before and after TE', () => {
  test('a device sits on guest RAM until TE, is asked for on first use after it, and returns when TE goes', () => {
    const g = legacy();
    expect(g.host.took()).toEqual(['hwpt 2 on ioas 1 flags 0', 'attach 16 2']);
    expect(g.host.dma(RID, -1, 0x1234, READ)).toBe(0x1234);
    g.translateOn(BigInt(ROOT));
    expect(g.host.took()).toEqual(['detach 16']);
    expect(g.host.dma(RID, -1, 0x5678, WRITE)).toBe(0x40_0678);
    expect(g.host.took()).toEqual(['ioas 3', 'hwpt 4 on ioas 3 flags 2', 'attach 16 4', 'map 3 0x5000+0x1000 3']);
    g.w32(0x18, 0);
    expect(g.host.took()).toEqual(['attach 16 2', 'destroy 4', 'destroy 3']);
    expect(g.host.dma(RID, -1, 0x5678, WRITE)).toBe(0x5678);
  });

  test('SRTP voids what was known, and a reset puts every device back on guest RAM', () => {
    const g = legacy();
    g.translateOn(BigInt(ROOT));
    g.host.dma(RID, -1, 0x5000, READ);
    g.host.took();
    g.w32(0x18, 0xc000_0000);
    expect(g.host.took()).toEqual(['detach 16', 'destroy 4', 'destroy 3']);
    g.vtd.reset();
    expect(g.host.took()).toEqual(['attach 16 2']);
  });

  test('a device that leaves takes its host objects along; the last one takes the parent', () => {
    const g = new Guest('');
    const away = g.vtd.addDevice({ rid: RID, vfio: g.host.vfio(RID) });
    away();
    expect(g.host.took()).toEqual(['hwpt 2 on ioas 1 flags 0', 'attach 16 2', 'detach 16', 'destroy 2']);
    expect(() => {
      withDevices(g, 0x18, 0x18);
    }).toThrow('requester id is taken');
  });
});
describe('the Intel shape is one guest page table per (device, PASID)', () => {
  test('first use of a RID makes a nested HWPT on the nest parent; TE off destroys it', () => {
    const g = first();
    g.translateOn(BigInt(ROOT) | 0x400n);
    g.host.took();
    expect(g.host.dma(RID, -1, 0x5678, WRITE)).toBe(0x40_0678);
    expect(g.host.took()).toEqual(['nested 3 on 2 root 0x302000 levels 4 flags 0', 'attach 16 3']);
    g.w32(0x18, 0);
    expect(g.host.took()).toEqual(['attach 16 2', 'destroy 3']);
  });

  test('a PASID-cache invalidation of each granularity captures new entries and drops those that went', () => {
    const g = first();
    g.queueOn(true);
    g.translateOn(BigInt(ROOT) | 0x400n);
    g.store(PASIDS.table + 3 * 64, 0x49n, 7n, BigInt(L.l4), 0n, 0n, 0n, 0n, 0n);
    g.store(PASIDS.table + 4 * 64, 0x109n, 5n, 0n, 0n, 0n, 0n, 0n, 0n);
    g.host.took();
    g.submit(0x2_0007_0017n);
    expect(g.host.took()).toEqual([]);
    g.submit((3n << 32n) | 0x7_0017n);
    expect(g.host.took()).toEqual(['nested 3 on 2 root 0x302000 levels 4 flags 0', 'attach 16/3 3']);
    g.submit(0x5_0007n);
    expect(g.host.took()).toEqual(['nested 4 on 2 root 0x302000 levels 4 flags 0', 'attach 16 4', 'attach 16/4 2']);
    expect(g.host.dma(RID, 3, 0x5678, WRITE)).toBe(0x40_0678);
    expect(g.host.dma(RID, 4, 0x5678, WRITE)).toBe(0x5678);
    g.store(PASIDS.table + 3 * 64, 0n);
    g.submit(0x37n);
    expect(g.host.took()).toEqual(['detach 16/3', 'destroy 3']);
    g.w32(0x18, 0);
    expect(g.host.took()).toEqual(['detach 16/4', 'attach 16 2', 'destroy 4']);
  });

  test('an entry that did not change is left alone; one that did is replaced before the old HWPT goes', () => {
    const g = first();
    g.queueOn(true);
    g.translateOn(BigInt(ROOT) | 0x400n);
    g.host.dma(RID, -1, 0x5000, READ);
    g.host.took();
    g.submit(0x37n);
    expect(g.host.took()).toEqual([]);
    g.store(PASIDS.table + 16, 0x34_0000n);
    g.submit(0x37n);
    expect(g.host.took()).toEqual(['nested 4 on 2 root 0x340000 levels 4 flags 0', 'attach 16 4', 'destroy 3']);
  });

  test.each([
    ['PASID-IOTLB page', [0x5_0036n, 0x5000n], ['invalidate 3 0x5000 1 leaf 0']],
    ['PASID-IOTLB page with IH and AM', [0x5_0036n, 0x5042n], ['invalidate 3 0x4000 4 leaf 1']],
    ['PASID-IOTLB of the PASID', [0x5_0026n, 0n], ['invalidate 3 all']],
    ['PASID-IOTLB of another PASID', [0x1_0005_0026n, 0n], []],
    ['PASID-IOTLB of another domain', [0x6_0026n, 0n], []],
    ['IOTLB page: the domain goes whole', [0x5_0032n, 0x9000n], ['invalidate 3 all']],
    ['IOTLB domain', [0x5_0022n, 0n], ['invalidate 3 all']],
    ['IOTLB of another domain', [0x6_0022n, 0n], []],
    ['IOTLB global', [0x12n, 0n], ['invalidate 3 all']],
  ])('%s reaches the HWPT as it must', (_what, words, ops) => {
    const g = first();
    g.queueOn(true);
    g.translateOn(BigInt(ROOT) | 0x400n);
    g.host.dma(RID, -1, 0x5000, READ);
    g.host.took();
    g.submit(...words);
    expect(g.host.took()).toEqual(ops);
  });

  test('an address of 64 bits reaches the host whole', () => {
    const g = first();
    g.queueOn(true);
    g.translateOn(BigInt(ROOT) | 0x400n);
    g.host.dma(RID, -1, 0x5000, READ);
    g.host.took();
    g.submit(0x5_0036n, 0xffff_8765_4321_f000n);
    expect(g.host.took()).toEqual(['invalidate 3 0xffff87654321f000 1 leaf 0']);
  });

  test('several PASIDs over one table of one domain share a HWPT, invalidated once for all of them', () => {
    const g = first();
    g.queueOn(true);
    g.translateOn(BigInt(ROOT) | 0x400n);
    for (const p of [1, 2]) g.store(PASIDS.table + p * 64, 0x49n, 5n, BigInt(L.l4), 0n, 0n, 0n, 0n, 0n);
    g.submit(0x37n);
    expect(g.host.took().slice(-4)).toEqual([
      'nested 3 on 2 root 0x302000 levels 4 flags 0',
      'attach 16 3',
      'attach 16/1 3',
      'attach 16/2 3',
    ]);
    g.submit(0x1_0005_0036n, 0x5000n);
    expect(g.host.took()).toEqual(['invalidate 3 0x5000 1 leaf 0']);
  });

  test('a scalable second stage is a shadow, reached by PASID-IOTLB of the PASID but not by its page requests', () => {
    const g = scalable('qemu-11.1', 'scalable-mode=on', 0x30_2089n, 5n, 0n);
    g.queueOn(true);
    g.translateOn(BigInt(ROOT) | 0x400n);
    expect(g.host.dma(RID, -1, 0x5678, WRITE)).toBe(0x40_0678);
    g.host.took();
    g.submit(0x5_0036n, 0x5000n);
    expect(g.host.took()).toEqual([]);
    g.submit(0x5_0026n, 0n);
    expect(g.host.took()).toEqual(['unmap 3 0x0+0xffffffffffffffff']);
  });
});

describe('a guest that is a hypervisor (arch): its second stage is a shadow parent, its first stage a nested HWPT on it', () => {
  /** Second stage at 0x33_xxxx: everything of RAM at + 0x4000_0000 in 2 MiB blocks. First stage lives there. */
  function nested(): Guest {
    const q0 = 0xc9n | 0x33_0000n;
    const g = scalable('arch', 'scalable-mode=on,fsts=on,pasid-bits=8', q0, 5n, 0x4030_2000n);
    g.store(0x33_0000, 0x33_1003n);
    g.store(0x33_1008, 0x33_2003n);
    for (let i = 0; i < 32; i++) g.store(0x33_2000 + 8 * i, BigInt(i * 0x20_0000) | 0x83n);
    const up = 0x4000_0000n;
    g.store(L.l4, BigInt(L.l3) | 7n | up);
    g.store(L.l3, BigInt(L.l2) | 7n | up);
    g.store(L.l2, BigInt(L.l1) | 7n | up);
    g.store(L.l1 + 40, 0x40_0007n | up);
    g.queueOn(true);
    g.translateOn(BigInt(ROOT) | 0x400n);
    g.host.took();
    return g;
  }

  test('first use composes them, and each stage is invalidated where it lives', () => {
    const g = nested();
    expect(g.host.dma(RID, -1, 0x5678, WRITE)).toBe(0x40_0678);
    expect(g.host.took()).toEqual([
      'ioas 3',
      'hwpt 4 on ioas 3 flags 9',
      'nested 5 on 4 root 0x40302000 levels 4 flags 0',
      'attach 16 5',
      'map 3 0x40200000+0x200000 3',
      'map 3 0x40400000+0x200000 3',
    ]);
    g.submit(0x5_0036n, 0x5000n);
    expect(g.host.took()).toEqual(['invalidate 5 0x5000 1 leaf 0']);
    g.submit(0x5_0032n, 0x4040_0009n);
    expect(g.host.took()).toEqual(['unmap 3 0x40400000+0x200000', 'invalidate 5 all']);
    g.w32(0x18, 0);
    expect(g.host.took()).toEqual(['attach 16 2', 'destroy 5', 'destroy 4', 'destroy 3']);
  });

  test('a page the second stage lacks is the second stage’s fault', () => {
    const g = nested();
    g.store(L.l1 + 40, 0x8000_0007n);
    expect(g.host.dma(RID, -1, 0x5000, WRITE)).toBe(-1);
    expect(g.fault()[2]).toBe(0x8000_0079_0000_0010n);
  });
});

describe('without upcalls (linux-only)', () => {
  test('the guest’s invalidations configure the host as QEMU’s do, and faults stay in the host', () => {
    const g = new Guest('scalable-mode=on,fsts=on,pasid-bits=8', 'qemu-11.1', { linuxOnly: true });
    withDevices(g, RID);
    g.store(ROOT, 0x31_0001n, 0n);
    g.store(PASIDS.context, 0x31_1009n);
    g.store(PASIDS.dir, BigInt(PASIDS.table) | 1n);
    g.store(PASIDS.table, 0x49n, 5n, BigInt(L.l4));
    g.queueOn(true);
    g.translateOn(BigInt(ROOT) | 0x400n);
    expect(g.host.took().slice(2)).toEqual([
      'detach 16',
      'nested 3 on 2 root 0x302000 levels 4 flags 0',
      'attach 16 3',
    ]);
    g.store(PASIDS.table, 0n);
    g.submit(0x37n);
    expect(g.host.took()).toEqual(['detach 16', 'destroy 3']);
    expect([g.host.dma(RID, -1, 0x5000, WRITE), g.fault()]).toEqual([-1, [0, 0n, 0n]]);
  });
});
