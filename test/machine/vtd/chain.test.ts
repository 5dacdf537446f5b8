import { describe, expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { FIRST, PASS_THROUGH, RIG_RAM, Rig, SECOND, SlowEndpoint } from './rig.ts';

const { READ, WRITE } = ACCESS;
const FIRST_STAGE = { scalableMode: true, fsts: true, pasidBits: 8 } as const;
const A = 0x100_0000;
const B = 0x101_0000;
const STATUS = 0x60_0000n;
const WAIT = (data: bigint): [bigint, bigint] => [0x25n | (data << 32n), STATUS];

describe('(device, PASID) → one guest page table each, the host learning of it from the PASID cache', () => {
  test('two functions, three address spaces: every access lands where its own table says', () => {
    const rig = new Rig({ props: FIRST_STAGE });
    const { g } = rig;
    const [one, two] = [rig.page(), rig.page()];
    g.map(one, 0x5000, A, 7n, rig.pools[0]!);
    g.map(two, 0x5000, B, 7n, rig.pools[0]!);
    for (const rid of [0x10, 0x18]) rig.plug(rid, 0, { maxPasids: 256, pasidExec: true, pasidPriv: true });
    rig.scalable(0x10, 0, FIRST(1, one));
    rig.scalable(0x18, 0, FIRST(1, one));
    rig.scalable(0x10, 3, FIRST(2, two));
    rig.scalable(0x10, 4, PASS_THROUGH);
    g.queueOn(true);
    g.translateOn(rig.root(1));
    rig.hostOps();
    g.submit(0x37n);
    // The first tables are one guest domain, so one HWPT on two functions.
    expect(rig.hostOps()).toEqual({ HWPT_ALLOC: 2, ATTACH: 6 });
    const seen = [
      rig.dma(0x10, 0x5678),
      rig.dma(0x18, 0x5678),
      rig.dma(0x10, 0x5678, WRITE, 3),
      rig.dma(0x18, 0x5678, WRITE, 3),
      rig.dma(0x10, 0x5678, WRITE, 4),
    ];
    expect(seen).toEqual([A + 0x678, A + 0x678, B + 0x678, B + 0x678, 0x5678]);
    g.store(rig.pools[0]!.next, 0n);
    rig.scalable(0x10, 3, [0n]);
    g.submit((3n << 32n) | 0x2_0017n);
    expect([rig.dma(0x10, 0x5678, WRITE, 3), rig.dma(0x10, 0x5678)]).toEqual(['ABORT', A + 0x678]);
    expect(rig.hostOps()).toEqual({ DETACH: 2, DESTROY: 1 });
  });

  test('a changed leaf shows after its PASID-IOTLB invalidation, neighbours stay', () => {
    const rig = new Rig({ props: FIRST_STAGE });
    const { g } = rig;
    const table = rig.page();
    for (const [iova, to] of [
      [0x5000, A],
      [0x6000, A + 0x1000],
    ] as const) {
      g.map(table, iova, to, 7n, rig.pools[0]!);
    }
    rig.plug(0x10);
    rig.scalable(0x10, 0, FIRST(1, table));
    g.queueOn(true);
    g.translateOn(rig.root(1));
    expect([rig.dma(0x10, 0x5000), rig.dma(0x10, 0x6000)]).toEqual([A, A + 0x1000]);
    g.map(table, 0x5000, B, 7n, rig.pools[0]!);
    g.map(table, 0x6000, B, 7n, rig.pools[0]!);
    g.submit(0x1_0036n, 0x5000n);
    expect([rig.dma(0x10, 0x5000), rig.dma(0x10, 0x6000)]).toEqual([B, A + 0x1000]);
    g.submit(0x1_0026n);
    expect(rig.dma(0x10, 0x6000)).toBe(B);
  });
});

describe('a second stage of the guest', () => {
  test('legacy: filled page by page on demand, emptied by name, over real second-stage tables', () => {
    const rig = new Rig();
    const { g } = rig;
    const table = rig.page();
    for (let i = 0; i < 64; i++) g.map(table, 0x10_0000 + i * 4096, A + i * 4096, 3n, rig.pools[0]!);
    rig.plug(0x10);
    rig.legacy(0x10, 5, table);
    g.queueOn();
    g.translateOn(rig.root());
    rig.hostOps();
    for (let i = 0; i < 64; i++) expect(rig.dma(0x10, 0x10_0000 + i * 4096 + 8)).toBe(A + i * 4096 + 8);
    expect(rig.hostOps()).toMatchObject({ SHADOW_MAP: 64 });
    g.map(table, 0x10_3000, B, 3n, rig.pools[0]!);
    g.submit(0x5_0032n, 0x10_3000n);
    expect(rig.dma(0x10, 0x10_3000)).toBe(B);
    expect(rig.hostOps()).toEqual({ SHADOW_UNMAP: 1, SHADOW_MAP: 1 });
    g.submit(0x5_0022n, 0n);
    expect(rig.hostOps()).toEqual({ SHADOW_CLEAR: 1 });
  });

  test('an identity domain of all RAM in large leaves is a handful of mappings, not one per page', () => {
    const rig = new Rig();
    const { g } = rig;
    const [l4, l3] = [rig.page(), rig.page()];
    g.store(l4, BigInt(l3) | 3n);
    g.store(l3, 0x83n);
    rig.plug(0x10);
    rig.legacy(0x10, 5, l4);
    g.translateOn(rig.root());
    rig.hostOps();
    for (let at = 0; at < RIG_RAM; at += 0x1000) expect(rig.dma(0x10, at)).toBe(at);
    expect(rig.hostOps().SHADOW_MAP).toBe(1);
  });

  test('one page out of a 2 MiB leaf leaves the rest mapped', () => {
    const rig = new Rig();
    const { g } = rig;
    const [l4, l3, l2] = [rig.page(), rig.page(), rig.page()];
    g.store(l4, BigInt(l3) | 3n);
    g.store(l3, BigInt(l2) | 3n);
    g.store(l2, BigInt(A) | 0x83n);
    rig.plug(0x10);
    rig.legacy(0x10, 5, l4);
    g.queueOn();
    g.translateOn(rig.root());
    expect(rig.dma(0x10, 0x12_3456)).toBe(A + 0x12_3456);
    g.store(l2, 0n);
    g.submit(0x5_0032n, 0x12_3000n);
    expect([rig.dma(0x10, 0x12_3000), rig.dma(0x10, 0x12_2fff), rig.dma(0x10, 0x12_4000)]).toEqual([
      'ABORT',
      A + 0x12_2fff,
      A + 0x12_4000,
    ]);
    expect(g.fault()).toEqual([2, 0x12_3000n, 0x8000_0005_0000_0010n]);
  });

  test('scalable: the same, with write-only and read-only leaves', () => {
    const rig = new Rig({ props: { scalableMode: true } });
    const { g } = rig;
    const table = rig.page();
    g.map(table, 0x5000, A, 3n, rig.pools[0]!, 1n);
    g.map(table, 0x6000, B, 3n, rig.pools[0]!, 2n);
    rig.plug(0x10);
    rig.scalable(0x10, 0, SECOND(5, table));
    g.queueOn(true);
    g.translateOn(rig.root(1));
    const at = (iova: number, access: number): number | string => rig.dma(0x10, iova, access);
    expect([at(0x5000, READ), at(0x5000, WRITE), at(0x6000, READ), at(0x6000, WRITE)]).toEqual([
      A,
      'ABORT',
      'ABORT',
      B,
    ]);
  });
});

describe('a guest hypervisor (arch): nested PGTT over real tables', () => {
  test('first stage through the guest’s second stage through the host’s; each invalidation reaches its own', () => {
    const rig = new Rig({ props: { ...FIRST_STAGE, profile: 'arch' } });
    const { g } = rig;
    const pool = rig.pools[0]!;
    const second = rig.page();
    const L1 = 0x1_0000_0000;
    // The inner guest's memory: guest-physical 4 GiB + x is x.
    for (let at = 0x20_0000; at < 0x30_0000; at += 4096) g.map(second, L1 + at, at, 3n, pool);
    g.map(second, L1 + A, A, 3n, pool);
    const first = rig.page();
    // Its tables hold its own addresses.
    const [l3, l2, l1] = [rig.page(), rig.page(), rig.page()];
    g.store(first, BigInt(L1 + l3) | 7n);
    g.store(l3, BigInt(L1 + l2) | 7n);
    g.store(l2, BigInt(L1 + l1) | 7n);
    g.store(l1 + 40, BigInt(L1 + A) | 7n);
    rig.plug(0x10);
    rig.scalable(0x10, 0, [BigInt(second) | 0xc9n, 5n, BigInt(L1 + first)]);
    g.queueOn(true);
    g.translateOn(rig.root(1));
    rig.hostOps();
    expect(rig.dma(0x10, 0x5678)).toBe(A + 0x678);
    const made = rig.hostOps();
    expect([made.IOAS_ALLOC, made.HWPT_ALLOC, made.ATTACH]).toEqual([1, 2, 1]);
    // The four tables and the page itself.
    expect([made.SHADOW_MAP, made.IOAS_MAP]).toEqual([5, undefined]);
    g.store(l1 + 40, BigInt(L1 + B) | 7n);
    g.submit(0x5_0036n, 0x5000n);
    expect(rig.dma(0x10, 0x5678)).toBe('ABORT');
    expect(g.fault()[2]).toBe(0x8000_0079_0000_0010n);
    g.map(second, L1 + B, B, 3n, pool);
    expect(rig.dma(0x10, 0x5678)).toBe(B + 0x678);
    g.map(second, L1 + B, A, 3n, pool);
    g.submit(0x5_0032n, BigInt(L1 + B));
    expect(rig.dma(0x10, 0x5678)).toBe(A + 0x678);
    g.w32(0x18, 0);
    expect(rig.dma(0x10, 0x5678)).toBe(0x5678);
  });
});

describe('device TLBs', () => {
  function ats(profile: 'qemu-11.1' | 'arch') {
    const rig = new Rig({ props: { ...FIRST_STAGE, profile, deviceIotlb: true }, invalidateTimeout: 1000 });
    const endpoint = new SlowEndpoint(rig.units[0]!);
    const { g } = rig;
    const table = rig.page();
    g.map(table, 0x5000, A, 7n, rig.pools[0]!);
    rig.plug(0x10, 0, { ats: true });
    rig.scalable(0x10, 0, FIRST(1, table));
    g.queueOn(true);
    g.translateOn(rig.root(1));
    rig.dma(0x10, 0x5000);
    endpoint.answer();
    rig.vm.clock.settle();
    return { rig, g, endpoint };
  }

  test('a guest’s own invalidation reaches the endpoint with all 64 bits; the wait behind it completes with the endpoint', () => {
    const { rig, g, endpoint } = ats('qemu-11.1');
    g.submit(0x10_0000_0003n, 0x7fff_ffff_ffff_f001n);
    g.submit(...WAIT(7n));
    expect(endpoint.asked.map((a) => [a.rid, a.pasid, a.lo >>> 0, a.hi])).toEqual([
      [hostRid(0x10), NO_PASID, 0xffff_f800, 0x7fff_ffff],
    ]);
    expect([g.load(Number(STATUS)), g.r32(0x80)]).toEqual([0n, 64]);
    endpoint.answer();
    rig.vm.clock.settle();
    expect(g.load(Number(STATUS))).toBe(7n);
  });

  test('arch: an endpoint that never answers is ITE with its source id; the wait is aborted, and the queue goes on when cleared', () => {
    const { rig, g } = ats('arch');
    g.submit(0x10_0000_0003n, 0x5000n);
    g.submit(...WAIT(7n));
    rig.vm.clock.advance(2000);
    expect([g.r32(0x34) & 0x40, (g.r64(0xb0) >> 32n) & 0xffffn, g.load(Number(STATUS))]).toEqual([0x40, 0x10n, 0n]);
    g.submit(...WAIT(8n));
    expect(g.load(Number(STATUS))).toBe(0n);
    g.w32(0x34, 0x40);
    expect([g.r32(0x34) & 0x40, g.load(Number(STATUS))]).toEqual([0, 8n]);
  });
});

test.each([
  ['arch', 0x20, 0x10_0000_0000_0000n],
  ['qemu-11.1', 0, 0n],
] as const)(
  '%s: a completion that the endpoint was not asked for is ICE with its source id, where there is ICE',
  (profile, fsts, iqercd) => {
    const rig = new Rig({ props: { profile, deviceIotlb: true } });
    const { g } = rig;
    rig.plug(0x10, 0, { ats: true });
    g.queueOn();
    rig.units[0]!.hardware.invalidateCompletion(hostRid(0x10), 1, 1);
    expect([g.r32(0x34), profile === 'arch' ? g.r64(0xb0) : 0n]).toEqual([fsts, iqercd]);
    g.submit(...WAIT(7n));
    expect(g.load(Number(STATUS)) & 0xffff_ffffn).toBe(7n);
  },
);

describe('what linux-only loses', () => {
  test('first use, faults in the guest’s records, and shadows on demand; what the guest announces still works', () => {
    const rig = new Rig({ linuxOnly: true });
    const { g } = rig;
    const table = rig.page();
    rig.plug(0x10);
    g.map(table, 0x5000, A, 3n, rig.pools[0]!);
    rig.legacy(0x10, 5, table);
    g.queueOn();
    g.translateOn(rig.root());
    expect(rig.dma(0x10, 0x5000)).toBe(A);
    // Mapped later without a word: real hardware would find it.
    g.map(table, 0x7000, B, 3n, rig.pools[0]!);
    expect([rig.dma(0x10, 0x7000), g.fault()]).toEqual(['ABORT', [0, 0n, 0n]]);
    g.submit(0x5_0032n, 0x7000n);
    expect(rig.dma(0x10, 0x7000)).toBe(B);
    const full = new Rig();
    full.plug(0x10);
    full.g.translateOn(full.root());
    full.dma(0x10, 0x7000);
    expect(full.g.fault()).toEqual([2, 0x7000n, 0x8000_0001_0000_0010n]);
  });
});

test('memory plugged in while nested domains live is reachable at once, and gone when it is unplugged', () => {
  const rig = new Rig({ props: FIRST_STAGE });
  const { g } = rig;
  const table = rig.page();
  const NEW = 0x1_0000_0000;
  g.map(table, 0x5000, NEW, 7n, rig.pools[0]!);
  rig.plug(0x10);
  rig.scalable(0x10, 0, FIRST(1, table));
  g.translateOn(rig.root(1));
  expect(rig.dma(0x10, 0x5000)).toBe('ABORT');
  const away = rig.vm.addRam(NEW, 0x10_0000);
  expect(rig.dma(0x10, 0x5000)).toBe(NEW);
  away();
  expect(rig.dma(0x10, 0x5000)).toBe('ABORT');
  // A leaf outside RAM just fails: no fault of the guest's tables.
  expect(g.fault()).toEqual([0, 0n, 0n]);
});

test('memory unplugged under a shadowed second stage leaves the shadow, and nothing else does', () => {
  const rig = new Rig();
  const { g } = rig;
  const table = rig.page();
  const far = 0x1000_0000;
  const unplug = rig.vm.addRam(far, 0x10_0000);
  g.map(table, 0x10_0000, far + 0x3000, 3n, rig.pools[0]!);
  g.map(table, 0x10_1000, A, 3n, rig.pools[0]!);
  rig.plug(0x10);
  rig.legacy(0x10, 5, table);
  g.translateOn(rig.root());
  expect([rig.dma(0x10, 0x10_0000), rig.dma(0x10, 0x10_1000)]).toEqual([far + 0x3000, A]);
  unplug();
  expect([rig.dma(0x10, 0x10_0000), rig.dma(0x10, 0x10_1000)]).toEqual(['ABORT', A]);
});

test('RMRR: a region the guest keeps mapped one to one is there before TE, after it, and across every invalidation', () => {
  const rig = new Rig();
  const { g } = rig;
  const RMRR = 0x1f0_0000;
  const table = rig.page();
  for (let i = 0; i < 4; i++) g.map(table, RMRR + i * 4096, RMRR + i * 4096, 3n, rig.pools[0]!);
  rig.plug(0x10);
  rig.legacy(0x10, 5, table);
  const reach = (): number | string => rig.dma(0x10, RMRR + 0x2010);
  expect(reach()).toBe(RMRR + 0x2010);
  g.queueOn();
  g.translateOn(rig.root());
  expect(reach()).toBe(RMRR + 0x2010);
  for (const words of [[0x12n], [0x5_0022n], [0x5_0032n, BigInt(RMRR) | 2n], [0x11n]]) {
    g.submit(...words);
    expect([words, reach()]).toEqual([words, RMRR + 0x2010]);
  }
  g.w32(0x18, 0xc400_0000);
  expect(reach()).toBe(RMRR + 0x2010);
  g.w32(0x18, 0x0400_0000);
  expect(reach()).toBe(RMRR + 0x2010);
  expect(g.fault()).toEqual([0, 0n, 0n]);
});

test('RMRR of the host: the guest cannot put anything else there, and the rest of its leaf is not lost', () => {
  const direct = { start: 0x10_3000n, last: 0x10_3fffn, kind: 'direct' } as const;
  const rig = new Rig({ reserved: () => [direct] });
  const { g } = rig;
  const [l4, l3, l2] = [rig.page(), rig.page(), rig.page()];
  g.store(l4, BigInt(l3) | 3n);
  g.store(l3, BigInt(l2) | 3n);
  g.store(l2, BigInt(A) | 0x83n);
  let refused = '';
  try {
    rig.plug(0x10);
  } catch (e) {
    refused = String(e);
  }
  rig.legacy(0x10, 5, l4);
  g.translateOn(rig.root());
  expect([refused, rig.dma(0x10, 0x10_2000), rig.dma(0x10, 0x10_3000), rig.dma(0x10, 0x10_4000)]).toEqual([
    '',
    A + 0x10_2000,
    'ABORT',
    A + 0x10_4000,
  ]);
});

test('two units with equal domain ids, PASIDs and addresses never meet', () => {
  const rig = new Rig({ props: FIRST_STAGE, units: 2 });
  for (const [u, to] of [
    [0, A],
    [1, B],
  ] as const) {
    const table = rig.page(u);
    rig.guests[u]!.map(table, 0x5000, to, 7n, rig.pools[u]!);
    rig.plug(0x10 + u, u);
    rig.scalable(0x10 + u, 0, FIRST(1, table), u);
    rig.guests[u]!.queueOn(true);
    rig.guests[u]!.translateOn(rig.root(1, u));
    expect(rig.dma(0x10 + u, 0x5000, WRITE, NO_PASID, u)).toBe(to);
  }
  rig.guests[1]!.submit(0x12n);
  expect([rig.dma(0x10, 0x5000), rig.dma(0x11, 0x5000, WRITE, NO_PASID, 1)]).toEqual([A, B]);
});

test('a function unplugged and plugged again starts over', () => {
  const rig = new Rig({ props: FIRST_STAGE });
  const table = rig.page();
  rig.g.map(table, 0x5000, A, 7n, rig.pools[0]!);
  rig.scalable(0x10, 0, FIRST(1, table));
  const fn = rig.plug(0x10);
  rig.g.translateOn(rig.root(1));
  expect(rig.dma(0x10, 0x5000)).toBe(A);
  fn.remove();
  expect(rig.units[0]!.device.attachments()).toEqual([]);
  rig.plug(0x10);
  expect(rig.dma(0x10, 0x5000)).toBe(A);
});
