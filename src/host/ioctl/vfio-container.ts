import { E } from '../../spec/iommufd/errno.ts';
import {
  VFIO,
  VFIO_API_VERSION,
  VFIO_CAP_HEADER,
  VFIO_DMA_FLAG,
  VFIO_DMA_MAP,
  VFIO_DMA_UNMAP,
  VFIO_EXTENSION,
  VFIO_INFO_CAP,
  VFIO_IOMMU_INFO,
  VFIO_TYPE1_INFO,
} from '../../spec/iommufd/vfio.ts';
import type { IommufdContext } from '../iommufd/context.ts';
import type { Ioas } from '../iommufd/ioas/ioas.ts';
import { mapUser, unmapRange } from '../iommufd/verbs/map.ts';
import { MAP_PROT } from '../kernel/driver.ts';
import type { Caller } from './caller.ts';

/** Members up to and including iova_pgsizes. */
const INFO_MINIMUM = 16;
const INFO_BYTES = VFIO_TYPE1_INFO.bytes;
const CAP_HEADER = VFIO_CAP_HEADER.bytes;

/** The commands of a VFIO container, answered by an iommufd on its compatibility IOAS. @returns ≥ 0 or -errno. */
export function containerIoctl(context: IommufdContext, request: number, arg: bigint, caller: Caller): number {
  switch (request) {
    case VFIO.GET_API_VERSION:
      return VFIO_API_VERSION;
    case VFIO.CHECK_EXTENSION:
      return checkExtension(context, arg);
    case VFIO.SET_IOMMU:
      return setIommu(context, arg);
    case VFIO.IOMMU_GET_INFO:
      return getInfo(context, arg, caller);
    case VFIO.IOMMU_MAP_DMA:
      return mapDma(context, arg, caller);
    case VFIO.IOMMU_UNMAP_DMA:
      return unmapDma(context, arg, caller);
    default:
      return -E.NOTTY;
  }
}

function checkExtension(context: IommufdContext, type: bigint): number {
  switch (Number(type)) {
    case VFIO_EXTENSION.TYPE1:
    case VFIO_EXTENSION.TYPE1V2:
    case VFIO_EXTENSION.UNMAP_ALL:
      return 1;
    case VFIO_EXTENSION.DMA_CC: {
      const ioas = context.vfioIoas;
      if (ioas === null) return -E.NODEV;
      for (const o of context.objects.objects()) {
        if (o.kind === 'hwpt_paging' && o.ioas === ioas && !o.coherent) return 0;
      }
      return 1;
    }
    default:
      return 0;
  }
}

/** Type 1 allows unmapping inside a mapping, which takes small pages. */
function setIommu(context: IommufdContext, type: bigint): number {
  const t = Number(type);
  if (t !== VFIO_EXTENSION.TYPE1 && t !== VFIO_EXTENSION.TYPE1V2) return -E.INVAL;
  const ioas = context.vfioIoas;
  if (ioas === null) return -E.NODEV;
  return t === VFIO_EXTENSION.TYPE1 ? ioas.disableLargePages() : 0;
}

function mapDma(context: IommufdContext, arg: bigint, caller: Caller): number {
  const bytes = new Uint8Array(VFIO_DMA_MAP.bytes);
  if (!caller.read(arg, bytes)) return -E.FAULT;
  const v = VFIO_DMA_MAP.decode(bytes);
  const { READ, WRITE } = VFIO_DMA_FLAG;
  if (v.argsz < bytes.length || (v.flags & ~(READ | WRITE)) !== 0) return -E.INVAL;
  const ioas = context.vfioIoas;
  if (ioas === null) return -E.NODEV;
  let prot: number = MAP_PROT.CACHE;
  if ((v.flags & READ) !== 0) prot |= MAP_PROT.READ;
  if ((v.flags & WRITE) !== 0) prot |= MAP_PROT.WRITE;
  return mapUser(context, ioas, v.vaddr, v.size, v.iova, prot);
}

