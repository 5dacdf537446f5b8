import type { Clock } from '../../ports/clock.ts';
import { HW_ERROR, type HwEvents, type HwPort } from '../../ports/hw.ts';

/** What goes wrong with a command the fault names. */
export interface CommandFault {
  /** Whether it is this command: `words[at]` is its first word. */
  match(words: Int32Array, at: number): boolean;
  /**
   * HW_ERROR.ILLEGAL: refused, the queue stops there. ABORT: the queue cannot be read there.
   * ATC_TIMEOUT: the invalidation is sent and never answered; the sync behind it fails.
   */
  readonly error: number;
  /** How many commands it hits before it is spent. Default 1. */
  readonly times?: number;
  /** How many matching commands pass before the first hit. Default 0. */
  readonly after?: number;
  /** ATC_TIMEOUT only: nanoseconds until the timeout is noticed; the submission itself succeeds. Default 0: at the sync. */
  readonly delay?: number;
}

interface Armed {
  readonly fault: CommandFault;
  left: number;
  skip: number;
}

/** How a `FaultyHw` reads commands and tells late errors. */
export interface FaultyHwOptions {
  /** 32-bit words of a command: 4 (default) or 8. */
  readonly commandWords?: number;
  /** Which function an ATS invalidation names, for late timeouts. Default: word 1, as on SMMUv3. */
  readonly functionOf?: (words: Int32Array, at: number) => number;
  /** For faults with a `delay`. */
  readonly clock?: Clock;
  /** Where a late error is told. */
  readonly events?: HwEvents;
}

/** Tokens of its own, far from those of the hardware. */
const FIRST_TOKEN = 2 ** 40;

/**
 * Stands between a kernel driver and its hardware and lets chosen commands fail as hardware fails. Without an armed fault
 * everything passes untouched.
 */
export class FaultyHw implements HwPort {
  done = 0;
  error: number = HW_ERROR.NONE;
  pending = 0;
  readonly #hw: HwPort;
  readonly #options: FaultyHwOptions;
  readonly #words: number;
  readonly #armed: Armed[] = [];
  #token = FIRST_TOKEN;

  /** @param hw what the kernel's commands go to otherwise. */
  constructor(hw: HwPort, options: FaultyHwOptions = {}) {
    this.#hw = hw;
    this.#options = options;
    this.#words = options.commandWords ?? 4;
  }

  /** @returns takes the fault back. */
  inject(fault: CommandFault): () => void {
    const armed: Armed = { fault, left: fault.times ?? 1, skip: fault.after ?? 0 };
    this.#armed.push(armed);
    return () => {
      const at = this.#armed.indexOf(armed);
      if (at >= 0) this.#armed.splice(at, 1);
    };
  }

  readRegister(offset: number): bigint {
    return this.#hw.readRegister(offset);
  }

  writeRegister(offset: number, value: bigint): void {
    this.#hw.writeRegister(offset, value);
  }

  writeEntry(table: number, entry: number, word: number, lo: number, hi: number): void {
    this.#hw.writeEntry(table, entry, word, lo, hi);
  }

  submit(words: Int32Array, start: number, count: number): void {
    if (this.#armed.length === 0) {
      this.#pass(words, start, count);
      return;
    }
    for (let i = 0; i < count; i++) {
      const fault = this.#hit(words, start + i * this.#words);
      if (fault === null) continue;
      if (fault.error === HW_ERROR.ATC_TIMEOUT) this.#unanswered(words, start, count, i, fault);
      else this.#stop(words, start, i, fault.error);
      return;
    }
    this.#pass(words, start, count);
  }

  #hit(words: Int32Array, at: number): CommandFault | null {
    for (const armed of this.#armed) {
      if (!armed.fault.match(words, at)) continue;
      if (armed.skip > 0) {
        armed.skip--;
        continue;
      }
      if (--armed.left === 0) this.#armed.splice(this.#armed.indexOf(armed), 1);
      return armed.fault;
    }
    return null;
  }

  #pass(words: Int32Array, start: number, count: number): void {
    this.#hw.submit(words, start, count);
    this.done = this.#hw.done;
    this.error = this.#hw.error;
    this.pending = this.#hw.pending;
  }

  /** What precedes the command is done; the command and what follows are not. */
  #stop(words: Int32Array, start: number, index: number, error: number): void {
    this.#pass(words, start, index);
    if (this.error === HW_ERROR.NONE) this.error = error;
  }

  /** All is done but one invalidation, and the sync, or somebody later, notices. */
  #unanswered(words: Int32Array, start: number, count: number, index: number, fault: CommandFault): void {
    const n = this.#words;
    const others = new Int32Array((count - 1) * n);
    others.set(words.subarray(start, start + index * n));
    others.set(words.subarray(start + (index + 1) * n, start + count * n), index * n);
    this.submit(others, 0, count - 1);
    if (this.error !== HW_ERROR.NONE) {
      if (this.done >= index) this.done++;
      return;
    }
    this.done = count;
    const { clock, events } = this.#options;
    if ((fault.delay ?? 0) === 0 || clock === undefined || events === undefined) {
      this.error = HW_ERROR.ATC_TIMEOUT;
      return;
    }
    const token = this.#token++;
    const rid = this.#options.functionOf?.(words, start + index * n) ?? words[start + index * n + 1]! >>> 0;
    clock.after(fault.delay ?? 0, () => events.completed(token, HW_ERROR.ATC_TIMEOUT, rid));
    // One token can be told; the hardware's own completions come before a timeout anyway.
    this.pending = token;
  }
}
