/** Words of a 4 KiB page. */
const PAGE_WORDS = 1024;
const PAGE = 4096;
/** A use of at most this many pages is noted at each of them; a larger one is looked up by its range. */
const MOST_PAGES = 64;

/** Somebody who follows what a page holds: a table, a queue. */
export interface PageUse {
  /** False: nothing leads there any more. */
  readonly reachable?: boolean;
  /** The aligned 8-byte word `at` (0 to 511) was `oldLo`, `oldHi` and is `newLo`, `newHi` now. */
  changed(page: TrackedPage, at: number, oldLo: number, oldHi: number, newLo: number, newHi: number): void;
}

/** One 4 KiB page of guest memory as far as it was told. */
export class TrackedPage {
  /** Page number. */
  readonly pfn: number;
  /** Null while nothing but zeros was told. */
  words: Int32Array | null = null;
  /** The content is told, and stores to it are. */
  known = false;
  /** Stores are told when the IOMMU looks, not when they happen: each happened after event `since`. */
  late = false;
  /** Number of the event that told the content last. */
  since = -1;
  /** A snapshot is being told: its words did not change one by one. */
  whole = false;
  /** Stores are told before the event that followed them, and in which order they happened is not known. */
  gathered = false;
  readonly uses: PageUse[] = [];

  constructor(pfn: number) {
    this.pfn = pfn;
  }

  lo(at: number): number {
    return this.words === null ? 0 : this.words[2 * at]!;
  }

  hi(at: number): number {
    return this.words === null ? 0 : this.words[2 * at + 1]!;
  }
}

/** A use of many pages at once. */
interface WideUse {
  readonly first: number;
  readonly last: number;
  readonly use: PageUse;
}

/**
 * Guest memory as the events tell it, page by page: the content of pages the IOMMU can reach, and who uses each for what.
 * Every store is followed into the word it changes and no further.
 */
export class TrackedMemory {
  readonly #pages = new Map<number, TrackedPage>();
  #wide: WideUse[] = [];
  /** Pages told late since the last other event: all of it was stored since each was seen before. */
  #burst: TrackedPage[] = [];
  /** A store of less than 8 bytes is being told. */
  partial = false;
  /** Some stores were told late. */
  anyLate = false;
  /** Of some stores the order between two events is not known. */
  anyGathered = false;
  /** Gathered stores since the last event that is none: by page and word, what was there before. */
  readonly #gathers = new Map<TrackedPage, Map<number, readonly [lo: number, hi: number]>>();
  /** Pages that came into use since somebody asked; null: nobody ever did. */
  #begun: number[] | null = null;
  readonly #bytes = new DataView(new ArrayBuffer(16));

