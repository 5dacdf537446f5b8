import { describe, expect, test } from 'vitest';
import { Guest, READ, WRITE } from './fake-host.ts';

const RID = 0x10;
const ROOT = 0x30_0000;
const L = { l4: 0x30_2000, l3: 0x30_3000, l2: 0x30_4000, l1: 0x30_5000 };
const PASIDS = { context: 0x31_0200, dir: 0x31_1000, table: 0x31_2000 };

function withDevices(g: Guest, ...rids: number[]): Guest {
  for (const rid of rids) g.vtd.addDevice({ rid, vfio: g.host.vfio(rid) });
  return g;
}

/** A legacy guest: domain 5, page 5 → 0x400000, page 6 → 0x401000. */
function legacy(options = ''): Guest {
  const g = withDevices(new Guest(options), RID);
  g.store(ROOT, 0x30_1001n, 0n);
  g.store(0x30_1100, 0x30_2001n, 0x502n);
  g.store(L.l4, BigInt(L.l3) | 3n);
  g.store(L.l3, BigInt(L.l2) | 3n);
  g.store(L.l2, BigInt(L.l1) | 3n);
  g.store(L.l1 + 40, 0x40_0003n, 0x40_1003n);
  return g;
}

/** A scalable guest whose PASID table has entry 0 as given; first-stage page 5 → 0x400000. */
function scalable(profile: 'qemu-11.1' | 'arch', options: string, q0: bigint, q1: bigint, q2: bigint): Guest {
  const g = withDevices(new Guest(options, profile), RID);
  g.store(ROOT, 0x31_0001n, 0n);
  g.store(PASIDS.context, 0x31_1009n, 0n, 0n, 0n);
  g.store(PASIDS.dir, BigInt(PASIDS.table) | 1n);
  g.store(PASIDS.table, q0, q1, q2, 0n, 0n, 0n, 0n, 0n);
  g.store(L.l4, BigInt(L.l3) | 7n);
  g.store(L.l3, BigInt(L.l2) | 7n);
  g.store(L.l2, BigInt(L.l1) | 7n);
  g.store(L.l1 + 40, 0x40_0007n, 0x40_1007n);
  return g;
}
const first = (options = 'scalable-mode=on,fsts=on,pasid-bits=8'): Guest =>
  scalable('qemu-11.1', options, 0x49n, 5n, BigInt(L.l4));

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

