import { alignDown, POW2 } from '../../src/core/bits.ts';
import type { Smmuv3Features } from '../../src/lib/check/smmuv3-features.ts';
import { checkSte, type SteRules } from '../../src/lib/check/ste.ts';
import { fetchWords, NOWHERE } from '../../src/lib/memory/fetch-words.ts';
import type { Memory } from '../../src/ports/memory.ts';
import { EVENT } from '../../src/spec/smmuv3/events.ts';
import { CR0, PAGE0, STRTAB_FMT } from '../../src/spec/smmuv3/registers.ts';
import { l1StdL2Ptr, l1StdSpan, STE_BYTES, STE_WORDS } from '../../src/spec/smmuv3/ste.ts';
import type { Smmuv3Core } from './core.ts';
import { SIDSIZE } from './identity.ts';
import type { Smmuv3Deviations } from './profile.ts';
import { steRulesOf } from './qemu/choices.ts';
import type { Smmuv3Registers } from './registers.ts';

/** STE word 1: S1ContextPtr[51:32], and what QEMU takes for more of it. */
const CONTEXT_HIGH = 0xff_ffff;
const CONTEXT_ABOVE = 0xf0_0000;

/** STE word 5: S2PTW, S2HD, S2HA. */
const S2_IGNORED = 7 << 22;

/** SPLIT: 6, 8 or 10; anything else behaves as 6. */
function splitOf(cfg: number): number {
  const split = (cfg >>> 6) & 31;
  return split === 8 || split === 10 ? split : 6;
}

/** The guest's stream table as its registers describe it now (IHI 0070 §3.3, §5.1). */
export class Smmuv3Tables {
  readonly #regs: Smmuv3Registers;
  readonly #memory: Memory;
  readonly #d: Smmuv3Deviations;
  readonly #rules: SteRules;
  readonly #features: Smmuv3Features;
  /** QEMU: once two-level, always two-level, with the last SPLIT that came with FMT=1. */
  #stickySplit = -1;
  /** The entry last looked up. */
  readonly ste = new Int32Array(STE_WORDS);
  /** Guest-physical address of the structure that could not be fetched (F_STE_FETCH), bytes below 2^52. */
  fetch = 0;
  /** Bits 63:52 of that address, as bits 31:20 of its high word. */
  fetchAbove = 0;

  constructor(core: Smmuv3Core) {
    this.#rules = steRulesOf(core.features, core.deviations);
    this.#regs = core.registers;
    this.#memory = core.deps.memory;
    this.#features = core.features;
    this.#d = core.deviations;
  }

  /** STRTAB_BASE_CFG was written. */
  configured(): void {
    const cfg = this.#regs.get(PAGE0.STRTAB_BASE_CFG.at);
    if (((cfg >>> 16) & 3) === STRTAB_FMT.TWO_LEVEL) this.#stickySplit = splitOf(cfg);
  }

  reset(): void {
    this.#stickySplit = -1;
  }

  /** -1: a linear table; else SPLIT. */
  #split(cfg: number): number {
    if (this.#d.stickyTwoLevel) return this.#stickySplit;
    if (((cfg >>> 16) & 3) !== STRTAB_FMT.TWO_LEVEL) return -1;
    return splitOf(cfg);
  }

  /**
   * Fetches and judges the entry of a StreamID into `ste`.
   * @returns 0, or the event code a transaction of that stream gets: C_BAD_STREAMID, F_STE_FETCH, C_BAD_STE.
   */
  lookup(sid: number): number {
    const cfg = this.#regs.get(PAGE0.STRTAB_BASE_CFG.at);
    const log2 = cfg & 63;
    if (sid >= POW2[Math.min(log2, SIDSIZE)]!) return EVENT.C_BAD_STREAMID;
    const base = this.#regs.address(PAGE0.STRTAB_BASE.at, 6);
    const split = this.#split(cfg);
    this.fetchAbove = 0;
    let at: number;
    if (split < 0) {
      at = alignDown(base, POW2[Math.min(log2 + 6, 63)]!) + sid * STE_BYTES;
    } else {
      at = this.#secondLevel(base, log2, split, sid);
      if (at < 0) return -at;
    }
    this.fetch = at;
    if (this.fetchAbove !== 0 || !fetchWords(this.#memory, at, this.ste, STE_WORDS)) return EVENT.F_STE_FETCH;
    if (this.#d.wideTablePointer && (this.ste[1]! & CONTEXT_ABOVE) !== 0) {
      this.ste[1] = (this.ste[1]! & ~CONTEXT_HIGH) | (NOWHERE / 2 ** 32);
    }
    if (this.#d.stage2BitsIgnored) this.ste[5]! &= ~S2_IGNORED;
    return checkSte(this.ste, 0, this.#features, this.#regs.enabled(CR0.ATSCHK), this.#rules);
  }

  /** Address of the STE through a level-1 descriptor, or minus an event code. */
  #secondLevel(base: number, log2: number, split: number, sid: number): number {
    const size = 2 ** Math.max(6, log2 - split + 3);
    const l1 = base - (base % size) + 8 * Math.floor(sid / 2 ** split);
    this.fetch = l1;
    if (!this.#memory.load64(l1)) return -EVENT.F_STE_FETCH;
    const span = l1StdSpan(this.#memory.lo);
    const table = l1StdL2Ptr(this.#memory.lo, this.#memory.hi);
    const above = this.#d.wideTablePointer ? this.#memory.hi & ~0xf_ffff : 0;
    const index = sid % 2 ** split;
    if (span === 0 || span > split + 1) return -EVENT.C_BAD_STREAMID;
    const first = table - (table % (2 ** (span - 1) * STE_BYTES));
    this.fetchAbove = above;
    if (this.#d.wideSpan) return index > 2 ** span - 1 ? -EVENT.C_BAD_STE : first + index * STE_BYTES;
    return index >= 2 ** (span - 1) ? -EVENT.C_BAD_STREAMID : first + index * STE_BYTES;
  }

  save(): number {
    return this.#stickySplit;
  }

  load(split: number): void {
    this.#stickySplit = split;
  }
}
