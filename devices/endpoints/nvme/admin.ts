import { ADMIN, FEATURE, MAX_QUEUE_ENTRIES, NVME_STATUS } from '../../../src/spec/nvme/registers.ts';
import type { Disk } from './disk.ts';
import { identifyController, identifyDescriptors, identifyNamespace, type NvmeIdentity } from './identify.ts';
import { type CompletionQueue, EVENT_LIMIT, QUEUE_LIMIT, type SubmissionQueue } from './queues.ts';
import { MAX_TRANSFER, type Transfer } from './transfer.ts';

/** The command stays outstanding: no completion now. */
export const PENDING = -1;

/** What admin commands change in their controller. */
export interface AdminHost {
  readonly submissions: readonly (SubmissionQueue | null)[];
  readonly completions: readonly (CompletionQueue | null)[];
  readonly vectors: number;
  readonly disk: Disk;
  readonly identity: NvmeIdentity;
  readonly transfer: Transfer;
  createCompletion(q: CompletionQueue): void;
  createSubmission(q: SubmissionQueue): void;
  deleteCompletion(id: number): void;
  deleteSubmission(id: number): void;
}

/** Admin commands (NVM Express 1.4 §5). */
export class AdminCommands {
  /** Dword 0 of the completion of the last command. */
  result = 0;
  readonly #host: AdminHost;
  /** Command ids of asynchronous event requests waiting for an event. */
  #events: number[] = [];

  constructor(host: AdminHost) {
    this.#host = host;
  }

  reset(): void {
    this.#events = [];
  }

