import { HW_ERROR, type HwPort, type VirtualQueueInterface, type VirtualQueuePort } from '../../ports/hw.ts';
import type { Memory, MemoryWindow } from '../../ports/memory.ts';
import { COMMAND_BYTES, COMMAND_WORDS, cmdOp, OP, type Opcode } from '../../spec/smmuv3/commands.ts';

/** Registers of queue n, at n * QUEUE_BYTES. */
export const VCMDQ = { CONS: 0x00, PROD: 0x04, CONFIG: 0x08, STATUS: 0x0c, GERROR: 0x10, GERRORN: 0x14 } as const;
export const VCMDQ_BYTES = 0x80;
export const VCMDQ_EN = 1;
/** GERROR: a command, and enabling a queue that has no memory. */
export const VCMDQ_GERROR = { CMDQ_ERR: 1 << 0, CMDQ_INIT_ERR: 1 << 2 } as const;
/** CONS.ERR as in CMDQ_CONS (IHI 0070 §6.3.28). */
const CERROR = { ILL: 1, ABT: 2, ATC_INV_SYNC: 3 } as const;
const WINDOW_BYTES = 0x1_0000;
const BATCH = 63;
const ERR_SHIFT = 24;
/** What `#take` says beside errors. */
const SYNC = -1;
const BATCH_FULL = -2;

interface Queue {
  base: number;
  log2: number;
  prod: number;
  cons: number;
  enabled: boolean;
  gerror: number;
  gerrorn: number;
  /** Token of outstanding completions: nothing more is taken until they are in; 0: none. */
  waiting: number;
  /** Some never came: the next sync reports it. */
  late: boolean;
}

/** One interface: a guest's queues, its VMID and its stream names. */
class Interface implements VirtualQueueInterface {
  readonly bytes = WINDOW_BYTES;
  readonly window: MemoryWindow;
  readonly #owner: VirtualQueues;
  readonly #vmid: number;
  readonly #failed: (queues: number) => void;
  readonly #queues: Queue[];
  readonly #names = new Map<number, { readonly vsid: number; readonly sid: number }>();
  readonly #sids = new Map<number, number>();
  readonly #batch = new Int32Array(BATCH * COMMAND_WORDS);

