import { describe, expect, test } from 'vitest';
import { smmuv3Defaults } from '../../../devices/smmuv3/properties.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { type Grace, PasidBindings, type PasidUser, type Routing } from '../../../src/machine/pasid/bindings.ts';
import { PasidLayer } from '../../../src/machine/pasid/pasid-layer.ts';
import { Smmuv3Unit } from '../../../src/machine/smmuv3-unit.ts';
import { Vm } from '../../../src/machine/vm.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { HWPT_DATA, HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { DATA, dataOf, fill, Intel, RAM_BYTES } from './intel.ts';

const IOVA = 0x5000;
const RID = 0x99;
const EBUSY = -16;
const EBADFD = -77;
const ENOSPC = -28;
const ENOENT = -2;
const EINPROGRESS = -115;
const ECANCELED = -125;

type Host = 'vtd' | 'smmuv3';
const HOSTS: readonly Host[] = ['vtd', 'smmuv3'];

/** A host with either IOMMU, and a program with a device of its own: no vIOMMU, address spaces made with the uAPI alone. */
function program(host: Host, grace: ((vm: Vm) => Grace) | null = null) {
  const layer = new PasidLayer(new PasidSpace(0x40, 0x48));
  const irq = { pulse() {}, level() {}, message: () => true };
  const vm = new Vm({ ram: [{ base: 0, bytes: RAM_BYTES }] });
  const unit =
    host === 'vtd'
      ? new Intel({ vm, layer }).unit
      : new Smmuv3Unit(vm, {
          name: 's',
          properties: { ...smmuv3Defaults('arch'), ssidsize: 8 },
          irq,
          doorbell: 0x809_0000,
        });
  const device = vm.kernel.addDevice({ name: 'own', streams: [hostRid(RID)], iommu: unit.driver, pasidBits: 8 });
  const vfio = new VfioFile(device);
  expect(vfio.bind(vm.iommufd)).toBe(0);
  const bindings = new PasidBindings(vm.iommufd, vm.upcalls, layer, grace?.(vm) ?? null);
  const addressSpace = (gpa: number) => {
    const ioas = { flags: 0, outIoasId: 0 };
    vm.iommufd.ioasAlloc(ioas);
    const ioasId = ioas.outIoasId;
    const userVa = vm.memory.userVa(gpa);
    vm.iommufd.ioasMap({ flags: 7, ioasId, reserved: 0, userVa, length: 0x1000n, iova: BigInt(IOVA) });
    const c = { flags: HWPT_FLAG.PASID, devId: vfio.devId, ptId: ioasId, outHwptId: 0, reserved: 0, faultId: 0 };
    const hwpt = { ...c, dataType: HWPT_DATA.NONE, data: null };
    expect(vm.iommufd.hwptAlloc(hwpt)).toBe(0);
    return hwpt.outHwptId;
  };
  const dma = (pasid: number) => {
    const hw = unit.hardware;
    const r = hw.translate(hostRid(RID), pasid, IOVA, 0, ACCESS.WRITE, AT.UNTRANSLATED);
    return r === DMA.OK ? vm.memory.gpaOf(hw.out) : -1;
  };
  const records: number[] = [];
  unit.hardware.tell = (s) => {
    if (s.what === 'fault') records.push(s.record.length);
  };
  return { vm, unit, layer, vfio, bindings, addressSpace, dma, records, at: (pasid: number) => ({ vfio, pasid }) };
}

/** A user that answers when the test lets it. */
function slowUser() {
  const told: number[] = [];
  const answers: (() => void)[] = [];
  const user: PasidUser = {
    leaving: ({ pasid }: Routing, done) => {
      told.push(pasid);
      answers.push(done);
    },
  };
  return { user, told, answers };
}

