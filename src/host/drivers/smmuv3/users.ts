import type { User } from './attach.ts';

/** The (device, PASID)s below a domain. While a re-attach is under way one may be in it twice. */
export class Users {
  readonly #users = new Map<number, { readonly user: User; times: number }>();

  add(user: User): void {
    const k = key(user);
    const there = this.#users.get(k);
    if (there === undefined) this.#users.set(k, { user, times: 1 });
    else there.times++;
  }

  remove(user: User): void {
    const k = key(user);
    const there = this.#users.get(k);
    if (there !== undefined && --there.times === 0) this.#users.delete(k);
  }

  get empty(): boolean {
    return this.#users.size === 0;
  }

  *[Symbol.iterator](): IterableIterator<User> {
    for (const { user } of this.#users.values()) yield user;
  }
}

/** PASIDs have 20 bits; NO_PASID is -1. */
function key({ master, ssid }: User): number {
  return master.dev.index * 2 ** 21 + ssid + 1;
}
