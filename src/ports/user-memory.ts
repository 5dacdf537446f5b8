/** A driver's data of a verb: `length` bytes in the caller's memory. */
export interface UserData {
  readonly length: number;
  /** Copies [offset, offset + into.length) in. @returns false: EFAULT. */
  copyIn(offset: number, into: Uint8Array): boolean;
  /** @returns false: EFAULT. */
  copyOut(offset: number, from: Uint8Array): boolean;
}

/**
 * Who pays for pinned pages: a process and its user. Counts are in pages; whoever pins adds to them and takes away again, once
 * per page however often it is pinned through one mapping.
 */
export interface PinAccount {
  /** CAP_IPC_LOCK: no limit holds, and only `pinned` is counted. */
  readonly unlimited: boolean;
  /** RLIMIT_MEMLOCK, whole pages. Infinity: none. */
  readonly limit: number;
  /** Pages the process has pinned (VmPin), and locked in its own name (VmLck). */
  pinned: number;
  /** Pages the process has locked in its own name (VmLck). */
  locked: number;
  /** Pages locked in the name of the user, by all of its processes together. */
  readonly user: { locked: number };
}

/** The memory of the process that owns the fd (its mm): where IOAS_MAP's user_va points. */
export interface UserMemory {
  /**
   * The host-physical run that backs `va`.
   * @param bytes how much is wanted; the answer may be shorter (then ask again behind it), never longer.
   * @returns false: not mapped, or not writable although `write` (EFAULT). Else `hpa` and `run` are valid.
   */
  pin(va: bigint, bytes: bigint, write: boolean): boolean;
  /** Host-physical address (bytes) of what the last `pin` found. */
  readonly hpa: number;
  /** Bytes that lie behind `hpa` without a gap. */
  readonly run: number;
  /** Where pins are counted. Absent: nowhere. */
  readonly account?: PinAccount;
  /** Why the last `pin` failed, where that is not EFAULT: an errno (ENOMEM: too much is pinned already). */
  readonly failure?: number;
  /** A run that `pin` answered (or a part of it) is not used any more. */
  unpin?(hpa: number, bytes: number): void;
}

/**
 * What IOAS_MAP_FILE maps: `pin` takes offsets into the file. A memfd, or the dma-buf of a device's MMIO (one contiguous
 * piece whose exporter may take it back).
 */
export interface PageFile extends UserMemory {
  /** What kind of file it is; only memory files and dma-bufs can be mapped. */
  readonly kind: 'memfd' | 'dmabuf' | 'other';
  /** Bytes. */
  readonly size: bigint;
  /** dma-buf: the exporter took the memory back. */
  readonly revoked?: boolean;
  /** dma-buf: called when the exporter takes the memory back, while it is mapped. */
  onRevoke?(tell: () => void): () => void;
}
