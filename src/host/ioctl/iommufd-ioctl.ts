import type { EventFd, IoasIovaRange } from '../../ports/iommufd.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { IOCTL, IOMMUFD_CMD, IOMMUFD_TYPE, IOVA_RANGE, type Ioctl } from '../../spec/iommufd/ioctls.ts';
import type { Members, Values } from '../../spec/iommufd/structs.ts';
import type { IommufdFile } from '../iommufd/file.ts';
import { checkZero } from '../iommufd/verbs/invalidate.ts';
import * as ioasVerbs from '../iommufd/verbs/ioas.ts';
import { type Caller, callerData, type KernelFile } from './caller.ts';
import { containerIoctl } from './vfio-container.ts';

/** Answers a command: copies no more of the structure than the user has. false: EFAULT. */
type Answer<V> = (values: V) => boolean;

interface Op {
  readonly number: number;
  readonly minimum: number;
  readonly bytes: number;
  run(
    file: IommufdFile,
    bytes: Uint8Array,
    caller: Caller,
    answer: (bytes: Uint8Array) => boolean,
    arg: bigint,
  ): number;
}

function op<M extends Members>(
  ioctl: Ioctl<M>,
  run: (file: IommufdFile, v: Values<M>, caller: Caller, answer: Answer<Values<M>>, arg: bigint) => number,
): Op {
  return {
    number: (IOMMUFD_TYPE << 8) | ioctl.nr,
    minimum: ioctl.minimum,
    bytes: ioctl.bytes,
    run: (file, bytes, caller, answer, arg) =>
      run(file, ioctl.decode(bytes), caller, (values) => answer(ioctl.encode(values)), arg),
  };
}

/** Installs an event queue's file and puts its descriptor where the answer carries it. */
function installEvents(caller: Caller, fd: EventFd | null): number {
  const file: KernelFile = {
    read: (into) => fd!.read(into),
    write: (from) => fd!.write(from),
    poll: () => fd!.poll(),
    get onReadable() {
      return fd?.onReadable ?? null;
    },
    set onReadable(tell) {
      if (fd !== null) fd.onReadable = tell;
    },
    close: () => fd!.close(),
  };
  return caller.install(file);
}

const OPS: readonly Op[] = [
  op(IOCTL.DESTROY, (f, v) => f.destroy(v.id)),
  op(IOCTL.IOAS_ALLOC, (f, v, _c, answer) => f.ioasAlloc(v, () => answer(v))),
  op(IOCTL.IOAS_ALLOW_IOVAS, (f, v, caller) => {
    const entry = new Uint8Array(IOVA_RANGE.bytes);
    caller.expect?.(v.allowedIovas, v.numIovas * IOVA_RANGE.bytes);
    return ioasVerbs.allowIovas(f.context, v.ioasId, v.reserved, v.numIovas, (i) => {
      const at = v.allowedIovas + BigInt(i * IOVA_RANGE.bytes);
      return caller.read(at, entry) ? IOVA_RANGE.decode(entry) : null;
    });
  }),
  op(IOCTL.IOAS_COPY, (f, v, _c, answer) => f.ioasCopy(v, () => answer(v))),
  op(IOCTL.IOAS_IOVA_RANGES, (f, v, caller, answer) => {
    const c = { ...v, allowed: [] as IoasIovaRange[] };
    return f.ioasIovaRanges(c, () => {
      for (const [i, r] of c.allowed.entries()) {
        if (!caller.write(v.allowedIovas + BigInt(i * IOVA_RANGE.bytes), IOVA_RANGE.encode(r))) return false;
      }
      return answer({ ...v, numIovas: c.numIovas, outIovaAlignment: c.outIovaAlignment });
    });
  }),
  op(IOCTL.IOAS_MAP, (f, v, _c, answer) => f.ioasMap(v, () => answer(v))),
  op(IOCTL.IOAS_UNMAP, (f, v, _c, answer) => f.ioasUnmap(v, () => answer(v))),
  op(IOCTL.OPTION, (f, v, caller, _answer, arg) =>
    // Only the value goes back.
    f.option(v, () =>
      caller.write(arg + BigInt(IOCTL.OPTION.at.val64), IOCTL.OPTION.encode(v).subarray(IOCTL.OPTION.at.val64)),
    ),
  ),
  op(IOCTL.VFIO_IOAS, (f, v, _c, answer) => f.vfioIoas(v, () => answer(v))),
  op(IOCTL.HWPT_ALLOC, (f, v, caller, answer) => {
    const c = { ...v, data: callerData(caller, v.dataUptr, v.dataLen) };
    return f.hwptAlloc(c, () => answer({ ...v, outHwptId: c.outHwptId }));
  }),
  op(IOCTL.GET_HW_INFO, (f, v, caller, answer) => {
    const c = { ...v, data: callerData(caller, v.dataUptr, v.dataLen) };
    const respond = () =>
      answer({
        ...v,
        dataLen: c.dataLen,
        dataType: c.dataType,
        outMaxPasidLog2: c.outMaxPasidLog2,
        outCapabilities: c.outCapabilities,
      });
    return f.getHwInfo(c, respond, v.reserved);
  }),
  op(IOCTL.SET_DIRTY_TRACKING, (f, v) => f.setDirtyTracking(v)),
  op(IOCTL.GET_DIRTY_BITMAP, (f, v, caller) => {
    // Bits that have been read are clear: the bitmap must be at hand before that.
    const pages = v.pageSize === 0n ? 0n : v.length / v.pageSize;
    const bytes = Number((pages + 7n) / 8n);
    if (caller.ready?.(v.data, bytes, true) === false) return -E.NOMEM;
    return f.getDirtyBitmap({ ...v, data: callerData(caller, v.data, Number.MAX_SAFE_INTEGER) });
  }),
  op(IOCTL.HWPT_INVALIDATE, (f, v, caller, answer) => {
    const data = v.dataUptr === 0n ? null : callerData(caller, v.dataUptr, v.entryLen * v.entryNum);
    const c = { ...v, data };
    return f.hwptInvalidate(c, () => answer({ ...v, entryNum: c.entryNum }));
  }),
  op(IOCTL.FAULT_QUEUE_ALLOC, (f, v, caller, answer) => {
    const c = { ...v, outFd: null as EventFd | null };
    return f.faultQueueAlloc(c, () => {
      const fd = installEvents(caller, c.outFd);
      return fd >= 0 && answer({ ...v, outFaultId: c.outFaultId, outFaultFd: fd });
    });
  }),
  op(IOCTL.IOAS_MAP_FILE, (f, v, caller, answer) => {
    const c = { ...v, file: caller.pageFile(v.fd) };
    return f.ioasMapFile(c, () => answer({ ...v, iova: c.iova }));
  }),
  op(IOCTL.VIOMMU_ALLOC, (f, v, caller, answer) => {
    const c = { ...v, data: callerData(caller, v.dataUptr, v.dataLen) };
    return f.viommuAlloc(c, () => answer({ ...v, outViommuId: c.outViommuId }));
  }),
  op(IOCTL.VDEVICE_ALLOC, (f, v, _c, answer) => f.vdeviceAlloc(v, () => answer(v))),
  op(IOCTL.IOAS_CHANGE_PROCESS, (f, v) => f.ioasChangeProcess(v.reserved)),
  op(IOCTL.VEVENTQ_ALLOC, (f, v, caller, answer) => {
    const c = { ...v, outFd: null as EventFd | null };
    return f.veventqAlloc(c, () => {
      const fd = installEvents(caller, c.outFd);
      return fd >= 0 && answer({ ...v, outVeventqId: c.outVeventqId, outVeventqFd: fd });
    });
  }),
  op(IOCTL.HW_QUEUE_ALLOC, (f, v, _c, answer) => f.hwQueueAlloc(v, () => answer(v))),
];

