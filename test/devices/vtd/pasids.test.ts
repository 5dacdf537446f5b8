import { describe, expect, test } from 'vitest';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import { Guest, READ, WRITE } from './guest.ts';

const ROOT = 0x30_0000;
const DIR = 0x31_1000;
const TABLE = 0x31_2000;
const L = { l4: 0x30_2000, l3: 0x30_3000, l2: 0x30_4000, l1: 0x30_5000 };
const ARCH = 'scalable-mode=on,fsts=on,pasid-bits=8';

/** Context entries of devfn 0x10 and 0x18 share a directory; page 5 → 0x400000 under every first-stage entry. */
function guest(space?: PasidSpace): Guest {
  const g = new Guest(ARCH, 'arch', { pasids: space });
  g.store(ROOT, 0x31_0001n, 0n);
  for (const devfn of [0x10, 0x18]) g.store(0x31_0000 + devfn * 32, BigInt(DIR) | 9n, 0n, 0n, 0n);
  g.store(DIR, BigInt(TABLE) | 1n);
  entry(g, 0);
  g.store(L.l4, BigInt(L.l3) | 7n);
  g.store(L.l3, BigInt(L.l2) | 7n);
  g.store(L.l2, BigInt(L.l1) | 7n);
  g.store(L.l1 + 40, 0x40_0007n);
  g.queueOn(true);
  return g;
}
function entry(g: Guest, pasid: number, present = true): void {
  g.store(TABLE + 64 * pasid, present ? 0x49n : 0n, 5n, BigInt(L.l4), 0n, 0n, 0n, 0n, 0n);
}
const PASID_CACHE = (pasid: number): bigint => 0x5_0017n | (BigInt(pasid) << 32n);

describe('virtual commands (PASIDs without any address space, from a guest)', () => {
  test('a guest allocates, frees and allocates again; values start at 1 and end with the width', () => {
    const g = guest();
    const command = (v: bigint): bigint => {
      g.w64(0xe00, v);
      return g.r64(0xe10);
    };
    expect(g.r64(0xe30)).toBe(1n);
    expect([command(1n), command(1n), command(1n)]).toEqual([0x1_0000n, 0x2_0000n, 0x3_0000n]);
    expect(command(2n | (2n << 16n))).toBe(0n);
    expect(command(1n)).toBe(0x2_0000n);
    expect(command(2n | (9n << 16n))).toBe(16n << 1n);
    expect(command(0n)).toBe(0n);
    expect(command(0x55n)).toBe(1n << 1n);
    for (let i = 4; i < 256; i++) expect(command(1n)).toBe(BigInt(i) << 16n);
    expect(command(1n)).toBe(16n << 1n);
    // VCMD reads back as it was written (§11.4.16.1).
    expect(g.r64(0xe00)).toBe(1n);
  });

  test('two halves of a command act with the high one', () => {
    const g = guest();
    g.w32(0xe00, 1);
    expect(g.r64(0xe10)).toBe(0n);
    g.w32(0xe04, 0);
    expect(g.r64(0xe10)).toBe(0x1_0000n);
  });

  test('freeing a PASID that is still attached detaches it first', () => {
    const g = guest();
    g.vtd.addDevice({ rid: 0x10, vfio: g.host.vfio(0x10) });
    g.translateOn(BigInt(ROOT) | 0x400n);
    g.w64(0xe00, 1n);
    entry(g, 1);
    g.submit(PASID_CACHE(1));
    expect(g.host.dma(0x10, 1, 0x5000, READ)).toBe(0x40_0000);
    g.host.took();
    g.w64(0xe00, 0x1_0002n);
    expect(g.host.took()).toEqual(['detach 16/1', 'destroy 3']);
  });

  test('qemu-11.1 has no virtual commands', () => {
    const g = new Guest(ARCH);
    g.w64(0xe00, 1n);
    expect([g.r64(0xe10), g.r64(0x10) & (1n << 44n)]).toEqual([0n, 0n]);
  });
});

test('one device has several address spaces at once, chosen by requester id and PASID', () => {
  const g = guest();
  g.vtd.addDevice({ rid: 0x10, vfio: g.host.vfio(0x10) });
  g.translateOn(BigInt(ROOT) | 0x400n);
  g.store(TABLE + 64, 0x109n, 5n, 0n);
  g.store(0x36_0000, 0x36_1007n);
  g.store(0x36_1000, 0x80_0087n);
  g.store(TABLE + 128, 0x49n, 9n, 0x36_0000n);
  g.store(0x36_1000, 0x36_2007n);
  g.store(0x36_2000, 0x60_0087n);
  const seen = [-1, 1, 2].map((p) => g.host.dma(0x10, p, 0x5000, WRITE));
  expect(seen).toEqual([0x40_0000, 0x5000, 0x60_5000]);
});

