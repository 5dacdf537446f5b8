import type { PageFile, UserData, UserMemory } from '../../ports/iommufd.ts';

/** A file an ioctl hands to the caller: event queues, and the mock's accesses and dma-bufs. */
export interface KernelFile {
  /** read(2) and write(2): bytes or -errno. Absent: EINVAL. */
  read?(into: Uint8Array): number;
  write?(from: Uint8Array): number;
  /** Bit 0 POLLIN, bit 2 POLLOUT. */
  poll?(): number;
  close(): void;
}

/** Process memory that also knows how often each page is pinned (the kernel's test driver asks). */
export interface CountedMemory extends UserMemory {
  /** @param hpa of a page. */
  pins(hpa: number): number;
}

/** The process inside an ioctl: its memory and its file descriptors (`copy_from_user` and friends). */
export interface Caller {
  /** @returns false: EFAULT. */
  read(address: bigint, into: Uint8Array): boolean;
  write(address: bigint, from: Uint8Array): boolean;
  /** Its address space, where IOAS_MAP's addresses point. */
  readonly memory: CountedMemory;
  /** Installs a file. @returns the descriptor, or -errno. */
  install(file: KernelFile): number;
  /** The file behind a descriptor that `install` made. */
  installed(fd: number): KernelFile | null;
  /** A file of the process that could be mapped; null: not open. */
  pageFile(fd: number): PageFile | null;
}

/** Driver data at an address of the caller. */
export function callerData(caller: Caller, address: bigint, length: number): UserData {
  return {
    length,
    copyIn: (offset, into) => caller.read(address + BigInt(offset), into),
    copyOut: (offset, from) => caller.write(address + BigInt(offset), from),
  };
}
