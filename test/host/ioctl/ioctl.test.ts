import { describe, expect, test } from 'vitest';
import { MockTestIoctl } from '../../../src/host/drivers/mock/test-ioctl.ts';
import type { Caller, CountedMemory, KernelFile } from '../../../src/host/ioctl/caller.ts';
import { iommufdIoctl } from '../../../src/host/ioctl/iommufd-ioctl.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { IOCTL } from '../../../src/spec/iommufd/ioctls.ts';
import { VFIO, VFIO_DMA_MAP, VFIO_DMA_UNMAP, VFIO_TYPE1_INFO } from '../../../src/spec/iommufd/vfio.ts';
import { Host, must, VA } from '../host.ts';

const ARG = 0x7000_0000n;
const SIZE = 0x3000;

/** A process with three pages at ARG whose ends can be cut off, and a table of descriptors. */
class Program implements Caller {
  readonly bytes = new Uint8Array(SIZE);
  readable = SIZE;
  writable = SIZE;
  readonly files: KernelFile[] = [];
  readonly memory: CountedMemory;
  noDescriptors = false;

  constructor(host: Host) {
    this.memory = Object.assign(host.process, { pins: host.process.pins as never }) as never;
  }
  #at(address: bigint, n: number, limit: number): number {
    const at = Number(address - ARG);
    return at >= 0 && at + n <= limit ? at : -1;
  }
  read(address: bigint, into: Uint8Array): boolean {
    const at = this.#at(address, into.length, this.readable);
    if (at >= 0) into.set(this.bytes.subarray(at, at + into.length));
    return at >= 0;
  }
  write(address: bigint, from: Uint8Array): boolean {
    const at = this.#at(address, from.length, this.writable);
    if (at >= 0) this.bytes.set(from, at);
    return at >= 0;
  }
  install(file: KernelFile): number {
    if (this.noDescriptors) return -24;
    return this.files.push(file) + 9;
  }
  installed(fd: number): KernelFile | number {
    return this.files[fd - 10] ?? -E.BADF;
  }
  pageFile(): null {
    return null;
  }
}

function setup(withTest = true) {
  const h = new Host();
  const p = new Program(h);
  const test = withTest ? new MockTestIoctl(h.fd, h.driver) : null;
  const call = (request: number, bytes: Uint8Array, at = ARG) => {
    p.bytes.set(bytes, Number(at - ARG));
    return iommufdIoctl(h.fd, request, at, p, test);
  };
  return { h, p, test, call };
}

/** A structure with its size and 0xff everywhere else that still gets past the size checks. */
function sized(size: number, bytes: number, fill = 0): Uint8Array {
  const b = new Uint8Array(bytes).fill(fill);
  new DataView(b.buffer).setUint32(0, size, true);
  return b;
}

const ALL = Object.entries(IOCTL).map(([name, i]) => ({ name, nr: i.nr, minimum: i.minimum, bytes: i.bytes }));

describe('structures', () => {
  test('sizes are those of the kernel header', () => {
    expect(Object.fromEntries(ALL.map((i) => [i.name, [i.minimum, i.bytes]]))).toEqual({
      DESTROY: [8, 8],
      IOAS_ALLOC: [12, 12],
      IOAS_ALLOW_IOVAS: [24, 24],
      IOAS_COPY: [40, 40],
      IOAS_IOVA_RANGES: [32, 32],
      IOAS_MAP: [40, 40],
      IOAS_UNMAP: [24, 24],
      OPTION: [24, 24],
      VFIO_IOAS: [12, 12],
      HWPT_ALLOC: [24, 48],
      GET_HW_INFO: [32, 40],
      SET_DIRTY_TRACKING: [16, 16],
      GET_DIRTY_BITMAP: [48, 48],
      HWPT_INVALIDATE: [32, 32],
      FAULT_QUEUE_ALLOC: [16, 16],
      IOAS_MAP_FILE: [40, 40],
      VIOMMU_ALLOC: [24, 40],
      VDEVICE_ALLOC: [24, 24],
      IOAS_CHANGE_PROCESS: [8, 8],
      VEVENTQ_ALLOC: [28, 32],
      HW_QUEUE_ALLOC: [40, 40],
    });
  });

  test('decoding an encoded structure gives it back, and members are naturally aligned', () => {
    for (const ioctl of Object.values(IOCTL)) {
      const random = Uint8Array.from({ length: ioctl.bytes }, (_, i) => (i * 37 + 11) & 0xff);
      const values = ioctl.decode(random) as never;
      const again = ioctl.decode(ioctl.encode(values));
      for (const [name, at] of Object.entries(ioctl.at)) {
        if (name === 'reserved' && ioctl.nr === IOCTL.GET_HW_INFO.nr) continue;
        expect((again as Record<string, unknown>)[name], name).toEqual((values as Record<string, unknown>)[name]);
        const big = typeof (values as Record<string, unknown>)[name] === 'bigint';
        if (big) expect((at as number) % 8, `${ioctl.nr.toString(16)} ${name}`).toBe(0);
      }
    }
  });
});

