import { expect, test } from 'vitest';
import { AT, DMA } from '../../../src/ports/dma.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { cfgiAll, cfgiCd, cfgiSte, nhAll, nhVa, RAM, sync } from '../../devices/smmuv3/guest.ts';
import { DOORBELL, RIG_RAM, Rig, space } from './rig.ts';

const PAGE = 0x4040_5000;
const atcAll = (sid: number) => [(BigInt(sid) << 32n) | 0x40n, 52] as const;

/** One device on translated stage 1. */
function translating(options: ConstructorParameters<typeof Rig>[0] = {}, sids: number | readonly number[] = 8) {
  const rig = new Rig(options);
  const { g } = rig;
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, PAGE);
  const fn = rig.plug(sids, 0, { ats: true, pasidBits: 4 });
  const list = typeof sids === 'number' ? [sids] : sids;
  const eats = options.properties?.ats === true ? 1n << 28n : 0n;
  for (const sid of list) g.ste(sid, ste, eats);
  g.setUp(5);
  return { rig, g, tables, ste, fn };
}

test('an ATC invalidation for a guest StreamID reaches the one function the host knows by another name', () => {
  const { rig, g } = translating({ properties: { profile: 'arch', ats: true } });
  const seen: number[] = [];
  rig.units[0]!.endpoints.to = {
    invalidate: (rid, _pasid, itag) => {
      seen.push(rid);
      rig.units[0]!.hardware.invalidateCompletion(rid, 1 << itag, 1);
      return true;
    },
    pageResponse: () => {},
    resumed: () => {},
  };
  g.run(cfgiSte(8), sync);
  seen.length = 0;
  expect(g.run(atcAll(8), atcAll(9), sync)).toBe(5);
  expect(seen).toEqual([0x4008]);
});

test('one context is one HWPT however many streams use it, and it goes with the last of them', () => {
  const rig = new Rig();
  const { g } = rig;
  const { ste, tables } = space(g, 0, 0x11);
  tables.map(0x5000, PAGE);
  const sids = [8, 9, 10, 11];
  for (const sid of sids) {
    rig.plug(sid);
    g.ste(sid, ste);
  }
  g.setUp(5);
  rig.hostOps(true);
  g.run(cfgiAll, sync);
  expect(rig.hostOps(true)).toMatchObject({ HWPT_ALLOC: 1, VDEVICE_ALLOC: 4, ATTACH: 4 });
  for (const sid of sids) expect(rig.dma(sid, 0x5000)).toBe(PAGE);
  for (const sid of sids) {
    g.ste(sid, 9);
    g.run(cfgiSte(sid), sync);
    expect(rig.hostOps(true).DESTROY ?? 0, `stream ${sid}`).toBe(sid === 11 ? 1 : 0);
  }
});

test('a CFGI_STE that changes nothing still makes the hardware look again', () => {
  const { rig, g, tables } = translating();
  g.run(cfgiSte(8), sync);
  expect(rig.dma(8, 0x5000)).toBe(PAGE);
  // Another table and ASID behind the same CD pointer: the vSTE is what it was.
  const other = space(g, 1, 0x12);
  other.tables.map(0x5000, PAGE + 0x1000);
  other.tables.context(0x4040_0000, 0x12);
  expect(rig.dma(8, 0x5000), 'cached configuration').toBe(PAGE);
  rig.hostOps(true);
  g.run(cfgiSte(8), sync);
  expect(rig.hostOps(true)).toEqual({ HWPT_INVALIDATE: 1 });
  expect(rig.dma(8, 0x5000)).toBe(PAGE + 0x1000);
  expect(tables.root).not.toBe(other.tables.root);
});

test('a device with three StreamIDs translates from each, and one invalidation reaches what each of them cached', () => {
  const { rig, g, tables } = translating({}, [8, 9, 10]);
  g.run(cfgiSte(9), sync);
  for (const sid of [8, 9, 10]) expect(rig.dma(sid, 0x5000)).toBe(PAGE);
  tables.context(0x4040_0000, 0x12);
  tables.map(0x5000, PAGE + 0x1000);
  g.run(cfgiCd(8), cfgiCd(9), cfgiCd(10), nhAll(0), sync);
  for (const sid of [8, 9, 10]) expect(rig.dma(sid, 0x5000), `stream ${sid}`).toBe(PAGE + 0x1000);
});

test('without upcalls a device with several StreamIDs is refused, as Linux 7.2 refuses it', () => {
  const { g } = translating({ linuxOnly: true }, [8, 9]);
  expect(g.run(cfgiSte(8), sync)).toBe(0x0100_0000);
});

