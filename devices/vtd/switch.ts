import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import { GCMD, PAGE, TTM } from '../../src/spec/vtd/registers.ts';
import type { VtdCore } from './core.ts';
import { basePointer } from './registers.ts';
import type { VtdStreams } from './streams.ts';

/**
 * Translation on and off, and a new root table (VT-d §11.4.4). GSTS says so once it is so: while the host keeps what was in
 * force before, a guest that waits for the status bit waits, and each read of a register tries again.
 */
export class VtdSwitch {
  readonly #core: VtdCore;
  readonly #streams: VtdStreams;
  /** Status bits that the guest does not see yet: TE, SRTP. */
  #pending = 0;
  /** Not all streams have been gone through: descriptors wait for that. */
  going = false;

  constructor(core: VtdCore, streams: VtdStreams) {
    this.#core = core;
    this.#streams = streams;
  }

  /** GCMD.TE was written. */
  translation(on: boolean): void {
    const { root } = this.#core;
    if (root.on === on) return;
    root.on = on;
    this.#pending |= GCMD.TE;
    this.#begin();
  }

  /** GCMD.SRTP: address and mode are latched, every cache of the unit is emptied (ESRTPS). */
  rootTable(): void {
    const { root, features, deps, deviations, registers } = this.#core;
    const lo = registers.get(PAGE.RTADDR.at);
    root.base = basePointer(lo, registers.get(PAGE.RTADDR.at + 4), deps.properties, deviations);
    const ttm = (lo >>> 10) & 3;
    root.mode = !deviations.tableModeBitOnly ? ttm : features.scalable ? ttm & 1 : TTM.LEGACY;
    registers.setStatus(GCMD.SRTP, false);
    this.#pending |= GCMD.SRTP;
    this.#begin();
  }

  /** Reset, or a state was loaded: the registers say what is to be in force, and nobody waits for it. @returns the first refusal. */
  replaced(): VerbOutcome {
    this.#pending = 0;
    this.going = false;
    return this.#core.work.whole(() => this.#streams.placeAll());
  }

  /** GSTS as it is on another host, where nothing of this one's is in force. @param now its value here. */
  settled(now: number): number {
    if (this.#pending === 0) return now;
    const { on } = this.#core.root;
    const te = (this.#pending & GCMD.TE) === 0 ? now : on ? now | GCMD.TE : now & ~GCMD.TE;
    return te | (this.#pending & GCMD.SRTP);
  }

  /** Tries again what the host refused. */
  goOn(): void {
    if (this.#pending === 0 || this.going) return;
    const { work } = this.#core;
    work.operation();
    const refused = this.#streams.healing.heal();
    if (!work.unfinished) this.#show(refused);
  }

  /** The next part of a switch that is going. @returns whether it is over. */
  nextPart(): boolean {
    this.#core.work.operation(true);
    this.#place();
    return !this.going;
  }

  #begin(): void {
    this.#core.work.operation();
    this.#place();
  }

  /** Whether something that is still in force should have gone. */
  get #keeps(): boolean {
    const { on } = this.#core.root;
    return this.#streams.list.some((s) => {
      if (!on) return s.slots.list.length > 0;
      return s.bypass || s.keeps;
    });
  }

  #place(): void {
    const { work, refusals } = this.#core;
    const refused = this.#streams.placeAll();
    this.going = work.unfinished;
    if (this.going) {
      work.pause();
      return;
    }
    // A descriptor in hand begins again: what it had done was done to what is void now.
    work.operation();
    refusals.note('switch of translation', refused);
    this.#show(refused);
  }

  /** @param refused what the host did not do. Where the hardware asks on first use, only what is still in force counts. */
  #show(refused: VerbOutcome): void {
    const { deps, root, registers } = this.#core;
    const lost = deps.upcalls === null && refused < 0 && refused !== -E.OPNOTSUPP;
    if (lost || this.#keeps || this.#streams.confirmed() < 0) return;
    if ((this.#pending & GCMD.TE) !== 0) registers.setStatus(GCMD.TE, root.on);
    if ((this.#pending & GCMD.SRTP) !== 0) registers.setStatus(GCMD.SRTP, true);
    this.#pending = 0;
  }
}