describe('a second stage is shadowed on demand and emptied by exactly what the guest names', () => {
  function running(options = ''): Guest {
    const g = legacy(options);
    g.queueOn();
    g.translateOn(BigInt(ROOT));
    g.host.dma(RID, -1, 0x5000, WRITE);
    g.host.dma(RID, -1, 0x6000, WRITE);
    g.host.took();
    return g;
  }
  const IOTLB = (gran: bigint, did: bigint): bigint => 0x2n | (gran << 4n) | (did << 16n);

  test.each([
    ['its page', [IOTLB(3n, 5n), 0x5000n], ['unmap 3 0x5000+0x1000']],
    ['four pages around it', [IOTLB(3n, 5n), 0x4002n], ['unmap 3 0x5000+0x1000', 'unmap 3 0x6000+0x1000']],
    ['another page', [IOTLB(3n, 5n), 0x7000n], []],
    ['another domain', [IOTLB(2n, 6n), 0n], []],
    ['a page of another domain', [IOTLB(3n, 6n), 0x5000n], []],
    ['its domain', [IOTLB(2n, 5n), 0n], ['unmap 3 0x0+0xffffffffffffffff']],
    ['everything', [IOTLB(1n, 0n), 0n], ['unmap 3 0x0+0xffffffffffffffff']],
  ])('%s', (_what, words, ops) => {
    const g = running();
    g.submit(...words);
    expect(g.host.took()).toEqual(ops);
  });

  test('what is not invalidated stays, as in hardware; an invalidated page is read anew', () => {
    const g = running();
    g.store(L.l1 + 40, 0x50_0003n, 0x50_1003n);
    expect(g.host.dma(RID, -1, 0x5000, WRITE)).toBe(0x40_0000);
    g.submit(IOTLB(3n, 5n), 0x5000n);
    expect(g.host.dma(RID, -1, 0x5000, WRITE)).toBe(0x50_0000);
    expect(g.host.dma(RID, -1, 0x6000, WRITE)).toBe(0x40_1000);
  });

  test('one page of a 2 MiB block: the block goes, its two remainders come back', () => {
    const g = legacy();
    g.store(L.l2, 0x40_0083n);
    g.queueOn();
    g.translateOn(BigInt(ROOT));
    expect(g.host.dma(RID, -1, 0x12_3456, READ)).toBe(0x52_3456);
    expect(g.host.took().at(-1)).toBe('map 3 0x0+0x200000 3');
    g.submit(IOTLB(3n, 5n), 0x12_3000n);
    expect(g.host.took()).toEqual(['unmap 3 0x0+0x200000', 'map 3 0x0+0x123000 3', 'map 3 0x124000+0xdc000 3']);
    g.store(L.l2, 0n);
    expect([g.host.dma(RID, -1, 0x12_3000, READ), g.host.dma(RID, -1, 0x12_4000, READ)]).toEqual([-1, 0x52_4000]);
  });

  test('an identity domain of all RAM in 1 GiB leaves is one mapping, not 16384 pages', () => {
    const g = legacy();
    g.store(L.l3, 0x83n);
    g.translateOn(BigInt(ROOT));
    for (let at = 0; at < 64 << 20; at += 0x10_1000) expect(g.host.dma(RID, -1, at, WRITE)).toBe(at);
    expect(g.host.took().filter((l) => l.startsWith('map'))).toEqual(['map 3 0x0+0x4000000 3']);
  });

  test('a block that covers the interrupt window is mapped around it', () => {
    const g = legacy();
    // 1 GiB at 0xc0000000 → 0: RAM is its first 64 MiB. 2 MiB at 0xfee00000 lies behind; use a table that puts RAM there.
    g.store(L.l3 + 24, BigInt(L.l2 + 0x8000) | 3n);
    g.store(L.l2 + 0x8000 + 8 * 0x1f7, 0x40_0083n);
    g.translateOn(BigInt(ROOT));
    expect(g.host.dma(RID, -1, 0xfef0_0000, READ)).toBe(0x50_0000);
    expect(g.host.took().at(-1)).toBe('map 3 0xfef00000+0x100000 3');
  });

  test('rights raised without an invalidation are found on the permission miss', () => {
    const g = legacy();
    g.store(L.l1 + 40, 0x40_0001n);
    g.translateOn(BigInt(ROOT));
    expect([g.host.dma(RID, -1, 0x5000, READ), g.host.dma(RID, -1, 0x5000, WRITE)]).toEqual([0x40_0000, -1]);
    g.store(L.l1 + 40, 0x40_0003n);
    expect(g.host.dma(RID, -1, 0x5000, WRITE)).toBe(0x40_0000);
    expect(g.host.took().slice(-2)).toEqual(['unmap 3 0x5000+0x1000', 'map 3 0x5000+0x1000 3']);
  });

  test('write-only leaves stay write-only', () => {
    const g = legacy();
    g.store(L.l1 + 40, 0x40_0002n);
    g.translateOn(BigInt(ROOT));
    expect([g.host.dma(RID, -1, 0x5000, WRITE), g.host.dma(RID, -1, 0x5000, READ)]).toEqual([0x40_0000, -1]);
    expect(g.fault()[2]).toBe(0xc000_0006_0000_0010n);
  });

  test('two devices of one domain share its shadow; it goes with the last of them', () => {
    const g = withDevices(legacy(), 0x18);
    g.store(0x30_1180, 0x30_2001n, 0x502n);
    g.queueOn();
    g.translateOn(BigInt(ROOT));
    g.host.dma(RID, -1, 0x5000, READ);
    g.host.took();
    g.host.dma(0x18, -1, 0x5000, READ);
    expect(g.host.took()).toEqual(['attach 24 4']);
    g.store(0x30_1100, 0n);
    g.submit(0x10_0000_0031n, 0n);
    expect(g.host.took()).toEqual(['detach 16']);
    g.store(0x30_1180, 0n);
    g.submit(0x11n, 0n);
    expect(g.host.took()).toEqual(['detach 24', 'destroy 4', 'destroy 3']);
  });

  test('a context entry that changed is followed by its invalidation: device with function mask, domain, global', () => {
    for (const words of [0x3_0012_0000_0031n, 0x5_0021n, 0x11n]) {
      const g = running();
      g.store(0x30_1100, 0x9n, 0x502n);
      g.submit(words, 0n);
      expect(g.host.took()).toEqual(['attach 16 2', 'destroy 4', 'destroy 3']);
    }
    const g = running();
    g.store(0x30_1100, 0x9n, 0x502n);
    g.submit(0x18_0000_0031n, 0n);
    expect(g.host.took()).toEqual([]);
  });

  test('register-based invalidation does the same', () => {
    const g = running();
    g.w32(0x18, 0x8000_0000);
    g.submit(0x25n, 0x20_0000n);
    g.w32(0x18, 0x8000_0000);
    g.w64(0xf0, 0x5000n);
    g.w64(0xf8, 0xb000_0005_0000_0000n);
    expect(g.host.took()).toEqual(['unmap 3 0x5000+0x1000']);
  });
});

