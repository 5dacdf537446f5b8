import { fromWords, hiWord, loWord } from '../../src/core/bits.ts';
import type { VmsaCheckOrder } from '../../src/lib/walk/vmsa-choices.ts';
import { cdR } from '../../src/spec/smmuv3/cd.ts';
import {
  CLASS,
  EV3,
  EV3_CLASS_SHIFT,
  EVENT,
  EVENT_WORDS,
  encodeEvent,
  evClass,
  evS2,
  evSsid,
  evSsv,
  evStall,
  evType,
} from '../../src/spec/smmuv3/events.ts';
import { CR0, CR2, PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { CONFIG, steConfig, steMev, steS2R, steS2S } from '../../src/spec/smmuv3/ste.ts';
import type { Smmuv3Core } from './core.ts';
import { Smmuv3GuestAccess } from './guest-access.ts';
import type { Smmuv3Deviations } from './profile.ts';
import { vmsaCheckOrderOf } from './qemu/choices.ts';
import { QemuStage2Records, qemuFirstFault } from './qemu/records.ts';
import type { Smmuv3Stream } from './stream.ts';
import type { Smmuv3Tables } from './tables.ts';

/** Bits of record word 3 that describe the incoming transaction. */
const TRANSACTION = EV3.PNU | EV3.IND | EV3.RNW;

/**
 * Turns a fault record of the hardware into the one the guest gets. Where the hardware met a stage 2 that the guest does not
 * own, or reports host-physical addresses, the transaction is repeated on the guest's own structures.
 */
export class Smmuv3Faults {
  readonly #core: Smmuv3Core;
  readonly #tables: Smmuv3Tables;
  readonly #d: Smmuv3Deviations;
  readonly #order: VmsaCheckOrder;
  readonly #access: Smmuv3GuestAccess;
  readonly #qemu: QemuStage2Records;
  /** The guest's record, after `attribute` returned true. */
  readonly record = new Int32Array(EVENT_WORDS);
  /** STE.MEV of the stream: a repetition of the record may be left out. */
  merge = false;
  /** The transaction of a stall record is the guest's to decide: `record` says that it stalls. Else it is to be aborted. */
  waits = false;

  constructor(core: Smmuv3Core, tables: Smmuv3Tables) {
    this.#core = core;
    this.#tables = tables;
    this.#d = core.deviations;
    this.#order = vmsaCheckOrderOf(core.deviations);
    this.#access = new Smmuv3GuestAccess(core);
    this.#qemu = new QemuStage2Records(this.#access);
  }

  /**
   * @param raw the hardware's record, 8 words. @param refused the host refused to map a page of the guest's stage 2 for it.
   * @returns whether the guest gets `record`.
   */
  attribute(s: Smmuv3Stream, raw: Int32Array, refused = false): boolean {
    const { sid } = s;
    this.merge = false;
    this.waits = false;
    if (s.state === 'unset') return this.#unconfigured(sid, raw);
    // A stream whose entry is a policy of this device has no configuration of the guest's to report on.
    if (s.state === 'policy' || s.state === 'abort') return false;
    this.merge = steMev(s.ste, 0) !== 0 && !this.#d.qemuRecordFields;
    const type = evType(raw);
    // The guest's entry has been read; what the hardware could not read is the host's table, at an address not for guests.
    if (type === EVENT.F_STE_FETCH) return false;
    this.#qemu.begin();
    // A stalled fault of stage 1 is the guest's own: its CD told the hardware to wait.
    if (evStall(raw) && !evS2(raw)) {
      this.waits = this.#pass(s, sid, raw);
      return this.waits;
    }
    const unseen = type === EVENT.C_BAD_STE && this.#d.anyContextPointer;
    if (evS2(raw) || unseen || type === EVENT.F_WALK_EABT || type === EVENT.F_CD_FETCH) {
      return this.#again(s, sid, raw, refused);
    }
    return this.#direct(s, sid, raw);
  }

  /** CR2.REC_CFG_ATS: the guest wants to hear of configuration faults of translation requests and translated accesses. */
  get recordsAts(): boolean {
    const asked = (this.#core.registers.get(PAGE0.CR2.at) & CR2.REC_CFG_ATS) !== 0;
    return this.#core.features.atsRecErr && asked;
  }

  /**
   * Whether the fault of a stalled transaction that the guest has not heard of has gone: its tables grant the access now.
   * @param raw the hardware's record.
   */
  gone(s: Smmuv3Stream, raw: Int32Array): boolean {
    if (s.state === 'unset' || s.state === 'policy' || s.state === 'abort') return false;
    return this.#access.open(s.ste, substream(raw)) === 0 && this.#access.walk(raw) === 0;
  }

  /** No valid entry: the lookup itself is the fault. A valid one is a fault as well, since the host refused it. */
  #unconfigured(sid: number, raw: Int32Array): boolean {
    if (!this.#core.registers.enabled(CR0.SMMUEN)) return false;
    const code = this.#tables.lookup(sid) || EVENT.F_STE_FETCH;
    const recinvsid = (this.#core.registers.get(PAGE0.CR2.at) & CR2.RECINVSID) !== 0;
    if (code === EVENT.C_BAD_STREAMID && !recinvsid && !this.#d.badStreamAlwaysRecorded) return false;
    this.#entry(code, sid, this.#ssid(raw));
    return true;
  }

  /** A record about the entry that was looked up last. */
  #entry(code: number, sid: number, ssid: number): void {
    const fetched = code === EVENT.F_STE_FETCH;
    const at = fetched ? this.#tables.fetch : 0;
    const high = fetched ? hiWord(at) | this.#tables.fetchAbove : 0;
    encodeEvent(this.record, 0, code, sid, ssid, 0, 0, 0, loWord(at), high);
  }

  /**
   * A stream that aborts from now on, because the host cannot have what its entry says. To the guest the entry is a bad one
   * where it contradicts that of another StreamID, which no SMMU of this host can do for it; else the SMMU could not get at
   * it (F_STE_FETCH), which blames nothing in it. The record is left in `record`.
   */
  lost(sid: number, contradicts: boolean): void {
    this.#tables.lookup(sid);
    this.#entry(contradicts ? EVENT.C_BAD_STE : EVENT.F_STE_FETCH, sid, -1);
  }

  /** The SubstreamID a record shows. */
  #ssid(raw: Int32Array): number {
    return this.#d.qemuRecordFields ? -1 : substream(raw);
  }

  /** A fault of the guest's own structures, seen where the guest has them; a profile with another order looks again. */
  #direct(s: Smmuv3Stream, sid: number, raw: Int32Array): boolean {
    const type = evType(raw);
    const reordered = this.#d.qemuRecordFields || this.#d.tablePermission || this.#d.sizeLast;
    if (!reordered || type < EVENT.F_TRANSLATION || type > EVENT.F_PERMISSION) return this.#pass(s, sid, raw);
    const access = this.#access;
    // The guest's CD and tables may be others by now than those that the hardware had in its caches.
    if (access.open(s.ste, substream(raw)) !== 0 || access.bypassed || !access.repeats(raw)) {
      return this.#pass(s, sid, raw);
    }
    if (this.#d.qemuRecordFields) {
      // A stage-2 fault of a TTB comes before every stage-1 fault of the access.
      const early = this.#qemu.tables();
      if (early !== 0) return this.#stage2(s, sid, raw, early);
    }
    const code = access.walk(raw);
    const first = code === 0 || access.walker.stage === 2 ? type : qemuFirstFault(this.#order, type, code);
    if (!this.#pass(s, sid, raw)) return false;
    this.record[0] = (this.record[0]! & ~0xff) | first;
    return true;
  }

  /** The hardware's record with the guest's name of the stream. */
  #pass(s: Smmuv3Stream, sid: number, raw: Int32Array): boolean {
    const config = steConfig(s.ste, 0);
    if (this.#d.silentInputSize && (config === CONFIG.S2 || config === CONFIG.BYPASS)) return false;
    const e = this.record;
    e.set(raw);
    e[1] = sid;
    if (this.#d.qemuRecordFields && evType(raw) !== EVENT.C_BAD_SUBSTREAMID) e[0] = evType(raw);
    return true;
  }

  /** Repeats the transaction on the guest's structures. */
  #again(s: Smmuv3Stream, sid: number, raw: Int32Array, refused: boolean): boolean {
    const access = this.#access;
    const w = access.walker;
    let code = access.open(s.ste, substream(raw));
    // The hardware had a CD: that today's is bad is nothing the access met.
    const wide = this.#beyondOas(raw);
    const past = !wide && (evType(raw) === EVENT.F_WALK_EABT || (evS2(raw) && evClass(raw) !== CLASS.CD));
    if (code !== 0 && past) return this.#unexplained(s, sid, raw, refused);
    if (code === EVENT.F_CD_FETCH) return this.#cdFetch(sid, raw);
    if (code === EVENT.C_BAD_CD) return this.#emit(code, sid, raw, 0, 0);
    if (code !== 0) return this.#stage2(s, sid, raw, code);
    if (access.bypassed && access.s2 === null) return false;
    if (!access.bypassed && this.#d.qemuRecordFields) {
      const early = this.#qemu.tables();
      if (early !== 0) return this.#stage2(s, sid, raw, early);
    }
    code = access.walk(raw);
    if (code === 0) return this.#unexplained(s, sid, raw, refused);
    if (w.stage === 2) {
      // A fault at another place is that of tables which have taken the place of those that the hardware went through.
      if (evS2(raw) && !this.#isAt(raw)) return this.#unexplained(s, sid, raw, refused);
      return this.#stage2(s, sid, raw, code);
    }
    // The hardware had a translation of the guest's first stage: that there is none now is nothing the access met.
    if (evS2(raw) && evClass(raw) === CLASS.IN && !wide) return this.#unexplained(s, sid, raw, refused);
    if (code === EVENT.F_WALK_EABT) {
      const bits = (CLASS.TT << EV3_CLASS_SHIFT) | (w.tableRead && !this.#d.qemuRecordFields ? EV3.TTRNW : 0);
      return this.#emit(code, sid, raw, bits, w.fetch - (w.fetch % 8));
    }
    if (cdR(access.cd, 0) === 0) return false;
    return this.#emit(code, sid, raw, CLASS.IN << EV3_CLASS_SHIFT, 0);
  }

  /** A stage 2 of the host's was asked about an address that this SMMU has not: its OAS is smaller than that of the hardware. */
  #beyondOas(raw: Int32Array): boolean {
    return evS2(raw) && fromWords(raw[6]!, raw[7]!) >= 2 ** this.#core.features.oas;
  }

  /** Whether the walker's stage-2 fault is at the input address of the hardware's, and about the same thing. */
  #isAt(raw: Int32Array): boolean {
    const { cls, ipa } = this.#access.walker;
    const at = fromWords(raw[6]!, raw[7]!);
    return cls === evClass(raw) && ipa - (ipa % 4096) === at - (at % 4096);
  }

  /**
   * The tables are good and the host refused to map what they say. For the guest the SMMU could not get at them: an external
   * abort on a table walk (IHI 0070 §7.3.12) is the one event that blames nothing in the tables; S2R does not hide it.
   */
  #refused(sid: number, raw: Int32Array): boolean {
    const { fetch } = this.#access.walker;
    const bits = EV3.S2 | (evClass(raw) << EV3_CLASS_SHIFT);
    return this.#emit(EVENT.F_WALK_EABT, sid, raw, bits, fetch - (fetch % 8));
  }

  /**
   * The guest's memory shows no such fault: the output is no memory (that transaction just fails), the hardware lost a fetch
   * that is fine by itself, or the guest has changed its CD or tables since the hardware read them.
   */
  #unexplained(s: Smmuv3Stream, sid: number, raw: Int32Array, refused: boolean): boolean {
    if (evS2(raw)) return refused ? this.#refused(sid, raw) : this.#beyond(s, sid, raw);
    if (evType(raw) === EVENT.C_BAD_STE) return this.#pass(s, sid, raw);
    if (evType(raw) === EVENT.F_CD_FETCH) return this.#cdFetch(sid, raw);
    return this.#emit(EVENT.F_WALK_EABT, sid, raw, (CLASS.TT << EV3_CLASS_SHIFT) | (raw[3]! & EV3.TTRNW), 0);
  }

  /** What the hardware met at a stage-2 input address, which is the guest's own name for it. */
  #beyond(s: Smmuv3Stream, sid: number, raw: Int32Array): boolean {
    // The host's own table could not be read, at an address not for guests.
    if (evType(raw) === EVENT.F_WALK_EABT) return false;
    const access = this.#access;
    const cls = evClass(raw);
    const ipa = fromWords(raw[6]!, raw[7]!);
    const code = access.stage2(raw, ipa, cls);
    if (code > 0) return this.#stage2(s, sid, raw, code);
    if (cls === CLASS.CD) return this.#emit(EVENT.F_CD_FETCH, sid, raw, 0, ipa);
    if (cls !== CLASS.TT) return false;
    return this.#emit(EVENT.F_WALK_EABT, sid, raw, (CLASS.TT << EV3_CLASS_SHIFT) | (raw[3]! & EV3.TTRNW), ipa);
  }

  #cdFetch(sid: number, raw: Int32Array): boolean {
    const at = this.#access.bypassed ? 0 : this.#access.cdAt;
    if (!this.#d.cdFetchAddressInInput) return this.#emit(EVENT.F_CD_FETCH, sid, raw, 0, at);
    encodeEvent(this.record, 0, EVENT.F_CD_FETCH, sid, -1, 0, loWord(at), hiWord(at), 0, 0);
    return true;
  }

  /** A fault of the guest's own stage 2: the walker holds class and addresses. */
  #stage2(s: Smmuv3Stream, sid: number, raw: Int32Array, code: number): boolean {
    const { walker: w, cd } = this.#access;
    if (this.#d.silentInputSize && w.ipa >= 2 ** this.#core.features.oas) {
      // QEMU: an address size fault that CD.R hides, and there is no CD yet while it is being fetched.
      if (w.cls === CLASS.CD || cdR(cd, 0) === 0) return false;
      this.#qemu.encode(this.record, sid, raw, EVENT.F_ADDR_SIZE);
      return true;
    }
    // The guest's S2S says whether accesses wait for its stage 2; the host's says only that the device is able to. A guest that
    // asks for it of a device that cannot wait is told all the same.
    const stalls = code !== EVENT.F_WALK_EABT && steS2S(s.ste, 0) !== 0;
    this.waits = stalls && evStall(raw);
    const inner = this.#d.qemuRecordFields && this.#qemu.isInner(raw);
    const recorded = inner ? cdR(cd, 0) : steS2R(s.ste, 0);
    if (code !== EVENT.F_WALK_EABT && recorded === 0 && !stalls) return false;
    if (this.#d.qemuRecordFields) {
      this.#qemu.encode(this.record, sid, raw, inner ? this.#qemu.innerCode(raw, code) : code);
    } else {
      const bits = EV3.S2 | (w.cls << EV3_CLASS_SHIFT) | (w.cls === CLASS.TT && w.tableRead ? EV3.TTRNW : 0);
      const at = code === EVENT.F_WALK_EABT ? w.fetch - (w.fetch % 8) : w.ipa - (w.ipa % 4096);
      this.#emit(code, sid, raw, bits, at);
    }
    if (this.waits) this.record[2] = raw[2]!;
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

/** The SubstreamID of the transaction a record describes, or -1. */
function substream(raw: Int32Array): number {
  return evSsv(raw) ? evSsid(raw) : -1;
}
