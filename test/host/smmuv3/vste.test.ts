import { describe, expect, test } from 'vitest';
import { HWPT_DATA } from '../../../src/spec/iommufd/uapi.ts';
import { CONFIG } from '../../../src/spec/smmuv3/ste.ts';
import { bench, ok, vste } from './bench.ts';

const EIO = -5;
const EFAULT = -14;
const EINVAL = -22;
const EOPNOTSUPP = -95;

function stand() {
  const b = bench();
  const dev = b.device('nic', [8]);
  const parent = b.parent(dev);
  const vsmmu = b.viommu(dev, parent, new Map([[0x88, dev]]));
  return { ...b, dev, parent, vsmmu };
}

/** What the host takes of a guest's words, by bit (facts of `iommu_hwpt_arm_smmuv3`). */
const ALLOWED0 = bits([0, 0], [1, 3], [4, 5], [6, 51], [59, 63]);
const ALLOWED1 = bits([0, 1], [2, 3], [4, 5], [6, 7], [27, 27], [28, 29]);

function bits(...ranges: readonly (readonly [number, number])[]): Set<number> {
  const all = ranges.flatMap(([from, to]) => Array.from({ length: to - from + 1 }, (_, i) => from + i));
  return new Set(all);
}

describe('a vSTE, bit by bit', () => {
  test.each([0, 1, 2, 3, 4, 5, 6, 7])(
    'with Config %i: every one of the 128 bits is taken or refused as EIO',
    (config) => {
      const { vsmmu } = stand();
      const base = 1n | (BigInt(config) << 1n);
      const known = config === CONFIG.ABORT || config === CONFIG.BYPASS || config === CONFIG.S1;
      for (let bit = 0; bit < 128; bit++) {
        // The configuration itself is varied by the table above.
        if (bit >= 0 && bit <= 3) continue;
        const w0 = bit < 64 ? base | (1n << BigInt(bit)) : base;
        const w1 = bit < 64 ? 0n : 1n << BigInt(bit - 64);
        const inside = bit < 64 ? ALLOWED0.has(bit) : ALLOWED1.has(bit - 64);
        // EATS 2 alone is bit 29 of word 1: split ATS is not for guests.
        const fine = known && inside && bit !== 64 + 29;
        const r = vsmmu.nested(w0, w1);
        expect([bit, typeof r === 'number' ? r : 0]).toEqual([bit, fine ? 0 : EIO]);
      }
    },
  );

  test('with V=0 is an abort whatever else is set', () => {
    const { vsmmu, dev, attach, ste } = stand();
    for (let bit = 0; bit < 128; bit++) {
      if (bit === 0) continue;
      const d = ok(vsmmu.nested(bit < 64 ? 1n << BigInt(bit) : 0n, bit < 64 ? 0n : 1n << BigInt(bit - 64)));
      expect(attach(dev, d)).toBe(0);
      expect(ste(8)).toEqual([1, ...Array(15).fill(0)]);
    }
    expect(typeof vsmmu.nested(~1n & 0xffff_ffff_ffff_ffffn, 0xffff_ffff_ffff_ffffn)).toBe('object');
  });

  test.each([CONFIG.ABORT, CONFIG.BYPASS, CONFIG.S1])('EATS is judged for Config %i too', (config) => {
    const { vsmmu } = stand();
    const answers = [0, 1, 2, 3].map((eats) => {
      const r = vsmmu.nested(1n | (BigInt(config) << 1n), BigInt(eats) << 28n);
      return typeof r === 'number' ? r : 0;
    });
    expect(answers).toEqual([0, 0, EIO, EIO]);
  });

  test('values inside the allowed fields are for the hardware to judge', () => {
    const { vsmmu } = stand();
    const all0 = [...ALLOWED0].reduce((m, b) => m | (1n << BigInt(b)), 0n);
    const w0 = (all0 & ~0xen) | (5n << 1n);
    expect(typeof vsmmu.nested(w0, 0x1800_00ffn)).toBe('object');
  });
});