describe('every ioctl checks its size first', () => {
  test.each(ALL)('$name', ({ nr, minimum, bytes }) => {
    const { p, call } = setup();
    const number = 0x3b00 | nr;
    expect(call(number, sized(minimum - 1, bytes))).toBe(-E.INVAL);
    expect(call(number, sized(0, bytes))).toBe(-E.INVAL);
    const dirty = sized(bytes + 1, bytes + 1);
    dirty[bytes] = 1;
    expect(call(number, dirty)).toBe(-E.TOOBIG);
    // Zeroes behind it change nothing, however many there are.
    const exact = setup().call(number, sized(bytes, bytes));
    expect(setup().call(number, sized(bytes + 100, bytes + 100))).toBe(exact);
    expect(setup().call(number, sized(bytes + 0x2000, bytes + 0x2000))).toBe(exact);
    // Not all of it is there.
    p.readable = 3;
    expect(call(number, sized(bytes, bytes))).toBe(-E.FAULT);
    p.readable = minimum - 1;
    expect(call(number, sized(bytes, bytes))).toBe(-E.FAULT);
    expect(call(number, sized(minimum - 1, bytes))).toBe(-E.INVAL);
    // A tail that ends in nothing: EFAULT, unless a set bit comes first.
    p.bytes.fill(0);
    p.readable = bytes + 8;
    expect(call(number, sized(bytes + 0x100, bytes))).toBe(-E.FAULT);
    p.bytes[bytes + 4] = 1;
    expect(call(number, sized(bytes + 0x100, bytes))).toBe(-E.TOOBIG);
    // The same number with a size or a direction in it is another command.
    expect(call(number | 0x8008_0000, sized(bytes, bytes))).toBe(-E.NOTTY);
  });

  test('numbers without a command', () => {
    const { h, p, test: t, call } = setup();
    for (let nr = 0x95; nr < 0xa0; nr++) expect(call(0x3b00 | nr, sized(8, 8))).toBe(-E.NOTTY);
    for (const nr of [0x00, 0x7f, 0xa1, 0xff]) expect(call(0x3b00 | nr, sized(8, 8))).toBe(-E.NOTTY);
    // Inside the table the size is looked at first, outside it is not.
    expect(iommufdIoctl(h.fd, 0x3b95, 0n, p, t)).toBe(-E.FAULT);
    expect(iommufdIoctl(h.fd, 0x3ba1, 0n, p, t)).toBe(-E.NOTTY);
    expect(iommufdIoctl(h.fd, 0x3b95, 0n, p, null)).toBe(-E.NOTTY);
    expect(iommufdIoctl(h.fd, 0x3ba0, 0n, p, null)).toBe(-E.NOTTY);
  });

  test('a short structure is extended with zeroes', () => {
    const { h, call } = setup();
    const io = h.ioas();
    const d = h.device(io);
    const v = { size: 24, flags: 0, devId: d.idev, ptId: io, outHwptId: 0, reserved: 0 };
    const full = { ...v, dataType: 1, dataLen: 8, dataUptr: 5n, faultId: 0, reserved2: 0 };
    expect(call(0x3b89, IOCTL.HWPT_ALLOC.encode(full))).toBe(0);
    expect(call(0x3b89, IOCTL.HWPT_ALLOC.encode({ ...full, size: 48 }))).toBe(-E.OPNOTSUPP);
  });
});