  constructor(owner: VirtualQueues, vmid: number, failed: (queues: number) => void) {
    this.#owner = owner;
    this.#vmid = vmid;
    this.#failed = failed;
    this.#queues = Array.from({ length: owner.queues }, () => ({
      base: -1,
      log2: 0,
      prod: 0,
      cons: 0,
      enabled: false,
      gerror: 0,
      gerrorn: 0,
      waiting: 0,
      late: false,
    }));
    this.window = {
      name: 'vcmdq',
      read: (offset, size) => (size === 4 ? this.#read(offset) : 0),
      write: (offset, size, value) => {
        if (size === 4) this.#write(offset, value);
      },
    };
  }

  setStream(slot: number, vsid: number, sid: number): void {
    const old = this.#names.get(slot);
    if (old !== undefined) this.#sids.delete(old.vsid);
    this.#names.delete(slot);
    if (sid < 0) return;
    this.#names.set(slot, { vsid, sid });
    this.#sids.set(vsid, sid);
  }

  setQueue(index: number, base: number, log2: number): void {
    const q = this.#queues[index]!;
    Object.assign(q, { base, log2, prod: 0, cons: 0, enabled: false, gerror: 0, gerrorn: 0, waiting: 0, late: false });
  }

  close(): void {
    for (const q of this.#queues) q.enabled = false;
    this.#owner.closed(this);
  }

  #read(offset: number): number {
    const q = this.#queues[Math.floor(offset / VCMDQ_BYTES)];
    if (q === undefined) return 0;
    switch (offset % VCMDQ_BYTES) {
      case VCMDQ.CONS:
        return q.cons >>> 0;
      case VCMDQ.PROD:
        return q.prod >>> 0;
      case VCMDQ.CONFIG:
      case VCMDQ.STATUS:
        return q.enabled ? VCMDQ_EN : 0;
      case VCMDQ.GERROR:
        return q.gerror;
      case VCMDQ.GERRORN:
        return q.gerrorn;
      default:
        return 0;
    }
  }

  #write(offset: number, value: number): void {
    const index = Math.floor(offset / VCMDQ_BYTES);
    const q = this.#queues[index];
    if (q === undefined) return;
    switch (offset % VCMDQ_BYTES) {
      case VCMDQ.CONS:
        if (!q.enabled) q.cons = value & mask(q);
        return;
      case VCMDQ.PROD:
        q.prod = value & mask(q);
        break;
      case VCMDQ.CONFIG:
        q.enabled = (value & VCMDQ_EN) !== 0 && q.base >= 0;
        if ((value & VCMDQ_EN) !== 0 && q.base < 0) this.#raise(q, VCMDQ_GERROR.CMDQ_INIT_ERR);
        break;
      case VCMDQ.GERRORN:
        q.gerrorn = value & (VCMDQ_GERROR.CMDQ_ERR | VCMDQ_GERROR.CMDQ_INIT_ERR);
        break;
      default:
        return;
    }
    this.#run(q);
  }

  /** The error bit toggles only while it is not active. */
  #raise(q: Queue, bit: number): void {
    if (((q.gerror ^ q.gerrorn) & bit) !== 0) return;
    q.gerror ^= bit;
    this.#failed(this.#queues.reduce((m, x, i) => (x.gerror === x.gerrorn ? m : m | (1 << i)), 0));
  }

  /** Completions of a sync of this interface are in. */
  completed(token: number, error: number): boolean {
    const q = this.#queues.find((x) => x.waiting === token);
    if (q === undefined) return false;
    q.waiting = 0;
    if (error !== HW_ERROR.NONE) q.late = true;
    this.#run(q);
    return true;
  }

  #stop(q: Queue, cons: number, error: number): void {
    q.cons = (cons & mask(q)) | (error << ERR_SHIFT);
    this.#raise(q, VCMDQ_GERROR.CMDQ_ERR);
  }

  /** Runs until the queue is empty, stops, or waits; as much as a full queue holds, and no more. */
  #run(q: Queue): void {
    if (!q.enabled || q.waiting !== 0 || ((q.gerror ^ q.gerrorn) & VCMDQ_GERROR.CMDQ_ERR) !== 0) return;
    q.cons &= mask(q);
    let first = q.cons;
    let count = 0;
    for (let left = 2 << q.log2; q.cons !== q.prod && left > 0; left--) {
      const error = this.#take(q, count);
      if (error === SYNC || error === BATCH_FULL) {
        if (!this.#flush(q, first, count) || q.waiting !== 0) return;
        if (error === SYNC && !this.#sync(q)) return;
        first = q.cons;
        count = 0;
      } else if (error !== 0) {
        if (this.#flush(q, first, count)) this.#stop(q, q.cons, error);
        return;
      } else {
        q.cons = next(q, q.cons);
        count++;
      }
    }
    this.#flush(q, first, count);
  }

  /** Puts the command at `cons` into the batch as number `count`. @returns 0, SYNC, BATCH_FULL, or a CERROR. */
  #take(q: Queue, count: number): number {
    const { memory } = this.#owner;
    const at = q.base + (q.cons & ((1 << q.log2) - 1)) * COMMAND_BYTES;
    if (!memory.load64(at)) return CERROR.ABT;
    const w0 = memory.lo;
    const w1 = memory.hi;
    if (!memory.load64(at + 8)) return CERROR.ABT;
    if ((w0 & 0xff) === OP.SYNC) return SYNC;
    const named = this.#convert(w0, w1);
    if (named < 0) return CERROR.ILL;
    if (count === BATCH) return BATCH_FULL;
    const to = count * COMMAND_WORDS;
    this.#batch[to] = w0;
    this.#batch[to + 1] = named;
    this.#batch[to + 2] = memory.lo;
    this.#batch[to + 3] = memory.hi;
    return 0;
  }

  /** The sync at `cons`, everything before it done. @returns false: it reports what never came. */
  #sync(q: Queue): boolean {
    if (q.late) {
      q.late = false;
      this.#stop(q, q.cons, CERROR.ATC_INV_SYNC);
      return false;
    }
    q.cons = next(q, q.cons);
    return true;
  }

  /** Word 1 with the real VMID or stream; -1: not a command a guest may give here. */
  #convert(w0: number, w1: number): number {
    const op = cmdOp(w0) as Opcode;
    switch (op) {
      case OP.TLBI_NH_ASID:
      case OP.TLBI_NH_VA:
        return ((w1 & ~0xffff) | this.#vmid) >>> 0;
      case OP.ATC_INV:
        return this.#sids.get(w1 >>> 0) ?? -1;
      // What a guest's own queue does not take; CMD_SYNC does not come here.
      case OP.PREFETCH_CONFIG:
      case OP.PREFETCH_ADDR:
      case OP.CFGI_STE:
      case OP.CFGI_STE_RANGE:
      case OP.CFGI_CD:
      case OP.CFGI_CD_ALL:
      case OP.CFGI_VMS_PIDM:
      case OP.TLBI_NH_ALL:
      case OP.TLBI_NH_VAA:
      case OP.TLBI_EL3_ALL:
      case OP.TLBI_EL3_VA:
      case OP.TLBI_EL2_ALL:
      case OP.TLBI_EL2_ASID:
      case OP.TLBI_EL2_VA:
      case OP.TLBI_EL2_VAA:
      case OP.TLBI_S12_VMALL:
      case OP.TLBI_S2_IPA:
      case OP.TLBI_NSNH_ALL:
      case OP.PRI_RESP:
      case OP.RESUME:
      case OP.STALL_TERM:
      case OP.SYNC:
        return -1;
      default:
        return reserved(op);
    }
  }

  /** Submits what was gathered since `first`. @returns false: the queue has stopped. */
  #flush(q: Queue, first: number, count: number): boolean {
    if (count === 0) return true;
    const { hw } = this.#owner;
    hw.submit(this.#batch, 0, count);
    const { error, done, pending } = hw;
    if (error === HW_ERROR.NONE || error === HW_ERROR.ATC_TIMEOUT) {
      q.waiting = pending;
      if (error === HW_ERROR.ATC_TIMEOUT) q.late = true;
      return true;
    }
    this.#stop(q, first + done, error === HW_ERROR.ABORT ? CERROR.ABT : CERROR.ILL);
    return false;
  }
}

