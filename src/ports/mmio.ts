/**
 * Guest → device: one window of memory-mapped registers. The bus never splits or joins accesses: QEMU sends one 8-byte
 * access where v86 and Unicorn send two of 4, and a device gets both right. No call throws, whatever the guest does.
 */
export interface MmioDevice {
  /** For messages and listings. */
  readonly name: string;
  /** Bytes of the window. */
  readonly bytes: number;
  /** A read of 1, 2 or 4 bytes at a naturally aligned offset: unsigned. */
  read(offset: number, size: number): number;
  /** An 8-byte read: low word into out[0], high word into out[1]. */
  read64(offset: number, out: Int32Array): void;
  /**
   * Bytes from `offset` on that nothing answers (a lower bound), 0: something does. Lets a long range pass a hole of the
   * window at once; absent: the whole window answers.
   */
  silent?(offset: number): number;
  /** A write of 1, 2, 4 or 8 bytes. `hi` counts for size 8 only. */
  write(offset: number, size: number, lo: number, hi: number): void;
}
