import { PartedSwitch } from '../../src/lib/access/parted-switch.ts';
import { CR0, GBPA, PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import type { Smmuv3Core } from './core.ts';
import type { Smmuv3Streams } from './streams.ts';

/** What the guest does not see yet. */
const PENDING = { ENABLE: 1, BYPASS: 2 } as const;

/**
 * Translation on and off, and what streams do without it: CR0ACK.SMMUEN and GBPA.UPDATE say so once it is so (IHI 0070 §6.3.9,
 * §6.3.14), see `PartedSwitch`.
 */
export class Smmuv3Switch {
  readonly #core: Smmuv3Core;
  readonly #streams: Smmuv3Streams;
  readonly #parts: PartedSwitch;

  constructor(core: Smmuv3Core, streams: Smmuv3Streams) {
    this.#core = core;
    this.#streams = streams;
    this.#parts = new PartedSwitch(core.work, {
      place: () => streams.placeAll(),
      again: () => streams.placeLate(),
      holds: () => streams.placed,
      show: () => this.#show(),
    });
  }

  /** See `PartedSwitch.going`. */
  get going(): boolean {
    return this.#parts.going;
  }

  /** CR0 was written; of CR0ACK, SMMUEN alone is what it was. @param before CR0 before. */
  written(before: number): void {
    if (((before ^ this.#core.registers.get(PAGE0.CR0.at)) & CR0.SMMUEN) !== 0) this.#parts.begin(PENDING.ENABLE);
  }

  /** GBPA was updated. While translation is on, nothing follows from it. */
  bypassWritten(): void {
    const { registers } = this.#core;
    if (registers.enabled(CR0.SMMUEN)) return;
    registers.set(PAGE0.GBPA.at, registers.get(PAGE0.GBPA.at) | GBPA.UPDATE);
    this.#parts.begin(PENDING.BYPASS);
  }

  /** Reset: every stream is what the registers say, in one go. */
  reset(): void {
    this.#parts.reset();
    this.#core.work.whole(() => this.#streams.placeAll());
  }

  /** A state was loaded: nobody waits for what was. */
  loaded(): void {
    this.#parts.reset();
  }

  /** CR0ACK and GBPA as they are on another host, where nothing of this one's is in force. @param now the value here of the word at `at`. */
  settled(at: number, now: number): number {
    const { pending } = this.#parts;
    if (at === PAGE0.GBPA.at && (pending & PENDING.BYPASS) !== 0) return now & ~GBPA.UPDATE;
    if (at !== PAGE0.CR0ACK.at || (pending & PENDING.ENABLE) === 0) return now;
    return (now & ~CR0.SMMUEN) | (this.#core.registers.get(PAGE0.CR0.at) & CR0.SMMUEN);
  }

  /** See `PartedSwitch.goOn`. */
  goOn(): void {
    this.#parts.goOn();
  }

  /** See `PartedSwitch.nextPart`. */
  nextPart(): boolean {
    return this.#parts.nextPart();
  }

  #show(): void {
    const { registers } = this.#core;
    const now = registers.get(PAGE0.CR0.at) & CR0.SMMUEN;
    registers.set(PAGE0.CR0ACK.at, (registers.get(PAGE0.CR0ACK.at) & ~CR0.SMMUEN) | now);
    registers.set(PAGE0.GBPA.at, registers.get(PAGE0.GBPA.at) & ~GBPA.UPDATE);
    this.#streams.tellOfLost();
  }
}
