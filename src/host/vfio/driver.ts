import type { Caller } from '../ioctl/caller.ts';

/** The driver of a VFIO device: what its files answer once they are bound. */
export interface VfioDriver {
  /** The first file has been bound: the device's own node, or one that its group gave out. */
  opened?(by: 'cdev' | 'group'): void;
  /** The last one has been closed: nothing of the user's is left in the device. */
  closed?(): void;
  /** The host wants the device back: its user is asked. @returns false: the user does not listen. Absent: nobody ever does. */
  request?(): boolean;
  /** The commands of a bound device. @returns ≥ 0 or -errno. */
  ioctl(request: number, arg: bigint, caller: Caller): number;
  /** Reads a region of the device's file. @returns bytes, or -errno. */
  pread(offset: bigint, into: Uint8Array): number;
  /** Writes a region of the device's file. @returns bytes, or -errno. */
  pwrite(offset: bigint, from: Uint8Array): number;
}
