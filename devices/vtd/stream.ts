import { NO_PASID } from '../../src/ports/dma.ts';
import type { Stream } from './attacher.ts';
import { UNKNOWN } from './pasid-modes.ts';

/** The streams of a unit by guest requester id and by (VFIO device, host PASID). */
export class StreamIndex {
  readonly all: Stream[] = [];
  /** Guest PASID of the last `find`. */
  pasid = NO_PASID;
  readonly #byRid = new Map<number, Stream>();
  /** Streams of a VFIO device: one, or its slices. */
  readonly #byDev = new Map<number, readonly Stream[]>();

  has(rid: number): boolean {
    return this.#byRid.has(rid);
  }

  byRid(rid: number): Stream | undefined {
    return this.#byRid.get(rid);
  }

  ofDevice(devId: number): readonly Stream[] {
    return this.#byDev.get(devId) ?? [];
  }

  add(s: Stream): void {
    this.all.push(s);
    for (const r of [s.rid, ...s.aliases]) this.#byRid.set(r, s);
    this.#byDev.set(s.vfio.devId, [...this.ofDevice(s.vfio.devId), s]);
  }

  remove(s: Stream): void {
    this.all.splice(this.all.indexOf(s), 1);
    for (const r of [s.rid, ...s.aliases]) this.#byRid.delete(r);
    const rest = this.ofDevice(s.vfio.devId).filter((t) => t !== s);
    if (rest.length > 0) this.#byDev.set(s.vfio.devId, rest);
    else this.#byDev.delete(s.vfio.devId);
  }

  /** The stream behind a host PASID of a device; its guest name is left in `pasid`. */
  find(devId: number, host: number): Stream | undefined {
    const list = this.#byDev.get(devId);
    if (list === undefined) return undefined;
    for (let i = 0; i < list.length; i++) {
      const pasid = list[i]!.mode.toGuest(host);
      if (pasid === UNKNOWN) continue;
      this.pasid = pasid;
      return list[i];
    }
    return undefined;
  }
}
