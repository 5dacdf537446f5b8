import type { Memory } from '../../../src/ports/memory.ts';
import type { MmioDevice } from '../../../src/ports/mmio.ts';

/** The accesses a VT-d driver makes: registers, tables in memory, an invalidation queue at `queue`. */
export class GuestDriver {
  readonly registers: MmioDevice;
  readonly memory: Memory;
  readonly queue: number;
  tail = 0;
  #wide = false;
  readonly #pair = new Int32Array(2);

  /** @param queue 4 KiB of guest memory for the invalidation queue. */
  constructor(registers: MmioDevice, memory: Memory, queue = 0x10_0000) {
    this.registers = registers;
    this.memory = memory;
    this.queue = queue;
  }

  w32(offset: number, value: number): void {
    this.registers.write(offset, 4, value | 0, 0);
  }
  w64(offset: number, value: bigint): void {
    this.registers.write(offset, 8, Number(value & 0xffff_ffffn) | 0, Number(value >> 32n) | 0);
  }
  r32(offset: number): number {
    return this.registers.read(offset, 4);
  }
  r64(offset: number): bigint {
    this.registers.read64(offset, this.#pair);
    return (BigInt(this.#pair[1]! >>> 0) << 32n) | BigInt(this.#pair[0]! >>> 0);
  }

  /** Stores qwords. */
  store(address: number, ...qwords: bigint[]): void {
    for (const [i, q] of qwords.entries()) {
      this.memory.store64(address + 8 * i, Number(q & 0xffff_ffffn) | 0, Number((q >> 32n) & 0xffff_ffffn) | 0);
    }
  }
  load(address: number): bigint {
    this.memory.load64(address);
    return (BigInt(this.memory.hi >>> 0) << 32n) | BigInt(this.memory.lo >>> 0);
  }

  queueOn(wide = false): void {
    this.w64(0x90, BigInt(this.queue) | (wide ? 0x800n : 0n));
    this.tail = 0;
    this.#wide = wide;
    this.w32(0x18, (this.r32(0x1c) & 0x96ff_ffff) | 0x0400_0000);
  }

  /** Submits one descriptor (two qwords; four in a wide queue). */
  submit(...qwords: bigint[]): void {
    const bytes = this.#wide ? 32 : 16;
    this.store(this.queue + this.tail, ...[...qwords, 0n, 0n, 0n, 0n].slice(0, bytes / 8));
    this.tail = (this.tail + bytes) % 4096;
    this.w32(0x88, this.tail);
  }

  /** Root pointer and TE. `rtaddr` with TTM. */
  translateOn(rtaddr: bigint): void {
    this.w64(0x20, rtaddr);
    this.w32(0x18, (this.r32(0x1c) & 0x96ff_ffff) | 0x4000_0000);
    this.w32(0x18, (this.r32(0x1c) & 0x96ff_ffff) | 0x8000_0000);
  }

  /** FSTS, first record low and high. */
  fault(): [number, bigint, bigint] {
    return [this.r32(0x34), this.r64(0x220), this.r64(0x228)];
  }

  /**
   * Maps one 4 KiB page in four-level tables (either stage; `flags` in every entry). New tables are taken from `pool`.
   */
  map(root: number, iova: number, to: number, flags: bigint, pool: { next: number }, leafFlags = flags): void {
    let table = root;
    for (let level = 3; level >= 1; level--) {
      const at = table + 8 * (Math.floor(iova / 2 ** (12 + 9 * level)) % 512);
      if ((this.load(at) & 1n) === 0n) {
        this.store(at, BigInt(pool.next) | flags);
        pool.next += 4096;
      }
      table = Number(this.load(at) & 0xf_ffff_ffff_f000n);
    }
    this.store(table + 8 * (Math.floor(iova / 4096) % 512), BigInt(to) | leafFlags);
  }
}