  /** @returns a NVME_STATUS value, or PENDING. */
  run(sqe: Int32Array): number {
    this.result = 0;
    const dw10 = sqe[10]!;
    switch (sqe[0]! & 0xff) {
      case ADMIN.CREATE_CQ:
        return this.#createCq(sqe, dw10, sqe[11]!);
      case ADMIN.CREATE_SQ:
        return this.#createSq(sqe, dw10, sqe[11]!);
      case ADMIN.DELETE_CQ:
        return this.#deleteCq(dw10 & 0xffff);
      case ADMIN.DELETE_SQ:
        return this.#deleteSq(dw10 & 0xffff);
      case ADMIN.IDENTIFY:
        return this.#identify(sqe, dw10 & 0xff);
      case ADMIN.GET_LOG_PAGE:
        return this.#logPage(sqe, dw10, sqe[11]!);
      case ADMIN.SET_FEATURES:
      case ADMIN.GET_FEATURES:
        return this.#features(dw10 & 0xff);
      case ADMIN.ABORT:
        // Commands are done when the doorbell returns: there is never one to abort.
        this.result = 1;
        return NVME_STATUS.SUCCESS;
      case ADMIN.ASYNC_EVENT:
        if (this.#events.length >= EVENT_LIMIT) return NVME_STATUS.ASYNC_LIMIT;
        this.#events.push(sqe[0]! >>> 16);
        return PENDING;
      case ADMIN.KEEP_ALIVE:
        return NVME_STATUS.SUCCESS;
      default:
        return NVME_STATUS.INVALID_OPCODE;
    }
  }

  #createCq(sqe: Int32Array, dw10: number, dw11: number): number {
    const id = dw10 & 0xffff;
    const entries = (dw10 >>> 16) + 1;
    const vector = dw11 >>> 16;
    if (id === 0 || id >= QUEUE_LIMIT || this.#host.completions[id] != null) return NVME_STATUS.INVALID_QUEUE_ID;
    if (entries < 2 || entries > MAX_QUEUE_ENTRIES) return NVME_STATUS.INVALID_QUEUE_SIZE;
    if (vector >= this.#host.vectors) return NVME_STATUS.INVALID_VECTOR;
    if ((dw11 & 1) === 0 || (sqe[6]! & 0xfff) !== 0) return NVME_STATUS.INVALID_FIELD;
    const at = { id, entries, lo: sqe[6]!, hi: sqe[7]! };
    this.#host.createCompletion({ ...at, vector, interrupts: (dw11 & 2) !== 0, head: 0, tail: 0, phase: 1 });
    return NVME_STATUS.SUCCESS;
  }

  #createSq(sqe: Int32Array, dw10: number, dw11: number): number {
    const id = dw10 & 0xffff;
    const entries = (dw10 >>> 16) + 1;
    const cq = dw11 >>> 16;
    if (id === 0 || id >= QUEUE_LIMIT || this.#host.submissions[id] != null) return NVME_STATUS.INVALID_QUEUE_ID;
    if (cq === 0 || cq >= QUEUE_LIMIT || this.#host.completions[cq] == null) return NVME_STATUS.CQ_INVALID;
    if (entries < 2 || entries > MAX_QUEUE_ENTRIES) return NVME_STATUS.INVALID_QUEUE_SIZE;
    if ((dw11 & 1) === 0 || (sqe[6]! & 0xfff) !== 0) return NVME_STATUS.INVALID_FIELD;
    this.#host.createSubmission({ id, entries, lo: sqe[6]!, hi: sqe[7]!, cq, head: 0, tail: 0 });
    return NVME_STATUS.SUCCESS;
  }

  #deleteCq(id: number): number {
    if (id === 0 || id >= QUEUE_LIMIT || this.#host.completions[id] == null) return NVME_STATUS.INVALID_QUEUE_ID;
    if (this.#host.submissions.some((q) => q !== null && q.cq === id)) return NVME_STATUS.QUEUE_DELETION;
    this.#host.deleteCompletion(id);
    return NVME_STATUS.SUCCESS;
  }

  #deleteSq(id: number): number {
    if (id === 0 || id >= QUEUE_LIMIT || this.#host.submissions[id] == null) return NVME_STATUS.INVALID_QUEUE_ID;
    this.#host.deleteSubmission(id);
    return NVME_STATUS.SUCCESS;
  }

  #identify(sqe: Int32Array, cns: number): number {
    const { transfer, identity, disk } = this.#host;
    const nsid = sqe[1]! >>> 0;
    const b = transfer.buffer;
    switch (cns) {
      case 0:
        if (nsid !== 1) return NVME_STATUS.INVALID_NAMESPACE;
        identifyNamespace(b, disk.blocks);
        break;
      case 1:
        identifyController(b, identity);
        break;
      case 2:
        if (nsid >= 0xffff_fffe) return NVME_STATUS.INVALID_NAMESPACE;
        b.fill(0, 0, 4096);
        if (nsid < 1) b[0] = 1;
        break;
      case 3:
        if (nsid !== 1) return NVME_STATUS.INVALID_NAMESPACE;
        identifyDescriptors(b, identity);
        break;
      default:
        return NVME_STATUS.INVALID_FIELD;
    }
    return transfer.run(sqe, 4096, true);
  }

  /** Error information, health and firmware slots: nothing to report, as many bytes as asked for. */
  #logPage(sqe: Int32Array, dw10: number, dw11: number): number {
    const page = dw10 & 0xff;
    if (page < 1 || page > 3) return NVME_STATUS.INVALID_LOG_PAGE;
    const dwords = (dw10 >>> 16) + (dw11 & 0xffff) * 0x1_0000 + 1;
    const bytes = dwords * 4;
    if (bytes > MAX_TRANSFER) return NVME_STATUS.INVALID_FIELD;
    const b = this.#host.transfer.buffer;
    b.fill(0, 0, bytes);
    if (page === 2 && bytes >= 6) {
      b[1] = 300 & 0xff;
      b[2] = 300 >>> 8;
      b[3] = 100;
      b[4] = 10;
    }
    return this.#host.transfer.run(sqe, bytes, true);
  }

  #features(id: number): number {
    switch (id) {
      case FEATURE.QUEUES:
        this.result = (QUEUE_LIMIT - 2) | ((QUEUE_LIMIT - 2) << 16);
        return NVME_STATUS.SUCCESS;
      case FEATURE.ARBITRATION:
      case FEATURE.POWER:
      case FEATURE.TEMPERATURE:
      case FEATURE.ERROR_RECOVERY:
      case FEATURE.WRITE_CACHE:
      case FEATURE.COALESCING:
      case FEATURE.VECTOR:
      case FEATURE.ATOMICITY:
      case FEATURE.ASYNC_EVENT:
        return NVME_STATUS.SUCCESS;
      default:
        return NVME_STATUS.INVALID_FIELD;
    }
  }

  save(): number[] {
    return [...this.#events];
  }

  load(events: readonly number[]): void {
    this.#events = [...events];
  }
}
