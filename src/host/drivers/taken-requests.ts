import type { HostDevice } from '../kernel/driver.ts';

/** Page requests or stalled transactions that a listener of upcalls has taken and has to answer, by device, requester id, PASID and group. */
export class TakenRequests {
  /** `keyOf` → the requester id it came from: two streams of a device may use one group. */
  readonly #taken = new Map<string, number>();

  /** Somebody has to answer a request of `rid`. */
  add(dev: HostDevice, rid: number, pasid: number, group: number): void {
    this.#taken.set(keyOf(dev, rid, pasid, group), rid);
  }

  /** Asks a listener with `ask`; its answer may come from inside the call. @returns whether it took the request. */
  offer(dev: HostDevice, rid: number, pasid: number, group: number, ask: () => boolean): boolean {
    const key = keyOf(dev, rid, pasid, group);
    const waited = this.#taken.has(key);
    this.#taken.set(key, rid);
    if (ask()) return true;
    if (!waited) this.#taken.delete(key);
    return false;
  }

  /**
   * An answer comes.
   * @param stream index of the stream it is for; absent: whichever waits.
   * @returns the requester id; -1: nothing waits under that name.
   */
  take(dev: HostDevice, pasid: number, group: number, stream?: number): number {
    const rids = stream === undefined ? dev.streams : dev.streams.slice(stream, stream + 1);
    return rids.find((rid) => this.#taken.delete(keyOf(dev, rid, pasid, group))) ?? -1;
  }

  /** An answer without a PASID comes: it is for the group, whatever PASID was asked for. @returns see `take`. */
  takeGroup(dev: HostDevice, group: number, stream?: number): number {
    for (const [key, rid] of this.#taken) {
      const [index, , , g] = key.split('/').map(Number);
      if (index !== dev.index || g !== group || (stream !== undefined && dev.streams[stream] !== rid)) continue;
      this.#taken.delete(key);
      return rid;
    }
    return -1;
  }

  /** Takes every group of a (device, PASID). @param each gets its requester id and group. */
  takeAll(dev: HostDevice, pasid: number, each: (rid: number, group: number) => void): void {
    for (const [key, rid] of this.#taken) {
      const [index, , p, group] = key.split('/').map(Number);
      if (index !== dev.index || p !== pasid) continue;
      this.#taken.delete(key);
      each(rid, group!);
    }
  }

  /** The device goes, or one requester id of it has ended what it had: nothing of that will be answered any more. */
  forget(dev: HostDevice, rid?: number): void {
    const prefix = rid === undefined ? `${dev.index}/` : `${dev.index}/${rid}/`;
    for (const key of this.#taken.keys()) if (key.startsWith(prefix)) this.#taken.delete(key);
  }
}

function keyOf(dev: HostDevice, rid: number, pasid: number, group: number): string {
  return `${dev.index}/${rid}/${pasid}/${group}`;
}
