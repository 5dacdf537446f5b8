import { describe, expect, test } from 'vitest';
import { pageRequestWord0, pageRequestWord1, pageRequestWord2 } from '../../../src/spec/vtd/page-request.ts';
import { Guest } from './guest.ts';

const RID = 0x10;
const ROOT = 0x30_0000;
const OPTIONS = 'scalable-mode=on,fsts=on,pasid-bits=8,svm=on,device-iotlb=on';
const QUEUE = 0x38_0000;
const [PQH, PQT, PQA, PRS, PECTL, PEADDR] = [0xc0, 0xc8, 0xd0, 0xdc, 0xe0, 0xe8];

function guest(profile: 'qemu-11.1' | 'arch' = 'arch', context = 0x31_101dn): Guest {
  const g = new Guest(OPTIONS, profile);
  g.vtd.addDevice({ rid: RID, vfio: g.host.vfio(RID) });
  g.store(ROOT, 0x31_0001n, 0n);
  g.store(0x31_0200, context, 0n, 0n, 0n);
  g.store(0x31_1000, 0x31_2001n);
  g.store(0x31_2000 + 3 * 64, 0x49n, 5n, 0x30_2000n);
  g.w64(PQA, BigInt(QUEUE));
  g.w32(PEADDR, 0xfee0_0000);
  g.w32(PECTL, 0);
  g.queueOn(true);
  g.translateOn(BigInt(ROOT) | 0x400n);
  return g;
}

/** A page request message of the endpoint. @returns whether the device took it over. */
function ask(g: Guest, group: number, last = true, pasid = 3, lo = 0x5000): boolean | undefined {
  const w = new Int32Array(8);
  w[0] = pageRequestWord0(0x4010, pasid);
  w[1] = pageRequestWord1(pasid, false, false);
  w[2] = pageRequestWord2(lo, group, true, true, last);
  return g.host.handlers?.onPageRequest?.(1000, 0, w);
}

test('a request is queued under the guest’s source id, raises one event, and its answer goes back by group', () => {
  const g = guest();
  expect(ask(g, 7)).toBe(true);
  expect(ask(g, 8)).toBe(true);
  expect([g.load(QUEUE), g.load(QUEUE + 8), g.load(QUEUE + 16)]).toEqual([0x3_0010_0101n, 0x503fn, 0n]);
  expect([g.r32(PQT), g.r32(PRS), g.host.messages.length]).toEqual([64, 1, 1]);
  g.w32(PQH, 64);
  g.w32(PRS, 1);
  g.submit(0x3_0010_0019n, 7n << 3n);
  g.submit(0x3_0010_1019n, 8n << 3n);
  g.submit(0x3_0010_f019n, 9n << 3n);
  expect(g.host.responses).toEqual(['16 3 7 0', '16 3 8 1', '16 3 9 15']);
  ask(g, 9);
  expect(g.host.messages).toHaveLength(2);
});

test('cached translations of the page go before the request is seen', () => {
  const g = guest();
  g.submit(0x3_0005_0017n);
  g.host.took();
  ask(g, 1);
  expect(g.host.took()).toEqual(['invalidate 3 0x5000 1 leaf 1']);
});

describe('row 45: overflow', () => {
  function full(profile: 'qemu-11.1' | 'arch'): Guest {
    const g = guest(profile);
    for (let i = 0; i < 127; i++) ask(g, i);
    return g;
  }

  test('arch: PRO in PRS; the last of a group is answered Success, others vanish; no further event', () => {
    const g = full('arch');
    expect(g.r32(PQT)).toBe(127 * 32);
    const events = g.host.messages.length;
    expect([ask(g, 200), ask(g, 201, false), ask(g, 202)]).toEqual([true, true, true]);
    expect([g.r32(PRS), g.host.responses, g.host.messages.length]).toEqual([3, ['16 3 200 0', '16 3 202 0'], events]);
    g.w32(PQH, 127 * 32);
    g.w32(PRS, 3);
    ask(g, 203);
    expect([g.r32(PRS), g.host.messages.length]).toEqual([1, events + 1]);
  });

  test('qemu-11.1 refuses the request instead (its device model sees -ENOSPC)', () => {
    const g = full('qemu-11.1');
    ask(g, 200);
    expect([g.r32(PRS), g.host.responses]).toEqual([3, ['16 3 200 15']]);
  });

  test('the queue wraps', () => {
    const g = full('arch');
    g.w32(PQH, 64 * 32);
    for (let i = 0; i < 5; i++) ask(g, 300 + i);
    expect([g.r32(PQT), (g.load(QUEUE + 8) >> 3n) & 0x1ffn]).toEqual([4 * 32, 301n]);
  });
});

