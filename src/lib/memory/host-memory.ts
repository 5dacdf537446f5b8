import { ViommuError } from '../../core/errors.ts';
import { FAILURE_STEP, type FailurePlan, type FailureSource } from '../../ports/failures.ts';
import type { Backing } from '../../ports/memory.ts';
import { AccessGate, AccessNesting } from '../access/access-gate.ts';
import { AddressSpace, ramBacking } from './address-space.ts';

const PAGE = 4096;
const GIB = 2 ** 30;
/** Kernel memory grows by pieces: the first one is small, and each next one twice as large, up to the last of these. */
const FIRST_ARENA = 0x1_0000_0000;
const FIRST_ARENA_PAGES = 8;
const MOST_ARENA_PAGES = 1024;

/**
 * The host's physical memory: the emulated kernel's own pages (tables, queues) and the guests' RAM, which lies at addresses
 * that differ from the guest-physical ones, so that a forgotten stage 2 shows at once.
 */
export class HostMemory implements FailureSource {
  /** Everything, as the bus sees it. */
  readonly space = new AddressSpace();
  /** The same as IOMMUs see it that walk tables: while they look at registers, no function's request gets through. */
  readonly walked: AddressSpace;
  /** Which allocations of the host fail although there is memory (tests, fault injection). */
  failures: FailurePlan | null = null;
  readonly #limit: number;
  /** Kernel pages come from below, guest RAM and windows from above. */
  #nextArena = FIRST_ARENA;
  #arenaPages = FIRST_ARENA_PAGES;
  #nextRam = 0x100_0000_0000;
  /** Free kernel pages: host-physical addresses. */
  #free: number[] = [];
  /** Further free pages, as they were given back: thousands of them cost as much as one. */
  readonly #freed: number[][] = [];
  /** Free runs of several pages, by their length: a run stays together. */
  readonly #runs = new Map<number, number[]>();
  readonly #ram = new Map<number, () => void>();
  #used = 0;
  /** Allocations that found no page left. */
  exhausted = 0;

  /**
   * @param maxPages how many 4 KiB pages the kernel may take for itself before allocation fails.
   * @param accesses what the gates of the machine share.
   */
  constructor(maxPages = 1 << 20, accesses = new AccessNesting()) {
    this.#limit = maxPages;
    this.walked = this.space.view(new AccessGate(accesses), true);
  }

  /** Most kernel pages at once. */
  get pagesLimit(): number {
    return this.#limit;
  }

  /** Bytes of the process that kernel pages have taken, free ones and gaps included: they are kept. */
  get kernelBytes(): number {
    return this.#nextArena - FIRST_ARENA;
  }

  /** Kernel pages in use. */
  get pagesUsed(): number {
    return this.#used;
  }

  /**
   * Takes `count` contiguous zeroed pages, aligned to their own size when `count` is a power of two.
   * @returns the host-physical address, or -1 when memory is out (ENOMEM is the caller's word).
   */
  allocate(count = 1): number {
    if (this.#used + count > this.#limit) {
      this.exhausted++;
      return -1;
    }
    if (this.failures?.fails(FAILURE_STEP.KERNEL_PAGES)) return -1;
    if (count === 1) {
      if (this.#free.length === 0) this.#refill();
      this.#used++;
      return this.#clear(this.#free.pop()!, 1);
    }
    this.#used += count;
    const run = this.#runs.get(count)?.pop();
    return run === undefined ? this.#grow(count, true) : this.#clear(run, count);
  }

  /** Gives pages back that `allocate(count)` handed out. */
  free(hpa: number, count = 1): void {
    this.#used -= count;
    if (count === 1) {
      this.#free.push(hpa);
      return;
    }
    const runs = this.#runs.get(count);
    if (runs === undefined) this.#runs.set(count, [hpa]);
    else runs.push(hpa);
  }

  /** Gives single pages back that `allocate` handed out. @param pages not used by the caller any more. */
  freeAll(pages: number[]): void {
    this.#used -= pages.length;
    if (pages.length > 0) this.#freed.push(pages);
  }

  #refill(): void {
    const pages = this.#freed.pop();
    if (pages === undefined) this.#growArena();
    else this.#free = pages;
  }

  #growArena(): void {
    this.#grow(this.#arenaPages);
    this.#arenaPages = Math.min(2 * this.#arenaPages, MOST_ARENA_PAGES);
  }

  #grow(pages: number, whole = false): number {
    const align = PAGE * 2 ** Math.ceil(Math.log2(pages));
    const base = Math.ceil(this.#nextArena / align) * align;
    this.space.addRam(base, pages * PAGE, ramBacking(pages * PAGE));
    this.#nextArena = base + pages * PAGE;
    if (!whole) for (let i = pages - 1; i >= 0; i--) this.#free.push(base + i * PAGE);
    return base;
  }

  #clear(hpa: number, pages: number): number {
    if (!this.space.locate(hpa)) throw new ViommuError('EINVAL', 'caller', 'not a kernel page', { hpa });
    this.space.words.fill(0, this.space.index, this.space.index + (pages * PAGE) / 4);
    return hpa;
  }

  /**
   * Gives guest RAM (or a device window's worth of address space, without `backing`) a host-physical place.
   * @param gpa where the guest sees it; the answer is congruent to it modulo 1 GiB (large stage-2 blocks stay possible)
   *   and different from it.
   * @param bytes a multiple of 4 KiB.
   */
  place(gpa: number, bytes: number, backing: Backing | null, writable = true): number {
    const hpa = this.#nextRam + (gpa % GIB);
    this.#nextRam = Math.ceil((hpa + bytes) / GIB) * GIB + GIB;
    if (backing !== null) this.#ram.set(hpa, this.space.addRam(hpa, bytes, backing, writable));
    return hpa;
  }

  /** Takes RAM away that `place` put at `hpa`. */
  unplace(hpa: number): void {
    this.#ram.get(hpa)?.();
    this.#ram.delete(hpa);
  }
}
