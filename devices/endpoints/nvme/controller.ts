import { RegisterFile } from '../../../src/core/registers.ts';
import type { AccessWork } from '../../../src/ports/pci.ts';
import {
  CAP_HI,
  CAP_LO,
  CC_EN,
  CQE_BYTES,
  CSTS_CFS,
  CSTS_RDY,
  DOORBELLS,
  NVME,
  NVME_STATUS,
  SHST_COMPLETE,
  SQE_BYTES,
} from '../../../src/spec/nvme/registers.ts';
import { AdminCommands, PENDING } from './admin.ts';
import type { Disk } from './disk.ts';
import type { NvmeIdentity } from './identify.ts';
import { type CommandInHand, type NvmeWaiting, STEP } from './in-hand.ts';
import { IoCommands } from './io.ts';
import { type CompletionQueue, full, QUEUE_LIMIT, type SubmissionQueue } from './queues.ts';
import type { StallableDma } from './stalls.ts';
import { type DmaPath, Transfer } from './transfer.ts';

/** What a controller needs of its function. */
export interface NvmeControllerDeps {
  /** Its one namespace. */
  readonly disk: Disk;
  /** What Identify Controller says. */
  readonly identity: NvmeIdentity;
  /** Its memory requests. */
  readonly dma: DmaPath;
  /** The same, where an IOMMU may stall them; absent: none does. */
  readonly stalls?: StallableDma;
  /** A completion queue with interrupts has entries (true) or was emptied by the guest (false). */
  readonly interrupt: (vector: number, pending: boolean) => void;
  /** Interrupt vectors of the function. */
  readonly vectors: number;
  /** What one access may cost; absent or null: there is no limit. */
  readonly work?: () => AccessWork | null;
}

/** Saved state of `NvmeController`; the disk's contents are not in it. */
export interface NvmeState {
  readonly regs: readonly number[];
  /** @internal */
  readonly submissions: readonly (SubmissionQueue | null)[];
  /** @internal */
  readonly completions: readonly (CompletionQueue | null)[];
  readonly masked: number;
  readonly events: readonly number[];
  /** A command that waits for a stalled access; absent or null: none does. */
  readonly waiting?: NvmeWaiting | null;
}

/**
 * An NVM Express 1.4 controller with one namespace: registers, doorbells, and as many queue pairs as QUEUE_LIMIT. A
 * doorbell does its work at once; a command costs at most MAX_TRANSFER bytes, so a guest's store is bounded by its queue.
 * While an access is stalled, the controller waits with its command, and with all that come behind.
 */
export class NvmeController {
  /** @internal */
  readonly submissions: (SubmissionQueue | null)[] = new Array(QUEUE_LIMIT).fill(null);
  /** @internal */
  readonly completions: (CompletionQueue | null)[] = new Array(QUEUE_LIMIT).fill(null);
  /** Interrupt vectors of its function. */
  readonly vectors: number;
  /** Its one namespace. */
  readonly disk: Disk;
  /** What Identify Controller says. */
  readonly identity: NvmeIdentity;
  /** @internal */
  readonly transfer: Transfer;
  /** Commands completed, for whoever watches. */
  commands = 0;
  readonly #dma: DmaPath;
  readonly #interrupt: (vector: number, pending: boolean) => void;
  readonly #regs = new RegisterFile(NVME, 0x40);
  readonly #admin: AdminCommands;
  readonly #io: IoCommands;
  readonly #sqeBytes = new Uint8Array(SQE_BYTES);
  readonly #sqe = new Int32Array(this.#sqeBytes.buffer);
  readonly #cqeBytes = new Uint8Array(CQE_BYTES);
  readonly #cqe = new Int32Array(this.#cqeBytes.buffer);
  readonly #stalls: StallableDma | null;
  #masked = 0;
  #running = false;
  #hand: CommandInHand | null = null;
  readonly #work: () => AccessWork | null;
  /** Commands wait for the next occasion. */
  #waits = false;