test('a request that hits a bad table is answered Invalid Request, and the fault recorded', () => {
  const g = guest('arch', 0x31_100dn);
  ask(g, 5);
  expect([g.host.responses, g.fault()]).toEqual([['16 3 5 1'], [2, 0x5000n, 0xc000_0347_8000_0010n]]);
  const missing = guest();
  ask(missing, 6, false, 4);
  expect([missing.host.responses, missing.fault()[2]]).toEqual([[], 0xc000_0459_8000_0010n]);
});

test('a page request in legacy mode is 0x32', () => {
  const g = guest();
  g.w64(0x20, BigInt(ROOT));
  g.w32(0x18, 0xc400_0000);
  ask(g, 1);
  expect([g.host.responses, g.fault()[2]]).toEqual([['16 3 1 1'], 0xc000_0332_8000_0010n]);
});

test('a queue in a hole loses requests as a full one does, without an exception', () => {
  const g = guest();
  g.w64(PQA, 0xf0_0000_0000n);
  ask(g, 1);
  expect([g.r32(PQT), g.host.responses]).toEqual([0, ['16 3 1 0']]);
});

test('without svm the page-request registers are not there and requests are left to the host', () => {
  const g = new Guest('scalable-mode=on,fsts=on');
  g.vtd.addDevice({ rid: RID, vfio: g.host.vfio(RID) });
  g.w32(PRS, 3);
  g.w64(PQA, -1n & 0xffff_ffff_ffff_ffffn);
  expect([g.r64(PQA), g.r32(PRS), ask(g, 1)]).toEqual([0n, 0, false]);
});

describe('without upcalls page requests come through iommufd’s fault queue', () => {
  function linuxOnly(pri: boolean): Guest {
    const g = new Guest(OPTIONS, 'arch', { linuxOnly: true });
    g.host.pri = pri;
    g.vtd.addDevice({ rid: RID, vfio: g.host.vfio(RID) });
    g.store(ROOT, 0x31_0001n, 0n);
    g.store(0x31_0200, 0x31_101dn, 0n, 0n, 0n);
    g.store(0x31_1000, 0x31_2001n);
    g.store(0x31_2000, 0x49n, 5n, 0x30_2000n);
    g.store(0x31_2000 + 3 * 64, 0x49n, 5n, 0x30_2000n);
    g.w64(PQA, BigInt(QUEUE));
    g.queueOn(true);
    g.translateOn(BigInt(ROOT) | 0x400n);
    g.submit(0x37n);
    return g;
  }

  test('a group is queued record by record and answered once, by cookie', () => {
    const g = linuxOnly(true);
    expect(g.host.took().filter((l) => l.startsWith('nested'))).toEqual([
      'nested 4 on 3 root 0x302000 levels 4 flags 0 fault 2',
    ]);
    g.host.fault({ devId: 1000, pasid: 3, group: 9, perm: 3, addr: 0x5000n, last: false, cookie: 1 });
    g.host.fault({ devId: 1000, pasid: 3, group: 9, perm: 1, addr: 0x6000n, last: true, cookie: 1 });
    expect([g.load(QUEUE), g.load(QUEUE + 8), g.load(QUEUE + 40)]).toEqual([0x3_0010_0101n, 0x504bn, 0x604dn]);
    g.submit(0x3_0010_0019n, 9n << 3n);
    g.submit(0x3_0010_0019n, 9n << 3n);
    expect(g.host.responses).toEqual(['cookie 1 code 0']);
  });

  test('a request of an unknown device or a bad table is answered Invalid', () => {
    const g = linuxOnly(true);
    g.host.fault({ devId: 7, pasid: 3, group: 9, perm: 3, addr: 0x5000n, last: true, cookie: 1 });
    g.host.fault({ devId: 1000, pasid: 4, group: 9, perm: 3, addr: 0x5000n, last: true, cookie: 2 });
    expect(g.host.responses).toEqual(['cookie 1 code 1', 'cookie 2 code 1']);
  });

  test('a function without PRI is attached without the fault queue', () => {
    const g = linuxOnly(false);
    expect(g.host.took().slice(-5)).toEqual([
      'nested 4 on 3 root 0x302000 levels 4 flags 0 fault 2',
      'destroy 4',
      'nested 5 on 3 root 0x302000 levels 4 flags 0',
      'attach 16 5',
      'attach 16/3 5',
    ]);
  });
});
