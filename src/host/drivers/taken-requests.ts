import type { HostDevice } from '../kernel/driver.ts';

/** Page requests or stalled transactions that a listener of upcalls has taken and has to answer, by device, PASID and group. */
export class TakenRequests {
  /** device/pasid/group → the requester id it came from. */
  readonly #taken = new Map<string, number>();

  /** Somebody has to answer a request of `rid`. */
  add(dev: HostDevice, rid: number, pasid: number, group: number): void {
    this.#taken.set(keyOf(dev, pasid, group), rid);
  }

  /** Asks a listener with `ask`; its answer may come from inside the call. @returns whether it took the request. */
  offer(dev: HostDevice, rid: number, pasid: number, group: number, ask: () => boolean): boolean {
    const key = keyOf(dev, pasid, group);
    const waited = this.#taken.has(key);
    this.#taken.set(key, rid);
    if (ask()) return true;
    if (!waited) this.#taken.delete(key);
    return false;
  }

  /** An answer comes. @returns the requester id; -1: nothing waits under that name. */
  take(dev: HostDevice, pasid: number, group: number): number {
    const key = keyOf(dev, pasid, group);
    const rid = this.#taken.get(key) ?? -1;
    this.#taken.delete(key);
    return rid;
  }

  /** Takes every group of a (device, PASID). @param each gets its requester id and group. */
  takeAll(dev: HostDevice, pasid: number, each: (rid: number, group: number) => void): void {
    for (const [key, rid] of this.#taken) {
      const [index, p, group] = key.split('/').map(Number);
      if (index !== dev.index || p !== pasid) continue;
      this.#taken.delete(key);
      each(rid, group!);
    }
  }

  /** The device goes: nothing of it will be answered any more. */
  forget(dev: HostDevice): void {
    for (const key of this.#taken.keys()) if (key.startsWith(`${dev.index}/`)) this.#taken.delete(key);
  }
}

function keyOf(dev: HostDevice, pasid: number, group: number): string {
  return `${dev.index}/${pasid}/${group}`;
}
