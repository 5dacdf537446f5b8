import { FAILURE_STEP } from '../../../ports/failures.ts';
import type { IoasCopy, IoasMap, IoasMapFile, IoasUnmap } from '../../../ports/iommufd.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { IOAS_MAP_FLAG } from '../../../spec/iommufd/uapi.ts';
import { MAP_PROT } from '../../kernel/driver.ts';
import type { IommufdContext, Respond } from '../context.ts';
import type { Ioas } from '../ioas/ioas.ts';
import { Pages } from '../ioas/pages.ts';
import { IOVA_LAST } from '../ioas/ranges.ts';
import { filePayer, payer } from './process.ts';

const MAP_FLAGS = IOAS_MAP_FLAG.FIXED_IOVA | IOAS_MAP_FLAG.WRITEABLE | IOAS_MAP_FLAG.READABLE;
const PAGE = 4096n;

/**
 * Checks that MAP, MAP_FILE and COPY share, in the kernel's order.
 * @param values the length and every IOVA of the structure: 2^64-1 does not fit the kernel's arithmetic.
 */
function checkMap(flags: number, reserved: number, ...values: readonly bigint[]): number {
  if ((flags & ~MAP_FLAGS) !== 0 || reserved !== 0) return -E.OPNOTSUPP;
  if (values.includes(IOVA_LAST)) return -E.OVERFLOW;
  return (flags & (IOAS_MAP_FLAG.WRITEABLE | IOAS_MAP_FLAG.READABLE)) === 0 ? -E.INVAL : 0;
}

export function mapProt(flags: number): number {
  let prot: number = MAP_PROT.CACHE;
  if ((flags & IOAS_MAP_FLAG.WRITEABLE) !== 0) prot |= MAP_PROT.WRITE;
  if ((flags & IOAS_MAP_FLAG.READABLE) !== 0) prot |= MAP_PROT.READ;
  return prot;
}

/** Maps process memory. `iova` null: choose one. On 0 `ioas.mappedAt` tells where. */
export function mapUser(
  context: IommufdContext,
  ioas: Ioas,
  va: bigint,
  length: bigint,
  iova: bigint | null,
  prot: number,
): number {
  if (va + length > IOVA_LAST) return -E.OVERFLOW;
  if (length === 0n || length > IOVA_LAST - PAGE) return -E.INVAL;
  if (context.kernel.fails(FAILURE_STEP.PAGES)) return -E.NOMEM;
  const base = va & -PAGE;
  const startByte = Number(va - base);
  const count = Number((BigInt(startByte) + length + PAGE - 1n) / PAGE);
  const writable = (prot & MAP_PROT.WRITE) !== 0;
  const pages = new Pages({ source: context.memory, base, count, writable, file: null, ...payer(context) });
  return ioas.map([{ pages, startByte, length }], length, iova, prot);
}

export function ioasMap(context: IommufdContext, c: IoasMap, respond: Respond): number {
  let r = checkMap(c.flags, c.reserved, c.length, c.iova);
  if (r !== 0) return r;
  const ioas = context.objects.get(c.ioasId, 'ioas');
  if (ioas === null) return -E.NOENT;
  const fixed = (c.flags & IOAS_MAP_FLAG.FIXED_IOVA) !== 0;
  r = mapUser(context, ioas, c.userVa, c.length, fixed ? c.iova : null, mapProt(c.flags));
  if (r !== 0) return r;
  c.iova = ioas.mappedAt;
  return respond() ? 0 : -E.FAULT;
}

