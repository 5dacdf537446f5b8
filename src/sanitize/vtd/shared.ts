import type { Caches } from '../caches.ts';
import type { ConfigCaches } from '../config.ts';
import type { Course } from '../course.ts';
import type { DeviceTlbs } from '../device-tlbs.ts';
import type { PageUse, TrackedMemory, TrackedPage } from '../memory.ts';
import type { WatchParts } from '../parts.ts';
import type { PageRequestRules } from '../requests.ts';
import { EntryTrails } from '../trails.ts';
import type { Trees } from '../trees.ts';

const PAGE = 4096;

/** A table that is followed: pages and who listens. */
interface Followed {
  readonly first: number;
  readonly last: number;
  readonly use: PageUse;
}

/** What the parts that follow a VT-d unit share. */
export class VtdShared implements WatchParts {
  readonly course: Course;
  readonly memory: TrackedMemory;
  readonly caches: Caches;
  readonly config: ConfigCaches;
  readonly trees: Trees;
  readonly devices: DeviceTlbs;
  readonly requests: PageRequestRules;
  /** Of context entries and IRTEs; of PASID entries. */
  readonly pairs: EntryTrails;
  readonly trails: EntryTrails;
  /** ATS is not allowed any more for a stream. */
  forbidden: (stream: number) => void = () => {};
  scalable = false;
  /** CAP.CM: what is not present may be cached. */
  cachingMode = false;
  /** Bits of output addresses: what CAP.MGAW says is never less (VT-d §11.4.2). */
  outBits = 52;

  constructor(parts: WatchParts) {
    this.course = parts.course;
    this.memory = parts.memory;
    this.caches = parts.caches;
    this.config = parts.config;
    this.trees = parts.trees;
    this.devices = parts.devices;
    this.requests = parts.requests;
    this.pairs = new EntryTrails(parts.course, true);
    this.trails = new EntryTrails(parts.course);
  }

  /** Follows a table and enters what was told of it. @returns ends that. */
  follow(address: number, bytes: number, use: PageUse): () => void {
    const { memory } = this;
    const f: Followed = { first: Math.floor(address / PAGE), last: Math.floor((address + bytes - 1) / PAGE), use };
    memory.use(f.first, f.last, use);
    for (let pfn = f.first; pfn <= f.last; pfn++) {
      const page = memory.seen(pfn);
      if (page === undefined || page.words === null) continue;
      page.whole = true;
      for (let at = 0; at < 512; at++) {
        if ((page.lo(at) | page.hi(at)) !== 0) use.changed(page, at, 0, 0, page.lo(at), page.hi(at));
      }
      page.whole = false;
    }
    return () => memory.unuse(f.first, f.last, use);
  }
}

/** `count` 8-byte words of the page from `at` on, as words. */
export function pageWords(page: TrackedPage, at: number, count: number): Int32Array {
  return page.words === null ? new Int32Array(2 * count) : page.words.slice(2 * at, 2 * (at + count));
}
