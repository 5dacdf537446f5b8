import { describe, expect, test } from 'vitest';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import type { KernelDevice } from '../../../src/host/kernel/device.ts';
import { ContextUpcalls, objectsOf } from '../../../src/host/upcalls/context-upcalls.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import type { UpcallHandlers } from '../../../src/ports/upcalls.ts';
import { HWPT_DATA, HWPT_FLAG, VIOMMU_TYPE } from '../../../src/spec/iommufd/uapi.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { EV3, encodeEvent, PRI1 } from '../../../src/spec/smmuv3/events.ts';
import { bench, vste } from '../smmuv3/bench.ts';

const EINVAL = -22;
const ENOENT = -2;
const EEXIST = -17;
const EOPNOTSUPP = -95;
const VSID = 0x88;

/** A guest's device behind a vSMMU, everything made through the iommufd verbs. `linux`: the switch `linux-only`. */
function stand(linux: boolean, streams: readonly number[] = [8]) {
  const b = bench({ withUpcalls: !linux });
  const dev = b.device('nic', streams, { pri: true });
  const fd: IommufdFile = new IommufdFile(b.kernel, { pin: () => false, hpa: 0, run: 0 });
  const vfio = new VfioFile(dev);
  expect(vfio.bind(fd)).toBe(0);
  const ioas = { flags: 0, outIoasId: 0 };
  fd.ioasAlloc(ioas);
  const hwpt = (flags: number, ptId: number, data: ReturnType<typeof vste> | null) => {
    const c = {
      flags,
      devId: vfio.devId,
      ptId,
      outHwptId: 0,
      reserved: 0,
      dataType: data === null ? HWPT_DATA.NONE : data.type,
      data: data === null ? null : data.user,
      faultId: 0,
    };
    expect(fd.hwptAlloc(c)).toBe(0);
    return c.outHwptId;
  };
  const parent = hwpt(HWPT_FLAG.NEST_PARENT, ioas.outIoasId, null);
  const v = { flags: 0, type: VIOMMU_TYPE.ARM_SMMUV3, devId: vfio.devId, hwptId: parent, outViommuId: 0, data: null };
  expect(fd.viommuAlloc(v)).toBe(0);
  const viommu = v.outViommuId;
  const vdevice = (virtId = BigInt(VSID)) => {
    const c = { viommuId: viommu, devId: vfio.devId, outVdeviceId: 0, virtId };
    return { r: fd.vdeviceAlloc(c), id: c.outVdeviceId };
  };
  const upcalls = linux ? null : new ContextUpcalls(b.hub, objectsOf(fd.context));
  return {
    ...b,
    dev: dev as KernelDevice,
    fd,
    vfio,
    parent,
    viommu,
    vdevice,
    upcalls,
    nested: (w0: bigint, w1 = 0n) => hwpt(0, viommu, vste(w0, w1)),
    attach: (id: number) => vfio.attach(id, NO_PASID),
    invalidate: (...words: readonly number[][]) =>
      fd.invalidate(viommu, 1, Int32Array.from(words.flat()), 0, 16, words.length),
  };
}

function fault(type: number, sid: number, w3 = 0): Int32Array {
  const e = new Int32Array(8);
  encodeEvent(e, 0, type, sid, -1, w3, 0x1000, 0, 0x2000, 0);
  return e;
}

