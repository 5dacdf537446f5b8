import type { InterruptPort } from '../ports/irq.ts';

/** Where a machine's interrupts end: the emulator's controller. Never called from inside a register access. */
export interface InterruptSink {
  /** A wired line changes (the emulator's own numbering). An edge is a rise followed by a fall. */
  line(number: number, asserted: boolean): void;
  /**
   * A message: 4 bytes written to a guest-physical address.
   * @param requester requester id of the function that sent it, as the guest knows it (an ITS's DeviceID); -1: a message of
   *   the IOMMU itself, or one that went through interrupt remapping.
   */
  message(address: number, data: number, requester: number): void;
}

/**
 * Holds interrupts back until the emulator is out of the access that caused them: what comes is delivered by `defer`red
 * work, in order.
 */
export class InterruptQueue {
  readonly #sink: InterruptSink;
  readonly #defer: (action: () => void) => void;
  readonly #accepts: (address: number) => boolean;
  #queue: (() => void)[] = [];
  #scheduled = false;

  /**
   * @param accepts whether something answers at a message's address.
   * @param defer runs an action soon, outside of any access.
   */
  constructor(sink: InterruptSink, accepts: (address: number) => boolean, defer: (action: () => void) => void) {
    this.#sink = sink;
    this.#accepts = accepts;
    this.#defer = defer;
  }

  /** The port of one device. @param lines the emulator's number of each of its lines; -1 or absent: not wired. */
  port(lines: readonly number[]): InterruptPort {
    const wired = (line: number) => lines[line] ?? -1;
    return {
      pulse: (line) => {
        const n = wired(line);
        if (n < 0) return;
        this.#push(() => this.#sink.line(n, true));
        this.#push(() => this.#sink.line(n, false));
      },
      level: (line, asserted) => {
        const n = wired(line);
        if (n >= 0) this.#push(() => this.#sink.line(n, asserted));
      },
      message: (address, data) => this.message(address, data, -1),
    };
  }

  /** A message of a function. @param requester see `InterruptSink.message`. @returns false: nothing answers there. */
  message(address: number, data: number, requester: number): boolean {
    if (!this.#accepts(address)) return false;
    this.#push(() => this.#sink.message(address, data, requester));
    return true;
  }

  #push(action: () => void): void {
    this.#queue.push(action);
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#defer(() => this.flush());
  }

  /** Delivers what is waiting; adapters with a natural place outside of accesses may call it there. */
  flush(): void {
    this.#scheduled = false;
    const due = this.#queue;
    this.#queue = [];
    for (const action of due) action();
  }
}
