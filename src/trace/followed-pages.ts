import { toBigint } from '../core/bits.ts';
import { toBase64 } from '../lib/base64.ts';
import type { Backing } from '../ports/memory.ts';

const PAGE = 4096;
const PAGE_WORDS = PAGE / 4;
/** Up to this many changed 8-byte words of a known page become stores; more, a new snapshot. */
const MOST_STORES = 24;
/** So many pages are compared before every event (4 MiB); a page beyond is compared when the IOMMU looks at it. */
const MOST_PAGES = 1024;
/** A page that changed so often and was not looked at in between holds something else by now. */
const IDLE = 8;

/** One event of guest memory as the format has it. */
type MemoryEvent = Readonly<Record<string, string | number | boolean>>;

/** Knows from the events which pages the IOMMU's tables and queues are in. */
export interface TableFollower {
  /** Numbers of the pages that came into use since it was asked. Everything that was stored so far has been told. */
  wanted(): readonly number[];
  /** Whether a table or queue in use is in the page of this number. */
  reaches(pfn: number): boolean;
}

/** A piece of guest RAM. */
interface Region {
  readonly gpa: number;
  readonly bytes: number;
  readonly backing: Backing;
}

/** A page that is followed, and what of it was told. */
interface Followed {
  readonly region: Region;
  readonly told: Int32Array;
  /** Stores to it are found before every event. */
  readonly compared: boolean;
  /** Times it changed since the IOMMU looked at it. */
  idle: number;
}

/** A page the IOMMU looks at for the first time; `again`: not only to write to it. */
interface Candidate {
  readonly region: Region;
  readonly words: Int32Array;
  again: boolean;
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/**
 * The pages of guest memory a recording follows: each from the moment a table or queue is in it, or the IOMMU looks at it.
 * An emulator that sees the guest's stores tells them; otherwise every followed page is compared before every event, and
 * what differs was stored since the event before.
 */
export class FollowedPages {
  /** By address: a table comes after the one that leads to it. */
  readonly #pages = new Map<number, Followed>();
  readonly #candidates = new Map<number, Candidate>();
  readonly #touched = new Set<number>();
  readonly #regions: Region[] = [];
  readonly #put: (e: MemoryEvent) => void;
  /** Stores are told when they happen. */
  #hooked = false;
  follower: TableFollower | null = null;

  /** @param put records an event. */
  constructor(put: (e: MemoryEvent) => void) {
    this.#put = put;
  }

  /** Guest RAM. @param gpa bytes. */
  addRegion(gpa: number, backing: Backing): Region {
    const region = { gpa, bytes: backing.words().length * 4, backing };
    this.#regions.push(region);
    return region;
  }

  #region(gpa: number): Region | undefined {
    return this.#regions.find((r) => gpa >= r.gpa && gpa < r.gpa + r.bytes);
  }

