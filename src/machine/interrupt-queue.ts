import { MACHINE_LIMITS, Quota } from '../lib/limits/machine-limits.ts';
import type { InterruptPort } from '../ports/irq.ts';

/** Where a machine's interrupts end: the emulator's controller. Never called from inside a register access. */
export interface InterruptSink {
  /** A wired line changes (the emulator's own numbering). An edge is a rise followed by a fall. */
  line(number: number, asserted: boolean): void;
  /**
   * A message: 4 bytes written to a guest-physical address. One of an x86 machine with EIM may have bits 31:8 of its APIC id in
   * bits 63:40.
   * @param requester requester id of the function that sent it, as the guest knows it (an ITS's DeviceID); -1: a message of
   *   the IOMMU itself, or one that went through interrupt remapping.
   */
  message(address: number, data: number, requester: number): void;
}

/** What waits: a message, or the change of a line. */
type Waiting =
  | { readonly address: number; readonly data: number; readonly requester: number }
  | { readonly line: number; readonly asserted: boolean };

/**
 * Holds interrupts back until the emulator is out of the access that caused them: what comes is delivered by `defer`red
 * work, in order. An emulator that never comes out of its accesses makes it grow as far as its quota.
 */
export class InterruptQueue {
  readonly #sink: InterruptSink;
  readonly #defer: (action: () => void) => void;
  readonly #accepts: (address: number) => boolean;
  readonly #quota: Quota;
  #queue: Waiting[] = [];
  /** Once the queue is full: the messages and pulses in it, by name. */
  #names: Set<string> | null = null;
  /** Once the queue is full: the last state of lines, told at the end. */
  readonly #levels = new Map<number, boolean>();
  #scheduled = false;

  /**
   * @param accepts whether something answers at a message's address.
   * @param defer runs an action soon, outside of any access.
   * @param quota how many may wait.
   */
  constructor(
    sink: InterruptSink,
    accepts: (address: number) => boolean,
    defer: (action: () => void) => void,
    quota: Quota = new Quota(MACHINE_LIMITS.interrupts),
  ) {
    this.#sink = sink;
    this.#accepts = accepts;
    this.#defer = defer;
    this.#quota = quota;
  }

  /** The port of one device. @param lines the emulator's number of each of its lines; -1 or absent: not wired. */
  port(lines: readonly number[]): InterruptPort {
    const wired = (line: number) => lines[line] ?? -1;
    return {
      pulse: (line) => {
        const n = wired(line);
        if (n < 0 || (!this.#quota.room() && this.#waits(`pulse ${n}`))) return;
        this.#push({ line: n, asserted: true });
        this.#push({ line: n, asserted: false });
      },
      level: (line, asserted) => {
        const n = wired(line);
        if (n < 0) return;
        if (this.#quota.room()) this.#push({ line: n, asserted });
        else this.#levels.set(n, asserted);
      },
      message: (address, data) => this.message(address, data, -1),
    };
  }

  /** A message of a function. @param requester see `InterruptSink.message`. @returns false: nothing answers there. */
  message(address: number, data: number, requester: number): boolean {
    if (!this.#accepts(address)) return false;
    if (this.#quota.room()) this.#push({ address, data, requester });
    return true;
  }

  #push(waiting: Waiting): void {
    this.#queue.push(waiting);
    this.#quota.used++;
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#defer(() => this.flush());
  }

  /** Whether a pulse of that name waits already; the next time it does. */
  #waits(name: string): boolean {
    this.#names ??= new Set(this.#queue.map((w) => ('line' in w ? `pulse ${w.line}` : '')));
    if (this.#names.has(name)) return true;
    this.#names.add(name);
    return false;
  }

  /** Delivers what is waiting; adapters with a natural place outside of accesses may call it there. */
  flush(): void {
    this.#scheduled = false;
    const due = this.#queue;
    const levels = [...this.#levels];
    this.#queue = [];
    this.#names = null;
    this.#levels.clear();
    this.#quota.used -= due.length;
    for (const w of due) {
      if ('line' in w) this.#sink.line(w.line, w.asserted);
      else this.#sink.message(w.address, w.data, w.requester);
    }
    for (const [line, asserted] of levels) this.#sink.line(line, asserted);
  }
}
