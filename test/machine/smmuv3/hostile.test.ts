import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Smmuv3Properties } from '../../../devices/smmuv3/properties.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { Random } from '../../../tools/oracle/random.ts';
import { CD, CMDQ, EVENTQ, RAM, STRTAB } from '../../devices/smmuv3/guest.ts';
import { RIG_RAM, Rig } from './rig.ts';

const SIDS = [0, 8, 9, 16, 0x100];
const OFFSETS = Object.values(PAGE0).map((r) => r.at);
const PLACES = [STRTAB, CD, CMDQ, EVENTQ, 0x4041_0000, 0x4042_0000, 0x4060_0000];
const OPCODES = [1, 3, 4, 5, 6, 0x10, 0x11, 0x12, 0x13, 0x28, 0x2a, 0x30, 0x40, 0x41, 0x44, 0x45, 0x46];

/** A value with structure: often an address of a table, a few bits, or noise. */
function word(d: Random): number {
  switch (d.below(5)) {
    case 0:
      return (d.pick(PLACES) | d.below(16)) >>> 0;
    case 1:
      return (1 << d.below(32)) >>> 0;
    case 2:
      return d.below(32);
    case 3:
      return 0xffff_ffff;
    default:
      return d.next();
  }
}

/** One thing a guest, or a device of its, can do. */
function act(rig: Rig, d: Random): string {
  const { g } = rig;
  const { smmu } = g;
  switch (d.below(12)) {
    case 0:
      smmu.write(d.pick(OFFSETS) + d.below(2) * 0x1_0000, d.pick([4, 4, 4, 8, 1, 2]), word(d), word(d));
      return '';
    case 1:
      smmu.write(d.below(0x2_0000), d.pick([1, 2, 4, 8]), word(d), word(d));
      return '';
    case 2: {
      const v = smmu.read(d.below(2) === 0 ? d.pick(OFFSETS) : d.below(0x2_0000), 4);
      if (!(v >= 0 && v <= 0xffff_ffff)) throw new Error(`read gave ${v}`);
      return '';
    }
    case 3:
      smmu.write(PAGE0.CR0.at, 4, d.pick([0, 0xd, 0xd, 0xd, 0xf, 0x1f, 8]), 0);
      return '';
    case 4: {
      // An entry of the stream table that looks like one.
      const config = d.below(8);
      const sid = d.pick(SIDS);
      const w2 = d.pick([0, 1 << 28, 1 << 19, d.next()]);
      g.put(STRTAB + 64 * sid, BigInt(d.pick([CD, CD, word(d)]) & ~0x3f) | BigInt((config << 1) | d.below(2)));
      g.put(STRTAB + 64 * sid + 8, BigInt(w2 >>> 0), 0x040c_0059_0000_0000n | BigInt(d.below(3)), 0x4060_0000n);
      return '';
    }
    case 5:
      g.put(
        CD + 64 * d.below(4),
        d.pick([0x0011_6204_c000_0019n, 0x0011_7204_c000_0019n, BigInt(d.next()) << 17n]),
        0x4041_0000n,
      );
      return '';
    case 6:
      g.put(d.pick(PLACES) + 8 * d.below(64), (BigInt(d.below(16)) << 32n) | BigInt(word(d) | d.below(4)));
      return '';
    case 7:
    case 8: {
      // A command where CONS is, and the doorbell.
      const cons = smmu.read(PAGE0.CMDQ_CONS.at, 4) & 0xfffff;
      const log2 = Math.min(smmu.read(PAGE0.CMDQ_BASE.at, 4) & 31, 19);
      const at = CMDQ + 16 * (cons % 2 ** log2);
      if (at < RAM + RIG_RAM) {
        const lo = BigInt(d.pick(OPCODES)) | (BigInt(d.below(4) === 0 ? d.next() & 0xffffff00 : 0) & 0xffff_ff00n);
        g.put(at, lo | (BigInt(d.below(2) === 0 ? d.pick(SIDS) : d.next()) << 32n), BigInt(word(d)));
      }
      smmu.write(PAGE0.CMDQ_PROD.at, 4, (cons + 1) % 2 ** (log2 + 1), 0);
      smmu.write(PAGE0.GERRORN.at, 4, smmu.read(PAGE0.GERROR.at, 4), 0);
      return '';
    }
    case 9:
      rig.vm.clock.advance(d.below(1000));
      return '';
    default:
      return String(
        rig.dma(d.pick(SIDS), d.pick([0x5000, 0x1000, word(d), word(d) * 4096]), 1 + d.below(3), 0, d.below(4) - 1),
      );
  }
}

const VARIANTS: readonly Partial<Smmuv3Properties>[] = [
  {},
  { stage: '2' },
  { profile: 'arch', ats: true, pri: true, stall: true, ssidsize: 4 },
  { profile: 'arch', stage: '1', ril: false, oas: 48 },
];

/** 4 × 10 × 5000 actions. */
test('whatever a guest writes into registers and memory, nothing throws, hangs or leaves the device unusable', () => {
  const seen = new Map<string, boolean>();
  for (const properties of VARIANTS) {
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const rig = new Rig({ properties, invalidateTimeout: 500 });
        for (const sid of SIDS) rig.plug(sid, 0, { ats: true, pri: true, pasidBits: 4 });
        const d = new Random(seed);
        rig.g.setUp(9, 3, 4);
        for (let i = 0; i < 5000; i++) {
          const outcome = act(rig, d);
          if (outcome !== '') seen.set(/^\d/.test(outcome) ? 'OK' : outcome, true);
          if (rig.said.length > 1000) rig.said.length = 0;
          // Wherever the guest has brought it, its state is one that can be loaded, and is the same afterwards.
          if (i % 250 !== 249) continue;
          const { device } = rig.units[0]!;
          const saved = structuredClone(device.save());
          device.checkState(saved);
          if (i % 1000 !== 999) continue;
          device.load(saved);
          expect(device.save()).toStrictEqual(saved);
        }
        // A driver that starts over finds a working SMMU.
        rig.vm.clock.advance(1_000_000);
        rig.g.smmu.reset();
        rig.g.put(STRTAB + 64 * 8, 9n, 0n, 0n, 0n);
        rig.g.w(PAGE0.STRTAB_BASE_CFG.at, 9);
        rig.g.w64(PAGE0.STRTAB_BASE.at, BigInt(STRTAB));
        rig.g.w64(PAGE0.CMDQ_BASE.at, BigInt(CMDQ) | 4n);
        rig.g.put(CMDQ, (8n << 32n) | 3n, 1n, 0x46n, 0n);
        rig.g.w(PAGE0.CR0.at, 0xd);
        rig.g.w(PAGE0.CMDQ_PROD.at, 2);
        expect([rig.g.r(PAGE0.CMDQ_CONS.at), rig.g.r(PAGE0.GERROR.at)]).toEqual([2, 0]);
        if (rig.units[0]!.device.deviations.stickyTwoLevel) return;
        expect(rig.dma(8, RAM + 0x5000)).toBe(RAM + 0x5000);
      }),
      { numRuns: 10 },
    );
  }
  // The noise reached every kind of outcome.
  expect([...seen.keys()].sort()).toEqual(['ABORT', 'OK', 'STALLED']);
});
