import { MachineSanitizer } from '../../machine/sanitize.ts';
import type { MmioDevice } from '../../ports/mmio.ts';
import type { TraceRecorder } from '../../trace/recorder.ts';
import type { GuestSpace, QtestTarget } from './session.ts';

/** Where the IOMMU of a machine is, and its RAM; bytes. */
export interface SanitizedPlace {
  readonly iommu: 'smmuv3' | 'vtd';
  readonly base: number;
  readonly bytes: number;
  readonly ram: readonly { readonly gpa: number; readonly size: number }[];
}

/** A target whose client is judged as the driver it plays: its stores and register accesses are told to a sanitizer. */
export class SanitizedTarget implements QtestTarget {
  readonly map: GuestSpace;
  readonly judge: MachineSanitizer;
  readonly #inner: QtestTarget;

  /** @param recorder the one that records the machine as well; default: one that keeps nothing. */
  constructor(inner: QtestTarget, map: GuestSpace, place: SanitizedPlace, recorder?: TraceRecorder) {
    this.#inner = inner;
    this.judge = new MachineSanitizer(place, recorder);
    this.map = new ToldSpace(map, place, this.judge);
  }

  portRead(port: number, size: number): number {
    return this.#inner.portRead(port, size);
  }

  portWrite(port: number, size: number, value: number): void {
    this.#inner.portWrite(port, size, value);
  }

  now(): number {
    return this.#inner.now();
  }

  advance(nanoseconds: number): void {
    this.#inner.advance(nanoseconds);
  }

  next(): number {
    return this.#inner.next();
  }
}

/** Guest-physical space, with the IOMMU's window and RAM told. */
class ToldSpace implements GuestSpace {
  readonly #inner: GuestSpace;
  readonly #place: SanitizedPlace;
  readonly #judge: MachineSanitizer;
  readonly #registers: MmioDevice;
  readonly #pair = new Int32Array(2);
  lo = 0;
  hi = 0;

  constructor(inner: GuestSpace, place: SanitizedPlace, judge: MachineSanitizer) {
    this.#inner = inner;
    this.#place = place;
    this.#judge = judge;
    const { base, bytes } = place;
    this.#registers = judge.recorder.device({
      name: place.iommu,
      bytes,
      read: (offset, size) => {
        inner.read(base + offset, size);
        return inner.lo;
      },
      read64: (offset, out) => {
        inner.read(base + offset, 8);
        out[0] = inner.lo;
        out[1] = inner.hi;
      },
      write: (offset, size, lo, hi) => inner.write(base + offset, size, lo, hi),
    });
  }

  #offset(addr: number, size: number): number {
    const offset = addr - this.#place.base;
    return offset >= 0 && offset + size <= this.#place.bytes && offset % size === 0 ? offset : -1;
  }

  read(addr: number, size: number): void {
    const offset = this.#offset(addr, size);
    if (offset < 0) {
      this.#inner.read(addr, size);
      this.lo = this.#inner.lo;
      this.hi = this.#inner.hi;
    } else if (size === 8) {
      this.#registers.read64(offset, this.#pair);
      this.lo = this.#pair[0]!;
      this.hi = this.#pair[1]!;
    } else {
      this.lo = this.#registers.read(offset, size);
      this.hi = 0;
    }
  }

  write(addr: number, size: number, lo: number, hi: number): void {
    const offset = this.#offset(addr, size);
    if (offset >= 0) {
      this.#registers.write(offset, size, lo, hi);
      return;
    }
    this.#inner.write(addr, size, lo, hi);
    if (addr % size === 0 && this.#inRam(addr, size)) this.#judge.stored(addr, size, lo, hi);
    else this.#bytes(addr, size);
  }

  readBytes(addr: number, into: Uint8Array): void {
    this.#inner.readBytes(addr, into);
  }

  writeBytes(addr: number, from: Uint8Array): void {
    this.#inner.writeBytes(addr, from);
    this.#bytes(addr, from.length);
  }

  #inRam(addr: number, bytes: number): boolean {
    return this.#place.ram.some((r) => addr >= r.gpa && addr + bytes <= r.gpa + r.size);
  }

  /** Tells what is in memory now, in aligned words of 8 around what was stored. */
  #bytes(addr: number, bytes: number): void {
    for (let at = addr - (addr % 8); at < addr + bytes; at += 8) {
      if (!this.#inRam(at, 8)) continue;
      this.#inner.read(at, 8);
      this.#judge.stored(at, 8, this.#inner.lo | 0, this.#inner.hi | 0);
    }
  }
}
