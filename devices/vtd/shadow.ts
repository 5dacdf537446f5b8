import { hiWord, loWord } from '../../src/core/bits.ts';
import type { VtdSecondStage } from '../../src/lib/walk/vtd-second.ts';
import { ACCESS } from '../../src/ports/dma.ts';
import type { IoasMap, IoasUnmap } from '../../src/ports/iommufd.ts';
import { IOAS_MAP_FLAG } from '../../src/spec/iommufd/uapi.ts';
import { INTERRUPT_BASE, INTERRUPT_LAST } from '../../src/spec/vtd/interrupt.ts';
import { AreaMap } from './area-map.ts';
import type { VtdHost } from './host.ts';

const PAGE = 4096;
const RW = ACCESS.READ | ACCESS.WRITE;
/** Pages of the interrupt window. */
const WINDOW = INTERRUPT_BASE / PAGE;
const WINDOW_END = (INTERRUPT_LAST + 1) / PAGE;
const EVERYTHING = 0xffff_ffff_ffff_ffffn;

/** Where a fill puts a run of guest leaves. */
export interface LeafSink {
  /** @returns false: stop here. */
  leaf(page: number, pages: number, gpa: number, perm: number): boolean;
}

/** Walks a guest's second-stage tables over a range of pages and reports every leaf in it. */
export interface LeafSource {
  leaves(root: number, levels: number, first: number, pages: number, sink: LeafSink): void;
}

/**
 * The host's copy of one guest second stage: an IOAS of its own that starts empty, filled by misses (or by the guest's
 * invalidations under caching mode) and emptied by exactly what the guest invalidates.
 */
export class Shadow implements LeafSink {
  readonly did: number;
  /** Guest's second-stage table (bytes) and its levels. */
  readonly root: number;
  readonly levels: number;
  readonly ioasId: number;
  readonly hwptId: number;
  readonly key: string;
  users = 0;
  /** Stamp of the last invalidation round that reached it. */
  round = 0;
  readonly areas = new AreaMap();
  readonly #host: VtdHost;
  readonly #walk: VtdSecondStage;
  readonly #source: LeafSource;
  readonly #map: IoasMap;
  readonly #unmap: IoasUnmap;
  /** The run of leaves a fill is collecting. */
  #runPage = 0;
  #runPages = 0;
  #runGpa = 0;
  #runPerm = 0;
  #maps = 0;

  constructor(
    host: VtdHost,
    walk: VtdSecondStage,
    source: LeafSource,
    ids: { readonly ioasId: number; readonly hwptId: number; readonly key: string },
    table: { readonly did: number; readonly root: number; readonly levels: number },
  ) {
    this.#host = host;
    this.#walk = walk;
    this.#source = source;
    this.ioasId = ids.ioasId;
    this.hwptId = ids.hwptId;
    this.key = ids.key;
    this.did = table.did;
    this.root = table.root;
    this.levels = table.levels;
    this.#map = { flags: 0, ioasId: ids.ioasId, reserved: 0, userVa: 0n, length: 0n, iova: 0n };
    this.#unmap = { ioasId: ids.ioasId, iova: 0n, length: 0n };
  }