  /** The page, known or not. */
  page(pfn: number): TrackedPage {
    let page = this.#pages.get(pfn);
    if (page === undefined) {
      page = new TrackedPage(pfn);
      for (const w of this.#wide) if (pfn >= w.first && pfn <= w.last) page.uses.push(w.use);
      this.#pages.set(pfn, page);
    }
    return page;
  }

  /** The page if anything was told of it. */
  seen(pfn: number): TrackedPage | undefined {
    return this.#pages.get(pfn);
  }

  /** From now on `use` hears of changes in [first, last] (page numbers). */
  use(first: number, last: number, use: PageUse): void {
    if (last - first < MOST_PAGES) {
      for (let pfn = first; pfn <= last; pfn++) {
        const page = this.page(pfn);
        this.begin(page);
        page.uses.push(use);
      }
      return;
    }
    this.#wide.push({ first, last, use });
    for (const page of this.#pages.values()) if (page.pfn >= first && page.pfn <= last) page.uses.push(use);
  }

  unuse(first: number, last: number, use: PageUse): void {
    if (last - first < MOST_PAGES) {
      for (let pfn = first; pfn <= last; pfn++) forget(this.#pages.get(pfn), use);
      return;
    }
    this.#wide = this.#wide.filter((w) => w.use !== use || w.first !== first);
    for (const page of this.#pages.values()) if (page.pfn >= first && page.pfn <= last) forget(page, use);
  }

  /**
   * A snapshot (little-endian, 4096 bytes; null is zeros). @param kind `seen`: it holds until the IOMMU looks again;
   * `followed`: stores are told before the next event, in no order; else when they happen.
   */
  snapshot(gpa: number, bytes: Uint8Array | null, kind: string, event: number): void {
    const page = this.page(gpa / PAGE);
    const late = kind === 'seen';
    const view = bytes === null ? null : new DataView(bytes.buffer, bytes.byteOffset, PAGE);
    const words = view === null ? null : new Int32Array(PAGE_WORDS);
    if (words !== null && view !== null) for (let i = 0; i < PAGE_WORDS; i++) words[i] = view.getInt32(4 * i, true);
    if (kind === 'followed' && page.gathered && page.known) {
      for (let at = 0; at < PAGE_WORDS / 2; at++)
        this.#gather(page, at, words?.[2 * at] ?? 0, words?.[2 * at + 1] ?? 0);
      return;
    }
    this.#gathers.delete(page);
    page.late = late || (page.since >= 0 && !page.known);
    page.known = true;
    const before = page.words;
    page.words = words;
    if (page.uses.length > 0 && (words !== null || before !== null)) {
      page.whole = true;
      for (let i = 0; i < PAGE_WORDS; i += 2) {
        const oldLo = before === null ? 0 : before[i]!;
        const oldHi = before === null ? 0 : before[i + 1]!;
        const lo = words === null ? 0 : words[i]!;
        const hi = words === null ? 0 : words[i + 1]!;
        if (oldLo !== lo || oldHi !== hi) tell(page, i / 2, oldLo, oldHi, lo, hi);
      }
      page.whole = false;
    }
    page.late = late;
    page.gathered = kind === 'followed';
    if (late) this.anyLate = true;
    this.#told(page, event);
  }

  /** A word of a page whose stores are told in no order: it is looked at with the others. */
  #gather(page: TrackedPage, at: number, lo: number, hi: number): void {
    const oldLo = page.lo(at);
    const oldHi = page.hi(at);
    if (oldLo === lo && oldHi === hi) return;
    let words = this.#gathers.get(page);
    this.anyGathered = true;
    if (words === undefined) {
      words = new Map();
      this.#gathers.set(page, words);
    }
    if (!words.has(at)) words.set(at, [oldLo, oldHi]);
    page.words ??= new Int32Array(PAGE_WORDS);
    page.words[2 * at] = lo;
    page.words[2 * at + 1] = hi;
  }

  /** An event comes that is no store: those before it are looked at, page by page as they were told. */
  flush(): void {
    if (this.#gathers.size === 0) return;
    const pages = [...this.#gathers];
    this.#gathers.clear();
    for (const [page, words] of pages) {
      for (const [at, [oldLo, oldHi]] of words) {
        const lo = page.lo(at);
        const hi = page.hi(at);
        if (oldLo !== lo || oldHi !== hi) tell(page, at, oldLo, oldHi, lo, hi);
      }
    }
  }

  /** Whether something is in use of which no page was ever told. @param inRam whether a page is one of RAM. */
  untold(inRam: (pfn: number) => boolean): boolean {
    const told = new Set<PageUse>();
    for (const page of this.#pages.values()) if (page.since >= 0 || page.known) for (const u of page.uses) told.add(u);
    for (const page of this.#pages.values()) {
      if (page.since >= 0 || page.known || !inRam(page.pfn)) continue;
      if (page.uses.some((u) => u.reachable !== false && !told.has(u))) return true;
    }
    return this.#wide.some((w) => !told.has(w.use) && inRam(w.first));
  }

  /** Numbers of the pages that came into use since the last call. */
  begun(): readonly number[] {
    const pages = this.#begun ?? [];
    this.#begun = [];
    return pages;
  }

  /** Whether something that is in use is in the page. */
  inUse(pfn: number): boolean {
    const page = this.#pages.get(pfn);
    if (page === undefined) return this.#wide.some((w) => pfn >= w.first && pfn <= w.last);
    return page.uses.some((u) => u.reachable !== false);
  }

  #told(page: TrackedPage, event: number): void {
    if (page.late) this.#burst.push(page);
    else page.since = event;
  }

  /** Stores that are told together are told: `event` is another one. */
  settle(event: number): void {
    if (this.#burst.length === 0) return;
    for (const page of this.#burst) page.since = event;
    this.#burst = [];
  }

  /** A page that somebody begins to use: what was stored there while nobody told is not known. */
  begin(page: TrackedPage): void {
    if (!page.known) page.words = null;
    this.#begun?.push(page.pfn);
  }

  /** A store of 1 to 8 bytes anywhere. */
  store(gpa: number, size: number, lo: number, hi: number, event: number): void {
    const offset = gpa % 8;
    if (offset === 0 && size === 8) {
      this.#store(gpa, lo, hi, event);
      return;
    }
    const base = gpa - offset;
    const b = this.#bytes;
    this.#load(base, 0);
    this.#load(base + 8, 8);
    this.partial = true;
    for (let i = 0; i < size; i++) b.setUint8(offset + i, (i < 4 ? lo >>> (8 * i) : hi >>> (8 * i - 32)) & 0xff);
    this.#store(base, b.getInt32(0, true), b.getInt32(4, true), event);
    if (offset + size > 8) this.#store(base + 8, b.getInt32(8, true), b.getInt32(12, true), event);
    this.partial = false;
  }

  #load(gpa: number, into: number): void {
    const page = this.#pages.get(Math.floor(gpa / PAGE));
    const at = (gpa % PAGE) / 8;
    this.#bytes.setInt32(into, page === undefined ? 0 : page.lo(at), true);
    this.#bytes.setInt32(into + 4, page === undefined ? 0 : page.hi(at), true);
  }

  #store(gpa: number, lo: number, hi: number, event: number): void {
    const page = this.page(Math.floor(gpa / PAGE));
    const at = (gpa % PAGE) / 8;
    if (page.gathered) this.#gather(page, at, lo, hi);
    else this.#put(page, at, lo, hi);
    this.#told(page, event);
  }

  #put(page: TrackedPage, at: number, lo: number, hi: number): void {
    const oldLo = page.lo(at);
    const oldHi = page.hi(at);
    if (oldLo === lo && oldHi === hi) return;
    page.words ??= new Int32Array(PAGE_WORDS);
    page.words[2 * at] = lo;
    page.words[2 * at + 1] = hi;
    tell(page, at, oldLo, oldHi, lo, hi);
  }

  /** The recording stops following the page: what is stored there from now on is not told. */
  drop(gpa: number, event: number): void {
    const page = this.#pages.get(gpa / PAGE);
    if (page === undefined) return;
    this.#gathers.delete(page);
    page.known = false;
    page.gathered = false;
    page.since = event;
  }

  /** A word of memory; zero where nothing was told. `gpa` 4-aligned. */
  word(gpa: number): number {
    const page = this.#pages.get(Math.floor(gpa / PAGE));
    return page?.words === null || page === undefined ? 0 : page.words[(gpa % PAGE) / 4]!;
  }

  /** Whether the content at `gpa` was told and is followed. */
  knows(gpa: number): boolean {
    return this.#pages.get(Math.floor(gpa / PAGE))?.known === true;
  }
}

function forget(page: TrackedPage | undefined, use: PageUse): void {
  if (page === undefined) return;
  const at = page.uses.indexOf(use);
  if (at >= 0) page.uses.splice(at, 1);
}

function tell(page: TrackedPage, at: number, oldLo: number, oldHi: number, lo: number, hi: number): void {
  // A use may take itself away while it is told.
  for (let n = page.uses.length - 1; n >= 0; n--) page.uses[n]?.changed(page, at, oldLo, oldHi, lo, hi);
}