describe.each(HOSTS)('a PASID on a %s host', (host) => {
  test('that drains faults silently, beside one that goes on; afterwards its faults count again', () => {
    const p = program(host);
    let through = () => {};
    p.layer.addUser({
      drain: (_pasid, idle) => {
        through = idle;
      },
    });
    for (const [pasid, gpa] of [
      [5, 0x80_0000],
      [6, 0x81_0000],
    ] as const) {
      expect(p.bindings.bind(p.at(pasid), p.addressSpace(gpa))).toBe(0);
    }
    expect([p.dma(5), p.dma(6)]).toEqual([0x80_0000, 0x81_0000]);
    p.bindings.unbind(p.at(5));
    expect([p.dma(5), p.dma(6), p.records]).toEqual([-1, 0x81_0000, []]);
    through();
    p.dma(5);
    expect(p.records).toHaveLength(1);
    // Bound again it works, silent or not before.
    p.bindings.unbind(p.at(6));
    expect(p.bindings.bind(p.at(6), p.addressSpace(0x82_0000))).toBe(0);
    expect(p.dma(6)).toBe(0x82_0000);
  });

  test('stays what it is until its user, who is told first, is through', () => {
    const p = program(host);
    const { user, told, answers } = slowUser();
    const pasid = p.bindings.reserve();
    const hwptId = p.addressSpace(0x80_0000);
    expect(p.bindings.bind(p.at(pasid), hwptId, 'mine', user)).toBe(0);
    expect(p.bindings.free(pasid)).toBe(0);
    expect([told, p.dma(pasid)]).toEqual([[pasid], 0x80_0000]);
    expect(p.bindings.bind(p.at(pasid), hwptId)).not.toBe(0);
    // Nobody else gets it meanwhile.
    const others = Array.from({ length: 7 }, () => p.bindings.reserve());
    expect([others.includes(pasid), p.bindings.reserve()]).toEqual([false, ENOSPC]);
    answers[0]!();
    expect([p.dma(pasid), p.bindings.reserve()]).toEqual([-1, pasid]);
    answers[0]!();
    expect(p.bindings.reserve()).toBe(ENOSPC);
  });

  test('loses its address space at the end of the grace period, and is not used again before its user has said so', () => {
    const p = program(host, (vm) => ({ clock: vm.clock, nanoseconds: 1000 }));
    const { user, answers } = slowUser();
    const pasid = p.bindings.reserve();
    p.bindings.bind(p.at(pasid), p.addressSpace(0x80_0000), null, user);
    p.bindings.free(pasid);
    p.vm.clock.advance(999);
    expect(p.dma(pasid)).toBe(0x80_0000);
    expect(p.bindings.bind(p.at(pasid), p.addressSpace(0x81_0000))).toBe(-1);
    p.vm.clock.advance(1);
    expect([p.dma(pasid), p.layer.space.busy]).toEqual([-1, 1]);
    answers[0]!();
    expect(p.layer.space.busy).toBe(0);
  });

  test('that is being taken back cannot be bound', () => {
    const p = program(host);
    const { user, told, answers } = slowUser();
    p.bindings.bind(p.at(5), p.addressSpace(0x80_0000), null, user);
    p.bindings.unbind(p.at(5));
    expect(p.bindings.bind(p.at(5), p.addressSpace(0x82_0000))).toBe(EBUSY);
    answers[0]!();
    expect([told, p.dma(5)]).toEqual([[5], -1]);
  });

  test('gets another address space when its user, who is told first, is through', () => {
    const p = program(host);
    const [one, two] = [slowUser(), slowUser()];
    const results: number[] = [];
    const [a, b] = [p.addressSpace(0x80_0000), p.addressSpace(0x81_0000)];
    p.bindings.bind(p.at(5), a, 'a', one.user);
    expect(p.bindings.bind(p.at(5), b, 'b', two.user, (r) => results.push(r))).toBe(EINPROGRESS);
    expect([one.told, p.dma(5), p.bindings.dataOf(p.at(5)), results]).toEqual([[5], 0x80_0000, 'a', []]);
    expect(p.bindings.bind(p.at(5), b)).toBe(EBUSY);
    one.answers[0]!();
    expect([p.dma(5), p.bindings.dataOf(p.at(5)), results, two.told]).toEqual([0x81_0000, 'b', [0], []]);
    one.answers[0]!();
    p.bindings.unbind(p.at(5));
    expect([two.told, p.dma(5)]).toEqual([[5], 0x81_0000]);
    two.answers[0]!();
    expect([one.told, p.dma(5), results]).toEqual([[5], -1, [0]]);
  });

  test('gets another one at once when its user is through at once, and nobody has to wait without a user', () => {
    const p = program(host);
    const seen: number[] = [];
    const quick: PasidUser = {
      leaving: (_r, done) => {
        seen.push(p.dma(5));
        done();
      },
    };
    const results: number[] = [];
    for (const gpa of [0x80_0000, 0x81_0000, 0x82_0000]) {
      expect(p.bindings.bind(p.at(5), p.addressSpace(gpa), null, quick, (r) => results.push(r))).toBe(0);
      expect(p.dma(5)).toBe(gpa);
    }
    expect(p.bindings.bind(p.at(5), p.addressSpace(0x83_0000))).toBe(0);
    expect(p.bindings.bind(p.at(5), p.addressSpace(0x84_0000))).toBe(0);
    expect([seen, p.dma(5), results]).toEqual([[0x80_0000, 0x81_0000, 0x82_0000], 0x84_0000, []]);
  });

  test('gets another one at the end of the grace period; what its user says later ends nothing of the next user', () => {
    const p = program(host, (vm) => ({ clock: vm.clock, nanoseconds: 1000 }));
    const [one, two] = [slowUser(), slowUser()];
    const pasid = p.bindings.reserve();
    p.bindings.bind(p.at(pasid), p.addressSpace(0x80_0000), null, one.user);
    expect(p.bindings.bind(p.at(pasid), p.addressSpace(0x81_0000), null, two.user)).toBe(EINPROGRESS);
    p.vm.clock.advance(999);
    expect(p.dma(pasid)).toBe(0x80_0000);
    p.vm.clock.advance(1);
    expect(p.dma(pasid)).toBe(0x81_0000);
    expect(p.bindings.bind(p.at(pasid), p.addressSpace(0x82_0000))).toBe(EINPROGRESS);
    one.answers[0]!();
    p.vm.clock.advance(500);
    expect(p.dma(pasid)).toBe(0x81_0000);
    two.answers[0]!();
    expect(p.dma(pasid)).toBe(0x82_0000);
    p.bindings.free(pasid);
    expect([p.dma(pasid), p.layer.space.busy]).toEqual([-1, 0]);
  });

  test('is taken back instead when that is asked for meanwhile, and its user is told once', () => {
    const p = program(host);
    const { user, told, answers } = slowUser();
    const results: number[] = [];
    const pasid = p.bindings.reserve();
    p.bindings.bind(p.at(pasid), p.addressSpace(0x80_0000), null, user);
    p.bindings.bind(p.at(pasid), p.addressSpace(0x81_0000), null, null, (r) => results.push(r));
    p.bindings.free(pasid);
    expect([results, told, p.dma(pasid)]).toEqual([[ECANCELED], [pasid], 0x80_0000]);
    answers[0]!();
    expect([told, p.dma(pasid), p.layer.space.busy]).toEqual([[pasid], -1, 0]);
  });

  test('keeps what it has when the host refuses the other one', () => {
    const p = program(host);
    const { user, answers } = slowUser();
    const results: number[] = [];
    p.bindings.bind(p.at(5), p.addressSpace(0x80_0000), null, user);
    p.bindings.bind(p.at(5), 12345, null, null, (r) => results.push(r));
    answers[0]!();
    expect([results, p.dma(5)]).toEqual([[ENOENT], 0x80_0000]);
    expect(p.bindings.bind(p.at(5), p.addressSpace(0x81_0000))).toBe(0);
    expect(p.dma(5)).toBe(0x81_0000);
  });

  test.each(['unbind', 'free', 'replace', 'bindings', 'device', 'iommufd', 'layer'] as const)(
    'still has its address space while its user is told of its end (%s)',
    (how) => {
      const p = program(host);
      const pasid = p.bindings.reserve();
      const seen: number[] = [];
      const user: PasidUser = {
        leaving: (_r, done) => {
          seen.push(p.dma(pasid));
          done();
        },
      };
      const other = p.addressSpace(0x81_0000);
      p.bindings.bind(p.at(pasid), p.addressSpace(0x80_0000), null, user);
      ({
        unbind: () => p.bindings.unbind(p.at(pasid)),
        free: () => p.bindings.free(pasid),
        replace: () => p.bindings.bind(p.at(pasid), other),
        bindings: () => p.bindings.close(),
        device: () => p.vfio.close(),
        iommufd: () => p.vm.iommufd.close(),
        layer: () => p.layer.close(),
      })[how]();
      expect([seen, p.dma(pasid)]).toEqual([[0x80_0000], how === 'replace' ? 0x81_0000 : -1]);
    },
  );

  const CLOSERS = ['bindings', 'device', 'iommufd', 'layer'] as const;
  const orders = CLOSERS.flatMap((a) =>
    CLOSERS.filter((b) => b !== a).flatMap((b) =>
      CLOSERS.filter((c) => c !== a && c !== b).map((c) => [a, b, c, CLOSERS.find((d) => ![a, b, c].includes(d))!]),
    ),
  );

  test('goes with everything that is closed, in each of the 24 orders, and users are told once', () => {
    for (const order of orders) {
      const p = program(host);
      const { user, told, answers } = slowUser();
      const [bound, spare] = [p.bindings.reserve(), p.bindings.reserve()];
      p.bindings.bind(p.at(bound), p.addressSpace(0x80_0000), null, user);
      p.bindings.bind(p.at(6), p.addressSpace(0x81_0000));
      expect([p.dma(bound), p.dma(6), p.layer.space.busy]).toEqual([0x80_0000, 0x81_0000, 2]);
      const close = {
        bindings: () => p.bindings.close(),
        device: () => p.vfio.close(),
        iommufd: () => p.vm.iommufd.close(),
        layer: () => p.layer.close(),
      };
      for (const [i, what] of order.entries()) {
        close[what as keyof typeof close]();
        if (i > 0) continue;
        expect([what, p.dma(bound), p.dma(6), told]).toEqual([what, -1, -1, [bound]]);
        // A reservation without a device is the program's own, and outlives a device.
        expect(p.layer.space.busy).toBe(what === 'device' ? 2 : 1);
      }
      expect(p.layer.space.busy).toBe(1);
      for (const done of answers) done();
      expect([order, told, p.layer.space.busy, p.layer.draining]).toEqual([order, [bound], 0, 0]);
      expect([p.bindings.reserve(), p.bindings.bind(p.at(spare), 1)]).toEqual([ENOSPC, EBADFD]);
    }
  });
});

