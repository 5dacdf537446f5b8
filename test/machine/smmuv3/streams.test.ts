import { describe, expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ACCESS, ATS, NO_PASID } from '../../../src/ports/dma.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { cfgiAll, cfgiCd, cfgiSte, nhAll, RAM, sync } from '../../devices/smmuv3/guest.ts';

import { ABORT_STE, BYPASS_STE, device, events, OTHER, PAGE } from './streams-device.ts';

const PROFILES = ['qemu-11.1', 'arch'] as const;

describe.each(PROFILES)('the StreamIDs of one device, %s', (profile) => {
  const properties = { profile };

  test('one aborts while the other bypasses, whichever is configured last', () => {
    for (const order of [
      [8, 9],
      [9, 8],
    ]) {
      const { g, set, dma } = device([8, 9], { properties });
      g.setUp(5);
      for (const sid of order) set(sid, sid === 8 ? ABORT_STE : BYPASS_STE);
      expect(dma(RAM + 0x5000)).toEqual(['ABORT', RAM + 0x5000]);
      set(9, ABORT_STE);
      set(8, BYPASS_STE);
      expect(dma(RAM + 0x5000)).toEqual([RAM + 0x5000, 'ABORT']);
    }
  });

  test('each walks its own tables, and an abort of one leaves the other translating', () => {
    const { g, a, b, set, dma } = device([8, 9], { properties });
    g.setUp(5);
    set(8, a.ste);
    set(9, b.ste);
    expect(dma()).toEqual([PAGE, OTHER]);
    set(9, ABORT_STE);
    expect(dma()).toEqual([PAGE, 'ABORT']);
    set(9, a.ste);
    expect(dma()).toEqual([PAGE, PAGE]);
    set(8, b.ste);
    expect(dma()).toEqual([OTHER, PAGE]);
  });

  test('one that was never configured, or whose entry is bad, faults under its own name', () => {
    const { g, a, set, dma } = device([8, 9, 10], { properties });
    g.setUp(5);
    set(8, a.ste);
    expect(dma()).toEqual([PAGE, 'ABORT', 'ABORT']);
    expect(events(g)).toEqual([
      [4, 9],
      [4, 10],
    ]);
    set(10, a.ste);
    g.ste(8, 0n);
    g.run(cfgiSte(8), sync);
    g.w(PAGE0.GERRORN.at, g.r(PAGE0.GERROR.at));
    expect(dma()).toEqual(['ABORT', 'ABORT', PAGE]);
    expect(events(g)).toEqual([
      [4, 8],
      [4, 9],
    ]);
  });

  test('CFGI_ALL, first use and a range of StreamIDs look at each entry', () => {
    const { rig, g, a, b, dma } = device([8, 9, 10], { properties });
    for (const [i, ste] of [a.ste, b.ste, ABORT_STE].entries()) g.ste(8 + i, ste);
    g.setUp(5);
    expect(dma(), 'first use').toEqual([PAGE, OTHER, 'ABORT']);
    for (const [i, ste] of [b.ste, ABORT_STE, a.ste].entries()) g.ste(8 + i, ste);
    g.run(cfgiAll, sync);
    expect(dma()).toEqual([OTHER, 'ABORT', PAGE]);
    for (const [i, ste] of [ABORT_STE, a.ste, b.ste].entries()) g.ste(8 + i, ste);
    // StreamIDs 8 and 9.
    g.run([(8n << 32n) | 4n, 0], sync);
    expect(dma()).toEqual(['ABORT', PAGE, PAGE]);
    expect(rig.dma(8, 0x5000)).toBe('ABORT');
  });

  test('a translation fault names the stream whose access it was', () => {
    const { rig, g, a, b, set } = device([8, 9], { properties });
    g.setUp(5);
    set(8, a.ste);
    set(9, b.ste);
    a.tables.map(0x6000, PAGE);
    expect([9, 8].map((sid) => rig.dma(sid, 0x6000))).toEqual(['ABORT', PAGE]);
    b.tables.map(0x9000, PAGE);
    expect([9, 8].map((sid) => rig.dma(sid, 0x9000))).toEqual([PAGE, 'ABORT']);
    expect(events(g)).toEqual([
      [0x10, 9],
      [0x10, 8],
    ]);
  });

  test('VMIDs may differ: equal ASIDs stay apart, and a TLBI of one VMID leaves the other', () => {
    const { g, a, b, set, dma } = device([8, 9], { properties });
    b.tables.context(0x4040_0040, 0x11);
    g.setUp(5);
    set(8, a.ste, 0n, 0n);
    set(9, b.ste, 0n, 7n);
    expect(dma()).toEqual([PAGE, OTHER]);
    a.tables.map(0x5000, PAGE + 0x8000);
    b.tables.map(0x5000, OTHER + 0x8000);
    g.run(nhAll(7), sync);
    expect(dma()).toEqual([PAGE, OTHER + 0x8000]);
    g.run(nhAll(0), sync);
    expect(dma()).toEqual([PAGE + 0x8000, OTHER + 0x8000]);
  });

  test('CFGI_CD reaches the stream it names', () => {
    const { g, a, b, set, dma } = device([8, 9], { properties });
    g.setUp(5);
    set(8, a.ste);
    set(9, b.ste);
    dma();
    // The CDs change places behind the same pointers, and one stream is told.
    b.tables.context(0x4040_0000, 0x13);
    a.tables.context(0x4040_0040, 0x14);
    g.run(cfgiCd(9), sync);
    expect(dma()).toEqual([PAGE, PAGE]);
    g.run(cfgiCd(8), sync);
    expect(dma()).toEqual([OTHER, PAGE]);
  });

  test('second stages of the guest may differ', () => {
    const { g, set, dma, state } = device([8, 9], { properties });
    const s2 = (n: number, page: number) => {
      const l1 = 0x4160_0000 + n * 0x1_0000;
      g.put(l1, BigInt(l1 + 0x1000) | 3n);
      g.put(l1 + 0x1000, BigInt(l1 + 0x2000) | 3n);
      g.put(l1 + 0x2000 + 8 * 5, BigInt(page) | 0x4ffn);
      return [0xdn, 0n, 0x040c_0059_0000_0007n + BigInt(n), BigInt(l1)];
    };
    g.setUp(5);
    set(8, ...s2(0, PAGE));
    expect(dma()).toEqual([PAGE, 'ABORT']);
    set(9, ...s2(1, OTHER));
    expect(dma()).toEqual([PAGE, OTHER]);
    g.put(0x4161_2000 + 8 * 5, BigInt(PAGE + 0x3000) | 0x4ffn);
    g.run([0x8_0000_0028n, 0], sync);
    expect(dma()).toEqual([PAGE, PAGE + 0x3000]);
    set(8, BYPASS_STE);
    expect(dma(RAM + 0x5000)).toEqual([RAM + 0x5000, 'ABORT']);
    expect(state(9).shadow).not.toBeNull();
    expect(state(8).shadow).toBeNull();
  });

  test('SMMUEN=0 lets all of them through or none, and each is configured anew afterwards', () => {
    const { g, a, set, dma } = device([8, 9], { properties });
    g.setUp(5);
    set(8, a.ste);
    set(9, ABORT_STE);
    g.w(PAGE0.CR0.at, 0xc);
    expect(dma(RAM + 0x5000)).toEqual([RAM + 0x5000, RAM + 0x5000]);
    g.w(PAGE0.CR0.at, 0xd);
    expect(dma()).toEqual([PAGE, 'ABORT']);
  });

  test('unplugging takes all of them away, and the StreamIDs are free', () => {
    const { rig, g, a, b, fn, set, dma } = device([8, 9], { properties });
    g.setUp(5);
    set(8, a.ste);
    set(9, b.ste);
    rig.hostOps(true);
    fn.remove();
    expect(rig.hostOps(true)).toMatchObject({ ATTACH_STREAM: 2, UNBIND: 1 });
    expect(rig.units[0]!.device.domains).toEqual([]);
    expect(dma()).not.toContain(PAGE);
    rig.plug([9, 8]);
    expect(dma()).toEqual([PAGE, OTHER]);
  });

  test('save and load keep what each of them has', () => {
    const one = device([8, 9, 10], { properties });
    one.g.setUp(5);
    one.set(8, one.a.ste);
    one.set(9, ABORT_STE);
    one.set(10, one.b.ste, 0n, 7n);
    const saved = JSON.parse(JSON.stringify(one.rig.units[0]!.save()));
    const two = device([8, 9, 10], { properties });
    // The table in memory says something else by now: what counts is what was in force.
    for (const sid of [8, 9, 10]) two.g.ste(sid, BYPASS_STE);
    two.rig.units[0]!.load(saved);
    expect(two.dma()).toEqual([PAGE, 'ABORT', OTHER]);
  });
});

