import { fromWords } from '../../src/core/bits.ts';
import { checkCd } from '../../src/lib/check/cd.ts';
import { fetchWords } from '../../src/lib/memory/fetch-words.ts';
import { VmsaWalker } from '../../src/lib/walk/vmsa.ts';
import { VMSA_ORDER, type VmsaCheckOrder, type VmsaChoices } from '../../src/lib/walk/vmsa-choices.ts';
import {
  permNeeded,
  readStage1,
  type Stage2Regime,
  stage1Regime,
  stage2Regime,
} from '../../src/lib/walk/vmsa-regime.ts';
import { ACCESS } from '../../src/ports/dma.ts';
import type { Memory } from '../../src/ports/memory.ts';
import { CD_BYTES, CD_SPLIT_4K, CD_SPLIT_64K, CD_WORDS, l1CdL2Ptr, l1CdValid } from '../../src/spec/smmuv3/cd.ts';
import { CLASS, EV3, EVENT, evType } from '../../src/spec/smmuv3/events.ts';
import {
  S1DSS,
  S1FMT,
  steS1CdMax,
  steS1ContextPtr,
  steS1Dss,
  steS1Enabled,
  steS1Fmt,
  steS1Stalld,
  steS2Enabled,
} from '../../src/spec/smmuv3/ste.ts';
import type { Smmuv3Core } from './core.ts';
import { readGuestStage2, vmsaCheckOrderOf, vmsaChoicesOf } from './qemu/choices.ts';

/**
 * A transaction repeated on the guest's own structures, in the guest's memory, where register windows answer as on the
 * machine: CD table, stage-1 tables, and the stage 2 the guest owns. It finds which fault the guest is to be told of; it
 * never yields an address for DMA.
 */
export class Smmuv3GuestAccess {
  readonly #core: Smmuv3Core;
  readonly #memory: Memory;
  readonly #choices: VmsaChoices;
  readonly #order: VmsaCheckOrder;
  readonly walker: VmsaWalker;
  readonly s1 = stage1Regime();
  readonly #s2 = stage2Regime();
  /** The stage 2 that the guest owns under the transaction; null: it has none. */
  s2: Stage2Regime | null = null;
  /** The CD that `open` found; all zero where stage 1 takes no part. */
  readonly cd = new Int32Array(CD_WORDS);
  /** Where the CD, or the level-1 descriptor before it, lies as the guest calls it (bytes). */
  cdAt = 0;
  /** Stage 1 takes no part: the entry does not enable it, or S1DSS bypasses it. */
  bypassed = false;

  constructor(core: Smmuv3Core) {
    this.#core = core;
    this.#memory = core.deps.memory;
    this.#choices = vmsaChoicesOf(core.deviations);
    this.#order = vmsaCheckOrderOf(core.deviations);
    this.walker = new VmsaWalker(core.deps.memory);
    this.walker.choose(this.#choices, this.#order);
  }

  /**
   * Finds the configuration of a transaction.
   * @param ste the stream's entry. @param ssid SubstreamID, or -1.
   * @returns 0, F_CD_FETCH, C_BAD_CD, or the event code of the stage-2 fault that the walker describes.
   */
  open(ste: Int32Array, ssid: number): number {
    const { features, deviations } = this.#core;
    this.s2 = steS2Enabled(ste, 0) ? this.#s2 : null;
    if (this.s2 !== null) readGuestStage2(this.s2, ste, features, deviations);
    const max = features.ssidSize === 0 ? 0 : steS1CdMax(ste, 0);
    this.bypassed = !steS1Enabled(ste, 0) || (max > 0 && ssid < 0 && steS1Dss(ste, 0) === S1DSS.BYPASS);
    if (this.bypassed) {
      this.cd.fill(0);
      return 0;
    }
    const code = this.#fetchCd(ste, max, Math.max(0, ssid));
    if (code === 0) readStage1(this.s1, this.cd, 0, features.oas, this.#choices);
    return code;
  }

  #fetchCd(ste: Int32Array, max: number, index: number): number {
    let at = steS1ContextPtr(ste, 0);
    const fmt = steS1Fmt(ste, 0);
    const split = fmt === S1FMT.L2_4K ? CD_SPLIT_4K : fmt === S1FMT.L2_64K ? CD_SPLIT_64K : 0;
    if (max > 0 && split > 0) {
      const pa = this.#through(at + 8 * Math.floor(index / 2 ** split));
      if (pa < 0) return -pa;
      if (!this.#memory.load64(pa)) return EVENT.F_CD_FETCH;
      if (!l1CdValid(this.#memory.lo)) return EVENT.C_BAD_CD;
      at = l1CdL2Ptr(this.#memory.lo, this.#memory.hi) + (index % 2 ** split) * CD_BYTES;
    } else {
      at += index * CD_BYTES;
    }
    const pa = this.#through(at);
    if (pa < 0) return -pa;
    if (!fetchWords(this.#memory, pa, this.cd, CD_WORDS)) return EVENT.F_CD_FETCH;
    return checkCd(this.cd, 0, this.#core.features, steS1Stalld(ste, 0) !== 0);
  }

  /** Where a CD structure lies, or minus the event code of the stage-2 fault. */
  #through(at: number): number {
    this.cdAt = at;
    if (this.s2 === null) return at;
    const code = this.walker.stage2(this.s2, at, ACCESS.READ, CLASS.CD);
    return code === 0 ? this.walker.out : -code;
  }

  /**
   * Whether a walk in the hardware's order meets the stage-1 fault of a record, after `open`: the structures are as they were
   * when the hardware read them.
   */
  repeats(record: Int32Array): boolean {
    this.walker.choose(this.#choices, VMSA_ORDER);
    const code = this.walk(record);
    this.walker.choose(this.#choices, this.#order);
    return code === evType(record) && this.walker.stage === 1;
  }

  /**
   * The guest's own stage 2 under the transaction of a record, at one input address (bytes).
   * @param cls CLASS of what is there. @returns 0: none, or no fault; else the event code of the fault.
   */
  stage2(record: Int32Array, ipa: number, cls: number): number {
    if (this.s2 === null) return 0;
    const need = cls === CLASS.IN ? permNeeded(accessOf(record[3]!)) : ACCESS.READ;
    return this.walker.stage2(this.s2, ipa, need, cls);
  }

  /**
   * Walks the tables for the transaction that a record describes, after `open`.
   * @returns 0, or the event code of the fault that the walker describes. Without any stage there is none.
   */
  walk(record: Int32Array): number {
    const need = permNeeded(accessOf(record[3]!));
    if (!this.bypassed) return this.walker.stage1(this.s1, this.s2, record[4]!, record[5]!, need);
    if (this.s2 === null) return 0;
    return this.walker.stage2(this.s2, fromWords(record[4]!, record[5]!), need, CLASS.IN);
  }
}

/** ACCESS bits of the transaction a record describes. */
function accessOf(word3: number): number {
  const read = (word3 & EV3.RNW) !== 0;
  return (
    (read ? ACCESS.READ : ACCESS.WRITE) |
    ((word3 & EV3.IND) !== 0 ? ACCESS.EXEC : 0) |
    ((word3 & EV3.PNU) !== 0 ? ACCESS.PRIV : 0)
  );
}
