import { E } from '../../../spec/iommufd/errno.ts';
import { INVALIDATE_DATA } from '../../../spec/iommufd/uapi.ts';
import { COMMAND_BYTES, COMMAND_WORDS, OP } from '../../../spec/smmuv3/commands.ts';
import type { HostDevice, Invalidation } from '../../driver.ts';
import { BATCH, type CommandQueue } from './command-queue.ts';

/**
 * What `done` means when a batch fails.
 * 'linux-as-is': the kernel's count, which names commands as done that were converted and never issued.
 * 'uapi-ideal': what precedes the failing command is issued first, and a command the hardware refuses is −EIO at its index.
 */
export type PartialCount = 'linux-as-is' | 'uapi-ideal';

/** How guest StreamIDs become physical ones. */
export interface StreamNames {
  /** Physical StreamID of a guest stream that has a name of its own (`mapStreams`), or −1. */
  alias(vsid: number): number;
  /** The device whose vDEVICE has this virt_id. */
  device(vsid: number): HostDevice | null;
}

/**
 * HWPT_INVALIDATE on a vSMMU: guest commands are converted (real VMID, real StreamID) and go to the hardware in batches of
 * 63 with a sync behind each, in order. Nothing here allocates.
 */
export class GuestCommands implements Invalidation {
  readonly type = INVALIDATE_DATA.VIOMMU_ARM_SMMUV3;
  readonly entryBytes = COMMAND_BYTES;
  readonly copy = 'all';
  readonly emptyOk = false;
  done = 0;
  readonly #queue: CommandQueue;
  readonly #vmid: number;
  readonly #names: StreamNames;
  readonly #exact: boolean;
  /** Which guest entry each command of the batch came from. */
  readonly #entryOf = new Int32Array(BATCH);

  constructor(queue: CommandQueue, vmid: number, names: StreamNames, count: PartialCount) {
    this.#queue = queue;
    this.#vmid = vmid;
    this.#names = names;
    this.#exact = count === 'uapi-ideal';
  }

  run(words: Int32Array, start: number, count: number): number {
    this.#queue.sync();
    for (let i = 0; i < count; i++) {
      const r = this.#convert(words, start + i * COMMAND_WORDS, i);
      if (r !== 0) return this.#refuse(i, r);
      if (this.#queue.full || i === count - 1) {
        const failed = this.#submit(i + 1);
        if (failed !== 0) return failed;
      }
    }
    this.done = count;
    return 0;
  }

  /** A command that cannot be converted ends the array. */
  #refuse(entry: number, error: number): number {
    if (this.#exact) {
      const failed = this.#submit(entry);
      if (failed !== 0) return failed;
    } else {
      // The kernel returns without issuing what it has already converted.
      this.#queue.count = 0;
    }
    this.done = entry;
    return error;
  }

  /** @param end the entry behind the last one of the batch. */
  #submit(end: number): number {
    if (this.#queue.count === 0) return 0;
    const r = this.#queue.flush(!this.#exact, true);
    if (r !== 0) this.done = this.#exact ? this.#entryOf[this.#queue.failedAt]! : end - 1;
    return r;
  }

  /** Adds what the command becomes to the batch. @returns 0, −EIO, or what a submission in between returned. */
  #convert(words: Int32Array, at: number, entry: number): number {
    const w0 = words[at]!;
    const w1 = words[at + 1]!;
    switch (w0 & 0xff) {
      case OP.TLBI_NSNH_ALL:
        return this.#put(entry, OP.TLBI_NH_ALL, this.#vmid, 0, 0);
      case OP.TLBI_NH_ALL:
      case OP.TLBI_NH_ASID:
      case OP.TLBI_NH_VA:
      case OP.TLBI_NH_VAA:
        return this.#put(entry, w0, (w1 & ~0xffff) | this.#vmid, words[at + 2]!, words[at + 3]!);
      case OP.ATC_INV:
      case OP.CFGI_CD:
      case OP.CFGI_CD_ALL:
        return this.#forStream(entry, w0, w1 >>> 0, words[at + 2]!, words[at + 3]!);
      default:
        return -E.IO;
    }
  }

  #forStream(entry: number, w0: number, vsid: number, w2: number, w3: number): number {
    const sid = this.#names.alias(vsid);
    if (sid >= 0) return this.#put(entry, w0, sid, w2, w3);
    const dev = this.#names.device(vsid);
    if (dev === null) return -E.IO;
    // A device with several streams and one name: the guest means all of them.
    for (let i = 0; i < dev.streams.length; i++) {
      const r = this.#put(entry, w0, dev.streams[i]!, w2, w3);
      if (r !== 0) return r;
    }
    return 0;
  }

  #put(entry: number, w0: number, w1: number, w2: number, w3: number): number {
    const queue = this.#queue;
    if (queue.full) {
      const r = this.#submit(entry);
      if (r !== 0) return r;
    }
    this.#entryOf[queue.count] = entry;
    queue.add(w0, w1, w2, w3);
    return 0;
  }
}
