import { E } from '../../../spec/iommufd/errno.ts';
import type { PagingDomain } from '../../kernel/driver.ts';
import type { Area } from './area-tree.ts';

const PAGE = 4096;

/** First and last page of `area.pages` that the area touches. */
export function firstPage(a: Area): number {
  return Math.floor(a.startByte / PAGE);
}
export function lastPage(a: Area): number {
  return Math.floor((a.startByte + a.length - 1) / PAGE);
}

/**
 * Maps an area, whose pages are pinned, into a domain: physically contiguous pieces as long as they are.
 * @returns 0 or what the domain says; nothing of the area is mapped then.
 */
export function loadArea(area: Area, domain: PagingDomain, largePages: boolean): number {
  if (area.pages.dmabuf) return loadDmabuf(area, domain, largePages);
  const iova = area.start;
  const start = area.startByte;
  let done = 0;
  const r = area.pages.visit(start, area.length, (at, hpa, bytes) => {
    const result = mapRun(domain, iova + BigInt(at - start), hpa, bytes, area.prot, largePages);
    if (result === 0) done = at + bytes - start;
    return result;
  });
  if (r !== 0 && done > 0) domain.unmap(iova, BigInt(done), true);
  return r;
}

/** Device memory is one piece and is not pinned; revoked, there is nothing to map. */
function loadDmabuf(area: Area, domain: PagingDomain, largePages: boolean): number {
  const p = area.pages;
  if (p.revoked) return 0;
  if (!p.source.pin(p.base + BigInt(area.startByte), BigInt(area.length), p.writable)) return -E.FAULT;
  return mapRun(domain, area.start, p.source.hpa, area.length, area.prot, largePages);
}

/** Without large pages the domain sees one page at a time, so that every page boundary can be cut later. */
function mapRun(
  domain: PagingDomain,
  iova: bigint,
  hpa: number,
  bytes: number,
  prot: number,
  largePages: boolean,
): number {
  if (largePages) return domain.map(iova, hpa, bytes, prot);
  for (let done = 0; done < bytes; ) {
    const n = Math.min(PAGE - ((hpa + done) % PAGE), bytes - done);
    const r = domain.map(iova + BigInt(done), hpa + done, n, prot);
    if (r !== 0) {
      if (done > 0) domain.unmap(iova, BigInt(done), true);
      return r;
    }
    done += n;
  }
  return 0;
}

/**
 * Takes an area out of a domain. @param undo its mapping is taken back.
 * @returns 0 or -errno: the hardware may still know it; the same call tries again.
 */
export function unloadArea(area: Area, domain: PagingDomain, undo: boolean): number {
  if (!area.filled || area.pages.revoked) return 0;
  const r = domain.unmap(area.start, BigInt(area.length), undo);
  return r < 0n ? Number(r) : 0;
}