/** An opcode that no command has. A command of the specification without a case above does not compile here. */
function reserved(_op: never): number {
  return -1;
}

function mask(q: Queue): number {
  return (2 << q.log2) - 1;
}

function next(q: Queue, cons: number): number {
  return (cons + 1) & mask(q);
}

/** What the virtual command queues of an SMMU are made of. */
export interface VirtualQueuesOptions {
  /** Host-physical memory: the queues lie in it. */
  readonly memory: Memory;
  /** The SMMU: commands run there. */
  readonly hw: HwPort;
  /** Interfaces, each for one guest (1). */
  readonly interfaces?: number;
  /** Queues of an interface: a power of two (2). */
  readonly queues?: number;
  /** Streams an interface can name: a power of two (16). */
  readonly slots?: number;
}

/** The virtual command queues of one SMMU. */
export class VirtualQueues implements VirtualQueuePort {
  /** @internal */
  readonly memory: Memory;
  /** @internal */
  readonly hw: HwPort;
  readonly queues: number;
  readonly slots: number;
  readonly #limit: number;
  readonly #open = new Set<Interface>();

  constructor(o: VirtualQueuesOptions) {
    this.memory = o.memory;
    this.hw = o.hw;
    this.#limit = o.interfaces ?? 1;
    this.queues = o.queues ?? 2;
    this.slots = o.slots ?? 16;
  }

  open(vmid: number, failed: (queues: number) => void): VirtualQueueInterface | null {
    if (this.#open.size === this.#limit) return null;
    const i = new Interface(this, vmid, failed);
    this.#open.add(i);
    return i;
  }

  /** @internal An interface is free again. */
  closed(i: VirtualQueueInterface): void {
    this.#open.delete(i as Interface);
  }

  completed(token: number, error: number): boolean {
    for (const i of this.#open) if (i.completed(token, error)) return true;
    return false;
  }
}
