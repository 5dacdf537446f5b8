import type { FailurePlan } from '../../ports/failures.ts';
import type { Memory } from '../../ports/memory.ts';

/** What the kernel's page allocator offers drivers: zeroed 4 KiB pages in host-physical memory. */
export interface PageAllocator {
  /** Host-physical memory. */
  readonly space: Memory;
  /** Which steps of a driver fail although nothing is short (fault injection). */
  readonly failures?: FailurePlan | null;
  /** `count` contiguous pages, aligned to their size. @returns host-physical address, or -1: no page is left. */
  allocate(count?: number): number;
  /** Gives pages back that `allocate` handed out together. */
  free(hpa: number, count?: number): void;
  /** Gives single pages back, however many at once. @param pages the allocator's from now on. */
  freeAll(pages: number[]): void;
}