describe('first use of a stream (onStreamMiss)', () => {
  test('comes to whoever serves the device, with the stream of the device, and may attach inside', () => {
    const s = stand(false, [8, 9]);
    const asked: number[][] = [];
    const domain = s.nested(0x9n);
    s.upcalls!.serve([s.vfio.devId], {
      onStreamMiss(devId, stream, pasid) {
        asked.push([devId, stream, pasid]);
        return s.attach(domain) === 0;
      },
    });
    expect(s.ste(9)[0]).toBe(0);
    expect(s.driver.events.streamMiss(9, NO_PASID)).toBe(true);
    expect(asked).toEqual([[s.vfio.devId, 1, NO_PASID]]);
    expect(s.ste(9)[0]! & 0xf).toBe(0xd);
  });

  test('linux-only: the stream stays blocked until a command configures it', () => {
    const s = stand(true);
    expect(s.ste(8)[0]).toBe(1);
    expect(s.driver.events.streamMiss(8, NO_PASID)).toBe(false);
  });

  test('of a device nobody serves, or that does not exist, is not answered', () => {
    const s = stand(false);
    expect(s.driver.events.streamMiss(8, NO_PASID)).toBe(false);
    s.upcalls!.serve([s.vfio.devId, 999], { onStreamMiss: () => expect.unreachable() })();
    expect(s.driver.events.streamMiss(8, NO_PASID)).toBe(false);
    expect(s.driver.events.streamMiss(0x777, NO_PASID)).toBe(false);
  });
});

describe('stage-2 misses of a shadow (shadow, onStageTwoMiss)', () => {
  const missed = (s: ReturnType<typeof stand>) => s.driver.events.stageTwoMiss(8, 5, 0x1234_5000, 2, 0x1000, 0x2);

  test('come for a HWPT declared so, and for no other', () => {
    const s = stand(false);
    const seen: number[][] = [];
    s.upcalls!.serve([s.vfio.devId], {
      onStageTwoMiss(...args) {
        seen.push(args);
        return true;
      },
    });
    s.attach(s.parent);
    expect(missed(s)).toBe(false);
    expect(s.upcalls!.shadow(s.parent, true)).toBe(0);
    expect(missed(s)).toBe(true);
    expect(seen).toEqual([[s.vfio.devId, 0, 5, 0x1234_5000, 2, 0x1000, 0x2]]);
    expect(s.upcalls!.shadow(s.parent, false)).toBe(0);
    expect(missed(s)).toBe(false);
  });

  test('come through a nested domain from its parent', () => {
    const s = stand(false);
    s.upcalls!.serve([s.vfio.devId], { onStageTwoMiss: () => true });
    s.upcalls!.shadow(s.parent, true);
    s.vdevice();
    s.attach(s.nested(0xbn));
    expect(missed(s)).toBe(true);
  });

  test('need a paging HWPT', () => {
    const s = stand(false);
    for (const id of [0, 999, s.vfio.devId, s.viommu, s.nested(0x9n)]) expect(s.upcalls!.shadow(id, true)).toBe(ENOENT);
  });

  test('linux-only: they are faults', () => {
    const s = stand(true);
    s.attach(s.parent);
    expect(missed(s)).toBe(false);
  });
});

describe('faults Linux keeps to itself (onFault)', () => {
  const SILENT = [0x01, 0x02, 0x03, 0x05, 0x07, 0x09, 0x0b, 0x20, 0x21];

  test('arrive as the hardware wrote them, S2 and fetch errors included', () => {
    const s = stand(false);
    const seen: Int32Array[] = [];
    s.upcalls!.serve([s.vfio.devId], { onFault: (devId, stream, r) => seen.push(Int32Array.of(devId, stream, ...r)) });
    s.vdevice();
    s.attach(s.nested(0xbn));
    const records = [...SILENT.map((t) => fault(t, 8)), fault(0x10, 8, EV3.S2), fault(0x13, 8)];
    for (const r of records) s.driver.events.fault(r);
    expect(seen).toEqual(records.map((r) => Int32Array.of(s.vfio.devId, 0, ...r)));
  });

  test('linux-only: the guest sees none of them', () => {
    const s = stand(true);
    const q = { flags: 0, viommuId: s.viommu, type: 1, depth: 16, reserved: 0, outVeventqId: 0, outFd: null as never };
    expect(s.fd.veventqAlloc(q)).toBe(0);
    s.vdevice();
    s.attach(s.nested(0xbn));
    for (const t of SILENT) s.driver.events.fault(fault(t, 8));
    s.driver.events.fault(fault(0x10, 8, EV3.S2));
    const fd = q.outFd as unknown as { read(into: Uint8Array): number };
    expect(fd.read(new Uint8Array(4096))).toBe(0);
    s.driver.events.fault(fault(0x10, 8));
    const bytes = new Uint8Array(4096);
    expect(fd.read(bytes)).toBe(40);
    expect(new Int32Array(bytes.buffer)[3]).toBe(VSID);
  });
});

