import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { cfgiSte, Guest, RAM, RAM_BYTES, sync, VA } from './guest.ts';

const S2_L1 = 0x4060_0000;
const S2_L2 = 0x4061_0000;
const S2_L3 = 0x4062_0000;
const STE = [0xdn, 0n, 0x040c_0059_0000_0007n, BigInt(S2_L1)] as const;

function shadowed() {
  const g = new Guest();
  const dev = g.plug(8);
  g.ste(8, ...STE);
  g.setUp(4, 3, 6);
  g.run(cfgiSte(8), sync);
  const domain = g.smmu.streams[0]!.domain!;
  const miss = (ipa: number, access = 2) =>
    g.host.handlers.get(dev)!.onStageTwoMiss!(dev, 0, -1, ipa, access, ipa | 0, (ipa / 2 ** 32) | 0);
  const maps = () => g.host.maps.get(domain.shadow!.ioasId)!;
  return { g, dev, domain, miss, maps };
}

const s2Ipa = (page: number, vmid = 7) => [(BigInt(vmid) << 32n) | 0x2an, page] as const;

describe('a stage 2 of the guest is shadowed on demand', () => {
  test('it starts empty, on an IOAS of its own, as a nest parent the hardware asks about', () => {
    const { g, dev, domain, maps } = shadowed();
    expect(maps()).toEqual([]);
    expect(g.host.attachedTo(dev)).toBe(domain.hwptId);
    expect(g.host.shadows.has(domain.hwptId)).toBe(true);
  });

  test('a miss maps the guest leaf, as large as memory allows, with the permissions of the leaf', () => {
    const { g, miss, maps } = shadowed();
    g.put(S2_L1, BigInt(S2_L2) | 3n);
    g.put(S2_L2, 0x4040_04c1n, BigInt(S2_L3) | 3n); // a 2 MiB block to RAM + 4 MiB, then pages
    g.put(S2_L3, 0x4050_0443n); // read-only page
    expect(miss(0x12345)).toBe(true);
    expect(maps()).toEqual([{ iova: 0, length: 0x20_0000, va: VA + 0x4040_0000n, flags: 7 }]);
    expect(miss(0x20_0000, 1)).toBe(true);
    expect(maps()[1]).toEqual({ iova: 0x20_0000, length: 0x1000, va: VA + 0x4050_0000n, flags: 5 });
    expect(miss(0x20_0000, 2), 'a write to it is the guest fault').toBe(false);
    expect(miss(0x20_1000, 1), 'not mapped by the guest').toBe(false);
  });

  test('of a 1 GiB block only what is RAM is mapped, and an address behind it is no memory', () => {
    const { g, miss, maps } = shadowed();
    g.put(S2_L1, 0x4000_04c1n);
    expect(miss(0x12345)).toBe(true);
    expect(maps()).toEqual([{ iova: 0, length: RAM_BYTES, va: VA + BigInt(RAM), flags: 7 }]);
    expect(miss(RAM_BYTES + 0x1000)).toBe(false);
    g.run(s2Ipa(0x3fff_f000), sync);
    expect(maps(), 'any address of the block invalidates the block').toEqual([]);
  });

  test('invalidations drop what they name and nothing else', () => {
    const { g, miss, maps } = shadowed();
    g.put(S2_L1, BigInt(S2_L2) | 3n);
    g.put(S2_L2, BigInt(S2_L3) | 3n);
    for (let i = 0; i < 64; i++) g.put(S2_L3 + 8 * i, BigInt(0x4040_0000 + 0x1000 * i) | 0x4c3n);
    const fill = () => {
      for (let i = 0; i < 64; i++) miss(0x1000 * i);
    };
    const left = () => maps().map((m) => m.iova / 0x1000);
    fill();
    expect(left().length).toBe(64);
    g.run(s2Ipa(0x5000), s2Ipa(0x6000, 8), sync);
    expect(left().includes(5)).toBe(false);
    expect(left().length).toBe(63);
    // RIL: TG=1, NUM=3, SCALE=1: eight pages from 0x10000.
    g.run([0x7_0010_302an, 0x1_0400], sync);
    expect(left().filter((p) => p >= 0x10 && p < 0x18)).toEqual([]);
    expect(left().length).toBe(55);
    g.run([0x8_0000_0028n, 0], sync);
    expect(left().length).toBe(55);
    g.run([0x7_0000_0028n, 0], sync);
    expect(left()).toEqual([]);
    fill();
    g.run([0x30, 0], sync);
    expect(left()).toEqual([]);
  });

  test('a leaf the guest made writable is mapped anew when the hardware asks for more', () => {
    const { g, miss, maps } = shadowed();
    g.put(S2_L1, BigInt(S2_L2) | 3n);
    g.put(S2_L2, 0x4040_0441n);
    miss(0x1000, 1);
    expect(maps()[0]!.flags).toBe(5);
    g.put(S2_L2, 0x4040_04c1n);
    expect(miss(0x1000, 2)).toBe(true);
    expect(maps()).toEqual([expect.objectContaining({ iova: 0, flags: 7 })]);
  });

  test('nested: the context stands on the shadow, its TLBIs go there, and the last stream takes all of it away', () => {
    const g = new Guest();
    g.plug(8);
    g.ste(8, 0x4040_000fn, ...STE.slice(1));
    g.setUp();
    const before = g.host.kinds.size;
    g.run(cfgiSte(8), sync);
    const s = g.smmu.streams[0]!;
    expect(s.state).toBe('nested');
    expect(s.context!.domain.shadow).not.toBe(null);
    expect(s.vdeviceIn).toBe(s.context!.domain);
    g.host.issued.length = 0;
    g.run([0x11_0007_0000_0011n, 0], sync);
    expect(g.host.issued.map((i) => i.viommu)).toEqual([s.context!.domain.viommuId]);
    g.ste(8, 0x4040_000bn, 0, 0, 0);
    g.run(cfgiSte(8), sync);
    expect(g.smmu.domains.length).toBe(1);
    // its context on the home vIOMMU, the vDEVICE there, and the abort HWPT that bridged the way back
    expect(g.host.kinds.size).toBe(before + 3);
  });

  test('without upcalls the guest cannot own a stage 2: the entry is refused', () => {
    const g = new Guest({ linuxOnly: true });
    g.plug(8);
    g.ste(8, ...STE);
    g.setUp();
    expect(g.run(cfgiSte(8), sync)).toBe(0x0100_0000);
  });

  test('whatever the guest maps, invalidates and touches, the shadow holds current leaves only', () => {
    const action = fc.oneof(
      fc.record({ kind: fc.constant('miss' as const), page: fc.nat(1023) }),
      fc.record({ kind: fc.constant('page' as const), page: fc.nat(511), to: fc.nat(255) }),
      fc.record({ kind: fc.constant('block' as const), index: fc.nat(1), to: fc.nat(1) }),
      fc.record({ kind: fc.constant('table' as const), index: fc.nat(1) }),
    );
    fc.assert(
      fc.property(fc.array(action, { minLength: 20, maxLength: 120 }), (actions) => {
        const { g, miss, maps, domain } = shadowed();
        g.put(S2_L1, BigInt(S2_L2) | 3n);
        for (const a of actions) {
          if (a.kind === 'miss') {
            miss(a.page * 0x1000);
            continue;
          }
          if (a.kind === 'page') g.put(S2_L3 + 8 * a.page, BigInt(0x4040_0000 + 0x1000 * a.to) | 0x4c3n);
          if (a.kind === 'block') g.put(S2_L2 + 8 * a.index, BigInt(0x4040_0000 + 0x20_0000 * a.to) | 0x4c1n);
          if (a.kind === 'table') g.put(S2_L2 + 8 * a.index, BigInt(S2_L3) | 3n);
          // The guest's duty: one invalidation by an address of the changed leaf, in each place the page table appears.
          const pages = a.kind === 'page' ? [a.page, a.page + 512] : [a.index * 512];
          if (a.kind === 'table') for (let i = 0; i < 512; i++) pages.push(a.index * 512 + i);
          if (a.kind === 'block') for (let i = 0; i < 512; i++) pages.push(a.index * 512 + i);
          for (const p of pages) g.run(s2Ipa(p * 0x1000));
        }
        expect(maps().length).toBe(domain.shadow!.size);
        for (const m of maps()) {
          const l2 = g.get(S2_L2 + 8 * Math.floor(m.iova / 0x20_0000));
          const l3 = g.get(S2_L3 + 8 * ((m.iova / 0x1000) % 512));
          const pa = (l2 & 3n) === 1n ? l2 & ~0xfffn : l3 & ~0xfffn;
          expect(m.va - VA).toBe(pa);
        }
      }),
      { numRuns: 30 },
    );
  });
});
