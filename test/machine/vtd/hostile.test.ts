import { expect, test } from 'vitest';
import type { VtdProperties } from '../../../devices/vtd/properties.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { pageRequestWord2 } from '../../../src/spec/vtd/page-request.ts';
import { Random } from '../../../tools/oracle/random.ts';
import { Rig, SlowEndpoint } from './rig.ts';

const RIDS = [0x10, 0x18, 0x81, 0x100];
const PLACES = [
  0x20_0000, 0x20_1000, 0x20_1100, 0x20_2000, 0x20_3000, 0x21_0000, 0x21_1000, 0x21_2000, 0x21_3000, 0x100_0000,
];
const REGISTERS = [
  0x18, 0x1c, 0x20, 0x28, 0x2c, 0x34, 0x38, 0x3c, 0x40, 0x44, 0x80, 0x88, 0x90, 0x9c, 0xa0, 0xa8, 0xb0, 0xb8, 0xc0,
  0xc8, 0xd0, 0xdc, 0xe0, 0xf0, 0xf8, 0xfc, 0x220, 0x228, 0x22c, 0xe00, 0xe04, 0xe10,
];
const GCMDS = [
  0, 0x4000_0000, 0x8000_0000, 0x8400_0000, 0xc400_0000, 0x0400_0000, 0x8780_0000, 0xc700_0000, 0x0100_0000,
];
const LEAF_BITS = [0, 1, 2, 3, 7, 0x83, 0x87, 0x49, 0x89, 0xc9, 0x109, 0x1d];
const PASIDS = [NO_PASID, NO_PASID, 0, 1, 2, 3, 63, 64, 255];

function qword(d: Random): bigint {
  switch (d.below(5)) {
    case 0:
      return BigInt(d.pick(PLACES) | d.pick(LEAF_BITS));
    case 1:
      return 1n << BigInt(d.below(64));
    case 2:
      return BigInt(d.below(1024));
    case 3:
      return 0xffff_ffff_ffff_ffffn;
    default:
      return (BigInt(d.next()) << 32n) | BigInt(d.next());
  }
}

function act(rig: Rig, endpoint: SlowEndpoint, d: Random): unknown {
  const { g } = rig;
  const unit = rig.units[0]!;
  const address = (): number =>
    d.pick([0, 0x5000, 0x6000, 0x10_0000, 0x20_0000, 0xfee0_0000, 2 ** 38, 2 ** 47, 2 ** 48]) + d.below(3) * 4096;
  switch (d.below(16)) {
    case 0:
      return g.registers.write(d.pick(REGISTERS), d.pick([4, 4, 8, 8, 1, 2]), d.next() | 0, d.next() | 0);
    case 1:
      return g.w32(0x18, d.pick(GCMDS));
    case 2:
      return g.w64(0x20, BigInt(0x20_0000 | (d.pick([0, 0, 1, 1, 2, 3]) << 10)));
    case 3: {
      const v = g.registers.read(d.below(0x1000) & ~3, 4);
      return expect(v >= 0 && v <= 0xffff_ffff).toBe(true);
    }
    case 4:
    case 5:
      return g.submit(
        BigInt(1 + d.below(9)) |
          (BigInt(d.below(16)) << 4n) |
          (BigInt(d.below(8)) << 16n) |
          (BigInt(d.pick([0, 0x10, 3])) << 32n),
        d.below(2) === 0 ? 0n : qword(d),
      );
    case 6:
      return g.submit(qword(d), qword(d), d.below(8) === 0 ? qword(d) : 0n, 0n);
    case 7:
    case 8:
      return g.store(d.pick(PLACES) + 8 * d.below(72), qword(d));
    case 9:
    case 10:
    case 11: {
      const r = rig.dma(d.pick(RIDS), address(), d.pick([ACCESS.READ, ACCESS.WRITE]), d.pick(PASIDS));
      return expect(typeof r === 'string' || (r >= 0 && r < 2 ** 52)).toBe(true);
    }
    case 12: {
      const lo = address() | 0;
      unit.hardware.translationRequest(hostRid(d.pick(RIDS)), d.pick(PASIDS), lo, 0, ACCESS.READ | ACCESS.WRITE);
      return null;
    }
    case 13: {
      const w2 = pageRequestWord2(address(), d.below(512), true, d.below(2) === 0, d.below(2) === 0);
      unit.hardware.pageRequest(hostRid(d.pick(RIDS)), d.pick(PASIDS), w2, 0, 3, d.below(512), d.below(2) === 0);
      return null;
    }
    case 14:
      return unit.remap.remap(d.below(0x1_0000), 0xfee0_0000 + (d.next() & 0xf_fffc), d.next());
    default:
      if (d.below(2) === 0) endpoint.answer();
      rig.vm.clock.advance(d.pick([0, 10, 2000]));
      if (d.below(40) === 0) unit.reset();
      return null;
  }
}

const SVM = { scalableMode: true, fsts: true, pasidBits: 8, svm: true, deviceIotlb: true } as const;
const GUESTS: readonly (readonly [string, Partial<VtdProperties>, boolean])[] = [
  ['legacy', {}, false],
  ['legacy, caching mode', { cachingMode: true, deviceIotlb: true }, false],
  ['second stage, scalable', { scalableMode: true, pasidBits: 8 }, false],
  ['first stage with everything', SVM, false],
  ['arch', { ...SVM, profile: 'arch', cachingMode: true, snoopControl: true, eim: true }, false],
  ['arch, 57 bits', { ...SVM, profile: 'arch', awBits: 57 }, false],
  ['first stage, linux-only', SVM, true],
];

test.each(GUESTS)(
  'a guest without a plan (%s) makes nothing throw, hang or leak in the whole machine',
  (_what, props, linuxOnly) => {
    for (let seed = 1; seed <= 5; seed++) {
      const rig = new Rig({ props, linuxOnly, invalidateTimeout: 1000 });
      const endpoint = new SlowEndpoint(rig.units[0]!);
      const d = new Random(seed * 0x9e37);
      const functions = RIDS.map((rid) => rig.plug(rid, 0, { ats: true, pri: true, maxPasids: 256, pasidExec: true }));
      rig.g.queueOn(props.scalableMode === true);
      for (const rid of RIDS) {
        if (props.scalableMode === true) rig.scalable(rid & 0x7f, 0, [0x21_0049n, 5n, 0x21_0000n]);
        else rig.legacy(rid & 0xff, 5, 0x21_0000);
      }
      for (let i = 0; i < 6000; i++) {
        act(rig, endpoint, d);
        rig.said.length = 0;
      }
      endpoint.answer();
      rig.vm.clock.settle(100_000);
      for (const f of functions) f.remove();
      expect(rig.units[0]!.device.attachments()).toEqual([]);
    }
  },
);
