import { FAILURE_STEP, type FailureSource, type FailureStep } from '../../../ports/failures.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { MAP_PROT, type PagingDomain } from '../../kernel/driver.ts';
import { Area, AreaTree } from './area-tree.ts';
import { firstPage, lastPage, loadArea, unloadArea } from './loading.ts';
import type { Pages } from './pages.ts';
import { chooseIova } from './placement.ts';
import { IOVA_LAST, type IovaRange, ReservedRanges } from './ranges.ts';

const PAGE = 4096;

/** An in-kernel user of an IOAS, as the IOAS sees it. */
export interface IoasAccess {
  /** What IOVAs must be multiples of while it is attached, bytes. */
  readonly alignment: number;
  /** Asks it to let go of everything it pinned in [start, last]. null: a hardware queue, which cannot. */
  readonly release: ((start: bigint, last: bigint) => void) | null;
}

/** A table beside the IOAS that keeps to its reservations. */
export interface IoasCopyStage {
  /** [start, last] is reserved from now on. @returns 0 or -errno, and then it is not. */
  reserved(start: bigint, last: bigint): number;
}

/** A slice of pages that one map call puts at consecutive IOVAs. */
export interface PageSlice {
  readonly pages: Pages;
  readonly startByte: number;
  readonly length: bigint;
}

/** An I/O address space: what is mapped where, for every domain that joined it (`io_pagetable`). */
export class Ioas {
  readonly kind = 'ioas';
  id = 0;
  users = 0;
  readonly accesses = new Set<IoasAccess>();
  /** Tables of HWPTs on it that are filled from another IOAS. */
  readonly copies = new Set<IoasCopyStage>();
  /** Grows whenever a reservation comes or goes. */
  reservations = 0;
  readonly #areas = new AreaTree();
  readonly #reserved = new ReservedRanges();
  #allowed: IovaRange[] = [];
  readonly #domains: PagingDomain[] = [];
  #alignment = 1;
  #largePages = true;
  readonly #source: FailureSource;
  readonly #onDestroy: (ioas: Ioas) => void;

  /** @param onDestroy the context forgets a compatibility pointer to this IOAS. */
  constructor(source: FailureSource, onDestroy: (ioas: Ioas) => void) {
    this.#source = source;
    this.#onDestroy = onDestroy;
  }