describe('when the PASIDs of a VM are closed', () => {
  test('its twins and its slices’ PASIDs are attached to nothing, back in the pool, and stay there', () => {
    const pool = new PasidSpace(0x1000, 0x1100);
    const g = new Intel({ layer: new PasidLayer(pool) });
    g.boot(0x10, 0x18);
    const card = g.accelerator(0x10, 'global');
    const parent = g.unit.addFunction([0x99], [hostRid(0x99)], { name: 'parent', pasidBits: 20 });
    g.unit.addSlice(0x18, parent, 40);
    g.setPasid(3, 0);
    const [, twin] = g.unit.device.hostPasids(0x10, 3);
    const [real] = g.unit.device.hostPasids(0x18, 3);
    const reach = () => [g.dma(0x10, 3, DATA), g.dma(0x10, twin!, DATA), g.dma(0x99, real!, DATA)];
    expect(reach()).toEqual([dataOf(0), dataOf(0), dataOf(0)]);
    g.layer.close();
    expect([reach(), pool.busy, g.layer.cpu.entries]).toEqual([[-1, -1, -1], 0, []]);
    g.setPasid(3, 0);
    expect([reach(), pool.busy, g.r32(0x34) & 0x10]).toEqual([[-1, -1, -1], 0, 0]);
    expect(g.layer.cpu.enqcmd(card.accelerator, 0, fill(1), 3)).toBe(2);
    expect(g.dma(0x10, NO_PASID, DATA)).toBe(-1);
  });
});