describe('devices with several streams (mapStreams)', () => {
  const STREAMS = [8, 0x20, 0x21];
  const VSIDS = [VSID, 0x90, 0x91];

  test('get a name for each, and every command reaches the stream it names', () => {
    const s = stand(false, STREAMS);
    const v = s.vdevice();
    expect(v.r).toBe(0);
    expect(s.upcalls!.mapStreams(v.id, VSIDS)).toBe(0);
    s.attach(s.nested(0xbn));
    for (const sid of STREAMS) expect(s.ste(sid)[0]! & 0xf).toBe(0xf);
    s.hw.take();
    for (const vsid of VSIDS) expect(s.invalidate([OP.CFGI_CD, vsid, 1, 0], [OP.ATC_INV, vsid, 52, 0])).toBe(0);
    const sids = s.hw.take().flatMap((x) => (x.what === 'command' ? [x.words[1]] : []));
    expect(sids).toEqual(STREAMS.flatMap((sid) => [sid, sid]));
  });

  test('with one name only, a command for it reaches all of them', () => {
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

  test('report events under the name of the stream', () => {
    const s = stand(false, STREAMS);
    const q = { flags: 0, viommuId: s.viommu, type: 1, depth: 16, reserved: 0, outVeventqId: 0, outFd: null as never };
    s.fd.veventqAlloc(q);
    s.upcalls!.mapStreams(s.vdevice().id, VSIDS);
    s.attach(s.nested(0xbn));
    for (const sid of STREAMS) s.driver.events.fault(fault(0x10, sid));
    const bytes = new Uint8Array(120);
    expect((q.outFd as unknown as { read(into: Uint8Array): number }).read(bytes)).toBe(120);
    const words = new Int32Array(bytes.buffer);
    expect([words[3], words[13], words[23]]).toEqual(VSIDS);
  });

  test('are checked: number, the vDEVICE name first, nothing twice, nobody else’s', () => {
    const s = stand(false, STREAMS);
    const v = s.vdevice();
    const other = s.device('other', [0x40, 0x41]);
    const vfio = new VfioFile(other);
    vfio.bind(s.fd);
    const c = { viommuId: s.viommu, devId: vfio.devId, outVdeviceId: 0, virtId: 0x99n };
    expect(s.fd.vdeviceAlloc(c)).toBe(0);
    expect(s.upcalls!.mapStreams(c.outVdeviceId, [0x99, 0x9a])).toBe(0);
    const map = (...vsids: number[]) => s.upcalls!.mapStreams(v.id, vsids);
    expect(s.upcalls!.mapStreams(v.id + 100, VSIDS)).toBe(ENOENT);
    expect(map(VSID, 0x90)).toBe(EINVAL);
    expect(map(0x90, VSID, 0x91)).toBe(EINVAL);
    expect(map(VSID, 0x90, 0x90)).toBe(EEXIST);
    expect(map(VSID, 0x90, 0x99)).toBe(EEXIST);
    expect(map(VSID, 0x90, 0x9a)).toBe(EEXIST);
    expect(map(...VSIDS)).toBe(0);
    expect(map(VSID, 0x91, 0x90)).toBe(0);
  });

  test('are forgotten with the vDEVICE', () => {
    const s = stand(false, STREAMS);
    const v = s.vdevice();
    s.upcalls!.mapStreams(v.id, VSIDS);
    expect(s.fd.destroy(v.id)).toBe(0);
    expect(s.invalidate([OP.ATC_INV, 0x90, 52, 0])).toBe(-5);
  });

  test('linux-only: no vDEVICE, so no translation', () => {
    const s = stand(true, STREAMS);
    expect(s.vdevice().r).toBe(EOPNOTSUPP);
    expect(s.attach(s.nested(0xbn))).toBe(ENOENT);
  });
});

describe('page requests and stalls (onPageRequest, respond)', () => {
  const request = Int32Array.of(8, PRI1.READ | PRI1.LAST | PRI1.SSV | 3, 0x1000 | 7, 0);

  test('are answered by the listener', () => {
    const s = stand(false);
    s.upcalls!.serve([s.vfio.devId], { onPageRequest: () => true });
    s.hw.take();
    s.driver.events.pageRequest(request);
    expect(s.hw.take()).toEqual([]);
    expect(s.upcalls!.respond(s.vfio.devId, 3, 7, 0, false)).toBe(0);
    expect(s.hw.take()[0]).toMatchObject({ command: { op: 'PRI_RESP', resp: 2 } });
    expect(s.upcalls!.respond(s.vfio.devId, 3, 7, 0, false)).toBe(EINVAL);
    expect(s.upcalls!.respond(999, 3, 7, 0, false)).toBe(ENOENT);
  });

  test('linux-only: Linux denies them all', () => {
    const s = stand(true);
    s.hw.take();
    s.driver.events.pageRequest(request);
    expect(s.hw.take()[0]).toMatchObject({ command: { op: 'PRI_RESP', resp: 0 } });
  });
});

describe('invalidations that are not finished when the call returns (outstanding, onInvalidateError)', () => {
  function served(linux: boolean) {
    const s = stand(linux);
    const heard: string[] = [];
    const handlers: UpcallHandlers = {
      onInvalidateError: (_d, error) => heard.push(`error ${error}`),
      onDrained: () => heard.push('drained'),
    };
    s.upcalls?.serve([s.vfio.devId], handlers);
    s.vdevice();
    s.attach(s.nested(0xbn, 1n << 28n));
    return { ...s, heard, handlers };
  }

  test('are counted until their completion comes, a late error before it', () => {
    const s = served(false);
    s.hw.token = 41;
    expect(s.invalidate([OP.ATC_INV, VSID, 52, 0])).toBe(0);
    s.hw.token = 42;
    expect(s.invalidate([OP.ATC_INV, VSID, 52, 0])).toBe(0);
    expect(s.upcalls!.outstanding(s.handlers)).toBe(2);
    s.driver.events.completed(41, HW_ERROR.NONE, 8);
    expect(s.heard).toEqual([]);
    s.driver.events.completed(42, HW_ERROR.ATC_TIMEOUT, 8);
    expect(s.heard).toEqual([`error ${HW_ERROR.ATC_TIMEOUT}`, 'drained']);
    expect(s.upcalls!.outstanding(s.handlers)).toBe(0);
    s.driver.events.completed(42, HW_ERROR.NONE, 8);
    expect(s.heard).toHaveLength(2);
  });

  test('are waited for also when the kernel itself asked, but then their errors are not the guest’s', () => {
    const s = served(false);
    s.hw.token = 43;
    s.attach(s.nested(0x4bn, 1n << 28n));
    expect(s.upcalls!.outstanding(s.handlers)).toBe(1);
    s.driver.events.completed(43, HW_ERROR.ATC_TIMEOUT, 8);
    expect(s.heard).toEqual(['drained']);
  });

  test('a timeout within the call is told as well, and the call succeeds', () => {
    const s = served(false);
    let failures = 1;
    s.hw.refuseSync = () => (failures-- > 0 ? HW_ERROR.ATC_TIMEOUT : HW_ERROR.NONE);
    expect(s.invalidate([OP.ATC_INV, VSID, 52, 0])).toBe(0);
    expect(s.heard).toEqual([`error ${HW_ERROR.ATC_TIMEOUT}`]);
  });

  test('linux-only: neither is known to the guest', () => {
    const s = served(true);
    s.hw.token = 41;
    let failures = 1;
    s.hw.refuseSync = () => (failures-- > 0 ? HW_ERROR.ATC_TIMEOUT : HW_ERROR.NONE);
    expect(s.invalidate([OP.ATC_INV, VSID, 52, 0])).toBe(0);
    s.driver.events.completed(41, HW_ERROR.ATC_TIMEOUT, 8);
    expect(s.heard).toEqual([]);
  });
});