  constructor(deps: NvmeControllerDeps) {
    this.disk = deps.disk;
    this.identity = deps.identity;
    this.vectors = deps.vectors;
    this.#dma = deps.dma;
    this.#stalls = deps.stalls ?? null;
    this.#interrupt = deps.interrupt;
    this.#work = deps.work ?? (() => null);
    this.transfer = new Transfer(deps.dma);
    this.#regs.preset(NVME.CAP.at, CAP_LO);
    this.#regs.preset(NVME.CAP.at + 4, CAP_HI);
    this.#admin = new AdminCommands(this);
    this.#io = new IoCommands(deps.disk, this.transfer);
  }

  /** A 4-byte register read below the doorbells. */
  read(offset: number): number {
    this.#takeUp();
    if (offset === NVME.INTMS.at || offset === NVME.INTMC.at) return this.#masked >>> 0;
    return offset < 0x40 ? this.#regs.read32(offset) : 0;
  }

  /** A register write of 4 bytes. @param offset in BAR0, 4-aligned. */
  write(offset: number, value: number): void {
    if (offset >= DOORBELLS) {
      this.#doorbell((offset - DOORBELLS) >>> 2, value & 0xffff);
      return;
    }
    if (offset >= 0x40) return;
    switch (offset) {
      case NVME.INTMS.at:
        this.#mask(this.#masked | value);
        return;
      case NVME.INTMC.at:
        this.#mask(this.#masked & ~value);
        return;
      case NVME.CC.at:
        this.#configure(this.#regs.get(offset), this.#regs.write32(offset, value));
        return;
      default:
        // AQA, ASQ and ACQ are looked at when the controller is enabled.
        this.#regs.write32(offset, value);
    }
  }

