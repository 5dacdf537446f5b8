import { E } from '../../../spec/iommufd/errno.ts';
import { MAP_PROT } from '../../kernel/driver.ts';
import type { PhysicalBytes } from '../../kernel/kernel.ts';
import type { Area } from './area-tree.ts';
import type { Ioas } from './ioas.ts';
import { IOVA_LAST } from './ranges.ts';

const PAGE = 4096;

function pageOf(area: Area, iova: bigint): number {
  return Math.floor((area.startByte + Number(iova - area.start)) / PAGE);
}

function permitted(area: Area, write: boolean): boolean {
  return (area.prot & (write ? MAP_PROT.WRITE : MAP_PROT.READ)) !== 0;
}

/**
 * Pins the pages under [iova, iova + length) for an access.
 * @param lock a hardware queue: the areas cannot be unmapped meanwhile.
 * @param out host-physical addresses of the pages, in order.
 * @returns 0; -EINVAL, -EOVERFLOW range; -ENOENT not mapped; -EPERM not permitted; -EINVAL not page aligned or a dma-buf;
 *   -EFAULT the memory is gone. Nothing is pinned on error.
 */
export function pinPages(
  ioas: Ioas,
  iova: bigint,
  length: bigint,
  write: boolean,
  lock: boolean,
  out: number[],
): number {
  if (length === 0n) return -E.INVAL;
  const last = iova + length - 1n;
  if (last > IOVA_LAST) return -E.OVERFLOW;
  for (let at = iova; at <= last; ) {
    const area = ioas.areas.first(at, at);
    const end = area === null ? at : area.last < last ? area.last : last;
    const r = area === null ? -E.NOENT : pinArea(area, at, end, end === last, write, lock, out);
    if (r !== 0) {
      if (at > iova) unpinPages(ioas, iova, at - iova, lock);
      return r;
    }
    at = end + 1n;
  }
  return 0;
}

function pinArea(
  area: Area,
  at: bigint,
  end: bigint,
  final: boolean,
  write: boolean,
  lock: boolean,
  out: number[],
): number {
  const startByte = area.startByte + Number(at - area.start);
  if (area.preventAccess || startByte % PAGE !== 0) return -E.INVAL;
  if (!final && (area.startByte + area.length) % PAGE !== 0) return -E.INVAL;
  if (!permitted(area, write)) return -E.PERM;
  if (write && !area.pages.writable) return -E.PERM;
  if (area.pages.dmabuf) return -E.INVAL;
  const first = pageOf(area, at);
  const last = pageOf(area, end);
  const r = area.pages.pin(first, last);
  if (r !== 0) return r;
  area.accesses++;
  if (lock) area.locks++;
  area.pages.visit(first * PAGE, (last - first + 1) * PAGE, (_at, hpa, bytes) => {
    for (let b = 0; b < bytes; b += PAGE) out.push(hpa + b);
    return 0;
  });
  return 0;
}

/** Undoes `pinPages` with the same arguments. */
export function unpinPages(ioas: Ioas, iova: bigint, length: bigint, lock: boolean): void {
  const last = iova + length - 1n;
  for (let at = iova; at <= last; ) {
    const area = ioas.areas.first(at, at);
    if (area === null) return;
    const end = area.last < last ? area.last : last;
    area.pages.unpin(pageOf(area, at), pageOf(area, end));
    area.accesses--;
    if (lock) area.locks--;
    at = end + 1n;
  }
}

/**
 * Copies between `data` and the memory under [iova, iova + data.length).
 * @returns 0; -EINVAL, -EOVERFLOW range; -ENOENT not mapped; -EPERM; -EINVAL a dma-buf; -EFAULT. Earlier bytes are done.
 */
export function copyIova(ioas: Ioas, iova: bigint, data: Uint8Array, write: boolean, memory: PhysicalBytes): number {
  if (data.length === 0) return -E.INVAL;
  const last = iova + BigInt(data.length) - 1n;
  if (last > IOVA_LAST) return -E.OVERFLOW;
  for (let at = iova; at <= last; ) {
    const area = ioas.areas.first(at, at);
    if (area === null) return -E.NOENT;
    if (area.preventAccess) return -E.INVAL;
    if (!permitted(area, write) || (write && !area.pages.writable)) return -E.PERM;
    if (area.pages.dmabuf) return -E.INVAL;
    const end = area.last < last ? area.last : last;
    const first = pageOf(area, at);
    const final = pageOf(area, end);
    const r = area.pages.pin(first, final);
    if (r !== 0) return r;
    const startByte = area.startByte + Number(at - area.start);
    const offset = Number(at - iova);
    const copied = area.pages.visit(startByte, Number(end - at) + 1, (b, hpa, bytes) => {
      const piece = data.subarray(offset + b - startByte, offset + b - startByte + bytes);
      return (write ? memory.writeBytes(hpa, piece) : memory.readBytes(hpa, piece)) ? 0 : -E.FAULT;
    });
    area.pages.unpin(first, final);
    if (copied !== 0) return copied;
    at = end + 1n;
  }
  return 0;
}
