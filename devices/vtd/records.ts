import { FAILURE_STEP } from '../../src/ports/failures.ts';
import { FRO, FSTS, PAGE } from '../../src/spec/vtd/registers.ts';
import type { VtdCore } from './core.ts';
import type { EventMessage } from './interrupts.ts';
import type { VtdRegisters } from './registers.ts';

const F = 0x8000_0000 | 0;
/** Conditions one fault event stands for; a new one is signalled only when all of them were clear. */
const CONDITIONS = FSTS.PPF | FSTS.PFO | FSTS.IQE | FSTS.ICE | FSTS.ITE;

/** Primary fault logging: FSTS, the fault recording registers and IQERCD (VT-d §7.2, §7.3, §11.4.7, §11.4.9). */
export class VtdRecords {
  readonly #core: VtdCore;
  readonly #regs: VtdRegisters;
  readonly #event: EventMessage;
  /** The fault recording register that is used next. */
  #next = 0;

  constructor(core: VtdCore) {
    this.#core = core;
    this.#regs = core.registers;
    this.#event = core.interrupts.fault;
  }

  /**
   * Logs a fault. Words as `frcd` of the spec reads them, F left out.
   * @returns whether a register took it (false: overflow, or merged into an earlier one).
   */
  record(w0: number, w1: number, w2: number, w3: number): boolean {
    const kept = this.#record(w0, w1, w2, w3);
    const { tell } = this.#core.deps;
    if (tell !== null) tell({ what: 'frcd', device: this.#core.name, recorded: kept, words: [w0, w1, w2, w3] });
    return kept;
  }

  #record(w0: number, w1: number, w2: number, w3: number): boolean {
    const before = this.#regs.get(PAGE.FSTS.at);
    if ((before & FSTS.PFO) !== 0) return false;
    if (this.#core.deviations.mergeSameSource && this.#pendingFrom(w2 & 0xffff)) return false;
    const at = FRO + 16 * this.#next;
    const full = this.#core.deps.failures?.failures?.fails(FAILURE_STEP.QUEUE) === true;
    if (full || (this.#regs.get(at + 12) & F) !== 0) {
      this.#regs.set(PAGE.FSTS.at, before | FSTS.PFO);
      return false;
    }
    this.#regs.set(at, w0 & ~0xfff);
    this.#regs.set(at + 4, w1);
    this.#regs.set(at + 8, w2);
    this.#regs.set(at + 12, w3 | F);
    const fri = (before & FSTS.PPF) !== 0 ? before & 0xff00 : this.#next << 8;
    this.#regs.set(PAGE.FSTS.at, (before & ~0xff00) | FSTS.PPF | fri);
    this.#next = (this.#next + 1) % this.#core.identity.records;
    this.#signal(before);
    return true;
  }

  #pendingFrom(sid: number): boolean {
    for (let i = 0; i < this.#core.identity.records; i++) {
      const at = FRO + 16 * i;
      if ((this.#regs.get(at + 12) & F) !== 0 && (this.#regs.get(at + 8) & 0xffff) === sid) return true;
    }
    return false;
  }

  #signal(before: number): void {
    if ((before & CONDITIONS) === 0) this.#event.raise();
  }

  /** An invalidation queue error: IQE with its reason (§11.4.9). */
  queueError(info: number): void {
    const before = this.#regs.get(PAGE.FSTS.at);
    this.#regs.set(PAGE.FSTS.at, before | FSTS.IQE);
    if (!this.#core.deviations.noQueueErrorRecord) {
      this.#regs.set(PAGE.IQERCD.at, (this.#regs.get(PAGE.IQERCD.at) & ~0xf) | info);
    }
    this.#signal(before);
  }

  /** A device-TLB invalidation of `sid` was not answered in time (§6.5.2.11). */
  timeout(sid: number): void {
    const before = this.#regs.get(PAGE.FSTS.at);
    this.#regs.set(PAGE.FSTS.at, before | FSTS.ITE);
    this.#regs.set(PAGE.IQERCD.at + 4, (this.#regs.get(PAGE.IQERCD.at + 4) & ~0xffff) | (sid & 0xffff));
    this.#signal(before);
  }

  /** A completion nobody waited for came from `sid`: noted, the queue goes on. */
  unexpectedCompletion(sid: number): void {
    const before = this.#regs.get(PAGE.FSTS.at);
    this.#regs.set(PAGE.FSTS.at, before | FSTS.ICE);
    this.#regs.set(PAGE.IQERCD.at + 4, (this.#regs.get(PAGE.IQERCD.at + 4) & 0xffff) | (sid << 16));
    this.#signal(before);
  }

  /** The guest wrote FSTS. */
  statusWritten(): void {
    const now = this.#regs.get(PAGE.FSTS.at);
    if ((now & FSTS.IQE) === 0) this.#regs.set(PAGE.IQERCD.at, this.#regs.get(PAGE.IQERCD.at) & ~0xf);
    if ((now & CONDITIONS) === 0) this.#event.serviced();
  }

  /** The guest wrote the high word of a fault recording register. */
  recordWritten(): void {
    let pending = false;
    for (let i = 0; i < this.#core.identity.records; i++) pending ||= (this.#regs.get(FRO + 16 * i + 12) & F) !== 0;
    if (pending) return;
    const now = this.#regs.get(PAGE.FSTS.at) & ~FSTS.PPF;
    this.#regs.set(PAGE.FSTS.at, now);
    if (!this.#core.deviations.pendingOutlivesFault && (now & CONDITIONS) === 0) this.#event.serviced();
  }

  /** Translation and interrupt remapping are both off: logging starts over at record 0 (§7.2.1). */
  idle(): void {
    this.#next = 0;
  }

  /** IQE or ITE waits for the guest: no descriptor is fetched (§6.5.2). */
  get queueHalted(): boolean {
    return (this.#regs.get(PAGE.FSTS.at) & (FSTS.IQE | FSTS.ITE)) !== 0;
  }

  reset(): void {
    this.#next = 0;
  }

  save(): number {
    return this.#next;
  }

  load(next: number): void {
    this.#next = next;
  }
}