function unmapDma(context: IommufdContext, arg: bigint, caller: Caller): number {
  const bytes = new Uint8Array(VFIO_DMA_UNMAP.bytes);
  if (!caller.read(arg, bytes)) return -E.FAULT;
  const v = VFIO_DMA_UNMAP.decode(bytes);
  if (v.argsz < bytes.length || (v.flags & ~VFIO_DMA_FLAG.UNMAP_ALL) !== 0) return -E.INVAL;
  const ioas = context.vfioIoas;
  if (ioas === null) return -E.NODEV;
  let r: number;
  if ((v.flags & VFIO_DMA_FLAG.UNMAP_ALL) !== 0) {
    if (v.iova !== 0n || v.size !== 0n) return -E.INVAL;
    r = ioas.unmapAll();
  } else {
    if (!ioas.largePages) {
      const cuts = [BigInt.asUintN(64, v.iova + v.size - 1n), ...(v.iova === 0n ? [] : [v.iova - 1n])];
      for (const at of cuts) {
        const cut = ioas.cut(at);
        if (cut !== 0) return cut;
      }
    }
    r = unmapRange(ioas, v.iova, v.size);
  }
  v.size = ioas.unmapped;
  return caller.write(arg, VFIO_DMA_UNMAP.encode(v)) ? r : -E.FAULT;
}

/** Page sizes every domain of the IOAS can do, as VFIO reports them: from the page size up. */
function pageSizes(ioas: Ioas): bigint {
  let sizes = 0xffff_ffff_ffff_f000n;
  for (const d of ioas.domains) sizes &= ~(BigInt(d.pageBytes) - 1n);
  const alignment = BigInt(ioas.alignment);
  return sizes > alignment ? sizes : alignment;
}

/** The capabilities behind the structure, each with its bytes; `next` is filled in later. */
function capabilities(ioas: Ioas): Uint8Array[] {
  const avail = new Uint8Array(CAP_HEADER + 4);
  avail.set(VFIO_CAP_HEADER.encode({ id: VFIO_INFO_CAP.DMA_AVAIL, version: 1, next: 0 }));
  new DataView(avail.buffer).setUint32(CAP_HEADER, 0xffff_ffff, true);
  const ranges = ioas.ranges();
  const iova = new Uint8Array(CAP_HEADER + 8 + ranges.length * 16);
  iova.set(VFIO_CAP_HEADER.encode({ id: VFIO_INFO_CAP.IOVA_RANGE, version: 1, next: 0 }));
  const view = new DataView(iova.buffer);
  view.setUint32(CAP_HEADER, ranges.length, true);
  for (const [i, r] of ranges.entries()) {
    view.setBigUint64(CAP_HEADER + 8 + i * 16, r.start, true);
    view.setBigUint64(CAP_HEADER + 16 + i * 16, r.last, true);
  }
  return [avail, iova];
}

/** Writes what fits; argsz becomes what everything would take. */
function getInfo(context: IommufdContext, arg: bigint, caller: Caller): number {
  const bytes = new Uint8Array(INFO_BYTES);
  if (!caller.read(arg, bytes.subarray(0, INFO_MINIMUM))) return -E.FAULT;
  const v = VFIO_TYPE1_INFO.decode(bytes);
  if (v.argsz < INFO_MINIMUM) return -E.INVAL;
  const given = Math.min(v.argsz, INFO_BYTES);
  const ioas = context.vfioIoas;
  if (ioas === null) return -E.NODEV;
  let total = INFO_BYTES;
  let before = -1;
  for (const cap of capabilities(ioas)) {
    const room = v.argsz - total;
    if (room >= cap.length && !caller.write(arg + BigInt(total), cap)) return -E.FAULT;
    if (before >= 0 && v.argsz >= total) {
      const next = new Uint8Array(4);
      new DataView(next.buffer).setUint32(0, total, true);
      if (!caller.write(arg + BigInt(before + VFIO_CAP_HEADER.at.next), next)) return -E.FAULT;
    }
    before = total;
    total += Math.ceil(cap.length / 8) * 8;
  }
  v.capOffset = v.argsz >= total ? INFO_BYTES : 0;
  v.argsz = total;
  v.flags = VFIO_IOMMU_INFO.PGSIZES | VFIO_IOMMU_INFO.CAPS;
  v.iovaPgsizes = pageSizes(ioas);
  return caller.write(arg, VFIO_TYPE1_INFO.encode(v).subarray(0, given)) ? 0 : -E.FAULT;
}
