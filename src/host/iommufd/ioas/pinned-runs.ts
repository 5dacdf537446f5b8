import { E } from '../../../spec/iommufd/errno.ts';
import type { IommuDriver, PagingDomain } from '../../kernel/driver.ts';
import { IOVA_LAST } from './ranges.ts';

const PAGE = 4096;

/** Who uses pins of an address space and has to let go before they end. */
export interface PinUser {
  /** @returns 0; -errno: the hardware may still reach the memory, and the pins stay. */
  letGo(): number;
}

/** Pages [first, end) lie at host-physical `hpa` (bytes) and behind it. */
interface Run {
  readonly first: number;
  readonly end: number;
  readonly hpa: number;
  readonly prot: number;
}

/**
 * Where the memory behind an address space lies: a domain that no hardware translates with. It joins the IOAS like any
 * other, so its pages are pinned, and every change of the mappings comes by here while the pins still hold.
 */
export class PinnedRuns implements PagingDomain {
  readonly kind = 'paging';
  readonly iommu: IommuDriver;
  readonly pasidCapable = false;
  readonly nestParent = false;
  readonly pageBytes = PAGE;
  readonly apertureStart = 0n;
  readonly apertureLast = IOVA_LAST;
  readonly dirty = null;
  iopf = false;
  readonly users = new Set<PinUser>();
  /** The run the last successful `find` found, in pages; its first page lies at `hpa`. */
  first = 0;
  end = 0;
  hpa = 0;
  /** MAP_PROT bits of the mapping. */
  prot = 0;
  /** Disjoint, in ascending order. */
  readonly #runs: Run[] = [];

  /** @param iommu the driver of a domain that is filled from here. */
  constructor(iommu: IommuDriver) {
    this.iommu = iommu;
  }

  enforceCacheCoherency(): boolean {
    return false;
  }

  /** Finds the run that holds a page of the address space. @returns false: nothing is mapped there. */
  find(page: number): boolean {
    if (page >= this.first && page < this.end) return true;
    const run = this.#runs[this.#from(page)];
    if (run === undefined || run.first > page) return false;
    this.first = run.first;
    this.end = run.end;
    this.hpa = run.hpa;
    this.prot = run.prot;
    return true;
  }

  /** Index of the first run that ends behind `page`. */
  #from(page: number): number {
    let lo = 0;
    let hi = this.#runs.length;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (this.#runs[mid]!.end > page) hi = mid;
      else lo = mid + 1;
    }
    return lo;
  }

  map(iova: bigint, hpa: number, bytes: number, prot: number): number {
    const first = Number(iova / 4096n);
    const run = { first, end: first + bytes / PAGE, hpa, prot };
    const at = this.#from(first);
    const before = this.#runs[at - 1];
    if (before !== undefined && follows(before, run)) this.#runs[at - 1] = { ...before, end: run.end };
    else this.#runs.splice(at, 0, run);
    this.end = 0;
    return 0;
  }

  unmap(iova: bigint, bytes: bigint): bigint {
    for (const user of this.users) {
      const r = user.letGo();
      if (r < 0) return BigInt(r);
    }
    const first = Number(iova / 4096n);
    const end = first + Number(bytes / 4096n);
    this.end = 0;
    for (let i = this.#from(first); i < this.#runs.length && this.#runs[i]!.first < end; ) {
      const run = this.#runs[i]!;
      const left: Run[] = [];
      if (run.first < first) left.push({ ...run, end: first });
      if (run.end > end) left.push({ ...run, first: end, hpa: run.hpa + (end - run.first) * PAGE });
      this.#runs.splice(i, 1, ...left);
      i += left.length;
    }
    return bytes;
  }

  iovaToPhys(iova: bigint): number {
    const page = Number(iova / 4096n);
    return this.find(page) ? this.hpa + (page - this.first) * PAGE + Number(iova % 4096n) : -1;
  }

  /** Nothing is ever attached to it. */
  attach(): number {
    return -E.INVAL;
  }

  free(): void {}
}

function follows(a: Run, b: Run): boolean {
  return a.end === b.first && a.hpa + (a.end - a.first) * PAGE === b.hpa && a.prot === b.prot;
}
