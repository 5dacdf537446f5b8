import { describe, expect, test } from 'vitest';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { CD, cfgiSte, Guest, sync } from './guest.ts';

const S2_L1 = 0x4060_0000;
const S2_STE = [0xdn, 0n, 0x040c_0059_0000_0007n, BigInt(S2_L1)] as const;
const S1_STE = BigInt(CD) | 0xbn;
const ILL = 0x0100_0000;

describe('an invalidation whose unmapping the host refuses', () => {
  test.each([
    ['TLBI_S2_IPA', [0x7_0000_002an, 0x1000]],
    ['TLBI_S12_VMALL', [0x7_0000_0028n, 0]],
    ['TLBI_NSNH_ALL', [0x30, 0]],
  ] as const)('%s is CERROR_ILL, and takes away what it names once the guest has acknowledged', (_, command) => {
    const g = new Guest();
    const dev = g.plug(8);
    g.ste(8, ...S2_STE);
    g.put(S2_L1, 0x4000_04c1n);
    g.setUp(4, 3, 6);
    g.run(cfgiSte(8), sync);
    const shadow = g.smmu.streams[0]!.domain!.shadow!;
    expect(g.host.handlers.get(dev)!.onStageTwoMiss!(dev, 0, -1, 0x1000, 2, 0x1000, 0)).toBe(true);

    g.host.failing.set('IOAS_UNMAP', -E.IO);
    expect(g.run(command, sync)).toBe(ILL + 2);
    expect(shadow.leafShift(0x1000)).toBe(30);

    g.host.failing.clear();
    g.w(PAGE0.GERRORN.at, 1);
    expect(g.r(PAGE0.CMDQ_CONS.at) & 0xff_ffff).toBe(4);
    expect(shadow.leafShift(0x1000)).toBe(0);
    expect(g.host.maps.get(shadow.ioasId)).toEqual([]);
  });
});

/** A stream in stage 1, its SMMU on. */
function configured() {
  const g = new Guest();
  const dev = g.host.device();
  const unplug = g.smmu.addDevice({ sids: [8], vfio: dev });
  g.ste(8, S1_STE);
  g.setUp(4, 3, 6);
  g.run(cfgiSte(8), sync);
  return { g, dev: dev.devId, unplug };
}

test('an entry that becomes bad while the host refuses to detach: the command fails and the stream aborts', () => {
  const { g, dev } = configured();
  g.ste(8, 0n);
  g.host.failing.set('DETACH', -E.IO);

  expect(g.run(cfgiSte(8), sync)).toBe(ILL + 2);
  expect(g.smmu.streams[0]!.state).toBe('abort');
  expect(g.host.attachedTo(dev)).toBe(g.smmu.domains[0]!.abortId);

  g.host.failing.clear();
  g.w(PAGE0.GERRORN.at, 1);
  expect(g.smmu.streams[0]!.state).toBe('unset');
  expect(g.host.attachedTo(dev)).toBe(0);
});

test('switching off while the host refuses the bypass leaves nothing attached, and the next access asks again', () => {
  const { g, dev } = configured();
  g.host.failing.set('ATTACH', -E.NOMEM);
  g.w(PAGE0.CR0.at, 0xc);

  expect(g.smmu.streams[0]!.state).toBe('unset');
  expect(g.host.attachedTo(dev)).toBe(0);
  expect([...g.smmu.refusals]).toEqual([['switch of translation', 1]]);
  expect(g.host.handlers.get(dev)!.onStreamMiss!(dev, 0, -1)).toBe(false);
  expect(g.smmu.refusals.get('first use')).toBe(1);

  g.host.failing.clear();
  expect(g.host.handlers.get(dev)!.onStreamMiss!(dev, 0, -1)).toBe(true);
  expect(g.host.attachedTo(dev)).toBe(g.smmu.domains[0]!.bypassId);
});

test('an invalidation the host refuses is the failing command, whatever the range of streams behind it meets', () => {
  const g = new Guest();
  g.plug(8);
  g.plug(9);
  for (const sid of [8, 9]) g.ste(sid, S1_STE);
  g.setUp(4, 3, 6);
  g.run(cfgiSte(8), cfgiSte(9), sync);
  for (const sid of [8, 9]) g.ste(sid, BigInt(CD + 0x1000) | 0xbn);
  g.host.failing.set('HWPT_INVALIDATE', -E.IO);
  g.host.failing.set('HWPT_ALLOC', -E.NOMEM);

  expect(g.run([0x10, 0], [0x04, 31], sync)).toBe(ILL + 3);
  g.host.failing.clear();
  const before = g.host.calls.length;
  g.w(PAGE0.GERRORN.at, 1);
  expect(g.r(PAGE0.CMDQ_CONS.at) & 0xff_ffff).toBe(6);
  expect(g.host.calls.slice(before).some((c) => c.startsWith('HWPT_INVALIDATE'))).toBe(true);
});

test('a bad entry is no refusal of the host', () => {
  const g = new Guest({ properties: { accel: true, stage: '1' } });
  const dev = g.plug(8);
  g.setUp();
  expect(g.host.handlers.get(dev)!.onStreamMiss!(dev, 0, -1)).toBe(false);
  expect(g.smmu.refusals.size).toBe(0);
});

test('an object that the host does not take back is given back with the next one', () => {
  const { g } = configured();
  const old = g.smmu.streams[0]!.context!.hwptId;
  g.host.failing.set('DESTROY', -E.BUSY);
  g.ste(8, BigInt(CD + 0x1000) | 0xbn);
  expect(g.run(cfgiSte(8), sync)).toBe(4);
  expect(g.host.kinds.has(old)).toBe(true);

  g.host.failing.clear();
  g.ste(8, S1_STE);
  g.run(cfgiSte(8), sync);
  expect(g.host.kinds.has(old)).toBe(false);
});

test('a device that the host refuses to detach is unplugged all the same, and the refusal is noted', () => {
  const { g, unplug } = configured();
  g.host.failing.set('DETACH', -E.IO);
  unplug();
  expect([g.smmu.streams, g.smmu.refusals.get('undoing')]).toEqual([[], 1]);
  g.host.failing.clear();
  g.plug(8);
});

test('StreamIDs that the host does not take are asked for again with the next command', () => {
  const g = new Guest();
  g.plug(8, 9);
  g.setUp();
  g.host.failing.set('STREAM_VDEVICE', -E.NOMEM);
  expect(g.run(cfgiSte(9), sync)).toBe(ILL);
  expect(g.smmu.streams[1]!.vdeviceId).toBe(0);

  g.host.failing.clear();
  g.w(PAGE0.GERRORN.at, 1);
  expect(g.r(PAGE0.CMDQ_CONS.at) & 0xff_ffff).toBe(2);
  expect(g.smmu.streams[1]!.vdeviceId).toBeGreaterThan(0);
});
