import { fromWords, hiWord, loWord } from '../../src/core/bits.ts';
import { checkCd } from '../../src/lib/check/cd.ts';
import type { Smmuv3Features } from '../../src/lib/check/smmuv3-features.ts';
import { fetchWords } from '../../src/lib/memory/fetch-words.ts';
import { VmsaWalker } from '../../src/lib/walk/vmsa.ts';
import type { VmsaChoices } from '../../src/lib/walk/vmsa-choices.ts';
import { permNeeded, readStage1, stage1Regime, stage2Regime } from '../../src/lib/walk/vmsa-regime.ts';
import { ACCESS } from '../../src/ports/dma.ts';
import type { Memory } from '../../src/ports/memory.ts';
import {
  CD_BYTES,
  CD_SPLIT_4K,
  CD_SPLIT_64K,
  CD_WORDS,
  cdR,
  cdTtb0,
  cdTtb1,
  l1CdL2Ptr,
  l1CdValid,
} from '../../src/spec/smmuv3/cd.ts';
import {
  CLASS,
  EV3,
  EV3_CLASS_SHIFT,
  EVENT,
  EVENT_WORDS,
  encodeEvent,
  evS2,
  evSsid,
  evSsv,
  evStall,
  evType,
} from '../../src/spec/smmuv3/events.ts';
import { CR2, PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import {
  CONFIG,
  S1DSS,
  S1FMT,
  steConfig,
  steMev,
  steS1CdMax,
  steS1ContextPtr,
  steS1Dss,
  steS1Enabled,
  steS1Fmt,
  steS1Stalld,
  steS2Enabled,
  steS2R,
} from '../../src/spec/smmuv3/ste.ts';
import type { Smmuv3Core } from './core.ts';
import type { Smmuv3Deviations } from './profile.ts';
import { vmsaCheckOrderOf, vmsaChoicesOf } from './qemu/choices.ts';
import type { Smmuv3Registers } from './registers.ts';
import { readGuestStage2 } from './shadow.ts';
import type { Smmuv3Stream } from './stream.ts';
import type { Smmuv3Tables } from './tables.ts';

/** Bits of record word 3 that describe the incoming transaction. */
const TRANSACTION = EV3.PNU | EV3.IND | EV3.RNW;

/**
 * Turns a fault record of the hardware into the one the guest is owed. What the hardware saw in a stage 2 that the guest
 * does not own, or at host-physical addresses, is found again by repeating the guest's own fetches in its own memory, where
 * register windows answer as on the machine (that yields records, never an address for DMA).
 */
export class Smmuv3Faults {
  readonly #memory: Memory;
  readonly #regs: Smmuv3Registers;
  readonly #table: Smmuv3Tables;
  readonly #features: Smmuv3Features;
  readonly #d: Smmuv3Deviations;
  readonly #choices: VmsaChoices;
  readonly #walker: VmsaWalker;
  readonly #s1 = stage1Regime();
  readonly #s2 = stage2Regime();
  readonly #cd = new Int32Array(CD_WORDS);
  /** The guest's record, after `attribute` returned true. */
  readonly record = new Int32Array(EVENT_WORDS);
  /** STE.MEV of the stream. */
  merge = false;
  /** Address of the CD or level-1 CD descriptor last fetched: what the guest calls it, and where it lies. */
  #cdAt = 0;
  /** The walker's fault is that of a TTB translated with its CD. */
  #early = false;

  constructor(core: Smmuv3Core, table: Smmuv3Tables) {
    this.#memory = core.deps.memory;
    this.#regs = core.registers;
    this.#table = table;
    this.#features = core.features;
    this.#d = core.deviations;
    this.#choices = vmsaChoicesOf(core.deviations);
    this.#walker = new VmsaWalker(core.deps.memory);
    this.#walker.choose(this.#choices, vmsaCheckOrderOf(core.deviations));
  }

  /**
   * @param sid the stream as the guest calls it. @param raw the hardware's record, 8 words.
   * @returns whether the guest gets `record`.
   */
  attribute(s: Smmuv3Stream, sid: number, raw: Int32Array): boolean {
    this.merge = false;
    if (s.state === 'unset') return this.#unconfigured(sid, raw);
    // A stream whose entry is a policy of this device has no configuration of the guest's to report on.
    if (s.state === 'policy' || s.state === 'abort') return false;
    this.merge = steMev(s.ste, 0) !== 0 && !this.#d.qemuRecordFields;
    const type = evType(raw);
    // The guest's entry has been read; what the hardware could not read is the host's table, at an address not for guests.
    if (type === EVENT.F_STE_FETCH) return false;
    const unseen = type === EVENT.C_BAD_STE && this.#d.anyContextPointer;
    if (evStall(raw) || !(evS2(raw) || unseen || type === EVENT.F_WALK_EABT || type === EVENT.F_CD_FETCH)) {
      const early = this.#beforeAccess(s, raw);
      return early === 0 ? this.#pass(s, sid, raw) : this.#stage2(s, sid, raw, early);
    }
    return this.#again(s, sid, raw);
  }

  /** QEMU: a stage-2 fault of a TTB comes before every stage-1 fault of the access. @returns 0: none. */
  #beforeAccess(s: Smmuv3Stream, raw: Int32Array): number {
    this.#early = false;
    const ste = s.ste;
    if (!this.#d.qemuRecordFields || evType(raw) < EVENT.F_TRANSLATION || evStall(raw)) return 0;
    if (!steS1Enabled(ste, 0) || !steS2Enabled(ste, 0)) return 0;
    readGuestStage2(this.#s2, ste, this.#features, this.#d);
    if (this.#fetchCd(ste, -1, this.#s2) !== 0) return 0;
    readStage1(this.#s1, this.#cd, 0, this.#features.oas, this.#choices);
    return this.#ttbs(this.#s2);
  }

  /** No valid entry: the lookup itself is the fault. */
  #unconfigured(sid: number, raw: Int32Array): boolean {
    const code = this.#table.lookup(sid);
    if (code === 0) return false;
    const recinvsid = (this.#regs.get(PAGE0.CR2.at) & CR2.RECINVSID) !== 0;
    if (code === EVENT.C_BAD_STREAMID && !recinvsid && !this.#d.badStreamAlwaysRecorded) return false;
    const at = code === EVENT.F_STE_FETCH ? this.#table.fetch : 0;
    encodeEvent(this.record, 0, code, sid, this.#ssid(raw), 0, 0, 0, loWord(at), hiWord(at));
    return true;
  }

  #ssid(raw: Int32Array): number {
    return evSsv(raw) && !this.#d.qemuRecordFields ? evSsid(raw) : -1;
  }

  /** A fault of the guest's own structures, seen where the guest has them. */
  #pass(s: Smmuv3Stream, sid: number, raw: Int32Array): boolean {
    const config = steConfig(s.ste, 0);
    if (this.#d.silentInputSize && (config === CONFIG.S2 || config === CONFIG.BYPASS)) return false;
    const e = this.record;
    e.set(raw);
    e[1] = sid;
    if (this.#d.qemuRecordFields && evType(raw) !== EVENT.C_BAD_SUBSTREAMID) e[0] = evType(raw);
    const first = this.#firstFault(s, raw);
    if (first !== 0) e[0] = (e[0]! & ~0xff) | first;
    return true;
  }

  /**
   * When a stage-1 access has several faults, the hardware names the architecture's first. A profile with another order
   * finds its own first one by walking the guest's tables again. @returns 0: the hardware's it is.
   */
  #firstFault(s: Smmuv3Stream, raw: Int32Array): number {
    const type = evType(raw);
    const reorders = this.#d.tablePermission || this.#d.sizeLast;
    if (!reorders || type < EVENT.F_TRANSLATION || type > EVENT.F_PERMISSION || evStall(raw)) return 0;
    const ste = s.ste;
    if (!steS1Enabled(ste, 0)) return 0;
    const s2 = steS2Enabled(ste, 0) ? this.#s2 : null;
    if (s2 !== null) readGuestStage2(s2, ste, this.#features, this.#d);
    if (this.#fetchCd(ste, evSsv(raw) ? evSsid(raw) : -1, s2) !== 0 || this.#cdAt < 0) return 0;
    readStage1(this.#s1, this.#cd, 0, this.#features.oas, this.#choices);
    const w = this.#walker;
    const code = w.stage1(this.#s1, s2, raw[4]!, raw[5]!, permNeeded(accessOf(raw[3]!)));
    return w.stage === 1 && code >= EVENT.F_TRANSLATION ? code : 0;
  }

  /** Repeats the transaction on the guest's structures. */
  #again(s: Smmuv3Stream, sid: number, raw: Int32Array): boolean {
    this.#early = false;
    const ste = s.ste;
    const s2 = steS2Enabled(ste, 0) ? this.#s2 : null;
    if (s2 !== null) readGuestStage2(s2, ste, this.#features, this.#d);
    const access = accessOf(raw[3]!);
    const w = this.#walker;
    let code: number;
    let bypassed = !steS1Enabled(ste, 0);
    if (!bypassed) {
      code = this.#fetchCd(ste, evSsv(raw) ? evSsid(raw) : -1, s2);
      if (code === EVENT.F_CD_FETCH) return this.#cdFetch(sid, raw);
      if (code === EVENT.C_BAD_CD) return this.#emit(code, sid, raw, 0, 0);
      if (code !== 0) return this.#stage2(s, sid, raw, code);
      bypassed = this.#cdAt < 0;
    }
    if (bypassed) {
      if (s2 === null) return false;
      code = w.stage2(s2, fromWords(raw[4]!, raw[5]!), permNeeded(access), CLASS.IN);
    } else {
      readStage1(this.#s1, this.#cd, 0, this.#features.oas, this.#choices);
      if (s2 !== null && this.#d.qemuRecordFields) {
        const early = this.#ttbs(s2);
        if (early !== 0) return this.#stage2(s, sid, raw, early);
      }
      code = w.stage1(this.#s1, s2, raw[4]!, raw[5]!, permNeeded(access));
    }
    if (code === 0) return this.#unexplained(s, sid, raw);
    if (w.stage === 2) return this.#stage2(s, sid, raw, code);
    if (code === EVENT.F_WALK_EABT) {
      const bits = (CLASS.TT << EV3_CLASS_SHIFT) | (w.tableRead && !this.#d.qemuRecordFields ? EV3.TTRNW : 0);
      return this.#emit(code, sid, raw, bits, w.fetch - (w.fetch % 8));
    }
    if (cdR(this.#cd, 0) === 0) return false;
    return this.#emit(code, sid, raw, CLASS.IN << EV3_CLASS_SHIFT, 0);
  }

  /**
   * The guest's memory shows no fault: either the output is no memory (that transaction just fails), or the hardware lost a
   * fetch that is fine by itself.
   */
  #unexplained(s: Smmuv3Stream, sid: number, raw: Int32Array): boolean {
    if (evS2(raw)) return false;
    if (evType(raw) === EVENT.C_BAD_STE) return this.#pass(s, sid, raw);
    if (evType(raw) === EVENT.F_CD_FETCH) return this.#cdFetch(sid, raw);
    return this.#emit(EVENT.F_WALK_EABT, sid, raw, (CLASS.TT << EV3_CLASS_SHIFT) | (raw[3]! & EV3.TTRNW), 0);
  }

  #cdFetch(sid: number, raw: Int32Array): boolean {
    const at = Math.abs(this.#cdAt);
    if (!this.#d.cdFetchAddressInInput) return this.#emit(EVENT.F_CD_FETCH, sid, raw, 0, at);
    encodeEvent(this.record, 0, EVENT.F_CD_FETCH, sid, -1, 0, loWord(at), hiWord(at), 0, 0);
    return true;
  }

  /**
   * Fetches and judges the CD of a transaction into `#cd`. `#cdAt` -1: stage 1 is bypassed.
   * @returns 0, F_CD_FETCH, C_BAD_CD, or the stage-2 fault the walker holds.
   */
  #fetchCd(ste: Int32Array, ssid: number, s2: ReturnType<typeof stage2Regime> | null): number {
    const max = this.#features.ssidSize === 0 ? 0 : steS1CdMax(ste, 0);
    if (max > 0 && ssid < 0 && steS1Dss(ste, 0) === S1DSS.BYPASS) {
      this.#cdAt = -1;
      return 0;
    }
    const index = Math.max(0, ssid);
    let at = steS1ContextPtr(ste, 0);
    const fmt = steS1Fmt(ste, 0);
    const split = fmt === S1FMT.L2_4K ? CD_SPLIT_4K : fmt === S1FMT.L2_64K ? CD_SPLIT_64K : 0;
    if (max > 0 && split > 0) {
      const l1 = at + 8 * Math.floor(index / 2 ** split);
      const pa = this.#through(l1, s2);
      if (pa < 0) return -pa;
      if (!this.#memory.load64(pa)) return EVENT.F_CD_FETCH;
      if (!l1CdValid(this.#memory.lo)) return EVENT.C_BAD_CD;
      at = l1CdL2Ptr(this.#memory.lo, this.#memory.hi) + (index % 2 ** split) * CD_BYTES;
    } else {
      at += index * CD_BYTES;
    }
    const pa = this.#through(at, s2);
    if (pa < 0) return -pa;
    if (!fetchWords(this.#memory, pa, this.#cd, CD_WORDS)) return EVENT.F_CD_FETCH;
    return checkCd(this.#cd, 0, this.#features, steS1Stalld(ste, 0) !== 0);
  }

  /** QEMU translates TTB0, then TTB1, with the CD, before it looks at the access. @returns 0 or the fault the walker holds. */
  #ttbs(s2: ReturnType<typeof stage2Regime>): number {
    for (const half of [this.#s1.half0, this.#s1.half1]) {
      if (half.disabled) continue;
      const code = this.#walker.stage2(s2, fromWords(half.ttbLo, half.ttbHi), ACCESS.READ, CLASS.TT);
      this.#early = code !== 0;
      if (code !== 0) return code;
    }
    return 0;
  }

  /** The half of the address space an access is in: bit 55 of its address. */
  #half(raw: Int32Array) {
    return (raw[5]! & (1 << 23)) !== 0 ? this.#s1.half1 : this.#s1.half0;
  }

  /** Whether the walker's fault is that of a start table: QEMU meets it while it decodes the CD. */
  #atDecode(raw: Int32Array): boolean {
    const w = this.#walker;
    if (this.#early) return true;
    const half = this.#half(raw);
    const ttb = half === this.#s1.half1 ? cdTtb1(this.#cd, 0) : cdTtb0(this.#cd, 0);
    const at = w.ipa;
    return at >= ttb && at < ttb + 2 ** half.granule;
  }

  /** Where a CD structure lies, or minus the event code of the stage-2 fault. */
  #through(at: number, s2: ReturnType<typeof stage2Regime> | null): number {
    this.#cdAt = at;
    if (s2 === null) return at;
    const code = this.#walker.stage2(s2, at, ACCESS.READ, CLASS.CD);
    return code === 0 ? this.#walker.out : -code;
  }

  /** A fault of the guest's own stage 2: the walker holds class and addresses. */
  #stage2(s: Smmuv3Stream, sid: number, raw: Int32Array, code: number): boolean {
    const w = this.#walker;
    if (this.#d.silentInputSize && w.ipa >= 2 ** this.#features.oas) {
      // QEMU: an address size fault that CD.R hides, and there is no CD yet while it is being fetched.
      if (w.cls === CLASS.CD || cdR(this.#cd, 0) === 0) return false;
      return this.#qemuStage2(s, sid, raw, EVENT.F_ADDR_SIZE);
    }
    // QEMU takes a fault of a table below the start table for one of stage 1.
    const inner = w.cls === CLASS.TT && steS1Enabled(s.ste, 0) && this.#d.qemuRecordFields && !this.#atDecode(raw);
    const recorded = inner ? cdR(this.#cd, 0) : steS2R(s.ste, 0);
    if (code !== EVENT.F_WALK_EABT && recorded === 0) return false;
    if (this.#d.qemuRecordFields) {
      // Under stage 2 a table beyond stage 1's output size is told apart after all.
      const beyond = inner && code === EVENT.F_TRANSLATION && w.ipa >= 2 ** this.#half(raw).outBits;
      return this.#qemuStage2(s, sid, raw, beyond ? EVENT.F_ADDR_SIZE : code);
    }
    const bits = EV3.S2 | (w.cls << EV3_CLASS_SHIFT) | (w.cls === CLASS.TT && w.tableRead ? EV3.TTRNW : 0);
    const at = code === EVENT.F_WALK_EABT ? w.fetch - (w.fetch % 8) : w.ipa - (w.ipa % 4096);
    return this.#emit(code, sid, raw, bits, at);
  }

  /**
   * QEMU translates TTBx when it decodes the CD (as a read, of the table's address) and tables below it on the way (losing
   * S2); it reports the address of a table, not of a descriptor, but all bits of an output address.
   */
  #qemuStage2(s: Smmuv3Stream, sid: number, raw: Int32Array, code: number): boolean {
    const w = this.#walker;
    let bits: number = EV3.S2 | (w.cls << EV3_CLASS_SHIFT);
    let at = code === EVENT.F_WALK_EABT ? w.fetch : w.ipa;
    let transaction = raw[3]! & EV3.RNW;
    if (w.cls === CLASS.CD) {
      transaction = EV3.RNW;
      at -= at % 4096;
    } else if (w.cls === CLASS.TT && steS1Enabled(s.ste, 0)) {
      const start = this.#atDecode(raw);
      at -= at % (this.#early ? 4096 : 2 ** this.#half(raw).granule);
      if (start) transaction = EV3.RNW;
      else bits &= ~EV3.S2;
    }
    const word3 = bits | transaction;
    encodeEvent(this.record, 0, code, sid, -1, word3, raw[4]!, raw[5]!, loWord(at), hiWord(at));
    return true;
  }

  #emit(code: number, sid: number, raw: Int32Array, bits: number, at: number): boolean {
    const plain = code === EVENT.F_CD_FETCH || code === EVENT.C_BAD_CD;
    const word3 = plain ? 0 : bits | (raw[3]! & (this.#d.qemuRecordFields ? EV3.RNW : TRANSACTION));
    const lo = plain ? 0 : raw[4]!;
    const hi = plain ? 0 : raw[5]!;
    encodeEvent(this.record, 0, code, sid, this.#ssid(raw), word3, lo, hi, loWord(at), hiWord(at));
    return true;
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
