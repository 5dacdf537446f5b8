import { AddressSpace } from '../lib/memory/address-space.ts';
import type { MemoryWindow } from '../ports/memory.ts';
import type { MmioDevice } from '../ports/mmio.ts';

/** From so many bytes on, a range is first asked how much of it nothing answers. */
const LONG = 64;

interface Entry {
  readonly base: number;
  readonly end: number;
  readonly device: MmioDevice & Pick<MemoryWindow, 'claims'>;
  /** Largest access the device takes in one piece: 4 or 8. */
  readonly most: number;
}

/** A device as a window of an address space. */
export function windowOf(device: MmioDevice & Pick<MemoryWindow, 'claims'>): MemoryWindow {
  return {
    name: device.name,
    ...(device.claims === undefined ? {} : { claims: (offset, write) => device.claims!(offset, write) }),
    read: (offset, size) => device.read(offset, size),
    write: (offset, size, value) => device.write(offset, size, value | 0, 0),
  };
}

/**
 * Guest-physical space as a processor sees it: RAM and devices with their own widths. Nothing decoded: reads give 0,
 * writes vanish (QEMU's unassigned memory). Devices are windows of `space` as well, so walkers meet them like the processor.
 */
export class PhysicalMap {
  /** Everything as an address space. */
  readonly space: AddressSpace;
  /** The value of the last `read`: low and high word. */
  lo = 0;
  /** High word of the last 8-byte read. */
  hi = 0;
  #entries: Entry[] = [];
  #last: Entry | null = null;
  readonly #pair = new Int32Array(2);
  readonly #four = new Uint8Array(8);

  constructor(space: AddressSpace = new AddressSpace()) {
    this.space = space;
  }

  /**
   * Puts a device at `base` (bytes).
   * @param most largest access it takes in one piece: 8, or 4 (8-byte accesses become two of 4, as PCI has them).
   * @returns takes it away again. @throws ViommuError `EBUSY` on overlap.
   */
  attach(base: number, device: MmioDevice & Pick<MemoryWindow, 'claims'>, most: 4 | 8 = 8): () => void {
    const remove = this.space.addWindow(base, device.bytes, windowOf(device));
    const entry: Entry = { base, end: base + device.bytes, device, most };
    this.#entries = [...this.#entries, entry].sort((a, b) => a.base - b.base);
    return () => {
      remove();
      this.#entries = this.#entries.filter((e) => e !== entry);
      if (this.#last === entry) this.#last = null;
    };
  }

  /** The device at an address. */
  device(addr: number): MmioDevice | null {
    return this.#find(addr)?.device ?? null;
  }

  /** Whether a device answers a function's read (or write) at an address; RAM is not asked for here. */
  claims(addr: number, write: boolean): boolean {
    const e = this.#find(addr);
    return e !== null && e.device.claims?.(addr - e.base, write) !== false;
  }

  #find(addr: number): Entry | null {
    const last = this.#last;
    if (last !== null && addr >= last.base && addr < last.end) return last;
    for (const e of this.#entries) {
      if (addr < e.base) return null;
      if (addr < e.end) {
        this.#last = e;
        return e;
      }
    }
    return null;
  }