describe('an answer that cannot be written takes the object back', () => {
  test.each([
    ['IOAS_ALLOC', (h: Host) => [IOCTL.IOAS_ALLOC.encode({ size: 12, flags: 0, outIoasId: 0 }), 0x81, h] as const],
    [
      'FAULT_QUEUE_ALLOC',
      (h: Host) =>
        [IOCTL.FAULT_QUEUE_ALLOC.encode({ size: 16, flags: 0, outFaultId: 0, outFaultFd: 0 }), 0x8e, h] as const,
    ],
  ])('%s', (_name, make) => {
    const { h, p, call } = setup();
    const [bytes, nr] = make(h);
    p.writable = 4;
    expect(call(0x3b00 | nr, bytes)).toBe(-E.FAULT);
    expect(h.fd.context.objects.empty).toBe(true);
    p.writable = SIZE;
    expect(call(0x3b00 | nr, bytes)).toBe(0);
    expect(new DataView(p.bytes.buffer).getUint32(8, true)).toBe(1);
  });

  test('HWPT, vIOMMU, vDEVICE, vEVENTQ, hardware queue, mock device: ids and references are as before', () => {
    const { h, p, call } = setup();
    const io = h.ioas();
    const d = h.device(io);
    const parent = h.hwpt(d.idev, io, 1);
    const v = h.viommu(d.idev, parent);
    must(h.map(io, 0x100_0000n, 0x1000n));
    p.writable = 4;
    const hwpt = {
      flags: 0,
      devId: d.idev,
      ptId: io,
      outHwptId: 0,
      reserved: 0,
      dataType: 0,
      dataLen: 0,
      dataUptr: 0n,
    };
    const before = [...h.fd.context.objects.objects()].map((o) => [o.id, o.users]);
    const tries: readonly (readonly [number, Uint8Array])[] = [
      [0x89, IOCTL.HWPT_ALLOC.encode({ size: 48, ...hwpt, faultId: 0, reserved2: 0 })],
      [
        0x90,
        IOCTL.VIOMMU_ALLOC.encode({
          size: 40,
          flags: 0,
          type: 0xdeadbeef,
          devId: d.idev,
          hwptId: parent,
          outViommuId: 0,
          dataLen: 0,
          reserved: 0,
          dataUptr: 0n,
        }),
      ],
      [0x91, IOCTL.VDEVICE_ALLOC.encode({ size: 24, viommuId: v, devId: d.idev, outVdeviceId: 0, virtId: 3n })],
      [
        0x93,
        IOCTL.VEVENTQ_ALLOC.encode({
          size: 32,
          flags: 0,
          viommuId: v,
          type: 0xbeefbeef,
          depth: 1,
          outVeventqId: 0,
          outVeventqFd: 0,
          reserved: 0,
        }),
      ],
      [
        0x94,
        IOCTL.HW_QUEUE_ALLOC.encode({
          size: 40,
          flags: 0,
          viommuId: v,
          type: 0xdeadbeef,
          index: 0,
          outHwQueueId: 0,
          nestingParentIova: 0x100_0000n,
          length: 0x1000n,
        }),
      ],
    ];
    for (const [nr, bytes] of tries) {
      expect(call(0x3b00 | nr, bytes), nr.toString(16)).toBe(-E.FAULT);
      expect([...h.fd.context.objects.objects()].map((o) => [o.id, o.users])).toEqual(before);
    }
    const mockdev = sized(72, 72);
    const view = new DataView(mockdev.buffer);
    view.setUint32(4, 2, true);
    view.setUint32(8, io, true);
    expect(call(0x3ba0, mockdev)).toBe(-E.FAULT);
    expect([...h.fd.context.objects.objects()].map((o) => [o.id, o.users])).toEqual(before);
    // And no descriptor: the queue goes as well.
    p.writable = SIZE;
    p.noDescriptors = true;
    expect(call(0x3b00 | tries[3]![0], tries[3]![1])).toBe(-E.FAULT);
    expect([...h.fd.context.objects.objects()].map((o) => [o.id, o.users])).toEqual(before);
  });
});