test('a stalled access waits under its own StreamID, also when two streams of the device use one STAG', () => {
  const { rig, g, a, b, set } = device([8, 9], { properties: { profile: 'arch', stall: true }, canStall: () => true });
  for (const at of [0x4040_0000, 0x4040_0040]) g.put(at, g.get(at) | (1n << 44n));
  g.setUp(5);
  set(8, a.ste);
  set(9, b.ste);
  const resumed: [number, number][] = [];
  rig.units[0]!.endpoints.to = {
    invalidate: () => true,
    pageResponse: () => {},
    resumed: (rid, _tag, outcome) => resumed.push([rid, outcome]),
  };
  expect([8, 9].map((sid) => rig.dma(sid, 0x6000))).toEqual(['STALLED', 'STALLED']);
  expect(events(g)).toEqual([
    [0x10, 8],
    [0x10, 9],
  ]);
  // CMD_STALL_TERM of one stream ends its stalls only.
  g.run([(9n << 32n) | 0x45n, 0], sync);
  expect(resumed.map(([rid]) => rid)).toEqual([hostRid(9)]);
});

test('ATS of one stream is not ATS of the other, and ATC_INV reaches the one it names', () => {
  const switched: boolean[] = [];
  const control = { setAts: (on: boolean) => switched.push(on), setPri: () => {} };
  const { rig, g, a, b, set } = device([8, 9], { properties: { profile: 'arch', ats: true } }, { ats: true, control });
  g.setUp(5);
  const { hardware } = rig.units[0]!;
  const seen: number[] = [];
  rig.units[0]!.endpoints.to = {
    invalidate: (rid, _pasid, itag) => {
      seen.push(rid);
      hardware.invalidateCompletion(rid, 1 << itag, 1);
      return true;
    },
    pageResponse: () => {},
    resumed: () => {},
  };
  const EATS = 1n << 28n;
  g.ste(8, ABORT_STE);
  g.ste(9, ABORT_STE);
  g.run(cfgiAll, sync);
  switched.length = 0;
  set(8, a.ste, EATS);
  set(9, b.ste);
  const ask = (sid: number) => hardware.translationRequest(hostRid(sid), NO_PASID, 0x5000, 0, ACCESS.READ);
  expect([ask(8), ask(9)].map((r) => r === ATS.SUCCESS)).toEqual([true, false]);
  seen.length = 0;
  g.run([(8n << 32n) | 0x40n, 52], [(9n << 32n) | 0x40n, 52], sync);
  expect(seen).toEqual([hostRid(8), hostRid(9)]);
  seen.length = 0;
  g.run([(9n << 32n) | 0x40n, 52], sync);
  expect(seen).toEqual([hostRid(9)]);
  // The function's own switch is on as long as one of its streams may use ATS.
  set(9, b.ste, EATS);
  set(8, a.ste);
  expect(switched).toEqual([]);
  expect([ask(8), ask(9)].map((r) => r === ATS.SUCCESS)).toEqual([false, true]);
  set(9, b.ste);
  expect(switched).toEqual([false]);
});

test('a device with one StreamID uses the verbs of Linux only', () => {
  const { rig, g, a, set } = device([8]);
  g.setUp(5);
  rig.hostOps(true);
  set(8, a.ste);
  set(8, ABORT_STE);
  const ops = rig.hostOps(true);
  expect(ops.ATTACH).toBeGreaterThan(0);
  expect(ops.ATTACH_STREAM).toBeUndefined();
});
