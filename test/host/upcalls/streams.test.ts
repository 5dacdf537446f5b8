import { describe, expect, test } from 'vitest';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { VIOMMU_TYPE } from '../../../src/spec/iommufd/uapi.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { fault, stand, VSID } from './stand.ts';

const EINVAL = -22;
const ENOENT = -2;
const EEXIST = -17;
const EOPNOTSUPP = -95;

describe('devices with several streams, as a whole', () => {
  const STREAMS = [8, 0x20, 0x21];

  test('have one map in every stream', () => {
    const s = stand(false, STREAMS);
    s.vdevice();
    s.attach(s.nested(0xbn));
    for (const sid of STREAMS) expect(s.ste(sid)[0]! & 0xf).toBe(0xf);
  });

  test('have one name, and a command for it reaches all of them', () => {
    const s = stand(false, STREAMS);
    s.vdevice();
    s.hw.take();
    expect(s.invalidate([OP.ATC_INV, VSID, 52, 0])).toBe(0);
    const sids = s.hw.take().flatMap((x) => (x.what === 'command' ? [x.words[1]] : []));
    expect(sids).toEqual(STREAMS);
  });

  test('the fan-out keeps order and count across batches of 63', () => {
    const s = stand(false, STREAMS);
    s.vdevice();
    s.hw.take();
    const many = Array.from({ length: 50 }, (_, i) => [OP.CFGI_CD | (i << 12), VSID, 1, 0]);
    expect(s.invalidate(...many)).toBe(0);
    expect(s.fd.invalidated).toBe(50);
    const got = s.hw.take().flatMap((x) => (x.what === 'command' ? [`${x.words[0]! >>> 12}:${x.words[1]}`] : []));
    expect(got).toEqual(many.flatMap((_, i) => STREAMS.map((sid) => `${i}:${sid}`)));
  });

  test('the fan-out counts right when the hardware refuses one of them', () => {
    const s = stand(false, STREAMS);
    s.vdevice();
    s.hw.refuse = (w) => (w[0]! >>> 12 === 30 && w[1] === STREAMS[1] ? HW_ERROR.ILLEGAL : HW_ERROR.NONE);
    expect(s.invalidate(...Array.from({ length: 50 }, (_, i) => [OP.CFGI_CD | (i << 12), VSID, 1, 0]))).toBe(-5);
    expect(s.fd.invalidated).toBe(30);
  });

  test('more streams than a batch holds are reached all the same', () => {
    const many = Array.from({ length: 150 }, (_, i) => 0x200 + i);
    const s = stand(false, many);
    s.vdevice();
    s.hw.take();
    expect(s.invalidate([OP.TLBI_NSNH_ALL, 0, 0, 0], [OP.ATC_INV, VSID, 52, 0], [OP.ATC_INV, VSID, 52, 0])).toBe(0);
    const sids = s.hw.take().flatMap((x) => (x.what === 'command' && x.command.op === 'ATC_INV' ? [x.words[1]] : []));
    expect(sids).toEqual([...many, ...many]);
  });

  test('linux-only: no vDEVICE, so no translation', () => {
    const s = stand(true, STREAMS);
    expect(s.vdevice().r).toBe(EOPNOTSUPP);
    expect(s.attach(s.nested(0xbn))).toBe(ENOENT);
  });
});

