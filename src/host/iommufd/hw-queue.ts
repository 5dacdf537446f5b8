import type { DriverHwQueue } from '../kernel/driver.ts';
import type { ObjectBase } from './object.ts';
import type { Viommu } from './viommu.ts';

/** What a hardware queue is made of. */
export interface HwQueueParts {
  readonly viommu: Viommu;
  readonly index: number;
  readonly driver: DriverHwQueue;
  /** Unpins the queue's memory and frees the hidden access. */
  readonly release: () => void;
}

/** A guest-owned hardware command queue. Queue n+1 holds queue n, so they are destroyed in descending order. */
export class HwQueue {
  readonly kind = 'hw_queue';
  id = 0;
  users = 0;
  readonly #parts: HwQueueParts;
  readonly #before: ObjectBase | null;

  constructor(parts: HwQueueParts) {
    const { viommu, index } = parts;
    this.#parts = parts;
    this.#before = viommu.hwQueues.get(index - 1) ?? null;
    if (this.#before !== null) this.#before.users++;
    viommu.hwQueues.set(index, this);
    viommu.users++;
  }

  destroy(): void {
    const { viommu, index, driver, release } = this.#parts;
    driver.destroy();
    if (this.#before !== null) this.#before.users--;
    viommu.hwQueues.delete(index);
    release();
    viommu.users--;
  }
}
