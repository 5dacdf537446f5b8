import { Untranslated } from '../../bus/iommu-ports.ts';
import {
  ACCESS,
  AT,
  ATS,
  type AtsPort,
  DMA,
  type EndpointPort,
  NO_PASID,
  type TranslatePort,
} from '../../src/ports/dma.ts';

interface Page {
  readonly out: number;
  readonly perm: number;
}

/** The simplest IOMMU there can be: a list of pages per requester and PASID. The bus and the endpoints are tested against it. */
export class PagedIommu implements TranslatePort, AtsPort {
  out = 0;
  outShift = 12;
  outPerm = 0;
  guestShift = 0;
  tag = -1;
  atsOut = 0;
  atsShift = 12;
  atsPerm = 0;
  atsUntranslated = false;
  atsNoSnoop = false;
  readonly pages = new Map<string, Page>();
  /** Everything asked for, in words. */
  readonly seen: string[] = [];
  readonly completions: { rid: number; itags: number; count: number }[] = [];
  readonly asked: { rid: number; pasid: number; page: number; access: number; group: number }[] = [];
  endpoints: EndpointPort | null = null;
  /** Translated requests pass unchecked (EATS full ATS). */
  trust = true;
  ats = true;
  readonly #plain = new Untranslated();

  map(rid: number, pasid: number, va: number, out: number, perm = 3): void {
    this.pages.set(`${rid}/${pasid}/${Math.floor(va / 4096)}`, { out, perm });
  }

  unmap(rid: number, pasid: number, va: number): void {
    this.pages.delete(`${rid}/${pasid}/${Math.floor(va / 4096)}`);
  }

  #find(rid: number, pasid: number, lo: number, hi: number): Page | undefined {
    return this.pages.get(`${rid}/${pasid}/${(hi >>> 0) * 0x10_0000 + (lo >>> 12)}`);
  }

  translate(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    this.seen.push(`${at === AT.TRANSLATED ? 'translated' : 'untranslated'} ${rid}`);
    if (at === AT.TRANSLATED) {
      if (!this.trust) return DMA.ABORT;
      this.#plain.translate(rid, NO_PASID, lo, hi);
      this.out = this.#plain.out;
      return DMA.OK;
    }
    const page = this.#find(rid, pasid, lo, hi);
    if (page === undefined || (access & ~page.perm & 7) !== 0) return DMA.ABORT;
    this.out = page.out + (lo & 4095);
    return DMA.OK;
  }

  translationRequest(rid: number, pasid: number, lo: number, hi: number, _access: number): number {
    this.seen.push(`request ${rid}`);
    if (!this.ats) return ATS.UR;
    const page = this.#find(rid, pasid, lo, hi);
    this.atsPerm = page?.perm ?? 0;
    this.atsOut = page?.out ?? 0;
    return ATS.SUCCESS;
  }

  invalidateCompletion(rid: number, itags: number, count: number): void {
    this.completions.push({ rid, itags, count });
  }

  pageRequest(rid: number, pasid: number, lo: number, hi: number, access: number, group: number): void {
    this.asked.push({
      rid,
      pasid,
      page: (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0),
      access: access & (ACCESS.READ | ACCESS.WRITE),
      group,
    });
  }
}