  /**
   * A second-stage miss at `ipa` (bytes, < 2^57). Maps the guest's leaf there, as large as the leaf and RAM allow.
   * @returns whether more of `access` is granted than before; the reason of a refusal is the record's business.
   */
  miss(ipa: number, access: number): boolean {
    const w = this.#walk;
    if (!w.walk(this.root, this.levels, false, loWord(ipa % 0x1_0000_0000), hiWord(ipa), 0, true)) return false;
    // A translation request asks for both and takes what it gets: the leaf is mapped if it allows a part.
    const need = access & RW & w.perm;
    if (need === 0) return false;
    let size = 2 ** w.shift / PAGE;
    const page = Math.floor(ipa / PAGE);
    const gpaPage = Math.floor(w.out / PAGE);
    const perm = w.perm;
    // A mapping with fewer rights than the leaf has now (raised without an invalidation) makes room first.
    const i = this.areas.from(page);
    if (i < this.areas.count && this.areas.first(i) <= page) {
      if ((need & ~this.areas.perm(i)) === 0) return false;
      this.invalidate(page, 1);
    }
    for (; size >= 1; size /= 2) {
      const back = page % size;
      if (this.areas.overlaps(page - back, size)) continue;
      if (this.#host.roomAt((gpaPage - back) * PAGE) < size * PAGE) continue;
      if (this.#put(page - back, size, gpaPage - back, perm)) return true;
    }
    return false;
  }

  /** One IOAS_MAP. A read-only place is mapped read-only. */
  #put(page: number, pages: number, gpa: number, perm: number): boolean {
    const va = this.#host.userVa(gpa * PAGE);
    if (va < 0n) return false;
    const m = this.#map;
    m.userVa = va;
    m.length = BigInt(pages * PAGE);
    let granted = perm;
    for (;;) {
      m.iova = BigInt(page) * 4096n;
      m.flags =
        IOAS_MAP_FLAG.FIXED_IOVA |
        ((granted & ACCESS.WRITE) !== 0 ? IOAS_MAP_FLAG.WRITEABLE : 0) |
        ((granted & ACCESS.READ) !== 0 ? IOAS_MAP_FLAG.READABLE : 0);
      if (this.#host.iommufd.ioasMap(m) === 0) {
        this.areas.add(page, pages, gpa, granted);
        return true;
      }
      if (granted !== RW || this.#host.writable(gpa * PAGE)) return false;
      granted = ACCESS.READ;
    }
  }

  /** Removes pages [first, first + pages) exactly: areas that stick out are mapped again without them. */
  invalidate(first: number, pages: number): void {
    const areas = this.areas;
    const end = first + pages;
    for (let i = areas.from(first); i < areas.count && areas.first(i) < end; i = areas.from(first)) {
      const aFirst = areas.first(i);
      const aEnd = aFirst + areas.pages(i);
      const gpa = areas.gpa(i);
      const perm = areas.perm(i);
      this.#unmap.iova = BigInt(aFirst) * 4096n;
      this.#unmap.length = BigInt(aEnd - aFirst) * 4096n;
      this.#host.iommufd.ioasUnmap(this.#unmap);
      areas.remove(i);
      if (aFirst < first) this.#put(aFirst, first - aFirst, gpa, perm);
      if (aEnd > end) this.#put(end, aEnd - end, gpa + (end - aFirst), perm);
    }
  }

  /** Takes away what lies on guest memory [gpa, gpa + bytes) that goes. */
  forget(gpa: number, bytes: number): void {
    const { areas } = this;
    const end = (gpa + bytes) / PAGE;
    for (let i = areas.count - 1; i >= 0; i--) {
      if (areas.gpa(i) < end && areas.gpa(i) + areas.pages(i) > gpa / PAGE) {
        this.invalidate(areas.first(i), areas.pages(i));
      }
    }
  }

  /** Empties it. */
  clear(): void {
    if (this.areas.count === 0) return;
    this.#unmap.iova = 0n;
    this.#unmap.length = EVERYTHING;
    this.#host.iommufd.ioasUnmap(this.#unmap);
    this.areas.clear();
  }

  /** Caching mode: maps what the guest's tables hold in [first, first + pages), which is empty now. */
  fill(first: number, pages: number): void {
    this.#runPages = 0;
    this.#maps = 0;
    this.#source.leaves(this.root, this.levels, first, pages, this);
    this.#flush();
  }

  /** The whole input range. */
  fillAll(): void {
    this.fill(0, 2 ** (9 * this.levels));
  }

  leaf(page: number, pages: number, gpa: number, perm: number): boolean {
    // Requests to the interrupt window never come to the tables, and no host maps anything there.
    if (page < WINDOW_END && page + pages > WINDOW) {
      const before = Math.max(WINDOW - page, 0);
      const after = page + pages - WINDOW_END;
      const goOn = before === 0 || this.#collect(page, before, gpa, perm);
      return goOn && (after <= 0 || this.#collect(WINDOW_END, after, gpa + (WINDOW_END - page), perm));
    }
    return this.#collect(page, pages, gpa, perm);
  }

  #collect(page: number, pages: number, gpa: number, perm: number): boolean {
    const joins =
      this.#runPages > 0 &&
      page === this.#runPage + this.#runPages &&
      gpa === this.#runGpa + this.#runPages &&
      perm === this.#runPerm;
    if (joins) {
      this.#runPages += pages;
      return true;
    }
    this.#flush();
    this.#runPage = page;
    this.#runPages = pages;
    this.#runGpa = gpa;
    this.#runPerm = perm;
    return this.#maps < this.#host.mapLimit;
  }

  /** Maps the collected run, piece by piece where RAM has holes. */
  #flush(): void {
    let page = this.#runPage;
    let gpa = this.#runGpa;
    let left = this.#runPages;
    this.#runPages = 0;
    while (left > 0) {
      const room = Math.min(left, Math.floor(this.#host.roomAt(gpa * PAGE) / PAGE));
      const n = room > 0 ? room : Math.min(left, this.#host.gapAt(gpa * PAGE) / PAGE);
      if (room > 0) {
        this.#maps++;
        if (!this.#put(page, n, gpa, this.#runPerm)) this.#around(page, n, gpa, this.#runPerm);
      }
      page += n;
      gpa += n;
      left -= n;
    }
  }

  /** A run the host refuses as a whole (a reserved window lies in it) is mapped in halves. */
  #around(page: number, pages: number, gpa: number, perm: number): void {
    if (pages <= 1 || this.#maps++ > this.#host.mapLimit) return;
    const half = pages >>> 1;
    if (!this.#put(page, half, gpa, perm)) this.#around(page, half, gpa, perm);
    const rest = pages - half;
    if (!this.#put(page + half, rest, gpa + half, perm)) this.#around(page + half, rest, gpa + half, perm);
  }
}