  /** A processor read of 1, 2, 4 or 8 bytes at any alignment, into `lo` and `hi`. */
  read(addr: number, size: number): void {
    const e = this.#find(addr);
    if (e !== null && addr % size === 0 && addr + size <= e.end) {
      this.#readDevice(e, addr - e.base, size);
      return;
    }
    const bytes = this.#four;
    bytes.fill(0);
    this.#readBytes(addr, bytes, size);
    this.lo = bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24);
    this.hi = bytes[4]! | (bytes[5]! << 8) | (bytes[6]! << 16) | (bytes[7]! << 24);
  }

  #readDevice(e: Entry, offset: number, size: number): void {
    if (size === 8 && e.most === 8) {
      e.device.read64(offset, this.#pair);
      this.lo = this.#pair[0]!;
      this.hi = this.#pair[1]!;
      return;
    }
    this.lo = e.device.read(offset, Math.min(size, 4)) | 0;
    this.hi = size === 8 ? e.device.read(offset + 4, 4) | 0 : 0;
  }

  /** A processor write of 1, 2, 4 or 8 bytes at any alignment. */
  write(addr: number, size: number, lo: number, hi: number): void {
    const e = this.#find(addr);
    if (e !== null && addr % size === 0 && addr + size <= e.end) {
      this.#writeDevice(e, addr - e.base, size, lo, hi);
      return;
    }
    const bytes = this.#four;
    for (let i = 0; i < size; i++) bytes[i] = (i < 4 ? lo : hi) >>> (8 * (i & 3));
    this.writeBytes(addr, size === 8 ? bytes : bytes.subarray(0, size));
  }

  #writeDevice(e: Entry, offset: number, size: number, lo: number, hi: number): void {
    if (size === 8 && e.most === 4) {
      e.device.write(offset, 4, lo, 0);
      e.device.write(offset + 4, 4, hi, 0);
    } else e.device.write(offset, size, lo, hi);
  }

  /** Reads any range: devices get naturally aligned accesses as wide as they take, holes read 0. */
  readBytes(addr: number, into: Uint8Array): void {
    this.#readBytes(addr, into, into.length);
  }

  #readBytes(addr: number, into: Uint8Array, count: number): void {
    for (let done = 0; done < count; ) {
      const at = addr + done;
      const e = this.#find(at);
      if (e !== null) {
        const none = silentBytes(e, at, count - done);
        if (none > 0) {
          into.fill(e.device.read(at - e.base, 1), done, done + none);
          done += none;
          continue;
        }
        const size = step(at, Math.min(count - done, e.end - at), e.most);
        this.#readDevice(e, at - e.base, size);
        for (let i = 0; i < size; i++) into[done + i] = (i < 4 ? this.lo : this.hi) >>> (8 * (i & 3));
        done += size;
        continue;
      }
      const n = this.#ramRun(at, count - done);
      const part = into.subarray(done, done + Math.abs(n));
      if (n < 0 || !this.space.readBytes(at, part)) part.fill(0);
      done += Math.abs(n);
    }
  }

  /** Writes any range; what nothing decodes vanishes. */
  writeBytes(addr: number, from: Uint8Array): void {
    for (let done = 0; done < from.length; ) {
      const at = addr + done;
      const e = this.#find(at);
      if (e !== null) {
        const none = silentBytes(e, at, from.length - done);
        if (none > 0) {
          done += none;
          continue;
        }
        const size = step(at, Math.min(from.length - done, e.end - at), e.most);
        const byte = (i: number) => (i < size ? from[done + i]! : 0);
        const word = (i: number) => byte(i) | (byte(i + 1) << 8) | (byte(i + 2) << 16) | (byte(i + 3) << 24);
        this.#writeDevice(e, at - e.base, size, word(0), word(4));
        done += size;
        continue;
      }
      const n = this.#ramRun(at, from.length - done);
      if (n > 0) this.space.writeBytes(at, from.subarray(done, done + n));
      done += Math.abs(n);
    }
  }

  /** Bytes of RAM from `addr` on, at most `most`; negative: bytes of hole. */
  #ramRun(addr: number, most: number): number {
    const word = addr - (addr % 4);
    if (this.space.locate(word)) return Math.min(most, this.space.room * 4 - (addr - word));
    let next = addr + most;
    for (const e of this.#entries) if (e.base > addr && e.base < next) next = e.base;
    for (const r of this.space.ram()) if (r.base > addr && r.base < next) next = r.base;
    return -(next - addr);
  }
}

/** Bytes from `at` on that nothing in the window answers, at most `left`; 0 for short accesses, which just try. */
function silentBytes(e: Entry, at: number, left: number): number {
  if (left < LONG) return 0;
  return Math.min(e.device.silent?.(at - e.base) ?? 0, left);
}

function step(at: number, left: number, most: number): number {
  for (let size = most; size > 1; size >>>= 1) if (at % size === 0 && left >= size) return size;
  return 1;
}