const BY_NR = new Map(OPS.map((o) => [o.number & 0xff, o]));
const LAST_OP = Math.max(...BY_NR.keys());

/** IOMMU_TEST_CMD, where a kernel with the test driver has it. */
export interface TestIoctl {
  readonly number: number;
  readonly minimum: number;
  readonly bytes: number;
  run(bytes: Uint8Array, caller: Caller, answer: (bytes: Uint8Array) => boolean): number;
}

/**
 * ioctl(2) on an open /dev/iommu: finds the command, checks sizes as the kernel does (shorter structures are zero-extended,
 * longer ones must end in zeroes) and runs it.
 * @returns ≥ 0 or -errno.
 */
export function iommufdIoctl(
  file: IommufdFile,
  request: number,
  arg: bigint,
  caller: Caller,
  test: TestIoctl | null,
): number {
  file.context.memory = caller.memory;
  file.context.privileged = caller.privileged ?? file.context.privileged;
  const nr = request & 0xff;
  const last = test === null ? LAST_OP : IOMMUFD_CMD.TEST;
  if (nr < IOMMUFD_CMD.FIRST || nr > last) return containerIoctl(file.context, request, arg, caller);
  const found = nr === IOMMUFD_CMD.TEST ? test : BY_NR.get(nr);
  const known = found !== undefined && found !== null && found.number === request ? found : null;
  // One copy for the common case; a structure that is not all there is looked at word by word.
  const bytes = new Uint8Array(known?.bytes ?? 4);
  const whole = caller.read(arg, bytes);
  if (!whole && !caller.read(arg, bytes.subarray(0, 4))) return -E.FAULT;
  const size = new DataView(bytes.buffer).getUint32(0, true);
  if (known === null) return -E.NOTTY;
  if (size < known.minimum) return -E.INVAL;
  if (size > known.bytes) {
    const tail = checkZero(callerData(caller, arg, size), known.bytes, size - known.bytes);
    if (tail !== 0) return tail;
  }
  const given = Math.min(size, known.bytes);
  if (whole) bytes.fill(0, given);
  else if (given === known.bytes || !caller.read(arg, bytes.subarray(0, given))) return -E.FAULT;
  const answer = (out: Uint8Array) => caller.write(arg, out.subarray(0, given));
  return nr === IOMMUFD_CMD.TEST && test !== null
    ? test.run(bytes, caller, answer)
    : (known as Op).run(file, bytes, caller, answer, arg);
}
