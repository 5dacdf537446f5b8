import type { PageFile, UserData, UserMemory } from '../../ports/iommufd.ts';

/** A file an ioctl hands to the caller: event queues, and the mock's accesses and dma-bufs. */
export interface KernelFile {
  /** read(2) and write(2): bytes or -errno. Absent: EINVAL. */
  read?(into: Uint8Array): number;
  write?(from: Uint8Array): number;
  /** Bit 0 POLLIN, bit 2 POLLOUT. */
  poll?(): number;
  /** pread(2) and pwrite(2): bytes or -errno. Absent: EINVAL. */
  pread?(offset: bigint, into: Uint8Array): number;
  pwrite?(offset: bigint, from: Uint8Array): number;
  /** ioctl(2): ≥ 0 or -errno. Absent: ENOTTY. */
  ioctl?(request: number, arg: bigint, caller: Caller): number;
  /** Called when `poll` has more to say; whoever holds the file sets it. */
  onReadable?: (() => void) | null;
  close(): void;
}

/** An eventfd of the caller, held by the kernel (`eventfd_ctx`). */
export interface EventSignal {
  /** Adds one to its count. */
  signal(): void;
  /** The kernel lets go of it. Called once. */
  release(): void;
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
  /** CAP_SYS_RESOURCE. Absent: as when the file was opened. */
  readonly privileged?: boolean;
  /** Its address space, where IOAS_MAP's addresses point. */
  readonly memory: CountedMemory;
  /** Installs a file. @returns the descriptor, or -errno. */
  install(file: KernelFile): number;
  /** The file behind a descriptor. @returns -EBADF it is not open; -EBADFD it is no file of this kernel. */
  installed(fd: number): KernelFile | number;
  /** The eventfd behind a descriptor. @returns -EBADF it is not open; -EINVAL it is no eventfd. Absent: there are none. */
  eventFd?(fd: number): EventSignal | number;
  /** What was asked for is not known yet: the verb is called again, and must change nothing for it now. */
  readonly incomplete?: boolean;
  /** A file of the process that could be mapped; null: not open. */
  pageFile(fd: number): PageFile | null;
  /** A verb will read [address, address + length) piece by piece. A caller to whom it matters fetches all of it at once. */
  expect?(address: bigint, length: number): void;
  /**
   * Copies to and from [address, address + length) follow, in a verb that cannot take back what it does. @returns false: it
   * has to be called again, or the range is too long (ENOMEM).
   */
  ready?(address: bigint, length: number, write: boolean): boolean;
}

/** Driver data at an address of the caller. */
export function callerData(caller: Caller, address: bigint, length: number): UserData {
  caller.expect?.(address, length);
  return {
    length,
    copyIn: (offset, into) => caller.read(address + BigInt(offset), into),
    copyOut: (offset, from) => caller.write(address + BigInt(offset), from),
  };
}
