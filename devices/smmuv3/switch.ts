import { CR0, GBPA, PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import type { Smmuv3Core } from './core.ts';
import type { Smmuv3Streams } from './streams.ts';

/**
 * Translation on and off, and what streams do without it. CR0ACK and GBPA.UPDATE say so once it is so (IHI 0070 §6.3.9,
 * §6.3.14): while the host keeps what was in force before, a guest that waits for them waits, and each read of a register
 * tries again.
 */
export class Smmuv3Switch {
  readonly #core: Smmuv3Core;
  readonly #streams: Smmuv3Streams;
  /** SMMUEN as CR0ACK shows it while it differs from CR0. */
  #shown = 0;
  /** Which of them the guest does not see yet. */
  #enable = false;
  #bypass = false;

  constructor(core: Smmuv3Core, streams: Smmuv3Streams) {
    this.#core = core;
    this.#streams = streams;
  }

  /** CR0 was written, and CR0ACK is what it is otherwise. @param before CR0 before. */
  written(before: number): void {
    const { registers } = this.#core;
    if (((before ^ registers.get(PAGE0.CR0.at)) & CR0.SMMUEN) !== 0) {
      if (!this.#enable) this.#shown = before & CR0.SMMUEN;
      this.#enable = !this.#streams.placeAll();
    }
    this.#acknowledge();
  }

  /** GBPA was updated. While translation is on, nothing follows from it. */
  bypassWritten(): void {
    if (this.#core.registers.enabled(CR0.SMMUEN)) return;
    this.#bypass = !this.#streams.placeAll();
    this.#acknowledge();
  }

  /** Reset, or a state was loaded: nobody waits for it. */
  reset(): void {
    this.#enable = this.#bypass = false;
  }

  /** CR0ACK and GBPA as they are on another host, where nothing of this one's is in force. @param now the value here of the word at `at`. */
  settled(at: number, now: number): number {
    if (at === PAGE0.GBPA.at && this.#bypass) return now & ~GBPA.UPDATE;
    if (at !== PAGE0.CR0ACK.at || !this.#enable) return now;
    return (now & ~CR0.SMMUEN) | (this.#core.registers.get(PAGE0.CR0.at) & CR0.SMMUEN);
  }

  /** Tries again what the host refused. */
  goOn(): void {
    if (!this.#enable && !this.#bypass) return;
    if (!this.#streams.placeLate()) return;
    this.#enable = this.#bypass = false;
    this.#acknowledge();
  }

  #acknowledge(): void {
    const { registers } = this.#core;
    const now = registers.get(PAGE0.CR0.at) & CR0.SMMUEN;
    const ack = registers.get(PAGE0.CR0ACK.at) & ~CR0.SMMUEN;
    registers.set(PAGE0.CR0ACK.at, ack | (this.#enable ? this.#shown : now));
    const gbpa = registers.get(PAGE0.GBPA.at);
    if (this.#bypass !== ((gbpa & GBPA.UPDATE) !== 0)) registers.set(PAGE0.GBPA.at, gbpa ^ GBPA.UPDATE);
  }
}