describe('the driver data of a nested domain', () => {
  test('has its own type and length', () => {
    const { vsmmu } = stand();
    const alloc = vsmmu.driver.allocNested!;
    const call = (type: number, length: number) => alloc.call(vsmmu.driver, 0, vste(0xbn, 0n, type, length));
    expect(call(HWPT_DATA.VTD_S1, 16)).toBe(EINVAL);
    expect(call(HWPT_DATA.ARM_SMMUV3, 15)).toBe(EINVAL);
    expect(call(HWPT_DATA.ARM_SMMUV3, 17)).toBe(EINVAL);
    expect(call(HWPT_DATA.ARM_SMMUV3, 0)).toBe(EINVAL);
  });

  test('that cannot be read is EFAULT', () => {
    const { vsmmu } = stand();
    const data = vste(0xbn, 0n);
    const broken = { ...data, user: { ...data.user, copyIn: () => false } };
    expect(vsmmu.driver.allocNested!(0, broken)).toBe(EFAULT);
  });

  test("goes with no flag of its own (FAULT_ID_VALID is the core's)", () => {
    const { vsmmu } = stand();
    for (let bit = 0; bit < 32; bit++) {
      const r = vsmmu.nested(0xbn, 0n, 2 ** bit);
      expect(r).toBe(EOPNOTSUPP);
    }
  });
});

describe('the physical entry of a nested stream', () => {
  const W0 = 0x1000_0abc_def0_005bn | (5n << 59n);

  test('holds the guest fields and the parent, word by word', () => {
    const { vsmmu, dev, attach, ste, memory } = stand();
    // V, Config=S1, S1Fmt 1, pointer, S1CDMax; S1DSS 2, CIR/COR 1, CSH 3, S1STALLD, EATS 1.
    const w0 = 1n | (5n << 1n) | (1n << 4n) | 0x0000_1abc_def0_0040n | (10n << 59n);
    const w1 = 2n | (1n << 2n) | (1n << 4n) | (3n << 6n) | (1n << 27n) | (1n << 28n);
    expect(attach(dev, ok(vsmmu.nested(w0, w1)))).toBe(0);

    const s = ste(8);
    const u64 = (i: number) => (BigInt(s[2 * i + 1]! >>> 0) << 32n) | BigInt(s[2 * i]! >>> 0);
    expect(u64(0)).toBe((w0 & ~0xen) | (7n << 1n));
    expect(u64(1)).toBe(w1 | (1n << 19n));
    // VMID 1; T0SZ 20, SL0 2 (level 0), write-back inner shareable walks, 4 KiB, 44 bits; AA64, PTW, R.
    const vtcr = 20n | (2n << 6n) | (1n << 8n) | (1n << 10n) | (3n << 12n) | (4n << 16n);
    expect(u64(2)).toBe(1n | (vtcr << 32n) | (1n << 51n) | (1n << 54n) | (1n << 58n));
    expect(u64(3) & 0xfffn).toBe(0n);
    expect(memory.space.locate(Number(u64(3)))).toBe(true);
    expect(s.slice(8)).toEqual(Array(8).fill(0));
  });

  test('of a bypassing guest is the parent alone, with ATS as the device can', () => {
    const { vsmmu, dev, attach, ste } = stand();
    expect(attach(dev, ok(vsmmu.nested(0x9n, 0n)))).toBe(0);
    const s = ste(8);
    expect(s[0]).toBe(1 | (6 << 1));
    expect(s[1]).toBe(0);
    expect(s[2]).toBe(1 << 28);
    expect(s[3]).toBe(0);
  });

  test('has no ATS when the guest did not ask, or the function cannot', () => {
    const { vsmmu, dev, attach, ste, device } = stand();
    attach(dev, ok(vsmmu.nested(W0 & ~0x50n, 0n)));
    expect(ste(8)[2]! & (3 << 28)).toBe(0);
    const plain = device('plain', [16], { ats: false });
    vsmmu.names.set(0x99, plain);
    attach(plain, ok(vsmmu.nested(0xbn, 1n << 28n)));
    expect(ste(16)[2]! & (3 << 28)).toBe(0);
  });

  test('says SHCFG=incoming only on hardware that can override types, S2FWB only with forced write-back', () => {
    const b = bench({
      identity: { idr: [0x0d44_141b, 0x0673_0010 | (1 << 27), 0, 0x1514, 0, 0x74], iidr: 0, aidr: 1 },
    });
    const dev = b.device('nic', [8]);
    const vsmmu = b.viommu(dev, b.parent(dev), new Map([[1, dev]]));
    b.attach(dev, ok(vsmmu.nested(0xbn, 0n)));
    expect(b.ste(8)[3]).toBe(1 << 12);
    expect(b.ste(8)[2]! & (1 << 25)).toBe(1 << 25);
  });
});
