import { describe, expect, test } from 'vitest';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { PasidBindings } from '../../../src/machine/pasid/bindings.ts';
import { ENQUEUE } from '../../../src/machine/pasid/cpu-pasid-table.ts';
import { PasidLayer } from '../../../src/machine/pasid/pasid-layer.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { EventFd } from '../../../src/ports/iommufd.ts';
import { HWPT_DATA, HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { CD, cfgiCd, cfgiSte, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, space } from '../smmuv3/rig.ts';
import { DATA, dataOf, fill, Intel } from './intel.ts';

const EINVAL = -22;
const ENOSPC = -28;
const EPERM = -1;

/** A program with a device of its own on the VT-d host: no vIOMMU, address spaces made with the uAPI alone. */
function program(o: ConstructorParameters<typeof Intel>[0] = {}) {
  const g = new Intel(o);
  const { iommufd, upcalls, kernel } = g.vm;
  const device = kernel.addDevice({ name: 'own', streams: [hostRid(0x99)], iommu: g.unit.driver, pasidBits: 20 });
  const vfio = new VfioFile(device);
  vfio.bind(iommufd);
  const bindings = new PasidBindings(iommufd, upcalls, g.layer);
  /** An address space in which IOVA 0x5000 and the page behind it are guest-physical `gpa` on. @returns HWPT and IOAS. */
  const addressSpace = (gpa: number) => {
    const ioas = { flags: 0, outIoasId: 0 };
    iommufd.ioasAlloc(ioas);
    const ioasId = ioas.outIoasId;
    const userVa = g.vm.memory.userVa(gpa);
    iommufd.ioasMap({ flags: 7, ioasId, reserved: 0, userVa, length: 0x2000n, iova: 0x5000n });
    const c = {
      flags: HWPT_FLAG.PASID,
      devId: vfio.devId,
      ptId: ioasId,
      outHwptId: 0,
      reserved: 0,
      dataType: HWPT_DATA.NONE,
      data: null,
      faultId: 0,
    };
    expect(iommufd.hwptAlloc(c)).toBe(0);
    return { hwptId: c.outHwptId, ioasId };
  };
  return { g, vfio, device, bindings, addressSpace, at: (pasid: number) => ({ vfio, pasid }) };
}

test('(device, optional PASID) selects an address space, and nothing else; a device has several at once', () => {
  const { g, bindings, addressSpace, at } = program();
  const pages = [0x80_0000, 0x81_0000, 0x82_0000];
  const spaces = pages.map(addressSpace);
  for (const [i, pasid] of [NO_PASID, 5, 9].entries()) expect(bindings.bind(at(pasid), spaces[i]!.hwptId)).toBe(0);
  expect([NO_PASID, 5, 9, 6].map((p) => g.dma(0x99, p, 0x5000))).toEqual([...pages, -1]);
  // A replace is the same verb again.
  expect(bindings.bind(at(9), spaces[1]!.hwptId)).toBe(0);
  expect(g.dma(0x99, 9, 0x5000)).toBe(pages[1]);
});

test('the same verbs serve a device on guest memory, a PASID table in guest memory, and a page table per PASID', () => {
  // Intel: one guest page table each.
  const intel = new Intel();
  intel.boot(0x10);
  intel.accelerator(0x10);
  intel.hostOps(true);
  intel.setPasid(5, 0);
  intel.setPasid(6, 1);
  // Arm: one table for all of them.
  const arm = new Rig({ properties: { profile: 'arch', ssidsize: 8 } });
  arm.plug(8, 0, { pasidBits: 8 });
  arm.g.setUp(5, 3, 8);
  arm.hostOps(true);
  const { ste } = space(arm.g, 0, 1);
  arm.g.ste(8, ste | (3n << 59n), 0);
  arm.g.run(cfgiSte(8), sync);
  const verbs = (ops: Record<string, number>) =>
    Object.keys(ops).filter((v) => v === 'HWPT_ALLOC' || v.endsWith('TTACH') || v === 'REPLACE');
  expect(intel.hostOps().ATTACH).toBe(2);
  const { ATTACH = 0, REPLACE = 0 } = arm.hostOps();
  expect(ATTACH + REPLACE).toBe(1);
  for (const v of [...verbs(intel.hostOps()), ...verbs(arm.hostOps())]) {
    expect(['HWPT_ALLOC', 'ATTACH', 'REPLACE']).toContain(v);
  }
});

test('a program learns whether a device has several address spaces, how wide its PASIDs are, and whose they are', () => {
  const { g, vfio, bindings } = program();
  const plain = g.vm.kernel.addDevice({ name: 'plain', streams: [hostRid(0x98)], iommu: g.unit.driver });
  const other = new VfioFile(plain);
  other.bind(g.vm.iommufd);
  expect(bindings.info(vfio, false)).toEqual({
    several: true,
    bits: 20,
    management: 'host-table',
    first: 1,
    end: 2 ** 20,
  });
  expect(bindings.info(vfio, true)).toEqual({ several: true, bits: 20, management: 'global', first: 1, end: 0x1000 });
  expect(bindings.info(other, false)).toMatchObject({ several: false, bits: 0, first: 0, end: 0 });

  const arm = new Rig({ properties: { profile: 'arch', ssidsize: 8 } });
  const fn = arm.plug(8, 0, { pasidBits: 16 });
  const armBindings = new PasidBindings(arm.vm.iommufd, arm.vm.upcalls, g.layer);
  expect(armBindings.info(fn.vfio, false)).toEqual({
    several: true,
    bits: 16,
    management: 'guest-table',
    first: 1,
    end: 2 ** 16,
  });
});

test('a guest that owns its PASID table sets PASIDs up and takes them away, and the host is told nothing', () => {
  const rig = new Rig({ properties: { profile: 'arch', ssidsize: 8 } });
  const { g } = rig;
  rig.plug(8, 0, { pasidBits: 8 });
  g.setUp(5, 3, 8);
  const spaces = [0, 1, 2].map((n) => space(g, n, 0x20 + n));
  spaces.forEach((s, n) => {
    s.tables.map(0x5000, 0x4050_0000 + 0x1000 * n);
  });
  // CDs 0..2 lie one behind the other: SSIDs 0, 1, 2 of a table of eight.
  g.ste(8, spaces[0]!.ste | (3n << 59n), 2);
  g.run(cfgiSte(8), sync);
  expect([1, 2].map((p) => rig.dma(8, 0x5000, ACCESS.WRITE, 0, p))).toEqual([0x4050_1000, 0x4050_2000]);
  rig.hostOps(true);
  // The guest gives SSID 3 the address space of SSID 1, in its own memory.
  for (let w = 0; w < 8; w++) g.put(CD + 3 * 64 + 8 * w, g.get(CD + 64 + 8 * w));
  expect(rig.dma(8, 0x5000, ACCESS.WRITE, 0, 3)).toBe(0x4050_1000);
  expect(rig.hostOps(true)).toEqual({});
  // Only what may be cached is invalidated; no object comes or goes.
  g.put(CD + 3 * 64, 0);
  g.run([(8n << 32n) | (3n << 12n) | 5n, 1], cfgiCd(8), sync);
  expect(rig.dma(8, 0x5000, ACCESS.WRITE, 0, 3)).toBe('ABORT');
  expect(Object.keys(rig.hostOps())).toEqual(['HWPT_INVALIDATE']);
});

test('PASIDs are reserved and freed without any address space behind them; they are the host’s, from the split on', () => {
  const layer = new PasidLayer(new PasidSpace(0x100, 0x103));
  const { bindings } = program({ layer });
  expect([bindings.reserve(), bindings.reserve(), bindings.reserve()]).toEqual([0x100, 0x101, 0x102]);
  expect(bindings.reserve()).toBe(ENOSPC);
  expect(bindings.free(0x101)).toBe(0);
  expect(bindings.free(0x101)).toBe(EINVAL);
  expect(bindings.reserve()).toBe(0x101);
});

test('a PASID of the pool is its owner’s alone', () => {
  const { g, vfio, bindings, addressSpace } = program();
  const pasid = bindings.reserve();
  const { hwptId } = addressSpace(0x80_0000);
  const stranger = new PasidBindings(g.vm.iommufd, g.vm.upcalls, g.layer);
  expect(stranger.bind({ vfio, pasid }, hwptId)).toBe(EPERM);
  expect(stranger.free(pasid)).toBe(EINVAL);
  expect(bindings.bind({ vfio, pasid }, hwptId)).toBe(0);
});

test('several PASIDs name one address space, and a change of it is seen by each at once', () => {
  const { g, bindings, addressSpace, at } = program();
  const { hwptId, ioasId } = addressSpace(0x80_0000);
  const pasids = [3, 4, 0x200];
  for (const p of pasids) bindings.bind(at(p), hwptId);
  expect(pasids.map((p) => g.dma(0x99, p, 0x5000))).toEqual([0x80_0000, 0x80_0000, 0x80_0000]);
  expect(bindings.boundTo(hwptId).map((r) => r.pasid)).toEqual(pasids);
  const { iommufd } = g.vm;
  expect(iommufd.ioasUnmap({ ioasId, iova: 0x5000n, length: 0x2000n })).toBe(0);
  expect(pasids.map((p) => g.dma(0x99, p, 0x5000))).toEqual([-1, -1, -1]);
  const userVa = g.vm.memory.userVa(0x90_0000);
  iommufd.ioasMap({ flags: 7, ioasId, reserved: 0, userVa, length: 0x2000n, iova: 0x5000n });
  expect(pasids.map((p) => g.dma(0x99, p, 0x5000))).toEqual([0x90_0000, 0x90_0000, 0x90_0000]);
});

test('each binding carries private data, found by (device, PASID) while it lasts', () => {
  const { bindings, addressSpace, at } = program();
  const { hwptId } = addressSpace(0x80_0000);
  const mine = { process: 42 };
  bindings.bind(at(7), hwptId, mine);
  bindings.bind(at(8), hwptId);
  expect(bindings.dataOf(at(7))).toBe(mine);
  expect(bindings.dataOf(at(8))).toBeUndefined();
  bindings.bind(at(7), hwptId, 'other');
  expect(bindings.dataOf(at(7))).toBe('other');
  bindings.unbind(at(7));
  expect(bindings.dataOf(at(7))).toBeUndefined();
});

describe('a PASID that was given back', () => {
  test('is not reused before what is in flight is through, and raises no fault report meanwhile', () => {
    const { g, vfio, bindings, addressSpace } = program({
      step: 100,
      layer: new PasidLayer(new PasidSpace(0x100, 0x101)),
    });
    const card = g.card(hostRid(0x99));
    const records: number[] = [];
    g.unit.hardware.tell = (s) => {
      if (s.what === 'fault') records.push(s.record.length);
    };
    const pasid = bindings.reserve();
    bindings.bind({ vfio, pasid }, addressSpace(0x80_0000).hwptId);
    for (let i = 0; i < 3; i++) expect(card.accelerator.enqcmd(0, fill(i + 1), pasid)).toBe(true);
    g.vm.clock.advance(100);

    // Two descriptors are left when the owner gives the PASID back.
    expect(bindings.free(pasid)).toBe(0);
    expect(g.layer.draining).toBe(1);
    expect(bindings.reserve()).toBe(ENOSPC);
    expect(g.dma(0x99, pasid, 0x5000)).toBe(-1);
    expect(records).toEqual([]);
    g.vm.clock.advance(1000);
    expect([g.layer.draining, records]).toEqual([0, []]);
    expect(bindings.reserve()).toBe(pasid);
    // From now on its faults count again.
    g.dma(0x99, pasid, 0x5000);
    expect(records).toHaveLength(1);
  });

  test('has its queued page requests answered, and those that come later refused', () => {
    const { g, bindings, addressSpace } = program();
    const { iommufd, kernel } = g.vm;
    const answers: [number, number, number][] = [];
    g.unit.endpoints.to = {
      invalidate: () => false,
      pageResponse: (_rid, pasid, group, code) => void answers.push([pasid, group, code]),
      resumed: () => {},
    };
    const dev = kernel.addDevice({
      name: 'asking',
      streams: [hostRid(0x97)],
      iommu: g.unit.driver,
      pasidBits: 20,
      ats: true,
      pri: true,
      control: { setAts: () => {}, setPri: () => {} },
    });
    const vfio = new VfioFile(dev);
    vfio.bind(iommufd);
    const queue = { flags: 0, outFaultId: 0, outFd: null as EventFd | null };
    iommufd.faultQueueAlloc(queue);
    const { ioasId } = addressSpace(0x80_0000);
    const c = {
      flags: HWPT_FLAG.PASID | HWPT_FLAG.FAULT_ID_VALID,
      devId: vfio.devId,
      ptId: ioasId,
      outHwptId: 0,
      reserved: 0,
      dataType: HWPT_DATA.NONE,
      data: null,
      faultId: queue.outFaultId,
    };
    expect(iommufd.hwptAlloc(c)).toBe(0);
    const pasid = bindings.reserve();
    expect(bindings.bind({ vfio, pasid }, c.outHwptId)).toBe(0);
    const ask = (group: number) =>
      g.unit.hardware.pageRequest(hostRid(0x97), pasid, 0x9000, 0, ACCESS.READ, group, true);
    ask(3);
    ask(4);
    // One of them has been read, the other waits in the queue; neither is answered.
    expect(queue.outFd!.read(new Uint8Array(40))).toBe(40);
    expect(answers).toEqual([]);
    bindings.free(pasid);
    expect(answers.sort()).toEqual([
      [pasid, 3, 1],
      [pasid, 4, 1],
    ]);
    ask(5);
    expect(answers[2]).toEqual([pasid, 5, 1]);
  });

  test('waits for every user, the slowest too', () => {
    const layer = new PasidLayer(new PasidSpace(0x100, 0x101));
    const idle: (() => void)[] = [];
    for (let i = 0; i < 3; i++) layer.addUser({ drain: (_p, done) => idle.push(done) });
    const { bindings, addressSpace, at } = program({ layer });
    const pasid = bindings.reserve();
    bindings.bind(at(pasid), addressSpace(0x80_0000).hwptId);
    bindings.free(pasid);
    for (const done of idle.slice(0, 2)) done();
    idle[0]!();
    expect(bindings.reserve()).toBe(ENOSPC);
    idle[2]!();
    expect(bindings.reserve()).toBe(pasid);
  });

  test('by a guest through VCMD is not handed out while the shared queue still works for it', () => {
    const g = new Intel({ step: 100 });
    g.boot(0x10);
    const card = g.accelerator(0x10, 'global');
    const [, local] = g.vcmd(1n);
    g.setPasid(local, 0);
    for (let i = 0; i < 4; i++) {
      expect(g.layer.cpu.enqcmd(card.accelerator, 0, fill(i), local)).toBe(ENQUEUE.ACCEPTED);
    }
    const twin = g.layer.cpu.translate(local);
    g.setPasid(local, -1);
    expect(g.vcmd(2n | (BigInt(local) << 16n))[0]).toBe(0);
    // The next one the guest gets has another twin, and the old work reaches none of its memory.
    const [, next] = g.vcmd(1n);
    g.setPasid(next, 1);
    expect(g.layer.cpu.translate(next)).not.toBe(twin);
    g.vm.clock.advance(10_000);
    expect([g.load32(dataOf(0)), g.load32(dataOf(1)), g.layer.draining]).toEqual([0, 0, 0]);
  });

  test('by a guest whose dedicated queue still sends it is drained under its local name too', () => {
    const g = new Intel({ step: 100 });
    g.boot(0x10);
    const card = g.accelerator(0x10);
    const [, local] = g.vcmd(1n);
    g.setPasid(local, 0);
    card.pasid = local;
    for (let i = 0; i < 3; i++) card.movdir64b(fill(9));
    g.setPasid(local, -1);
    g.vcmd(2n | (BigInt(local) << 16n));
    expect(g.vcmd(1n)[1]).not.toBe(local);
    g.vm.clock.advance(10_000);
    expect(g.vcmd(1n)[1]).toBe(local);
    expect(g.load32(dataOf(0))).toBe(0);
  });
});

describe('when its handle closes', () => {
  test('everything an owner has is drained and released, bindings before reservations or not', () => {
    const layer = new PasidLayer(new PasidSpace(0x100, 0x110));
    const { g, bindings, addressSpace, at } = program({ layer });
    const { hwptId } = addressSpace(0x80_0000);
    const reserved = [bindings.reserve(), bindings.reserve(), bindings.reserve()];
    bindings.bind(at(reserved[0]!), hwptId);
    bindings.bind(at(reserved[1]!), hwptId);
    bindings.bind(at(6), hwptId);
    bindings.bind(at(NO_PASID), hwptId);
    bindings.free(reserved[1]!);
    bindings.close();
    expect(layer.space.busy).toBe(0);
    expect([...reserved, 6, NO_PASID].map((p) => g.dma(0x99, p, 0x5000))).toEqual([-1, -1, -1, -1, -1]);
    expect(g.vm.iommufd.destroy(hwptId)).toBe(0);
    // Closing twice is nothing.
    bindings.close();
  });

  test('nothing of anybody else goes with it', () => {
    const { g, vfio, bindings, addressSpace, at } = program();
    const other = new PasidBindings(g.vm.iommufd, g.vm.upcalls, g.layer);
    const { hwptId } = addressSpace(0x80_0000);
    const [mine, theirs] = [bindings.reserve(), other.reserve()];
    bindings.bind(at(mine), hwptId);
    other.bind({ vfio, pasid: theirs }, hwptId);
    bindings.close();
    expect([g.dma(0x99, mine, 0x5000), g.dma(0x99, theirs, 0x5000)]).toEqual([-1, 0x80_0000]);
  });

  test('a VM that goes gives its twins back to the pool it shares with others', () => {
    const pool = new PasidSpace(0x100, 0x110);
    const [one, two] = [new PasidLayer(pool), new PasidLayer(pool)];
    const guests = [one, two].map((layer) => {
      const g = new Intel({ layer });
      g.boot(0x10);
      g.accelerator(0x10, 'global');
      g.setPasid(1, 0);
      g.setPasid(2, 1);
      return g;
    });
    expect(pool.busy).toBe(4);
    const twins = new Set([...one.cpu.entries, ...two.cpu.entries].map(([, global]) => global));
    expect(twins.size).toBe(4);
    one.close();
    expect([pool.busy, one.cpu.entries]).toEqual([2, []]);
    expect(guests[1]!.dma(0x10, 1, DATA)).toBe(dataOf(0));
  });
});

test('a PASID that is attached cannot be silenced, and one the guest owns the table of neither', () => {
  const { g, vfio, bindings, addressSpace, at } = program();
  bindings.bind(at(5), addressSpace(0x80_0000).hwptId);
  const { upcalls } = g.vm;
  expect(upcalls.quiet!(vfio.devId, 5, true)).toBe(-16);
  expect(upcalls.quiet!(vfio.devId, 2 ** 20, true)).toBe(EINVAL);
  expect(upcalls.quiet!(999, 6, true)).toBe(-2);
  expect(upcalls.quiet!(vfio.devId, 6, true)).toBe(0);
  const arm = new Rig();
  expect(arm.vm.upcalls.quiet!(arm.plug(8).vfio.devId, 6, true)).toBe(-95);
  expect(g.unit.hardware.translate(hostRid(0x99), 5, 0x5000, 0, ACCESS.READ, AT.UNTRANSLATED)).toBe(DMA.OK);
});
