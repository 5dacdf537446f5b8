import { PartedSwitch } from '../../src/lib/access/parted-switch.ts';
import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isShortage } from '../../src/lib/uapi/refusals.ts';
import { GCMD, PAGE, TTM } from '../../src/spec/vtd/registers.ts';
import type { VtdCore } from './core.ts';
import { basePointer } from './registers.ts';
import type { VtdStreams } from './streams.ts';

/** Translation on and off, and a new root table (VT-d §11.4.4): GSTS says so once it is so, see `PartedSwitch`. */
export class VtdSwitch {
  readonly #core: VtdCore;
  readonly #streams: VtdStreams;
  /** With status bits as what the guest does not see yet: TE, SRTP. */
  readonly #parts: PartedSwitch;

  constructor(core: VtdCore, streams: VtdStreams) {
    this.#core = core;
    this.#streams = streams;
    this.#parts = new PartedSwitch(core.work, {
      place: () => this.#place(),
      again: () => streams.healing.heal(core.deps.upcalls === null),
      holds: (refused) => this.#holds(refused),
      show: (bits) => this.#show(bits),
    });
  }

  /** See `PartedSwitch.going`. */
  get going(): boolean {
    return this.#parts.going;
  }

  /** GCMD.TE was written. */
  translation(on: boolean): void {
    const { root } = this.#core;
    if (root.on === on) return;
    root.on = on;
    this.#streams.rounds.beginSwitch();
    this.#parts.begin(GCMD.TE);
  }

  /** GCMD.SRTP: address and mode are latched, every cache of the unit is emptied (ESRTPS). */
  rootTable(): void {
    const { root, features, deps, deviations, registers } = this.#core;
    const lo = registers.get(PAGE.RTADDR.at);
    root.base = basePointer(lo, registers.get(PAGE.RTADDR.at + 4), deps.properties, deviations);
    const ttm = (lo >>> 10) & 3;
    root.mode = !deviations.tableModeBitOnly ? ttm : features.scalable ? ttm & 1 : TTM.LEGACY;
    registers.setStatus(GCMD.SRTP, false);
    this.#streams.rounds.beginSwitch();
    this.#parts.begin(GCMD.SRTP);
  }

  /** Reset, or a state was loaded: the registers say what is to be in force, and nobody waits for it. @returns the first refusal. */
  replaced(): VerbOutcome {
    this.#parts.reset();
    this.#streams.rounds.beginSwitch();
    return this.#core.work.whole(() => this.#streams.rounds.placeAll());
  }

  /** GSTS as it is on another host, where nothing of this one's is in force. @param now its value here. */
  settled(now: number): number {
    const { pending } = this.#parts;
    if (pending === 0) return now;
    const { on } = this.#core.root;
    const te = (pending & GCMD.TE) === 0 ? now : on ? now | GCMD.TE : now & ~GCMD.TE;
    return te | (pending & GCMD.SRTP);
  }

  /** See `PartedSwitch.goOn`. */
  goOn(): void {
    this.#parts.goOn();
  }

  /** See `PartedSwitch.nextPart`. */
  nextPart(): boolean {
    return this.#parts.nextPart();
  }

  #place(): VerbOutcome {
    const { work, refusals } = this.#core;
    const refused = this.#streams.rounds.placeAll();
    if (!work.unfinished) refusals.note('switch of translation', refused);
    return refused;
  }

  /** @param refused what the host did not do. Where the hardware asks on first use, only what is still in force counts. */
  #holds(refused: VerbOutcome): boolean {
    const waits = this.#core.deps.upcalls === null && isShortage(refused);
    return !waits && !this.#keeps && this.#streams.confirmed() >= 0 && !this.#core.work.unfinished;
  }

  /** Whether something that is still in force should have gone. */
  get #keeps(): boolean {
    const { on } = this.#core.root;
    return this.#streams.list.some((s) => {
      if (!on) return s.slots.list.length > 0;
      return s.bypass || s.keeps;
    });
  }

  #show(bits: number): void {
    const { deps, root, registers } = this.#core;
    if ((bits & GCMD.TE) !== 0) registers.setStatus(GCMD.TE, root.on);
    if ((bits & GCMD.SRTP) !== 0) registers.setStatus(GCMD.SRTP, true);
    if (deps.upcalls === null && root.on) this.#streams.tellOfLost();
  }
}