  /** What the storage holds of the page now. */
  #now(gpa: number, region: Region): Int32Array {
    const at = gpa - region.gpa;
    region.backing.fetch?.(at);
    return region.backing.words().subarray(at / 4, at / 4 + PAGE_WORDS);
  }

  /** An event comes: what was stored since the last one is told. */
  before(): void {
    this.#touched.clear();
    if (!this.#hooked) this.#compare();
    this.ask();
  }

  #compare(): void {
    let changed: number[] | null = null;
    for (const [gpa, page] of this.#pages) {
      if (!page.compared || same(page.told, this.#now(gpa, page.region))) continue;
      changed ??= [];
      changed.push(gpa);
    }
    // Tables below first: an entry that leads to a table is written after it when it comes, and cleared after it when it goes.
    if (changed !== null) for (const gpa of changed.reverse()) this.#changed(gpa, this.#pages.get(gpa)!);
  }

  #changed(gpa: number, page: Followed): void {
    page.idle++;
    if (!this.#left(gpa)) this.#differences(gpa, page);
  }

  /** The page holds something else by now: it is followed no longer. */
  #left(gpa: number): boolean {
    if (this.follower === null ? this.#pages.get(gpa)!.idle <= IDLE : this.follower.reaches(gpa / PAGE)) return false;
    this.#pages.delete(gpa);
    this.#put({ t: 'drop', gpa: hex(gpa) });
    return true;
  }

  #differences(gpa: number, page: Followed): void {
    const now = this.#now(gpa, page.region);
    const words = differing(page.told, now);
    if (words.length > MOST_STORES) this.#put(this.#snapshot(gpa, now, page.compared));
    else for (const n of words) this.#store(gpa + 8 * n, now[2 * n]!, now[2 * n + 1]!);
    if (words.length > 0) page.told.set(now);
  }

  #store(gpa: number, lo: number, hi: number): void {
    this.#put({ t: 'st', gpa: hex(gpa), size: 8, val: hex(toBigint(lo, hi)) });
  }

  #snapshot(gpa: number, now: Int32Array, compared: boolean): MemoryEvent {
    const kind = this.#hooked ? 'told' : compared ? 'followed' : 'seen';
    const bytes = new Uint8Array(now.buffer, now.byteOffset, PAGE);
    return {
      t: 'page',
      gpa: hex(gpa),
      kind,
      ...(now.every((w) => w === 0) ? { zero: true } : { data: toBase64(bytes) }),
    };
  }

  /** Whatever came into use is followed from now on. */
  ask(): void {
    if (this.follower === null) return;
    // What a page leads to is asked for once the page is told.
    for (let pages = this.follower.wanted(); pages.length > 0; pages = this.follower.wanted())
      for (const pfn of pages) this.#want(pfn * PAGE);
  }

  #want(gpa: number): void {
    const known = this.#pages.get(gpa);
    if (known !== undefined) {
      // It is in use at another place: below what leads to it now, and what it holds was there before.
      this.#pages.delete(gpa);
      const now = this.#now(gpa, known.region);
      if (same(known.told, now)) this.#pages.set(gpa, known);
      else this.#put(this.#follow(gpa, known.region, now, now));
      return;
    }
    const region = this.#region(gpa);
    if (region === undefined) return;
    this.#candidates.delete(gpa);
    const now = this.#now(gpa, region);
    this.#put(this.#follow(gpa, region, now, now));
  }

  /** @param told what is told of the page. @returns the event that tells it. */
  #follow(gpa: number, region: Region, told: Int32Array, now: Int32Array): MemoryEvent {
    const compared = this.#hooked || this.#pages.size < MOST_PAGES;
    this.#pages.set(gpa, { region, told: now.slice(), compared, idle: 0 });
    return this.#snapshot(gpa, told, compared);
  }

  /** The IOMMU looks at a word, to read or to write it. @param offset bytes into the region. */
  look(region: Region, offset: number): void {
    const gpa = region.gpa + offset - (offset % PAGE);
    const page = this.#pages.get(gpa);
    if (page === undefined) {
      const candidate = this.#candidates.get(gpa);
      if (candidate !== undefined) candidate.again = true;
      else this.#candidates.set(gpa, { region, words: this.#now(gpa, region).slice(), again: false });
      return;
    }
    page.idle = 0;
    if ((page.compared && !this.#hooked) || this.#touched.has(gpa)) return;
    this.#touched.add(gpa);
    this.#differences(gpa, page);
  }

  /** The IOMMU wrote: what comes from it is not the guest's. A page it only writes to is not followed. */
  wrote(region: Region, offset: number, bytes: number): void {
    for (let at = offset - (offset % PAGE); at < offset + bytes; at += PAGE) {
      const gpa = region.gpa + at;
      const candidate = this.#candidates.get(gpa);
      if (candidate !== undefined && !candidate.again) this.#candidates.delete(gpa);
      const page = this.#pages.get(gpa);
      if (page === undefined) continue;
      const from = Math.max(at, offset - (offset % 4)) / 4;
      const to = Math.ceil(Math.min(at + PAGE, offset + bytes) / 4);
      const words = region.backing.words();
      for (let n = from; n < to; n++) page.told[n - at / 4] = words[n]!;
    }
  }

  /** The event is over: tells the pages that were looked at for the first time, as they were then. */
  looked(): void {
    for (const [gpa, c] of this.#candidates) this.#put(this.#follow(gpa, c.region, c.words, this.#now(gpa, c.region)));
    this.#candidates.clear();
  }

  /**
   * The guest stores `size` bytes (1 to 8) within an aligned word of 8.
   * Without a region that holds it (nobody can look), all stores are kept.
   */
  stored(gpa: number, size: number, lo: number, hi: number): void {
    const base = gpa - (gpa % PAGE);
    const region = this.#region(gpa);
    if (region === undefined) this.#tell(base);
    else {
      if (!this.#hooked) this.#hook();
      // What the stores before led to may be in this page.
      if (!this.#pages.has(base)) this.ask();
      // Of a table of very many pages only those are followed that are stored to.
      if (!this.#pages.has(base) && this.follower?.reaches(base / PAGE) === true) this.#want(base);
      const page = this.#pages.get(base);
      if (page === undefined || this.#left(base)) return;
      put(page.told, gpa % PAGE, size, lo, hi);
    }
    const value = size === 8 ? hex(toBigint(lo, hi)) : size > 4 ? hex(long(lo, hi, size)) : hex(short(lo, size));
    this.#put({ t: 'st', gpa: hex(gpa), size, val: value });
  }

  /** The first store is told: from now on what is followed is told in its order. */
  #hook(): void {
    this.#hooked = true;
    for (const [gpa, page] of this.#pages) this.#put(this.#snapshot(gpa, page.told, true));
  }

  readonly #zeros = new Set<number>();

  /** A page nobody can look at is taken to be zero at first. */
  #tell(gpa: number): void {
    if (this.#zeros.has(gpa)) return;
    this.#zeros.add(gpa);
    this.#put({ t: 'page', gpa: hex(gpa), kind: 'told', zero: true });
  }
}

export type { Region };

/** The low `size` bytes, up to 4. */
function short(lo: number, size: number): number {
  return (lo & (size === 4 ? -1 : (1 << (8 * size)) - 1)) >>> 0;
}

function long(lo: number, hi: number, size: number): bigint {
  return toBigint(lo, hi & ((1 << (8 * (size - 4))) - 1));
}

function put(words: Int32Array, at: number, size: number, lo: number, hi: number): void {
  const bytes = new DataView(words.buffer, words.byteOffset);
  for (let i = 0; i < size; i++) bytes.setUint8(at + i, (i < 4 ? lo >>> (8 * i) : hi >>> (8 * i - 32)) & 0xff);
}

/** Eight words at a time: every followed page is compared before every event. */
function same(a: Int32Array, b: Int32Array): boolean {
  for (let n = 0; n < PAGE_WORDS; n += 8) {
    const low = (a[n]! ^ b[n]!) | (a[n + 1]! ^ b[n + 1]!) | (a[n + 2]! ^ b[n + 2]!) | (a[n + 3]! ^ b[n + 3]!);
    const high = (a[n + 4]! ^ b[n + 4]!) | (a[n + 5]! ^ b[n + 5]!) | (a[n + 6]! ^ b[n + 6]!) | (a[n + 7]! ^ b[n + 7]!);
    if ((low | high) !== 0) return false;
  }
  return true;
}

/** Indices of the 8-byte words that differ. */
function differing(a: Int32Array, b: Int32Array): number[] {
  const out: number[] = [];
  for (let n = 0; n < PAGE_WORDS; n += 2) if (a[n] !== b[n] || a[n + 1] !== b[n + 1]) out.push(n / 2);
  return out;
}