describe('single streams of a device (streamVdevice, attachStream)', () => {
  const STREAMS = [8, 0x20, 0x21];
  const VSIDS = [VSID, 0x90, 0x91];
  const INVALID = 0;
  const ABORT = 1;

  function named() {
    const s = stand(false, STREAMS);
    s.upcalls!.serve([s.vfio.devId], {});
    const names = VSIDS.map((vsid, i) => s.upcalls!.streamVdevice(s.viommu, s.vfio.devId, i, vsid));
    expect(names.every((id) => id > 0)).toBe(true);
    const config = (i: number) => s.ste(STREAMS[i]!)[0]! & 0xf;
    return { ...s, names, config, to: (i: number, id: number) => s.upcalls!.attachStream(s.vfio.devId, i, id) };
  }

  test('each have an entry of their own, and the hardware is told of that one only', () => {
    const s = named();
    const [translated, aborting] = [s.nested(0xbn), s.nested(0x1n)];
    expect(s.to(0, translated)).toBe(0);
    s.hw.take();
    expect(s.to(1, aborting)).toBe(0);
    expect([0, 1, 2].map(s.config)).toEqual([0xf, ABORT, INVALID]);
    const told = s.hw.take().flatMap((x) => (x.what === 'command' && x.command.op === 'CFGI_STE' ? [x.words[1]] : []));
    expect(new Set(told)).toEqual(new Set([0x20]));
    expect(s.to(0, 0)).toBe(0);
    expect([0, 1, 2].map(s.config)).toEqual([INVALID, ABORT, INVALID]);
  });

  test('are reached by the commands that name them, and by no other', () => {
    const s = named();
    s.hw.take();
    for (const vsid of VSIDS) expect(s.invalidate([OP.CFGI_CD, vsid, 1, 0], [OP.ATC_INV, vsid, 52, 0])).toBe(0);
    const sids = s.hw.take().flatMap((x) => (x.what === 'command' ? [x.words[1]] : []));
    expect(sids).toEqual(STREAMS.flatMap((sid) => [sid, sid]));
  });

  test('have their faults reported under their own name', () => {
    const s = named();
    const q = { flags: 0, viommuId: s.viommu, type: 1, depth: 16, reserved: 0, outVeventqId: 0, outFd: null as never };
    s.fd.veventqAlloc(q);
    for (const i of [0, 2]) expect(s.to(i, s.nested(0xbn))).toBe(0);
    for (const sid of STREAMS) s.driver.events.fault(fault(0x10, sid));
    const bytes = new Uint8Array(120);
    expect((q.outFd as unknown as { read(into: Uint8Array): number }).read(bytes)).toBe(80);
    const words = new Int32Array(bytes.buffer);
    expect([words[3], words[13]]).toEqual([VSIDS[0], VSIDS[2]]);
  });

  test('hold what they are attached to, and let go of it', () => {
    const s = named();
    const id = s.nested(0xbn);
    for (const i of [0, 1]) s.to(i, id);
    expect(s.fd.destroy(id)).toBe(-16);
    s.to(0, 0);
    expect(s.fd.destroy(id)).toBe(-16);
    s.to(1, s.nested(0x9n));
    expect(s.fd.destroy(id)).toBe(0);
  });

  test('of two vIOMMUs: each knows its own', () => {
    const s = stand(false, STREAMS);
    const v = {
      flags: 0,
      type: VIOMMU_TYPE.ARM_SMMUV3,
      devId: s.vfio.devId,
      hwptId: s.parent,
      outViommuId: 0,
      data: null,
    };
    s.fd.viommuAlloc(v);
    expect(s.upcalls!.streamVdevice(s.viommu, s.vfio.devId, 0, VSID)).toBeGreaterThan(0);
    expect(s.upcalls!.streamVdevice(v.outViommuId, s.vfio.devId, 1, 0x90)).toBeGreaterThan(0);
    expect(s.invalidate([OP.ATC_INV, 0x90, 52, 0])).toBe(-5);
    // A stage 1 goes with the name in its own vIOMMU.
    expect(s.upcalls!.attachStream(s.vfio.devId, 1, s.nested(0xbn))).toBe(ENOENT);
    expect(s.upcalls!.attachStream(s.vfio.devId, 0, s.nested(0xbn))).toBe(0);
  });

  test('lose their names with the vDEVICE', () => {
    const s = named();
    expect(s.fd.destroy(s.names[1]!)).toBe(0);
    expect(s.invalidate([OP.ATC_INV, 0x90, 52, 0])).toBe(-5);
    expect(s.to(1, s.nested(0xbn))).toBe(ENOENT);
    expect(s.upcalls!.streamVdevice(s.viommu, s.vfio.devId, 1, 0x90)).toBeGreaterThan(0);
  });

  test('are checked: stream, name, kind of HWPT; a device is attached as a whole or stream by stream', () => {
    const s = named();
    const { devId } = s.vfio;
    const up = s.upcalls!;
    expect([up.attachStream(99, 0, s.parent), s.to(3, s.parent), s.to(-1, s.parent)]).toEqual([ENOENT, EINVAL, EINVAL]);
    expect([s.to(0, s.viommu), s.to(0, 999)]).toEqual([EINVAL, EINVAL]);
    expect(up.streamVdevice(s.viommu, devId, 0, 0x77)).toBe(EEXIST);
    expect(s.vdevice(0x77n).r).toBe(EEXIST);
    expect(s.fd.destroy(s.names[2]!)).toBe(0);
    expect(up.streamVdevice(s.viommu, devId, 2, VSID)).toBe(EEXIST);
    expect([up.streamVdevice(99, devId, 2, 1), up.streamVdevice(s.viommu, 99, 2, 1)]).toEqual([ENOENT, ENOENT]);
    expect(up.streamVdevice(s.viommu, devId, 3, 1)).toBe(EINVAL);
    expect(s.attach(s.parent)).toBe(-16);
    for (const id of s.names.slice(0, 2)) s.fd.destroy(id);
    expect(s.attach(s.parent)).toBe(0);
    expect(s.to(0, s.parent)).toBe(-16);
    expect(up.streamVdevice(s.viommu, devId, 0, VSID)).toBe(-16);
  });

  test('do not follow what the rest of their group is attached to, and do so again once the device is unbound', () => {
    const s = stand(false, [8], 'g');
    const two = s.device('two', [0x40, 0x41], { group: 'g' });
    const vfio = new VfioFile(two);
    expect(vfio.bind(s.fd)).toBe(0);
    expect(s.upcalls!.attachStream(vfio.devId, 1, s.parent)).toBe(0);
    s.attach(s.parent);
    expect([0x40, 0x41].map((sid) => s.ste(sid)[0]! & 0xf)).toEqual([ABORT, 0xd]);
    vfio.close();
    expect([0x40, 0x41].map((sid) => s.ste(sid)[0]! & 0xf)).toEqual([0xd, 0xd]);
  });

  test('go with their device: everything it held is free', () => {
    const s = named();
    const id = s.nested(0xbn);
    for (const i of [0, 1, 2]) s.to(i, id);
    s.vfio.close();
    expect([0, 1, 2].map(s.config)).toEqual([INVALID, INVALID, INVALID]);
    expect([s.fd.destroy(id), s.fd.destroy(s.viommu), s.fd.destroy(s.parent)]).toEqual([0, 0, 0]);
  });
});
