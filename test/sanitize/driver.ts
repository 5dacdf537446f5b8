import { type Finding, Sanitizer, type SeenEvent } from '../../src/sanitize/index.ts';
import { judged } from './seen-rules.ts';

export const RAM = 0x4000_0000;
const RAM_BYTES = 0x1000_0000;
/** Pages that tests map. */
export const DATA = RAM + 0x800_0000;
/** Omits the number: `Guest` counts. */
export type Uncounted<E> = E extends SeenEvent ? Omit<E, 'i'> : never;

const lo = (v: bigint | number) => Number(BigInt.asIntN(32, BigInt(v)));
const hi = (v: bigint | number) => Number(BigInt.asIntN(32, BigInt(v) >> 32n));

/** What a driver does to memory and registers, and what becomes of its functions' DMA. */
export interface GuestActs {
  alloc(bytes?: number): number;
  get(gpa: number): bigint;
  st(gpa: number, value: bigint | number): this;
  w(off: number, value: bigint | number, size?: number): this;
  /** @param value what a test without a machine has the register say. */
  r(off: number, value: bigint | number, size?: number): this;
  dma(sid: number, iova: number, out: number, perm?: number): this;
  refused(sid: number, iova: number, reason: number): this;
  written(gpa: number, words: readonly number[]): this;
  add(e: Uncounted<SeenEvent>): this;
  judge(iommu: 'smmuv3' | 'vtd'): Finding[];
}

/** A guest as a recording tells of it: stores, register accesses, DMA. Nothing answers but what a test says. */
export class Guest implements GuestActs {
  readonly events: SeenEvent[] = [];
  readonly #memory = new Map<number, bigint>();
  readonly #pages = new Set<number>();
  #next = RAM + 0x10_0000;

  add(e: Uncounted<SeenEvent>): this {
    this.events.push({ i: this.events.length, ...e } as SeenEvent);
    return this;
  }

  /** Zeroed memory, aligned to its size. */
  alloc(bytes = 4096): number {
    const size = Math.max(4096, bytes);
    this.#next = Math.ceil(this.#next / size) * size;
    const at = this.#next;
    this.#next += size;
    return at;
  }

  get(gpa: number): bigint {
    return this.#memory.get(gpa) ?? 0n;
  }

  /** An 8-byte store; the page is told with its first one. */
  st(gpa: number, value: bigint | number): this {
    const page = gpa - (gpa % 4096);
    if (!this.#pages.has(page)) {
      this.#pages.add(page);
      this.add({ t: 'page', gpa: page, kind: 'pt', data: null });
    }
    this.#memory.set(gpa, BigInt(value));
    return this.add({ t: 'st', gpa, size: 8, lo: lo(value), hi: hi(value) });
  }

  w(off: number, value: bigint | number, size = 4): this {
    return this.add({ t: 'w', off, size, lo: lo(value), hi: hi(value) });
  }

  r(off: number, value: bigint | number, size = 4): this {
    return this.add({ t: 'r', off, size, lo: lo(value), hi: hi(value) });
  }

  /** A DMA access as it was translated. @param perm ACCESS bits of the entry. */
  dma(sid: number, iova: number, out: number, perm = 3): this {
    return this.add({ t: 'xlat', sid, lo: lo(iova), hi: hi(iova), access: 1, out, perm });
  }

  refused(sid: number, iova: number, reason: number): this {
    return this.add({ t: 'fault', sid, lo: lo(iova), hi: hi(iova), access: 1, reason });
  }

  written(gpa: number, words: readonly number[]): this {
    const bytes = new Uint8Array(Int32Array.from(words).buffer);
    return this.add({ t: 'dst', gpa, bytes });
  }

  judge(iommu: 'smmuv3' | 'vtd'): Finding[] {
    const devices = [8, 16, 24].map((sid) => ({ name: `fn${sid}`, sid, ats: true }));
    const s = new Sanitizer({ iommu, ram: [{ gpa: RAM, size: RAM_BYTES }], devices });
    for (const e of this.events) s.event(e);
    return judged(iommu, s.finish());
  }
}

/** A driver of either IOMMU that does everything right, in steps that a test can leave out or swap. */
export interface Driver {
  readonly iommu: 'smmuv3' | 'vtd';
  readonly guest: GuestActs;
  /** The function under test. */
  readonly sid: number;
  /** Stores a mapping. @param flags other attributes of the entry. */
  map(va: number, pa: number, writable?: boolean): void;
  unmap(va: number): void;
  /** Takes away (or puts back) the last-level table of `va`. */
  unlink(va: number): number;
  link(va: number, table: number): void;
  /** Queues the IOMMU's invalidation of pages. @param leaf the last level only. */
  invalidate(va: number, pages?: number, leaf?: boolean): void;
  /** Queues the invalidation of everything of the address space. */
  invalidateAll(): void;
  /** Queues the function's invalidation of a page. */
  invalidateDevice(va: number): void;
  /** Rings the doorbell. @param awaited a completion request is behind it, and the guest learns that it is done. */
  submit(awaited?: boolean): void;
  /** Queues a completion request without ringing. */
  fence(): void;
}

/** Rules found, sorted; hints only if asked for. */
export function rulesOf(d: Driver, hints = false): string[] {
  const found = d.guest.judge(d.iommu).filter((f) => hints || f.severity !== 'hint');
  return [...new Set(found.map((f) => f.rule))].sort();
}
