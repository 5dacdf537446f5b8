import type { Smmuv3Master } from './master.ts';

/** What a user or a move calls every stream of its device. */
export const ALL_STREAMS = -1;

/** One (device, PASID) below a domain, or one stream of a device by itself. */
export interface Smmuv3User {
  readonly master: Smmuv3Master;
  /** SubstreamID, NO_PASID for the RID. */
  readonly ssid: number;
  /** Index of the stream, or ALL_STREAMS. */
  readonly stream: number;
}

/** The (device, PASID)s and single streams below a domain. While a re-attach is under way one may be in it twice. */
export class Smmuv3Users {
  readonly #users = new Map<number, { readonly user: Smmuv3User; times: number }>();

  add(user: Smmuv3User): void {
    const k = key(user);
    const there = this.#users.get(k);
    if (there === undefined) this.#users.set(k, { user, times: 1 });
    else there.times++;
  }

  remove(user: Smmuv3User): void {
    const k = key(user);
    const there = this.#users.get(k);
    if (there !== undefined && --there.times === 0) this.#users.delete(k);
  }

  get empty(): boolean {
    return this.#users.size === 0;
  }

  *[Symbol.iterator](): IterableIterator<Smmuv3User> {
    for (const { user } of this.#users.values()) yield user;
  }
}

/** PASIDs have 20 bits, NO_PASID is -1; a stream by itself has no PASID, and a device has less than 2^20 streams. */
function key({ master, ssid, stream }: Smmuv3User): number {
  return stream < 0 ? master.dev.index * 2 ** 21 + ssid + 1 : -(master.dev.index * 2 ** 20 + stream + 1);
}
