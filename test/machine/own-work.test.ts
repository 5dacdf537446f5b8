import { expect, test } from 'vitest';
import { hostRid } from '../../src/lib/pci/rids.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { CMDQ, cfgiSte, sync } from '../devices/smmuv3/guest.ts';
import { Rig as Smmuv3Rig, space } from './smmuv3/rig.ts';
import { FIRST, Rig as VtdRig } from './vtd/rig.ts';

const control = { setAts() {}, setPri() {} };
/** Page requests wait for their answers under this group. */
const GROUP = 3;

/**
 * A function that goes on as soon as it has its answer, and then stores into the registers of its IOMMU: in the guest's own access,
 * and in the part of a long queue that goes on outside of any access.
 */
test.each([10, 550])('of a VT-d lets no function at the registers: the answer is descriptor %i', (at) => {
  const rig = new VtdRig({
    props: { profile: 'arch', scalableMode: true, fsts: true, pasidBits: 8, deviceIotlb: true, svm: true },
  });
  const { g } = rig;
  const unit = rig.units[0]!;
  const later: (() => void)[] = [];
  rig.vm.defer = (action) => {
    later.push(action);
  };
  let answered = 0;
  unit.endpoints.to = {
    invalidate: () => true,
    resumed() {},
    pageResponse() {
      answered++;
      // GCMD: QIE off.
      unit.window.write(0x18, 4, 0x8000_0000 | 0, 0);
    },
  };
  rig.plug(0x10, 0, { ats: true, pri: true, pasidBits: 8, control });
  rig.scalable(0x10, 0, FIRST(1, rig.page()));
  g.w64(0xd0, 0x1e_0000n);
  const [queue, count] = [0x100_0000, 700];
  g.registers.write(0x90, 8, queue | 0x805, 0);
  g.translateOn(rig.root(1));
  g.w32(0x18, 0x8400_0000);
  rig.dma(0x10, 0x5000);
  unit.hardware.pageRequest(hostRid(0x10), NO_PASID, 0x7000, 0, 2, GROUP, true);
  for (let i = 0; i < count; i++) g.store(queue + 32 * i, 4n, 0n, 0n, 0n);
  g.store(queue + 32 * at, 9n | (0x10n << 16n), BigInt(GROUP << 3), 0n, 0n);
  unit.window.write(0x88, 4, 32 * count, 0);
  for (let next = later.shift(); next !== undefined; next = later.shift()) next();
  expect([answered, (unit.device.read(0x1c, 4) >>> 26) & 1, unit.device.read(0x80, 4) / 32]).toEqual([1, 1, count]);
});

test.each([10, 550])('of an SMMUv3 neither: the answer is command %i', (at) => {
  const rig = new Smmuv3Rig({ properties: { profile: 'arch', ats: true, pri: true } });
  const { g } = rig;
  const unit = rig.units[0]!;
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, 0x4040_5000);
  const later: (() => void)[] = [];
  rig.vm.defer = (action) => {
    later.push(action);
  };
  let answered = 0;
  unit.endpoints.to = {
    invalidate: (rid, _pasid, itag) => {
      unit.hardware.invalidateCompletion(rid, 1 << itag, 1);
      return true;
    },
    resumed() {},
    pageResponse() {
      answered++;
      // CR0: CMDQEN off.
      unit.window.write(PAGE0.CR0.at, 4, 0x5, 0);
    },
  };
  rig.plug(8, 0, { ats: true, pri: true, control });
  g.ste(8, ste, 1n << 28n);
  g.setUp(5, 3, 10);
  g.w64(PAGE0.PRIQ_BASE.at, 0x4022_0003n);
  g.w(PAGE0.CR0.at, g.r(PAGE0.CR0.at) | 2);
  g.run(cfgiSte(8), sync);
  unit.hardware.pageRequest(hostRid(8), NO_PASID, 0x7000, 0, 2, GROUP, true);
  const commands = Array.from({ length: 700 }, (_, i) =>
    i === at ? ([0x41n | (8n << 32n), BigInt(GROUP) | (2n << 12n)] as const) : cfgiSte(8),
  );
  // As a guest's store arrives: through the window.
  for (const [i, [lo, hi]] of commands.entries()) g.put(CMDQ + 16 * (2 + i), lo, hi);
  unit.window.write(PAGE0.CMDQ_PROD.at, 4, 2 + commands.length, 0);
  for (let next = later.shift(); next !== undefined; next = later.shift()) next();
  const cons = g.r(PAGE0.CMDQ_CONS.at);
  expect([answered, g.r(PAGE0.CR0.at) & 8, cons]).toEqual([1, 8, 2 + commands.length]);
});
