import { ViommuError } from '../../../src/core/errors.ts';
import { LBA_SHIFT } from '../../../src/spec/nvme/registers.ts';

/** What an NVMe namespace stores its 512-byte blocks in. Ranges are checked by the controller. */
export interface Disk {
  /** Size in blocks of 512 bytes. */
  readonly blocks: number;
  /** Copies `count` bytes from byte `byte` of the disk to `into[start]` and on. The range lies on the disk. */
  read(byte: number, into: Uint8Array, start: number, count: number): void;
  /** Copies `count` bytes from `from[start]` and on to byte `byte` of the disk. The range lies on the disk. */
  write(byte: number, from: Uint8Array, start: number, count: number): void;
  /** Fills `count` bytes from byte `byte` on with zeros. The range lies on the disk. */
  zero(byte: number, count: number): void;
}

/** A disk in memory. */
export class RamDisk implements Disk {
  readonly blocks: number;
  /** The contents. */
  readonly bytes: Uint8Array;

  /** @param bytes a multiple of 512, or the contents. */
  constructor(bytes: number | Uint8Array) {
    this.bytes = typeof bytes === 'number' ? new Uint8Array(bytes) : bytes;
    if (this.bytes.length === 0 || this.bytes.length % (1 << LBA_SHIFT) !== 0) {
      throw new ViommuError('EINVAL', 'caller', 'a disk is made of whole 512-byte blocks', {
        bytes: this.bytes.length,
      });
    }
    this.blocks = this.bytes.length >>> LBA_SHIFT;
  }

  read(byte: number, into: Uint8Array, start: number, count: number): void {
    into.set(this.bytes.subarray(byte, byte + count), start);
  }

  write(byte: number, from: Uint8Array, start: number, count: number): void {
    this.bytes.set(from.subarray(start, start + count), byte);
  }

  zero(byte: number, count: number): void {
    this.bytes.fill(0, byte, byte + count);
  }
}
