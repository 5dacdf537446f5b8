import { describe, expect, test } from 'vitest';
import { type Guest, READ, WRITE } from './guest.ts';
import { L, legacy, RID, ROOT, withDevices } from './guests.ts';

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
