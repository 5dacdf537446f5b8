import { expect, test } from 'vitest';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import type { HwptAlloc, UserMemory } from '../../../src/ports/iommufd.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { HWPT_DATA, HWPT_FLAG, INVALIDATE_DATA, IOAS_MAP_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { Bench, firstStageData, RAM, userData } from './bench.ts';

const MAP = IOAS_MAP_FLAG.FIXED_IOVA | IOAS_MAP_FLAG.READABLE;

/** A process whose address space is the guest's RAM from 0 on, with one open iommufd and an IOAS. */
function vmm(b = new Bench()) {
  const memory: UserMemory = {
    hpa: 0,
    run: 0,
    pin(va, bytes) {
      if (va + bytes > BigInt(RAM)) return false;
      Object.assign(this, { hpa: b.hpa + Number(va), run: Number(bytes) });
      return true;
    },
  };
  const fd = new IommufdFile(b.kernel, memory);
  const ioas = { flags: 0, outIoasId: 0 };
  fd.ioasAlloc(ioas);
  const ioasId = ioas.outIoasId;
  const dev = b.device('nic', [0x10]);
  const vfio = new VfioFile(dev);
  expect(vfio.bind(fd)).toBe(0);
  const map = (flags: number, at = 0n, length = BigInt(RAM)): number =>
    fd.ioasMap({ flags, ioasId, reserved: 0, userVa: at, length, iova: at });
  const hwpt = (ptId: number, flags: number, data: Uint8Array | null = null, faultId = 0): number => {
    const c: HwptAlloc = {
      flags,
      devId: vfio.devId,
      ptId,
      outHwptId: 0,
      reserved: 0,
      dataType: data === null ? HWPT_DATA.NONE : HWPT_DATA.VTD_S1,
      data: data === null ? null : userData(data),
      faultId,
    };
    const r = fd.hwptAlloc(c);
    return r === 0 ? c.outHwptId : r;
  };
  return { b, fd, ioasId, dev, vfio, map, hwpt };
}

test('a VMM nests a guest table over its RAM, invalidates it, and takes everything down again', () => {
  const { b, fd, ioasId, vfio, map, hwpt } = vmm();
  const before = b.memory.pagesUsed;
  expect(map(MAP | IOAS_MAP_FLAG.WRITEABLE)).toBe(0);
  const parent = hwpt(ioasId, HWPT_FLAG.NEST_PARENT | HWPT_FLAG.PASID);
  const nested = hwpt(parent, HWPT_FLAG.PASID, firstStageData(0x1_0000n));
  expect([parent > 0, nested > 0]).toEqual([true, true]);
  b.guestMap(0x1_0000, 0x7000n, 0x5000n);
  expect([vfio.attach(parent, NO_PASID), vfio.attach(nested, 5)]).toEqual([0, 0]);
  expect([b.dma(0x3000n, 0x10), b.dma(0x7000n, 0x10, 5)]).toEqual([0x3000, 0x5000]);
  b.guestMap(0x1_0000, 0x7000n, 0x6000n);
  expect(b.dma(0x7000n, 0x10, 5)).toBe(0x5000);
  const entry = new DataView(new ArrayBuffer(24));
  entry.setBigUint64(0, 0x7000n, true);
  entry.setBigUint64(8, 1n, true);
  const c = {
    hwptId: nested,
    dataType: INVALIDATE_DATA.VTD_S1,
    entryLen: 24,
    entryNum: 1,
    reserved: 0,
    data: userData(new Uint8Array(entry.buffer)),
  };
  expect([fd.hwptInvalidate(c), c.entryNum]).toEqual([0, 1]);
  expect(b.dma(0x7000n, 0x10, 5)).toBe(0x6000);
  // On a parent the verb does not exist.
  expect(fd.hwptInvalidate({ ...c, hwptId: parent })).not.toBe(0);
  vfio.close();
  fd.close();
  expect(b.dma(0x3000n, 0x10)).toBe(-0x59);
  expect(b.memory.pagesUsed).toBeLessThanOrEqual(before + 1);
});

test('read-only memory cannot be mapped once a nest parent is there', () => {
  const { ioasId, map, hwpt } = vmm();
  expect(map(MAP, 0n, 0x1000n)).toBe(0);
  expect(hwpt(ioasId, HWPT_FLAG.NEST_PARENT)).toBe(-E.INVAL);
  const other = vmm();
  expect(other.hwpt(other.ioasId, HWPT_FLAG.NEST_PARENT)).toBeGreaterThan(0);
  expect(other.map(MAP, 0n, 0x1000n)).toBe(-E.INVAL);
  const free = vmm(new Bench({ driver: { errata: false } }));
  expect(free.hwpt(free.ioasId, HWPT_FLAG.NEST_PARENT)).toBeGreaterThan(0);
  expect(free.map(MAP, 0n, 0x1000n)).toBe(0);
});

test('the interrupt window is not among the usable IOVAs of an attached device', () => {
  const { fd, ioasId, vfio } = vmm();
  expect(vfio.attach(ioasId, NO_PASID)).toBe(0);
  const ranges = {
    ioasId,
    numIovas: 8,
    reserved: 0,
    allowed: [] as { start: bigint; last: bigint }[],
    outIovaAlignment: 0n,
  };
  expect(fd.ioasIovaRanges(ranges)).toBe(0);
  expect(ranges.allowed.some((r) => r.start <= 0xfee0_0000n && r.last >= 0xfee0_0000n)).toBe(false);
  expect(ranges.allowed[0]).toEqual({ start: 0n, last: 0xfedf_ffffn });
});

test('page requests of a PASID come out of its fault queue, and the answer reaches the function', () => {
  const { b, fd, ioasId, vfio, map, hwpt } = vmm();
  map(MAP | IOAS_MAP_FLAG.WRITEABLE);
  const queue: Parameters<typeof fd.faultQueueAlloc>[0] = { flags: 0, outFaultId: 0, outFd: null };
  expect(fd.faultQueueAlloc(queue)).toBe(0);
  const parent = hwpt(ioasId, HWPT_FLAG.NEST_PARENT);
  const flags = HWPT_FLAG.PASID | HWPT_FLAG.FAULT_ID_VALID;
  const nested = hwpt(parent, flags, firstStageData(0x1_0000n), queue.outFaultId);
  expect(vfio.attach(nested, 5)).toBe(0);
  b.hw.pageRequest(0x10, 5, 0x7000, 0, 1, 3, false);
  b.hw.pageRequest(0x10, 5, 0x8000, 0, 2, 3, true);
  const records = new Uint8Array(80);
  expect(queue.outFd?.read(records)).toBe(80);
  const v = new DataView(records.buffer);
  const fields = [0, 8, 12, 16, 24].map((at) => [v.getUint32(at, true), v.getUint32(40 + at, true)]);
  expect(fields).toEqual([
    [1, 3],
    [5, 5],
    [3, 3],
    [1, 2],
    [0x7000, 0x8000],
  ]);
  expect(b.functions.responses).toEqual([]);
  const answer = new DataView(new ArrayBuffer(8));
  answer.setUint32(0, v.getUint32(36, true), true);
  expect(queue.outFd?.write(new Uint8Array(answer.buffer))).toBe(8);
  expect(b.functions.responses).toEqual([[0x10, 5, 3, 0]]);
  // What is still held when the PASID goes is answered invalid.
  b.hw.pageRequest(0x10, 5, 0x7000, 0, 1, 4, true);
  vfio.detach(5);
  expect(b.functions.responses[1]).toEqual([0x10, 5, 4, 1]);
});
