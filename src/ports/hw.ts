import type { MemoryWindow } from './memory.ts';

/** The register block a kernel driver programs: what the unit can do, where its tables lie, what is switched on. */
export interface HwRegisters {
  /**
   * @param offset architectural byte offset of a register of 4 or 8 bytes.
   * @returns its value; 0 for an offset without a register.
   */
  readRegister(offset: number): bigint;
  /** Stores `value` as far as the architecture lets it count now; what a register switches is switched on return. */
  writeRegister(offset: number, value: bigint): void;
}

/**
 * Host kernel → physical IOMMU, as memory and registers are: a register block, entries of tables in host memory, commands
 * on a queue that ends in a sync. The host owns the tables; the hardware caches what it read and sees a change only after
 * the right invalidation. Fault injection wraps this port (`ViommuError` never travels through it).
 */
export interface HwPort extends HwRegisters {
  /**
   * Stores one 64-bit word of a table entry in host memory (single-copy atomic).
   * @param table host-physical address of the table.
   * @param entry byte offset of the entry in the table.
   * @param word 64-bit word index in the entry.
   */
  writeEntry(table: number, entry: number, word: number, lo: number, hi: number): void;
  /**
   * Runs `count` commands (16 bytes each on SMMUv3 and for 128-bit VT-d descriptors, 32 for 256-bit ones) that begin at
   * word `start`, and a sync behind them. Fields `done`, `error`, `pending` tell the outcome. While the queue is switched
   * off (CR0.CMDQEN, GSTS.QIES) nothing runs, and the error is ABORT.
   */
  submit(words: Int32Array, start: number, count: number): void;
  /** Commands consumed by the last `submit`. */
  readonly done: number;
  /** HW_ERROR of the last `submit`; the command at index `done` caused it. */
  readonly error: number;
  /**
   * Completions (ATS invalidations) the last `submit` left outstanding: 0 with zero latency, else a token > 0 that
   * `HwEvents.completed` names.
   */
  readonly pending: number;
}

/** How a `submit` ended. */
export const HW_ERROR = {
  NONE: 0,
  /** The command is illegal for this hardware. */
  ILLEGAL: 1,
  /** The queue could not be read, or a table access aborted. */
  ABORT: 2,
  /** An ATS invalidation was not completed in time. */
  ATC_TIMEOUT: 3,
  /** A function completed an ATS invalidation that it was not asked for. */
  UNEXPECTED_COMPLETION: 4,
} as const;

/**
 * Physical IOMMU → host kernel: its interrupts, with what the handler would read from the queues. A record reaches the
 * kernel only while the queue it belongs to and its interrupt are both switched on: nobody would read it otherwise.
 */
export interface HwEvents {
  /**
   * A stream (or one PASID of it) has no valid configuration, and the access is about to be decided.
   * Called synchronously, before any fault record exists.
   * @returns true: something was installed, look once more.
   */
  streamMiss(rid: number, pasid: number): boolean;
  /**
   * A stage-2 (second-stage) translation or permission fault is about to be decided.
   * @param ipa bytes, ≤ 52 bits.
   * @param access ACCESS bits wanted at that address.
   * @param hi,lo the request's own input address.
   * @returns true: mapped now, walk once more.
   */
  stageTwoMiss(rid: number, pasid: number, ipa: number, access: number, lo: number, hi: number): boolean;
  /**
   * A fault record in the architecture's own format (SMMUv3: 8 words; VT-d: the 4 words of an FRCD).
   * @param ats SMMUv3: about the configuration of an ATS translation request or a translated access, which CR2.REC_CFG_ATS asks
   *   for; the record itself does not say so.
   */
  fault(record: Int32Array, ats?: boolean): void;
  /** A page request record (SMMUv3 PRIQ: 4 words; VT-d PRQ: 8 words). */
  pageRequest(record: Int32Array): void;
  /**
   * Outstanding completions of a `submit` are in, or given up.
   * @param error HW_ERROR.NONE or ATC_TIMEOUT. @param rid the function that did not answer.
   */
  completed(token: number, error: number, rid: number): void;
  /** A function completed an ATS invalidation that it was not asked for. Hardware that has no report for that leaves it out. */
  unexpectedCompletion?(rid: number): void;
}

/**
 * Command queues a guest rings itself, without the kernel (NVIDIA's Tegra241 CMDQV). An interface belongs to one VMID, knows
 * which guest stream is which, and runs invalidations only.
 */
export interface VirtualQueuePort {
  /** Queues of an interface: a power of two. */
  readonly queues: number;
  /** Streams an interface can name: a power of two. */
  readonly slots: number;
  /**
   * @param failed called with a bit for each queue that has an error, whenever that changes to more.
   * @returns null: no interface is free.
   */
  open(vmid: number, failed: (queues: number) => void): VirtualQueueInterface | null;
  /** See HwEvents.completed. @returns whether the token belongs to a virtual queue. */
  completed(token: number, error: number): boolean;
}

/** The queues of one guest. */
export interface VirtualQueueInterface {
  /** The registers a guest maps: 64 KiB, 128 bytes a queue. */
  readonly window: MemoryWindow;
  /** Size of the register window in bytes. */
  readonly bytes: number;
  /** Guest stream `vsid` is stream `sid`; -1: the slot names nothing. */
  setStream(slot: number, vsid: number, sid: number): void;
  /** The queue's memory: host-physical base and log2 of its entries; -1: none, and the queue stops. */
  setQueue(index: number, base: number, log2: number): void;
  /** Takes the interface away from the guest. */
  close(): void;
}