describe('caching mode', () => {
  test('a new context entry is filled at its invalidation, new pages at theirs, contiguous leaves in one piece', () => {
    const g = legacy('caching-mode=on');
    g.queueOn();
    g.translateOn(BigInt(ROOT));
    expect(g.host.took().slice(2)).toEqual([
      'detach 16',
      'ioas 3',
      'hwpt 4 on ioas 3 flags 2',
      'map 3 0x5000+0x2000 3',
      'attach 16 4',
    ]);
    g.store(L.l1 + 8 * 8, 0x48_0003n, 0x48_1001n);
    g.submit(0x5_0032n, 0x8001n);
    expect(g.host.took()).toEqual(['map 3 0x8000+0x1000 3', 'map 3 0x9000+0x1000 2']);
    g.store(L.l1 + 40, 0n);
    g.submit(0x5_0032n, 0x5000n);
    expect(g.host.took()).toEqual(['unmap 3 0x5000+0x2000', 'map 3 0x6000+0x1000 3']);
    expect([...g.host.pages(3)].sort((a, b) => a[0] - b[0])).toEqual([
      [6, 0x401],
      [8, 0x480],
      [9, 0x481],
    ]);
    g.store(0x30_1100, 0n);
    g.submit(0x10_0000_0031n, 0n);
    expect(g.host.took()).toEqual(['detach 16', 'destroy 4', 'destroy 3']);
  });

  test('a leaf over the interrupt window is filled around it', () => {
    const g = legacy('caching-mode=on');
    g.store(L.l3 + 24, BigInt(L.l2 + 0x8000) | 3n);
    g.store(L.l2 + 0x8000 + 8 * 0x1f7, 0x40_0083n);
    g.translateOn(BigInt(ROOT));
    const maps = g.host.took().filter((l) => l.startsWith('map'));
    expect(maps).toEqual(['map 3 0x5000+0x2000 3', 'map 3 0xfef00000+0x100000 3']);
  });

  test('tables that point at each other cost a bounded fill, not the machine', () => {
    const g = legacy('caching-mode=on');
    for (let i = 0; i < 512; i++) g.store(L.l4 + 8 * i, BigInt(L.l4) | 3n);
    const start = performance.now();
    g.translateOn(BigInt(ROOT));
    expect(performance.now() - start).toBeLessThan(3000);
  });
});

describe('O9, O13: the Intel shape is one guest page table per (device, PASID)', () => {
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

  test('O19: several PASIDs over one table of one domain share a HWPT, invalidated once for all of them', () => {
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
    const g = new Guest('scalable-mode=on,fsts=on,pasid-bits=8', 'qemu-11.1', true);
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