  #fails(step: FailureStep): boolean {
    return this.#source.failures?.fails(step) ?? false;
  }

  destroy(): void {
    this.unmapAll();
    this.#onDestroy(this);
  }

  /** Bytes every IOVA and length must be a multiple of. */
  get alignment(): number {
    return this.#alignment;
  }
  /** What is mapped. */
  get areas(): AreaTree {
    return this.#areas;
  }
  /** The domains that joined, in order. */
  get domains(): readonly PagingDomain[] {
    return this.#domains;
  }
  /** OPTION HUGE_PAGES. */
  get largePages(): boolean {
    return this.#largePages;
  }

  /** The allow-list; empty: everything is allowed. */
  get allowed(): readonly IovaRange[] {
    return this.#allowed;
  }

  /** IOVAs that are not reserved. */
  ranges(): IovaRange[] {
    return this.#reserved.holes(0n, IOVA_LAST);
  }

  /** Replaces the allow-list. @param list sorted and disjoint. @returns -EADDRINUSE: one of them is reserved; -ENOMEM. */
  allow(list: IovaRange[]): number {
    for (const r of list) if (this.#reserved.intersects(r.start, r.last)) return -E.ADDRINUSE;
    if (this.#fails(FAILURE_STEP.ALLOWED)) return -E.NOMEM;
    this.#allowed = list;
    return 0;
  }

  /** Reserves a region for `owner`. @returns -EADDRINUSE mapped or on the allow-list; -ENOMEM. */
  reserve(start: bigint, last: bigint, owner: object): number {
    if (this.#areas.first(start, last) !== null) return -E.ADDRINUSE;
    if (this.#allowed.some((r) => r.start <= last && start <= r.last)) return -E.ADDRINUSE;
    if (this.#fails(FAILURE_STEP.RESERVED)) return -E.NOMEM;
    for (const copy of this.copies) {
      const r = copy.reserved(start, last);
      if (r !== 0) return r;
    }
    this.#reserved.add(start, last, owner);
    this.reservations++;
    return 0;
  }

  unreserve(owner: object): void {
    this.#reserved.removeOwner(owner);
    this.reservations++;
  }

  /**
   * Maps the slices one behind the other. @param fixed null: choose an IOVA.
   * @returns 0 (then `mappedAt` is where) or -errno.
   */
  map(slices: readonly PageSlice[], length: bigint, fixed: bigint | null, prot: number): number {
    if (length === 0n || length % BigInt(this.#alignment) !== 0n) return -E.INVAL;
    let iova = fixed ?? 0n;
    if (fixed === null) {
      const first = slices[0]!;
      iova = chooseIova(
        { areas: this.#areas, reserved: this.#reserved, allowed: this.#allowed, alignment: this.#alignment },
        first.pages.base + BigInt(first.startByte),
        length,
      );
      if (iova < 0n) return Number(iova);
    } else {
      const r = this.#checkFixed(iova, length);
      if (r !== 0) return r;
    }
    const made: Area[] = [];
    let at = iova;
    let result = 0;
    for (const s of slices) {
      if ((prot & MAP_PROT.WRITE) !== 0 && !s.pages.writable) result = -E.PERM;
      else if ((s.startByte % PAGE) % this.#alignment !== 0) result = -E.INVAL;
      else if (this.#fails(FAILURE_STEP.AREA)) result = -E.NOMEM;
      if (result !== 0) break;
      const { pages, startByte } = s;
      const area = new Area({ start: at, last: at + s.length - 1n, pages, startByte, prot }, this.#areas.nextWeight());
      this.#areas.insert(area);
      made.push(area);
      at += s.length;
    }
    for (let i = 0; result === 0 && i < made.length; i++) result = this.#fill(made[i]!);
    if (result !== 0) {
      for (const a of made) {
        this.#unfill(a, true);
        this.#areas.remove(a);
      }
      return result;
    }
    this.mappedAt = iova;
    return 0;
  }
  /** Where the last successful `map` went. */
  mappedAt = 0n;

  #checkFixed(iova: bigint, length: bigint): number {
    if (iova % BigInt(this.#alignment) !== 0n) return -E.INVAL;
    const last = iova + length - 1n;
    if (last > IOVA_LAST) return -E.OVERFLOW;
    if (this.#reserved.intersects(iova, last)) return -E.INVAL;
    return this.#areas.first(iova, last) === null ? 0 : -E.EXIST;
  }

  /**
   * Removes the areas inside [start, last]. An area that the hardware does not confirm to have forgotten stays, and the same
   * call again removes it. @returns 0 or -errno; `unmapped` counts the bytes in both cases.
   * @param mustExist -ENOENT when nothing was there.
   */
  unmap(start: bigint, last: bigint): number {
    this.unmapped = 0n;
    let from = start;
    let tries = 0;
    for (let area = this.#areas.first(from, last); area !== null; area = this.#areas.first(from, last)) {
      if (area.locks > 0) return -E.BUSY;
      const first = area.start;
      const end = area.last;
      if (first < start || end > last) return -E.NOENT;
      if (area.accesses > 0) {
        if (first !== from) tries = 0;
        from = first;
        area.preventAccess = true;
        for (const a of [...this.accesses]) a.release?.(first, end);
        if (++tries > 100) return -E.DEADLK;
        continue;
      }
      const r = this.#unfill(area, false);
      if (r !== 0) return r;
      this.#areas.remove(area);
      this.unmapped += end - first + 1n;
      if (end >= last) break;
      from = end + 1n;
    }
    return 0;
  }
  unmapped = 0n;

  unmapAll(): number {
    return this.unmap(0n, IOVA_LAST);
  }

  /** Pieces of pages behind [iova, iova + length), which must be covered by contiguous areas. null: ENOENT. */
  slices(iova: bigint, length: bigint): PageSlice[] | null {
    const out: PageSlice[] = [];
    const last = iova + length - 1n;
    for (let at = iova; at <= last; ) {
      const a = this.#areas.first(at, at);
      if (a === null) return null;
      const end = a.last < last ? a.last : last;
      out.push({ pages: a.pages, startByte: a.startByte + Number(at - a.start), length: end - at + 1n });
      at = end + 1n;
    }
    return out;
  }

  /** A domain joins. @returns -EINVAL its pages are too large, -EADDRINUSE something lies outside it, -EFAULT, -ENOMEM. */
  addDomain(domain: PagingDomain): number {
    const alignment = Math.max(domain.pageBytes, this.#alignment);
    if (alignment > PAGE) return -E.INVAL;
    if (alignment !== this.#alignment && !this.#conforms(alignment)) return -E.ADDRINUSE;
    if (domain.apertureStart !== 0n) {
      const r = this.reserve(0n, domain.apertureStart - 1n, domain);
      if (r !== 0) return r;
    }
    if (domain.apertureLast !== IOVA_LAST) {
      const r = this.reserve(domain.apertureLast + 1n, IOVA_LAST, domain);
      if (r !== 0) {
        this.unreserve(domain);
        return r;
      }
    }
    const first = this.#domains.length === 0;
    let failed = 0;
    const done: Area[] = [];
    for (const area of this.#areas) {
      failed = first ? this.#pin(area) : 0;
      if (failed === 0) {
        failed = loadArea(area, domain, this.#largePages);
        if (failed !== 0 && first) this.#unpin(area);
      }
      if (failed !== 0) break;
      done.push(area);
    }
    if (failed !== 0) {
      for (const area of done) {
        unloadArea(area, domain, true);
        if (first) this.#unpin(area);
      }
      this.unreserve(domain);
      return failed;
    }
    this.#alignment = alignment;
    this.#domains.push(domain);
    return 0;
  }

  removeDomain(domain: PagingDomain): void {
    this.#domains.splice(this.#domains.indexOf(domain), 1);
    for (const area of this.#areas) {
      unloadArea(area, domain, false);
      if (this.#domains.length === 0) this.#unpin(area);
    }
    this.unreserve(domain);
    this.#recalculate();
  }

  addAccess(access: IoasAccess): number {
    if (this.#fails(FAILURE_STEP.ATTACHMENT)) return -E.NOMEM;
    this.accesses.add(access);
    const r = this.#recalculate();
    if (r !== 0) this.accesses.delete(access);
    return r;
  }

  removeAccess(access: IoasAccess): void {
    this.accesses.delete(access);
    this.#recalculate();
  }

  /** HUGE_PAGES=1. */
  enableLargePages(): void {
    this.#largePages = true;
    this.#recalculate();
  }

  /** HUGE_PAGES=0. @returns -EINVAL domains hold mappings, -EADDRINUSE an area is not page aligned. */
  disableLargePages(): number {
    if (!this.#largePages) return 0;
    if (this.#domains.length > 0 && this.#areas.size > 0) return -E.INVAL;
    this.#largePages = false;
    const r = this.#recalculate();
    if (r !== 0) this.#largePages = true;
    return r;
  }

  /** Splits the area around `iova` behind that address, so that a part can be unmapped (VFIO type 1). */
  cut(iova: bigint): number {
    const a = this.#areas.first(iova, iova);
    if (a === null || iova === a.start || iova === a.last) return 0;
    if (a.preventAccess) return -E.BUSY;
    if (a.pages.dmabuf) return -E.OPNOTSUPP;
    const left = Number(iova + 1n - a.start);
    const align = BigInt(this.#alignment);
    if ((iova + 1n) % align !== 0n || (a.startByte + left) % this.#alignment !== 0) return -E.INVAL;
    if (a.accesses > 0 || (a.filled && this.#largePages)) return -E.INVAL;
    const { start, last, pages, startByte, prot } = a;
    this.#areas.remove(a);
    const halves = [
      new Area({ start, last: iova, pages, startByte, prot }, this.#areas.nextWeight()),
      new Area({ start: iova + 1n, last, pages, startByte: startByte + left, prot }, this.#areas.nextWeight()),
    ];
    // A page that both halves touch is pinned by both; the pins of the whole are given back after that.
    for (const h of halves) {
      h.filled = a.filled;
      if (a.filled && !a.pages.dmabuf) h.pages.pin(firstPage(h), lastPage(h));
      this.#areas.insert(h);
    }
    if (a.filled && !a.pages.dmabuf) a.pages.unpin(firstPage(a), lastPage(a));
    return 0;
  }

  #recalculate(): number {
    let want = this.#largePages ? 1 : PAGE;
    for (const d of this.#domains) want = Math.max(want, d.pageBytes);
    for (const a of this.accesses) want = Math.max(want, a.alignment);
    if (want > this.#alignment && !this.#conforms(want)) return -E.ADDRINUSE;
    this.#alignment = want;
    return 0;
  }

  #conforms(alignment: number): boolean {
    for (const a of this.#areas) {
      if (a.startOff % alignment !== 0 || (a.lastOff + 1) % alignment !== 0 || a.startByte % alignment !== 0)
        return false;
    }
    return true;
  }

  #fill(area: Area): number {
    if (this.#domains.length === 0) return 0;
    let r = this.#pin(area);
    if (r !== 0) return r;
    for (let i = 0; i < this.#domains.length; i++) {
      r = loadArea(area, this.#domains[i]!, this.#largePages);
      if (r === 0) continue;
      while (--i >= 0) unloadArea(area, this.#domains[i]!, true);
      this.#unpin(area);
      return r;
    }
    return 0;
  }

  /**
   * Takes an area out of every domain. @param undo its mapping is taken back.
   * @returns 0; -errno: a domain's hardware may still know it, and it stays pinned.
   */
  #unfill(area: Area, undo: boolean): number {
    if (!area.filled) return 0;
    let r = 0;
    for (const d of this.#domains) r = unloadArea(area, d, undo) || r;
    if (r === 0) this.#unpin(area);
    return r;
  }

  #pin(area: Area): number {
    const failed = this.#fails(FAILURE_STEP.PIN);
    const r = failed ? -E.NOMEM : area.pages.dmabuf ? 0 : area.pages.pin(firstPage(area), lastPage(area));
    if (r === 0) area.filled = true;
    return r;
  }

  #unpin(area: Area): void {
    if (area.filled && !area.pages.dmabuf) area.pages.unpin(firstPage(area), lastPage(area));
    area.filled = false;
  }

  /** The exporter of a dma-buf takes its memory back: it leaves every domain, the areas stay. */
  revoke(pages: Pages): void {
    for (const area of this.#areas) {
      if (area.pages === pages) for (const d of this.#domains) unloadArea(area, d, false);
    }
  }
}