  #mask(mask: number): void {
    this.#masked = mask;
    for (const q of this.completions) {
      if (q === null || !q.interrupts) continue;
      if (q.head !== q.tail) this.#raise(q.vector);
      this.#settle(q.vector);
    }
  }

  #configure(before: number, now: number): void {
    const on = (now & CC_EN) !== 0;
    if (on && (before & CC_EN) === 0) this.#enable(now);
    if (!on && (before & CC_EN) !== 0) this.#disable();
    if (((now >>> 14) & 3) !== 0) this.#status(this.#regs.get(NVME.CSTS.at) | SHST_COMPLETE);
    else this.#status(this.#regs.get(NVME.CSTS.at) & ~(3 << 2));
  }

  #status(value: number): void {
    this.#regs.set(NVME.CSTS.at, value);
  }

  #enable(cc: number): void {
    const aqa = this.#regs.get(NVME.AQA.at);
    const asqLo = this.#regs.get(NVME.ASQ.at);
    const acqLo = this.#regs.get(NVME.ACQ.at);
    // Memory page size other than 4 KiB, or a command set other than NVM: the controller cannot start.
    if (((cc >>> 7) & 0xf) !== 0 || ((cc >>> 4) & 7) !== 0 || asqLo === 0 || acqLo === 0) {
      this.#status(CSTS_CFS);
      return;
    }
    const cq = { lo: acqLo, hi: this.#regs.get(NVME.ACQ.at + 4), entries: ((aqa >>> 16) & 0xfff) + 1 };
    this.completions[0] = { id: 0, ...cq, vector: 0, interrupts: true, head: 0, tail: 0, phase: 1 };
    const sq = { lo: asqLo, hi: this.#regs.get(NVME.ASQ.at + 4), entries: (aqa & 0xfff) + 1 };
    this.submissions[0] = { id: 0, ...sq, cq: 0, head: 0, tail: 0 };
    this.#status(CSTS_RDY);
  }

  #disable(): void {
    this.#hand = null;
    this.#stalls?.begin();
    for (const q of this.completions) if (q !== null) this.#interrupt(q.vector, false);
    this.submissions.fill(null);
    this.completions.fill(null);
    this.#admin.reset();
    this.#waits = false;
    this.#status(0);
    this.#masked = 0;
  }

  /** Power-on state. */
  reset(): void {
    this.#disable();
    this.#regs.reset();
  }

  #doorbell(index: number, value: number): void {
    const id = index >>> 1;
    if (id >= QUEUE_LIMIT) return;
    if ((index & 1) === 1) {
      const cq = this.completions[id];
      if (cq == null || value >= cq.entries) return;
      cq.head = value;
      if (cq.interrupts) this.#settle(cq.vector);
      // A full completion queue held its submission queues back.
      for (const sq of this.submissions) if (sq !== null && sq.cq === id) this.#run(sq);
      return;
    }
    const sq = this.submissions[id];
    if (sq == null || value >= sq.entries) return;
    sq.tail = value;
    this.#run(sq);
  }

  /** The access under way may not cost more: what is in the queues comes soon, or when the guest looks. */
  #putOff(work: AccessWork | null): void {
    if (this.#waits || work === null) return;
    this.#waits = true;
    work.later(() => this.#takeUp());
  }

  #takeUp(): void {
    if (!this.#waits) return;
    this.#waits = false;
    for (const sq of this.submissions) if (sq !== null && !this.#waits) this.#run(sq);
  }

  #run(sq: SubmissionQueue): void {
    // A completion message can make a bus call back into a doorbell; the outer loop sees the new tail.
    if (this.#running || this.#hand !== null) return;
    this.#running = true;
    const work = this.#work();
    for (let budget = sq.entries; budget > 0 && sq.head !== sq.tail; budget--) {
      const cq = this.completions[sq.cq];
      if (cq == null || full(cq) || this.submissions[sq.id] !== sq) break;
      if (work?.spent === true) {
        this.#putOff(work);
        break;
      }
      this.#hand = { sq, step: STEP.FETCH, status: 0, result: 0 };
      this.#stalls?.begin();
      const done = this.#advance(this.#hand);
      work?.spend(this.#io.work);
      if (!done) break;
    }
    this.#running = false;
  }

  /** Does what is left of the command in hand. @returns false: it waits for a stalled access, or the controller has failed. */
  #advance(h: CommandInHand): boolean {
    const { sq } = h;
    if (h.step === STEP.FETCH) {
      if (!this.#fetch(sq)) return this.#stopped();
      sq.head = (sq.head + 1) % sq.entries;
      h.step = STEP.EXECUTE;
      this.#stalls?.begin();
    }
    if (h.step === STEP.EXECUTE) {
      h.status = sq.id === 0 ? this.#admin.run(this.#sqe) : this.#io.run(this.#sqe);
      h.result = sq.id === 0 ? this.#admin.result : 0;
      if (this.#stalls?.waits === true) return false;
      h.step = STEP.COMPLETE;
      this.#stalls?.begin();
    }
    if (h.status !== PENDING && !this.#post(h)) return this.#stopped();
    if (this.#hand === h) this.#hand = null;
    return true;
  }

  /** An access of the controller's own failed: it waits for the decision, or this is fatal. */
  #stopped(): boolean {
    if (this.#stalls?.waits === true) return false;
    this.#hand = null;
    this.#status(this.#regs.get(NVME.CSTS.at) | CSTS_CFS);
    return false;
  }

  /** A stalled access was decided. @param outcome DMA value; OK means try again. */
  resumed(token: number, outcome: number): void {
    if (this.#hand !== null && this.#stalls?.decided(token, outcome) === true) this.#goOn(this.#hand);
  }

  /** The command in hand, and what came behind it meanwhile. */
  #goOn(h: CommandInHand): void {
    this.#running = true;
    const done = this.#advance(h);
    this.#running = false;
    if (!done) return;
    for (const sq of this.submissions) if (sq !== null) this.#run(sq);
  }

  #fetch(sq: SubmissionQueue): boolean {
    const at = (sq.lo >>> 0) + sq.head * SQE_BYTES;
    const carry = at >= 0x1_0000_0000 ? 1 : 0;
    return this.#dma.read(at | 0, (sq.hi + carry) | 0, this.#sqeBytes, 0, SQE_BYTES);
  }

  /** Posts a completion. @returns false: it could not be written. */
  #post({ sq, status, result }: CommandInHand): boolean {
    const cq = this.completions[sq.cq];
    if (cq == null) return true;
    const c = this.#cqe;
    c[0] = result;
    c[1] = 0;
    c[2] = sq.head | (sq.id << 16);
    // DNR: trying a bad command again gives the same.
    const dnr = status !== NVME_STATUS.SUCCESS && status !== NVME_STATUS.DATA_TRANSFER_ERROR ? 0x4000 : 0;
    c[3] = (this.#sqe[0]! >>> 16) | (cq.phase << 16) | ((status | dnr) << 17);
    const at = (cq.lo >>> 0) + cq.tail * CQE_BYTES;
    const carry = at >= 0x1_0000_0000 ? 1 : 0;
    if (!this.#dma.write(at | 0, (cq.hi + carry) | 0, this.#cqeBytes, 0, CQE_BYTES)) return false;
    this.commands++;
    cq.tail = (cq.tail + 1) % cq.entries;
    if (cq.tail === 0) cq.phase ^= 1;
    if (cq.interrupts) this.#raise(cq.vector);
    return true;
  }

  /** Entries wait: a message for each completion posted, a level for the pin. */
  #raise(vector: number): void {
    if ((this.#masked & (1 << (vector & 31))) === 0) this.#interrupt(vector, true);
  }

  /** The cause is gone once every queue of the vector is empty, or the vector is masked. */
  #settle(vector: number): void {
    const masked = (this.#masked & (1 << (vector & 31))) !== 0;
    for (let i = 0; i < QUEUE_LIMIT && !masked; i++) {
      const q = this.completions[i];
      if (q?.interrupts && q.vector === vector && q.head !== q.tail) return;
    }
    this.#interrupt(vector, false);
  }

  /** @internal */
  createCompletion(q: CompletionQueue): void {
    this.completions[q.id] = q;
  }

  /** @internal */
  createSubmission(q: SubmissionQueue): void {
    this.submissions[q.id] = q;
  }

  /** @internal */
  deleteCompletion(id: number): void {
    const q = this.completions[id];
    if (q != null) this.#interrupt(q.vector, false);
    this.completions[id] = null;
  }

  /** @internal */
  deleteSubmission(id: number): void {
    this.submissions[id] = null;
  }

  /** Registers, queues and commands under way. */
  save(): NvmeState {
    const copy = <T extends object>(q: T | null): T | null => (q === null ? null : { ...q });
    return {
      regs: this.#regs.save(),
      submissions: this.submissions.map(copy),
      completions: this.completions.map(copy),
      masked: this.#masked,
      events: this.#admin.save(),
      waiting: this.#waiting(),
    };
  }

  #waiting(): NvmeWaiting | null {
    if (this.#hand === null || this.#stalls === null) return null;
    const { sq, step, status, result } = this.#hand;
    return { queue: sq.id, step, status, result, sqe: Array.from(this.#sqe), stall: this.#stalls.save() };
  }

  /**
   * Goes back to a saved state. @param s of a controller with the same disk.
   * @param cold the IOMMU is another one, which knows of no stalled access: it is made again.
   */
  load(s: NvmeState, cold = false): void {
    this.#regs.load(s.regs);
    s.submissions.forEach((q, i) => {
      this.submissions[i] = q === null ? null : { ...q };
    });
    s.completions.forEach((q, i) => {
      this.completions[i] = q === null ? null : { ...q };
    });
    this.#masked = s.masked;
    this.#admin.load(s.events);
    this.#waits = false;
    const left = this.submissions.some((q) => q !== null && q.head !== q.tail);
    if (left) this.#putOff(this.#work());
    this.#hand = null;
    this.#stalls?.begin();
    const sq = s.waiting == null ? null : this.submissions[s.waiting.queue];
    if (s.waiting == null || sq == null || this.#stalls === null) return;
    const { step, status, result, sqe, stall } = s.waiting;
    this.#hand = { sq, step, status, result };
    this.#sqe.set(sqe);
    this.#stalls.load(stall);
    if (!cold) return;
    this.#stalls.again();
    this.#goOn(this.#hand);
  }
}