describe('the VFIO container of an iommufd', () => {
  test('version, extensions, types; everything else needs a compatibility IOAS', () => {
    const { h, call, p, test: t } = setup();
    const arg = (request: number, a: bigint) => iommufdIoctl(h.fd, request, a, p, t);
    expect(arg(VFIO.GET_API_VERSION, 0n)).toBe(0);
    for (const [e, r] of [
      [1, 1],
      [3, 1],
      [9, 1],
      [6, 0],
      [8, 0],
      [77, 0],
    ] as const) {
      expect(arg(VFIO.CHECK_EXTENSION, BigInt(e))).toBe(r);
    }
    expect(arg(VFIO.CHECK_EXTENSION, 4n)).toBe(-E.NODEV);
    expect(arg(VFIO.SET_IOMMU, 1n)).toBe(-E.NODEV);
    expect(arg(VFIO.SET_IOMMU, 2n)).toBe(-E.INVAL);
    expect(call(VFIO.IOMMU_MAP_DMA, VFIO_DMA_MAP.encode({ argsz: 31, flags: 3, vaddr: 0n, iova: 0n, size: 0n }))).toBe(
      -E.INVAL,
    );
    const map = { argsz: 32, flags: 3, vaddr: VA, iova: 0x10_000n, size: 0x3000n };
    expect(call(VFIO.IOMMU_MAP_DMA, VFIO_DMA_MAP.encode({ ...map, flags: 4 }))).toBe(-E.INVAL);
    expect(call(VFIO.IOMMU_MAP_DMA, VFIO_DMA_MAP.encode(map))).toBe(-E.NODEV);
    const io = h.ioas();
    must(h.fd.vfioIoas({ op: 1, ioasId: io, reserved: 0 }));
    expect(arg(VFIO.CHECK_EXTENSION, 4n)).toBe(1);
    expect(arg(VFIO.SET_IOMMU, 1n)).toBe(0);
    expect(call(VFIO.IOMMU_MAP_DMA, VFIO_DMA_MAP.encode(map))).toBe(0);
    // Type 1 unmaps from the middle of a mapping.
    const unmap = (iova: bigint, size: bigint, flags = 0) => {
      const r = call(VFIO.IOMMU_UNMAP_DMA, VFIO_DMA_UNMAP.encode({ argsz: 24, flags, iova, size }));
      return r === 0 ? VFIO_DMA_UNMAP.decode(p.bytes).size : r;
    };
    expect(unmap(0x11_000n, 0x1000n)).toBe(0x1000n);
    expect(unmap(0n, 0x10_000n)).toBe(0n);
    expect(unmap(0n, 0n, 2)).toBe(0x2000n);
    expect(unmap(1n, 0n, 2)).toBe(-E.INVAL);
    expect(unmap(0n, 0n, 1)).toBe(-E.INVAL);
  });

  test('information: what fits is written, argsz tells how much there is', () => {
    const { h, call, p } = setup();
    const ask = (argsz: number) => {
      const r = call(
        VFIO.IOMMU_GET_INFO,
        VFIO_TYPE1_INFO.encode({ argsz, flags: 0, iovaPgsizes: 0n, capOffset: 0, pad: 0 }),
      );
      return r === 0 ? VFIO_TYPE1_INFO.decode(p.bytes) : r;
    };
    expect(ask(15)).toBe(-E.INVAL);
    expect(ask(24)).toBe(-E.NODEV);
    const io = h.ioas();
    must(h.fd.vfioIoas({ op: 1, ioasId: io, reserved: 0 }));
    must(h.mock.addReserved(io, 0x1000n, 0x1000n));
    const short = ask(24);
    expect(short).toMatchObject({ argsz: 24 + 16 + 48, flags: 3, capOffset: 0 });
    const full = ask(88);
    expect(full).toMatchObject({ argsz: 88, capOffset: 24 });
    const view = new DataView(p.bytes.buffer);
    // DMA_AVAIL, then IOVA_RANGE with two ranges.
    expect([view.getUint16(24, true), view.getUint32(28, true), view.getUint32(32, true)]).toEqual([
      3, 40, 0xffff_ffff,
    ]);
    expect([view.getUint16(40, true), view.getUint32(44, true), view.getUint32(48, true)]).toEqual([1, 0, 2]);
    expect(view.getBigUint64(64, true)).toBe(0xfffn);
    expect(view.getBigUint64(72, true)).toBe(0x2000n);
  });
});
