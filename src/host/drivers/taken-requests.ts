import type { HostDevice } from '../kernel/driver.ts';

/** Requests of one device that may wait for answers at once; further ones find nobody. */
const TAKEN_MAX = 8192;

/** Page requests or stalled transactions that a listener of upcalls has taken and has to answer, by device, requester id, PASID and group. */
export class TakenRequests {
  /** Per device: `keyOf` → the requester id it came from: two streams of a device may use one group. */
  readonly #taken = new Map<HostDevice, Map<string, number>>();

  /** Somebody has to answer a request of `rid`. */
  add(dev: HostDevice, rid: number, pasid: number, group: number): void {
    this.#of(dev).set(keyOf(rid, pasid, group), rid);
  }

  #of(dev: HostDevice): Map<string, number> {
    const known = this.#taken.get(dev);
    if (known !== undefined) return known;
    const made = new Map<string, number>();
    this.#taken.set(dev, made);
    return made;
  }

  /** Asks a listener with `ask`; its answer may come from inside the call. @returns whether it took the request. */
  offer(dev: HostDevice, rid: number, pasid: number, group: number, ask: () => boolean): boolean {
    const key = keyOf(rid, pasid, group);
    const taken = this.#of(dev);
    const waited = taken.has(key);
    if (!waited && taken.size >= TAKEN_MAX) return false;
    taken.set(key, rid);
    if (ask()) return true;
    if (!waited) taken.delete(key);
    return false;
  }

  /**
   * An answer comes.
   * @param stream index of the stream it is for; absent: whichever waits.
   * @returns the requester id; -1: nothing waits under that name.
   */
  take(dev: HostDevice, pasid: number, group: number, stream?: number): number {
    const taken = this.#taken.get(dev);
    if (taken === undefined) return -1;
    const rids = stream === undefined ? dev.streams : dev.streams.slice(stream, stream + 1);
    return rids.find((rid) => taken.delete(keyOf(rid, pasid, group))) ?? -1;
  }

  /** An answer without a PASID comes: it is for the group, whatever PASID was asked for. @returns see `take`. */
  takeGroup(dev: HostDevice, group: number, stream?: number): number {
    const taken = this.#taken.get(dev);
    if (taken === undefined) return -1;
    for (const [key, rid] of taken) {
      if (Number(key.split('/')[2]) !== group || (stream !== undefined && dev.streams[stream] !== rid)) continue;
      taken.delete(key);
      return rid;
    }
    return -1;
  }

  /** Takes every group of a (device, PASID). @param each gets its requester id and group. */
  takeAll(dev: HostDevice, pasid: number, each: (rid: number, group: number) => void): void {
    const taken = this.#taken.get(dev);
    if (taken === undefined) return;
    for (const [key, rid] of taken) {
      const [, p, group] = key.split('/').map(Number);
      if (p !== pasid) continue;
      taken.delete(key);
      each(rid, group!);
    }
  }

  /** The device goes, or one requester id of it has ended what it had: nothing of that will be answered any more. */
  forget(dev: HostDevice, rid?: number): void {
    const taken = this.#taken.get(dev);
    if (taken === undefined) return;
    if (rid === undefined) this.#taken.delete(dev);
    else for (const [key, of] of taken) if (of === rid) taken.delete(key);
  }
}

function keyOf(rid: number, pasid: number, group: number): string {
  return `${rid}/${pasid}/${group}`;
}
