import { describe, expect, test } from 'vitest';
import { DATA, rulesOf } from './driver.ts';
import { SmmuDriver } from './smmuv3-driver.ts';
import { VtdDriver } from './vtd-driver.ts';

const VA = 0x10_0000;
/** An intermediate page; tables lie below 2 GiB, which the second stage maps to itself. */
const IPA = 0x8000_0000;

describe('SMMUv3, a stage 1 over a stage 2 of the guest', () => {
  const ALL = 0x10n;

  /** Stream 16 goes through both stages. */
  function nested(ats = false): SmmuDriver {
    const d = new SmmuDriver({ stage2: true, ats });
    const g = d.guest;
    d.entry(0x4000_0000, d.leaf(0x4000_0000, true, true), 0);
    d.map(IPA, DATA);
    const [root, middle, last] = [g.alloc(), g.alloc(), g.alloc()];
    g.st(root, BigInt(middle) | 3n).st(middle, BigInt(last) | 3n);
    g.st(last + 8 * (VA >>> 12), BigInt(IPA) | 0xc03n);
    d.cd(0, root, d.asid);
    const at = d.streams + 64 * 16;
    const [, w1, w2, w3] = d.steWords();
    g.st(at + 24, w3!)
      .st(at + 16, w2!)
      .st(at + 8, w1!)
      .st(at, 0xfn | BigInt(d.cds));
    d.config(16);
    g.dma(16, VA, DATA);
    return d;
  }

  /** The intermediate page goes and comes back elsewhere. @param commands between the two. */
  function moved(commands: (d: SmmuDriver) => void, ats = false): SmmuDriver {
    const d = nested(ats);
    d.unmap(IPA);
    commands(d);
    d.map(IPA, DATA + 0x1000);
    d.guest.dma(16, VA, DATA + 0x1000);
    return d;
  }
  const byAddress = (d: SmmuDriver) => {
    d.invalidate(IPA);
    d.submit();
  };
  const all = (d: SmmuDriver, op: bigint, asid = 0) => {
    d.command(op | (BigInt(d.vmid) << 32n) | (BigInt(asid) << 48n), 0n);
    d.submit();
  };

  test('invalidation-too-small: by intermediate address alone', () => {
    const d = moved(byAddress);

    expect(rulesOf(d)).toEqual(['invalidation-too-small']);
    expect(d.guest.judge(d.iommu).find((f) => f.rule === 'invalidation-too-small')?.message).toMatch(/both stages/);
  });

  test('missing-invalidation: nothing at all', () => {
    expect(rulesOf(moved((d) => d.submit()))).toEqual(['missing-invalidation']);
  });

  test('not when all of the VMID follows, as Linux does', () => {
    const d = moved((x) => {
      byAddress(x);
      all(x, ALL);
    });
    expect(rulesOf(d)).toEqual([]);
  });

  test('not when the one ASID follows, or both stages of the VMID go at once', () => {
    const one = moved((d) => {
      byAddress(d);
      all(d, 0x11n, d.asid);
    });
    expect(rulesOf(one)).toEqual([]);
    expect(rulesOf(moved((d) => all(d, 0x28n)))).toEqual([]);
  });

  /** @param op CMD_TLBI_NH_VA or NH_VAA. */
  const byInput = (d: SmmuDriver, op: bigint, va: number, asid: number) => {
    d.command(op | (BigInt(d.vmid) << 32n) | (BigInt(asid) << 48n), BigInt(va) | 1n);
    d.submit();
  };

  test('not when the input address follows, of one ASID or of all', () => {
    for (const [op, asid] of [
      [0x12n, 5],
      [0x13n, 0],
    ] as const) {
      const d = moved((x) => {
        byAddress(x);
        byInput(x, op, VA, asid);
      });
      expect(rulesOf(d)).toEqual([]);
    }
  });

  test('invalidation-too-small: another input address follows, or another ASID', () => {
    for (const [va, asid] of [
      [VA + 0x1000, 5],
      [VA, 6],
    ] as const) {
      const d = moved((x) => {
        byAddress(x);
        byInput(x, 0x12n, va, asid);
      });
      expect(rulesOf(d)).toEqual(['invalidation-too-small']);
    }
  });

  test('missing-invalidation: the input address alone, which leaves what is cached of stage 2 by itself', () => {
    expect(rulesOf(moved((d) => byInput(d, 0x13n, VA, 0)))).toEqual(['missing-invalidation']);
  });

  test('every input address that leads to the page counts, and none that no longer does', () => {
    const second = VA + 0x5000;
    const aliased = (also: boolean, gone: boolean) => {
      const d = nested();
      const last = Number(d.guest.get(Number(d.guest.get(Number(d.guest.get(d.cds + 8))) & ~0xfffn)) & ~0xfffn);
      d.guest.st(last + 8 * (second >>> 12), BigInt(IPA) | 0xc03n);
      if (gone) {
        d.guest.st(last + 8 * (second >>> 12), 0);
        byInput(d, 0x12n, second, d.asid);
      }
      d.unmap(IPA);
      byAddress(d);
      byInput(d, 0x12n, VA, d.asid);
      if (also) byInput(d, 0x12n, second, d.asid);
      d.map(IPA, DATA + 0x1000);
      return rulesOf(d);
    };
    expect(aliased(false, false)).toEqual(['invalidation-too-small']);
    expect(aliased(true, false)).toEqual([]);
    expect(aliased(false, true)).toEqual([]);
  });

  test('a function with ATS on is told as well, by input address, behind the IOMMU', () => {
    const ats = (...steps: ('tlb' | 'atc')[]) =>
      rulesOf(
        moved((d) => {
          for (const step of steps) {
            if (step === 'atc') d.command(0x40n | (16n << 32n), BigInt(VA));
            else {
              byAddress(d);
              d.command(ALL | (BigInt(d.vmid) << 32n), 0n);
            }
            d.submit();
          }
          // The other function goes through stage 2 alone: it knows intermediate addresses.
          d.invalidateDevice(IPA);
          d.submit();
        }, true),
      );
    expect(ats('tlb')).toEqual(['missing-atc-invalidation']);
    expect(ats('atc', 'tlb')).toEqual(['atc-before-iotlb']);
    expect(ats('tlb', 'atc')).toEqual([]);
  });

  /** Stream 24 has substreams through both stages; without a SubstreamID its accesses go around stage 1 (S1DSS), or fail. */
  function substreams(eats: bigint, dss: bigint, ...functions: (readonly [ssid: number, address: number])[]): string[] {
    const d = nested();
    const g = d.guest;
    const cds = g.alloc();
    g.st(cds + 64 + 8, g.get(d.cds + 8)).st(cds + 64, d.cdWord(d.asid));
    const at = d.streams + 64 * 24;
    const [, , w2, w3] = d.steWords();
    g.st(at + 24, w3!)
      .st(at + 16, w2!)
      .st(at + 8, (eats << 28n) | dss)
      .st(at, 0xfn | BigInt(cds) | (1n << 59n));
    d.config(24);
    d.unmap(IPA);
    byAddress(d);
    all(d, ALL);
    for (const [ssid, address] of functions) {
      const substream = ssid < 0 ? 0n : (1n << 11n) | (BigInt(ssid) << 12n);
      d.command(0x40n | substream | (24n << 32n), BigInt(address));
    }
    d.submit();
    d.map(IPA, DATA + 0x1000);
    return rulesOf(d);
  }

  test('missing-atc-invalidation: of accesses that go around stage 1, by intermediate address', () => {
    expect(substreams(1n, 1n, [1, VA])).toEqual(['missing-atc-invalidation']);
    expect(substreams(1n, 1n, [-1, IPA])).toEqual(['missing-atc-invalidation']);
  });

  test('not missing-atc-invalidation: both are told, or nothing goes around stage 1', () => {
    expect(substreams(1n, 1n, [1, VA], [-1, IPA])).toEqual([]);
    expect(substreams(1n, 0n, [1, VA])).toEqual([]);
  });

  test('not missing-atc-invalidation: functions with split-stage ATS hold nothing of stage 2', () => {
    expect(substreams(2n, 0n)).toEqual([]);
  });

  test('invalidation-not-awaited: the VMID is invalidated, and nothing waits for it', () => {
    const d = moved((x) => {
      byAddress(x);
      x.command(ALL | (BigInt(x.vmid) << 32n), 0n);
      x.submit(false);
    });
    expect(rulesOf(d)).toEqual(['invalidation-not-awaited']);
  });

  test('a stage 1 that changes needs no invalidation of stage 2', () => {
    const d = nested();
    d.map(IPA + 0x1000, DATA + 0x1000);
    const last = Number(d.guest.get(Number(d.guest.get(Number(d.guest.get(d.cds + 8))) & ~0xfffn)) & ~0xfffn);
    d.guest.st(last + 8 * (VA >>> 12), 0);
    d.command(0x12n | (BigInt(d.vmid) << 32n) | (BigInt(d.asid) << 48n), BigInt(VA) | 1n);
    d.submit();
    d.guest.st(last + 8 * (VA >>> 12), BigInt(IPA + 0x1000) | 0xc03n);
    d.guest.dma(16, VA, DATA + 0x1000);

    expect(rulesOf(d)).toEqual([]);
  });
});