test('a host that refuses an attach fails the command that asked for it, and the acknowledged queue tries again', () => {
  let broken = false;
  const { rig, g, fn } = translating();
  const attach = fn.vfio.attach.bind(fn.vfio);
  Object.assign(fn.vfio, { attach: (pt: number, pasid: number) => (broken ? -12 : attach(pt, pasid)) });
  broken = true;
  expect(g.run(sync, cfgiSte(8), sync)).toBe(0x0100_0001);
  expect(g.r(PAGE0.GERROR.at)).toBe(1);
  broken = false;
  g.w(PAGE0.GERRORN.at, 1);
  expect(g.r(PAGE0.CMDQ_CONS.at) & 0xffffff).toBe(3);
  expect(rig.dma(8, 0x5000)).toBe(PAGE);
});

test('a function that never answers is CERROR_ATC_INV_SYNC at the SYNC, once the time is up and not before', () => {
  const { rig, g } = translating({ properties: { profile: 'arch', ats: true }, invalidateTimeout: 1000 });
  g.run(cfgiSte(8), sync);
  rig.vm.clock.advance(5000);
  g.w(PAGE0.GERRORN.at, g.r(PAGE0.GERROR.at));
  const before = g.r(PAGE0.CMDQ_CONS.at);
  rig.units[0]!.endpoints.to = { invalidate: () => true, pageResponse: () => {}, resumed: () => {} };
  expect(g.run(atcAll(8), [0x1046, 0])).toBe(before + 1);
  rig.vm.clock.advance(999);
  expect(g.r(PAGE0.CMDQ_CONS.at)).toBe(before + 1);
  rig.vm.clock.advance(2);
  expect(g.r(PAGE0.CMDQ_CONS.at)).toBe(0x0300_0000 + before + 1);
  expect(rig.interrupts).toEqual([]);
  g.w(PAGE0.GERRORN.at, g.r(PAGE0.GERROR.at));
  expect([g.r(PAGE0.CMDQ_CONS.at), rig.interrupts]).toEqual([before + 2, ['cmd_sync']]);
});

test('attaching stage 1 is one replace that brings its stage 2 along; there is no way to another stage 2', () => {
  const { rig, g } = translating();
  g.run(cfgiSte(8), sync);
  rig.hostOps(true);
  g.ste(8, space(g, 1, 0x12).ste);
  g.run(cfgiSte(8), sync);
  const ops = rig.hostOps();
  expect(ops).toEqual({ HWPT_ALLOC: 1, REPLACE: 1, DESTROY: 1 });
  const s = rig.units[0]!.device.streams[0]!;
  // The nested HWPT holds its parent: the parent cannot go before it.
  expect(rig.vm.iommufd.destroy(s.context!.domain.hwptId)).toBe(-16);
  expect(s.vfio.ptId).toBe(s.context!.hwptId);
});

test('memory plugged in under active nested domains is reachable, and unplugged again it is not, whatever was cached', () => {
  const { rig, g, tables } = translating();
  g.run(cfgiSte(8), sync);
  const more = RAM + 0x1000_0000;
  tables.map(0x9000, more + 0x3000);
  expect(rig.dma(8, 0x9000)).toBe('ABORT');
  const unplug = rig.vm.addRam(more, 0x10_0000);
  expect(rig.dma(8, 0x9000)).toBe(more + 0x3000);
  expect(rig.dma(8, 0x5000)).toBe(PAGE);
  unplug();
  expect(rig.dma(8, 0x9000)).toBe('ABORT');
  expect(rig.dma(8, 0x5000)).toBe(PAGE);
});

test('the MSI doorbell is in the stage 2 from the attach on: the first message of a translated device arrives', () => {
  const { rig, g, tables } = translating();
  tables.map(0xffff_f000, DOORBELL - (DOORBELL % 4096));
  g.run(cfgiSte(8), sync);
  rig.hostOps(true);
  const hw = rig.units[0]!.hardware;
  expect(hw.translate(0x4008, -1, 0xffff_f040 | 0, 0, 2, AT.UNTRANSLATED)).toBe(DMA.OK);
  expect(hw.out).toBe(rig.doorbell + 0x40);
  expect(rig.hostOps(), 'nothing had to be patched in').toEqual({});
});

test('a guest that maps beyond its memory reaches nothing, and is told nothing', () => {
  const { rig, g, tables } = translating();
  g.run(cfgiSte(8), sync);
  tables.map(0x6000, RAM + RIG_RAM);
  expect(rig.dma(8, 0x6000)).toBe('ABORT');
  expect(g.r(0x100a8)).toBe(0);
  g.run(nhVa(0, 0x11, 0x6000), sync);
});
