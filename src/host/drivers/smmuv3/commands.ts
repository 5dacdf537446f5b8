import { E } from '../../../spec/iommufd/errno.ts';
import { INVALIDATE_DATA } from '../../../spec/iommufd/uapi.ts';
import { COMMAND_BYTES, COMMAND_WORDS, cmdOp, OP, type Opcode } from '../../../spec/smmuv3/commands.ts';
import type { HostDevice, Invalidation } from '../../kernel/driver.ts';
import { BATCH, type Smmuv3DriverQueue } from './queue.ts';

/**
 * What `done` means when a batch fails.
 * 'linux-as-is': the kernel's count, which names commands as done that were converted and never issued.
 * 'uapi-ideal': what precedes the failing command is issued first, and a command the hardware refuses is -EIO at its index.
 */
export type PartialCount = 'linux-as-is' | 'uapi-ideal';

/** The batch has no room for a command that becomes several. */
const NO_ROOM = 1;

/** How guest StreamIDs become physical ones. */
export interface StreamNames {
  /** Physical StreamID of a guest stream that has a name of its own (`HostUpcalls.streamVdevice`), or -1. */
  streamOf(vsid: number): number;
  /** The device whose vDEVICE has this virt_id. */
  device(vsid: number): HostDevice | null;
}

/**
 * HWPT_INVALIDATE on a vSMMU: guest commands are converted (real VMID, real StreamID) and go to the hardware in batches of
 * 63 with a sync behind each, in order. Nothing here allocates.
 */
export class Smmuv3DriverCommands implements Invalidation {
  readonly type = INVALIDATE_DATA.VIOMMU_ARM_SMMUV3;
  readonly entryBytes = COMMAND_BYTES;
  readonly copy = 'all';
  readonly emptyOk = false;
  done = 0;
  readonly #queue: Smmuv3DriverQueue;
  readonly #vmid: number;
  readonly #names: StreamNames;
  readonly #exact: boolean;
  /** Which guest entry each command of the batch came from. */
  readonly #entryOf = new Int32Array(BATCH);
  /** Why the last `#fill` stopped early: 0 or -errno. */
  #bad = 0;

  constructor(queue: Smmuv3DriverQueue, vmid: number, names: StreamNames, count: PartialCount) {
    this.#queue = queue;
    this.#vmid = vmid;
    this.#names = names;
    this.#exact = count === 'uapi-ideal';
  }

  run(words: Int32Array, start: number, count: number): number {
    this.done = 0;
    const refused = this.#queue.sync();
    // The kernel does not look at what it could not invalidate before.
    if (refused !== 0 && this.#exact) return refused;
    for (let i = 0; i < count; ) {
      i = this.#fill(words, start, i, count);
      if (this.#bad !== 0) return this.#refuse(i, this.#bad);
      const failed = this.#submit(i);
      if (failed !== 0) return failed;
    }
    this.done = count;
    return 0;
  }

  /**
   * Fills the batch from entry `i` on: TLBI commands, which are nearly all there are, in this loop.
   * @returns the first entry that is not in the batch; when `#bad` is set, the one that cannot be.
   */
  #fill(words: Int32Array, start: number, i: number, count: number): number {
    const queue = this.#queue;
    const vmid = this.#vmid;
    const entryOf = this.#entryOf;
    this.#bad = 0;
    let out = queue.words;
    let n = queue.count;
    for (; i < count && n < BATCH; i++) {
      const at = start + i * COMMAND_WORDS;
      const w0 = words[at]!;
      const to = n * COMMAND_WORDS;
      switch (w0 & 0xff) {
        case OP.TLBI_NH_ALL:
        case OP.TLBI_NH_ASID:
        case OP.TLBI_NH_VA:
        case OP.TLBI_NH_VAA:
          out[to] = w0;
          out[to + 1] = (words[at + 1]! & ~0xffff) | vmid;
          out[to + 2] = words[at + 2]!;
          out[to + 3] = words[at + 3]!;
          entryOf[n++] = i;
          break;
        case OP.TLBI_NSNH_ALL:
          out[to] = OP.TLBI_NH_ALL;
          out[to + 1] = vmid;
          out[to + 2] = 0;
          out[to + 3] = 0;
          entryOf[n++] = i;
          break;
        default:
          queue.count = n;
          this.#bad = this.#named(words, at, i);
          n = queue.count;
          out = queue.words;
          if (this.#bad === 0) break;
          if (this.#bad === NO_ROOM) this.#bad = 0;
          return i;
      }
    }
    queue.count = n;
    return i;
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
    // The kernel logs a refused command and goes on.
    if (!this.#exact && r === -E.IO) return 0;
    if (r !== 0) this.done = this.#exact ? this.#entryOf[this.#queue.failedAt]! : end - 1;
    return r;
  }

  /** Adds a command that names a stream. @returns 0, -EIO, or NO_ROOM: the batch must go out first. */
  #named(words: Int32Array, at: number, entry: number): number {
    const op = cmdOp(words[at]!) as Opcode;
    switch (op) {
      case OP.ATC_INV:
      case OP.CFGI_CD:
      case OP.CFGI_CD_ALL:
        return this.#forStream(entry, words[at]!, words[at + 1]! >>> 0, words[at + 2]!, words[at + 3]!);
      // `#fill` takes these itself.
      case OP.TLBI_NH_ALL:
      case OP.TLBI_NH_ASID:
      case OP.TLBI_NH_VA:
      case OP.TLBI_NH_VAA:
      case OP.TLBI_NSNH_ALL:
      // What a guest may not say to the hardware itself.
      case OP.PREFETCH_CONFIG:
      case OP.PREFETCH_ADDR:
      case OP.CFGI_STE:
      case OP.CFGI_STE_RANGE:
      case OP.CFGI_VMS_PIDM:
      case OP.TLBI_EL3_ALL:
      case OP.TLBI_EL3_VA:
      case OP.TLBI_EL2_ALL:
      case OP.TLBI_EL2_ASID:
      case OP.TLBI_EL2_VA:
      case OP.TLBI_EL2_VAA:
      case OP.TLBI_S12_VMALL:
      case OP.TLBI_S2_IPA:
      case OP.PRI_RESP:
      case OP.RESUME:
      case OP.STALL_TERM:
      case OP.SYNC:
        return -E.IO;
      default:
        return reserved(op);
    }
  }

  #forStream(entry: number, w0: number, vsid: number, w2: number, w3: number): number {
    const queue = this.#queue;
    const sid = this.#names.streamOf(vsid);
    const dev = sid >= 0 ? null : this.#names.device(vsid);
    if (sid < 0 && dev === null) return -E.IO;
    // A device with several streams and one name: the guest means all of them, and they go out together.
    const streams = dev === null ? 1 : dev.streams.length;
    if (queue.count > 0 && queue.count + streams > BATCH) return NO_ROOM;
    for (let i = 0; i < streams; i++) {
      queue.add(w0, dev === null ? sid : dev.streams[i]!, w2, w3);
      this.#entryOf[queue.count - 1] = entry;
    }
    return 0;
  }
}

/** An opcode that no command has. A command of the specification without a case above does not compile here. */
function reserved(_op: never): number {
  return -E.IO;
}