export function ioasMapFile(context: IommufdContext, c: IoasMapFile, respond: Respond): number {
  let r = checkMap(c.flags, 0, c.length, c.iova);
  if (r !== 0) return r;
  const ioas = context.objects.get(c.ioasId, 'ioas');
  if (ioas === null) return -E.NOENT;
  if (c.length === 0n) return -E.INVAL;
  if (c.start + c.length - 1n > IOVA_LAST) return -E.OVERFLOW;
  const { file } = c;
  if (file === null) return -E.BADF;
  if (file.kind === 'dmabuf' && file.size <= c.start + c.length - 1n) return -E.INVAL;
  if (c.length > IOVA_LAST - PAGE) return -E.INVAL;
  if (file.kind === 'dmabuf' && file.onRevoke === undefined) return -E.OPNOTSUPP;
  if (file.revoked === true) return -E.NODEV;
  if (context.kernel.fails(FAILURE_STEP.PAGES)) return -E.NOMEM;
  const base = c.start & -PAGE;
  const startByte = Number(c.start - base);
  const count = Number((BigInt(startByte) + c.length + PAGE - 1n) / PAGE);
  const prot = mapProt(c.flags);
  const writable = (prot & MAP_PROT.WRITE) !== 0;
  const pages = new Pages({ source: file, base, count, writable, file, ...filePayer(context, file) });
  const fixed = (c.flags & IOAS_MAP_FLAG.FIXED_IOVA) !== 0;
  r = ioas.map([{ pages, startByte, length: c.length }], c.length, fixed ? c.iova : null, prot);
  if (r !== 0) return r;
  file.onRevoke?.(() => {
    if (pages.revoked) return;
    // Copies of the area may live in other address spaces of this context.
    for (const o of context.objects.objects()) if (o.kind === 'ioas') o.revoke(pages);
    pages.revoked = true;
  });
  c.iova = ioas.mappedAt;
  return respond() ? 0 : -E.FAULT;
}

export function ioasCopy(context: IommufdContext, c: IoasCopy, respond: Respond): number {
  const r = checkMap(c.flags, 0, c.length, c.srcIova, c.dstIova);
  if (r !== 0) return r;
  const source = context.objects.get(c.srcIoasId, 'ioas');
  if (source === null) return -E.NOENT;
  if (c.length === 0n) return -E.INVAL;
  if (c.srcIova + c.length - 1n > IOVA_LAST) return -E.OVERFLOW;
  if (context.kernel.fails(FAILURE_STEP.PAGES)) return -E.NOMEM;
  const slices = source.slices(c.srcIova, c.length);
  if (slices === null) return -E.NOENT;
  const ioas = context.objects.get(c.dstIoasId, 'ioas');
  if (ioas === null) return -E.NOENT;
  const fixed = (c.flags & IOAS_MAP_FLAG.FIXED_IOVA) !== 0;
  const mapped = ioas.map(slices, c.length, fixed ? c.dstIova : null, mapProt(c.flags));
  if (mapped !== 0) return mapped;
  c.dstIova = ioas.mappedAt;
  return respond() ? 0 : -E.FAULT;
}

export function ioasUnmap(context: IommufdContext, c: IoasUnmap, respond: Respond): number {
  const ioas = context.objects.get(c.ioasId, 'ioas');
  if (ioas === null) return -E.NOENT;
  if (c.iova === 0n && c.length === IOVA_LAST) {
    const r = ioas.unmapAll();
    if (r !== 0) return r;
  } else {
    if (c.iova === IOVA_LAST || c.length === IOVA_LAST) return -E.OVERFLOW;
    const r = unmapRange(ioas, c.iova, c.length);
    if (r !== 0) return r;
    if (ioas.unmapped === 0n) return -E.NOENT;
  }
  c.length = ioas.unmapped;
  return respond() ? 0 : -E.FAULT;
}

/** `iopt_unmap_iova`: an empty range is an error, an empty result is not. */
export function unmapRange(ioas: Ioas, iova: bigint, length: bigint): number {
  ioas.unmapped = 0n;
  if (length === 0n) return -E.INVAL;
  if (iova + length - 1n > IOVA_LAST) return -E.OVERFLOW;
  return ioas.unmap(iova, iova + length - 1n);
}