describe('VT-d, a first stage over a second stage of the guest', () => {
  const DID = 9;

  interface Nested {
    readonly d: VtdDriver;
    /** Stores the entry of `IPA`. */
    page(value: bigint): void;
  }

  /** PASIDs go through both stages. */
  function nested(pasids: readonly number[], ats = false): Nested {
    const d = new VtdDriver({ scalable: true, ats });
    const g = d.guest;
    const [second, s3, s2, s1] = [g.alloc(), g.alloc(), g.alloc(), g.alloc()];
    g.st(second, BigInt(s3) | 3n)
      .st(s3 + 8, 0x4000_0083n)
      .st(s3 + 16, BigInt(s2) | 3n)
      .st(s2, BigInt(s1) | 3n)
      .st(s1, BigInt(DATA) | 3n);
    for (const pasid of pasids) {
      const [first, f3, f2, f1] = [g.alloc(), g.alloc(), g.alloc(), g.alloc()];
      g.st(first, BigInt(f3) | 7n)
        .st(f3, BigInt(f2) | 7n)
        .st(f2, BigInt(f1) | 7n)
        .st(f1 + 8 * (VA >>> 12), BigInt(IPA) | 7n);
      const at = d.pasids + 64 * pasid;
      g.st(at + 16, first)
        .st(at + 8, DID)
        .st(at, BigInt(second) | 0xc9n);
      d.descriptor(7n | (1n << 4n) | (BigInt(DID) << 16n) | (BigInt(pasid) << 32n), 0n);
    }
    d.submit();
    return { d, page: (value) => void g.st(s1, value) };
  }

  function moved(pasids: readonly number[], descriptors: (d: VtdDriver) => void, ats = false): VtdDriver {
    const { d, page } = nested(pasids, ats);
    page(0n);
    descriptors(d);
    d.submit();
    page(BigInt(DATA + 0x1000) | 3n);
    return d;
  }
  const piotlb = (d: VtdDriver, g: bigint, pasid: number) =>
    d.descriptor(6n | (g << 4n) | (BigInt(DID) << 16n) | (BigInt(pasid) << 32n), g === 3n ? BigInt(VA) : 0n);
  const iotlb = (d: VtdDriver) => d.descriptor(2n | (3n << 4n) | (BigInt(DID) << 16n), BigInt(IPA));

  test('invalidation-too-small: one PASID of two', () => {
    const d = moved([1, 2], (x) => piotlb(x, 2n, 1));

    expect(rulesOf(d)).toEqual(['invalidation-too-small']);
  });

  test('missing-invalidation: nothing at all, or nothing but the input address', () => {
    expect(rulesOf(moved([1], () => {}))).toEqual(['missing-invalidation']);
    expect(rulesOf(moved([1], (d) => piotlb(d, 3n, 1)))).toEqual(['missing-invalidation']);
  });

  test('not when the page is invalidated in its domain, or every PASID', () => {
    expect(rulesOf(moved([1, 2], iotlb))).toEqual([]);
    const each = (d: VtdDriver) => {
      piotlb(d, 2n, 1);
      piotlb(d, 2n, 2);
    };
    expect(rulesOf(moved([1, 2], each))).toEqual([]);
  });

  test('a function with ATS on is told as well, by input address and PASID, behind the IOMMU', () => {
    const device = (d: VtdDriver, pasid: number) =>
      d.descriptor(8n | (BigInt(d.sid) << 16n) | (BigInt(pasid) << 32n), BigInt(VA));
    const ats = (...steps: ((d: VtdDriver) => void)[]) =>
      rulesOf(
        moved(
          [1],
          (d) => {
            for (const step of steps) {
              step(d);
              d.submit();
            }
          },
          true,
        ),
      );
    expect(ats(iotlb)).toEqual(['missing-atc-invalidation']);
    expect(ats((d) => device(d, 1), iotlb)).toEqual(['atc-before-iotlb']);
    expect(ats(iotlb, (d) => device(d, 2))).toEqual(['invalidation-too-small']);
    expect(ats(iotlb, (d) => device(d, 1))).toEqual([]);
  });

  /** PASID 1 goes through both stages, what has none and PASID 3 through the second alone. */
  function beside(...functions: (readonly [pasid: number, address: number])[]): string[] {
    const { d, page } = nested([1], true);
    const g = d.guest;
    const second = g.get(d.pasids + 64) & ~0xfffn;
    for (const pasid of [0, 3]) {
      const at = d.pasids + 64 * pasid;
      g.st(at, 0);
      d.descriptor(7n | (1n << 4n) | (BigInt(d.did) << 16n) | (BigInt(pasid) << 32n), 0n);
      d.descriptor(6n | (2n << 4n) | (BigInt(d.did) << 16n) | (BigInt(pasid) << 32n), 0n);
      d.submit();
      g.st(at + 16, 0)
        .st(at + 8, DID)
        .st(at, second | 0x89n);
      d.descriptor(7n | (1n << 4n) | (BigInt(DID) << 16n) | (BigInt(pasid) << 32n), 0n);
      d.submit();
    }
    page(0n);
    iotlb(d);
    d.submit();
    for (const [pasid, address] of functions) {
      if (pasid === 0) d.descriptor(3n | (BigInt(d.sid) << 32n), BigInt(address));
      else d.descriptor(8n | (BigInt(d.sid) << 16n) | (BigInt(pasid) << 32n), BigInt(address));
    }
    d.submit();
    page(BigInt(DATA + 0x1000) | 3n);
    return rulesOf(d);
  }

  test('missing-atc-invalidation: what a second stage translates by itself, with and without a PASID', () => {
    expect(beside([1, VA], [3, IPA])).toEqual(['missing-atc-invalidation']);
    expect(beside([1, VA], [0, IPA])).toEqual(['missing-atc-invalidation']);
    expect(beside([0, IPA], [3, IPA])).toEqual(['missing-atc-invalidation']);
  });

  test('not missing-atc-invalidation: each is told', () => {
    expect(beside([1, VA], [0, IPA], [3, IPA])).toEqual([]);
  });
});
