/** Linux 7.2, include/uapi/linux/iommufd.h: structures of the commands. */

import { type Members, type Struct, struct } from './structs.ts';

/** `_IO(';', nr)`: no size in the number. */
export const IOMMUFD_TYPE = 0x3b;
/** First and last iommufd command; below and above are VFIO's container commands. */
export const IOMMUFD_CMD = { FIRST: 0x80, TEST: 0xa0 } as const;

/** A command of /dev/iommu: its number and its structure. */
export interface Ioctl<M extends Members> extends Struct<M> {
  /** Command number; the ioctl is `_IO(IOMMUFD_TYPE, nr)`. */
  readonly nr: number;
  /** Shortest `size` the kernel takes. */
  readonly minimum: number;
}

function ioctl<const M extends Members>(nr: number, minimum: number, members: M): Ioctl<M> {
  return { nr, minimum, ...struct(members) };
}

/** The structures of include/uapi/linux/iommufd.h (Linux 7.2), by command. */
// biome-ignore format: table
export const IOCTL = {
  DESTROY:            ioctl(0x80,  8, { size: 'u32', id: 'u32' }),
  IOAS_ALLOC:         ioctl(0x81, 12, { size: 'u32', flags: 'u32', outIoasId: 'u32' }),
  IOAS_ALLOW_IOVAS:   ioctl(0x82, 24, { size: 'u32', ioasId: 'u32', numIovas: 'u32', reserved: 'u32', allowedIovas: 'u64' }),
  IOAS_COPY:          ioctl(0x83, 40, { size: 'u32', flags: 'u32', dstIoasId: 'u32', srcIoasId: 'u32', length: 'u64', dstIova: 'u64', srcIova: 'u64' }),
  IOAS_IOVA_RANGES:   ioctl(0x84, 32, { size: 'u32', ioasId: 'u32', numIovas: 'u32', reserved: 'u32', allowedIovas: 'u64', outIovaAlignment: 'u64' }),
  IOAS_MAP:           ioctl(0x85, 40, { size: 'u32', flags: 'u32', ioasId: 'u32', reserved: 'u32', userVa: 'u64', length: 'u64', iova: 'u64' }),
  IOAS_UNMAP:         ioctl(0x86, 24, { size: 'u32', ioasId: 'u32', iova: 'u64', length: 'u64' }),
  OPTION:             ioctl(0x87, 24, { size: 'u32', optionId: 'u32', op: 'u16', reserved: 'u16', objectId: 'u32', val64: 'u64' }),
  VFIO_IOAS:          ioctl(0x88, 12, { size: 'u32', ioasId: 'u32', op: 'u16', reserved: 'u16' }),
  HWPT_ALLOC:         ioctl(0x89, 24, { size: 'u32', flags: 'u32', devId: 'u32', ptId: 'u32', outHwptId: 'u32', reserved: 'u32', dataType: 'u32', dataLen: 'u32', dataUptr: 'u64', faultId: 'u32', reserved2: 'u32' }),
  GET_HW_INFO:        ioctl(0x8a, 32, { size: 'u32', flags: 'u32', devId: 'u32', dataLen: 'u32', dataUptr: 'u64', dataType: 'u32', outMaxPasidLog2: 'u8', reserved: 'u8x3', outCapabilities: 'u64' }),
  SET_DIRTY_TRACKING: ioctl(0x8b, 16, { size: 'u32', flags: 'u32', hwptId: 'u32', reserved: 'u32' }),
  GET_DIRTY_BITMAP:   ioctl(0x8c, 48, { size: 'u32', hwptId: 'u32', flags: 'u32', reserved: 'u32', iova: 'u64', length: 'u64', pageSize: 'u64', data: 'u64' }),
  HWPT_INVALIDATE:    ioctl(0x8d, 32, { size: 'u32', hwptId: 'u32', dataUptr: 'u64', dataType: 'u32', entryLen: 'u32', entryNum: 'u32', reserved: 'u32' }),
  FAULT_QUEUE_ALLOC:  ioctl(0x8e, 16, { size: 'u32', flags: 'u32', outFaultId: 'u32', outFaultFd: 'u32' }),
  IOAS_MAP_FILE:      ioctl(0x8f, 40, { size: 'u32', flags: 'u32', ioasId: 'u32', fd: 's32', start: 'u64', length: 'u64', iova: 'u64' }),
  VIOMMU_ALLOC:       ioctl(0x90, 24, { size: 'u32', flags: 'u32', type: 'u32', devId: 'u32', hwptId: 'u32', outViommuId: 'u32', dataLen: 'u32', reserved: 'u32', dataUptr: 'u64' }),
  VDEVICE_ALLOC:      ioctl(0x91, 24, { size: 'u32', viommuId: 'u32', devId: 'u32', outVdeviceId: 'u32', virtId: 'u64' }),
  IOAS_CHANGE_PROCESS: ioctl(0x92, 8, { size: 'u32', reserved: 'u32' }),
  VEVENTQ_ALLOC:      ioctl(0x93, 28, { size: 'u32', flags: 'u32', viommuId: 'u32', type: 'u32', depth: 'u32', outVeventqId: 'u32', outVeventqFd: 'u32', reserved: 'u32' }),
  HW_QUEUE_ALLOC:     ioctl(0x94, 40, { size: 'u32', flags: 'u32', viommuId: 'u32', type: 'u32', index: 'u32', outHwQueueId: 'u32', nestingParentIova: 'u64', length: 'u64' }),
} as const;

/** An entry of IOAS_ALLOW_IOVAS and IOAS_IOVA_RANGES. */
export const IOVA_RANGE = struct({ start: 'u64', last: 'u64' });