describe('global mode', () => {
  function two(): Guest {
    const g = guest(new PasidSpace(0x1000, 0x1100));
    g.vtd.addDevice({ rid: 0x10, vfio: g.host.vfio(0x10), pasids: 'global' });
    g.vtd.addDevice({ rid: 0x18, vfio: g.host.vfio(0x18) });
    g.translateOn(BigInt(ROOT) | 0x400n);
    return g;
  }

  test('setting a local PASID makes its twin; both reach one address space, and go together', () => {
    const g = two();
    entry(g, 3);
    g.submit(PASID_CACHE(3));
    expect(g.vtd.hostPasids(0x10, 3)).toEqual([3, 0x1000]);
    expect([3, 0x1000].map((p) => g.host.dma(0x10, p, 0x5000, WRITE))).toEqual([0x40_0000, 0x40_0000]);
    g.host.took();
    entry(g, 3, false);
    g.submit(PASID_CACHE(3));
    expect(g.host.took().filter((l) => l.includes('16/'))).toEqual(['detach 16/3', 'detach 16/4096']);
    expect([g.vtd.hostPasids(0x10, 3), g.host.dma(0x10, 0x1000, 0x5000, WRITE)]).toEqual([[], -1]);
  });

  test('another RID of the VM stays with the guest’s own PASIDs', () => {
    const g = two();
    entry(g, 3);
    g.submit(PASID_CACHE(3));
    expect(g.vtd.hostPasids(0x18, 3)).toEqual([3]);
    expect(g.host.dma(0x18, 0x1000, 0x5000, WRITE)).toBe(-1);
  });

  test('a fault through the twin names the local PASID', () => {
    const g = two();
    entry(g, 3);
    g.submit(PASID_CACHE(3));
    g.host.dma(0x10, 0x1000, 0x9000, WRITE);
    expect(g.fault()[2]).toBe(0x8000_0371_8000_0010n);
  });

  test('state carries local PASIDs; after a load the twins are new ones, the guest notices nothing', () => {
    const g = two();
    entry(g, 3);
    g.submit(PASID_CACHE(3));
    g.w64(0xe00, 1n);
    const state = JSON.parse(JSON.stringify(g.vtd.save()));
    expect(JSON.stringify(state)).not.toContain('4096');
    g.vtd.load(state);
    expect(g.host.dma(0x10, 3, 0x5000, WRITE)).toBe(0x40_0000);
    expect(g.vtd.hostPasids(0x10, 3)).toEqual([3, 0x1001]);
    g.w64(0xe00, 1n);
    expect(g.r64(0xe10)).toBe(0x2_0000n);
  });

  test('a device-TLB invalidation of the local PASID reaches both', () => {
    const g = guest(new PasidSpace(0x1000, 0x1100));
    const h = new Guest('scalable-mode=on,fsts=on,pasid-bits=8,device-iotlb=on', 'arch', {
      pasids: new PasidSpace(64, 96),
    });
    expect(g.vtd.hostPasids(0x10, 3)).toEqual([]);
    h.store(ROOT, 0x31_0001n, 0n);
    h.store(0x31_0200, BigInt(DIR) | 0xdn, 0n, 0n, 0n);
    h.store(DIR, BigInt(TABLE) | 1n);
    entry(h, 3);
    h.queueOn(true);
    h.vtd.addDevice({ rid: 0x10, vfio: h.host.vfio(0x10), pasids: 'global' });
    h.translateOn(BigInt(ROOT) | 0x400n);
    h.submit(PASID_CACHE(3));
    h.submit(0x3_0010_0008n, 0x5000n);
    expect(h.host.deviceTlb).toEqual(['16 3 0x5000 false', '16 64 0x5000 false']);
  });
});

describe('a slice of a parent function', () => {
  test('its requests carry its own PASID, its PASIDs get real ones, and two slices never meet', () => {
    const g = guest(new PasidSpace(64, 96));
    const vfio = g.host.vfio(0x99);
    g.vtd.addDevice({ rid: 0x10, vfio, slice: 40 });
    g.vtd.addDevice({ rid: 0x18, vfio, slice: 41 });
    expect(g.host.took().slice(1)).toEqual(['attach 153/40 2', 'attach 153/41 2']);
    g.translateOn(BigInt(ROOT) | 0x400n);
    entry(g, 3);
    g.submit(PASID_CACHE(3));
    expect([g.vtd.hostPasids(0x10, 3), g.vtd.hostPasids(0x18, 3)]).toEqual([[64], [65]]);
    expect([40, 64, 41, 65].map((p) => g.host.dma(0x99, p, 0x5000, WRITE))).toEqual(Array(4).fill(0x40_0000));
    expect([3, 66, -1].map((p) => g.host.dma(0x99, p, 0x5000, WRITE))).toEqual([-1, -1, -1]);
    g.host.dma(0x99, 65, 0x9000, WRITE);
    expect(g.fault()[2]).toBe(0x8000_0371_8000_0018n);
  });

  test('a slice without a PASID space is refused', () => {
    const g = guest();
    expect(() => g.vtd.addDevice({ rid: 0x10, vfio: g.host.vfio(0x10), slice: 40 })).toThrow('need a PASID space');
  });
});
