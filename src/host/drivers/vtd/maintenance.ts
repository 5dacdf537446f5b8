import { NO_PASID } from '../../../ports/dma.ts';
import { type Master, RID_PASID, type User } from './master.ts';
import { ALL_PAGES, type InvalidationQueue } from './queue.ts';

/** Everything or a range, in the device TLB of every function below a domain. */
export function flushDevices(queue: InvalidationQueue, users: readonly User[], page: number, mask: number): void {
  for (let i = 0; i < users.length; i++) {
    const { master, pasid } = users[i]!;
    if (master.ats) flushDevice(queue, master, pasid, page, mask);
  }
}

export function flushDevice(queue: InvalidationQueue, master: Master, pasid: number, page: number, mask: number): void {
  const { streams } = master.dev;
  const span = Math.min(mask, ALL_PAGES);
  for (let s = 0; s < streams.length; s++) {
    queue.deviceTlb(streams[s]!, pasid === RID_PASID ? NO_PASID : pasid, page, span);
  }
}
