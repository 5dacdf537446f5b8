import type { Memory } from '../../ports/memory.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import {
  aboveWidth,
  awLevels,
  CONTEXT_BYTES,
  context,
  FSPM_BITS,
  PASID_BYTES,
  PASID_DIR_BYTES,
  PGSNP,
  PGTT,
  PWSNP,
  pasidDir,
  pasidEntry,
  ROOT_BYTES,
  root,
  SM_CONTEXT_BYTES,
  smContext,
  TABLE_RESERVED,
  TT,
} from '../../spec/vtd/tables.ts';
import type { VtdFeatures } from '../check/vtd-features.ts';
import { fetchWords } from '../memory/fetch-words.ts';
import type { VtdContext, VtdRegime } from './vtd-regime.ts';

/**
 * Finds and judges root, context, PASID directory and PASID entries (VT-d §3.4, §9.1 to §9.6). Within an entry: P first,
 * then reserved bits, then what is programmed wrongly. Allocates nothing.
 */
export class VtdTables {
  /** Fault reason of the last failed lookup. */
  reason = 0;
  /** FPD of an entry read on the way was set; it suppresses qualified reasons only. */
  fpd = false;
  readonly #memory: Memory;
  readonly #unit: VtdFeatures;
  readonly #high: number;
  /** The entry being judged. */
  readonly #e = new Int32Array(16);
  readonly #smContextReserved: Int32Array;
  readonly #pasidReserved: Int32Array;

  constructor(memory: Memory, unit: VtdFeatures) {
    this.#memory = memory;
    this.#unit = unit;
    this.#high = aboveWidth(unit.haw);
    const sm = Int32Array.from(TABLE_RESERVED.SM_CONTEXT);
    const free = (words: Int32Array, i: number, bits: number): void => {
      words[i] = words[i]! & ~bits;
    };
    if (unit.deviceTlb) free(sm, 0, 0x04);
    if (unit.pasidBits > 0) free(sm, 0, 0x08);
    if (unit.pageRequests) free(sm, 0, 0x10);
    if (unit.ridPriv) free(sm, 2, 0x10_0000);
    sm[1] = sm[1]! | this.#high;
    this.#smContextReserved = sm;
    const pe = Int32Array.from(TABLE_RESERVED.PASID);
    if (unit.secondAccessDirty) free(pe, 0, 0x200);
    if (unit.pageWalkCoherency) free(pe, 2, PWSNP);
    if (unit.snoopControl) free(pe, 2, PGSNP);
    pe[1] = pe[1]! | this.#high;
    if (unit.firstStage) {
      free(pe, 4, 0xffff_f00c | (unit.supervisor ? 0x11 : 0) | (unit.extendedAccessed ? 0x80 : 0));
      pe[5] = this.#high;
    }
    this.#pasidReserved = pe;
  }

  #load(address: number, words: number): boolean {
    return fetchWords(this.#memory, address, this.#e, words);
  }

  #fail(reason: number): boolean {
    this.reason = reason;
    return false;
  }

  #reserved(mask: ArrayLike<number>, words: number): boolean {
    let bad = 0;
    for (let i = 0; i < words; i++) bad |= this.#e[i]! & mask[i]!;
    return bad !== 0;
  }

  /**
   * The context entry of a requester.
   * @param table root table, bytes. @param into filled when the entry is good.
   */
  context(table: number, scalable: boolean, rid: number, into: VtdContext): boolean {
    this.fpd = false;
    return scalable ? this.#scalableContext(table, rid, into) : this.#legacyContext(table, rid, into);
  }

  #legacyContext(table: number, rid: number, into: VtdContext): boolean {
    const e = this.#e;
    if (!this.#load(table + (rid >>> 8) * ROOT_BYTES, 4)) return this.#fail(FAULT.ROOT_UNREADABLE);
    if (!root.p(e[0]!)) return this.#fail(FAULT.ROOT_P);
    if (this.#reserved(TABLE_RESERVED.ROOT, 4) || (e[1]! & this.#high) !== 0) return this.#fail(FAULT.ROOT_RESERVED);
    const at = root.pointer(e[0]!, e[1]!) + (rid & 0xff) * CONTEXT_BYTES;
    if (!this.#load(at, 4)) return this.#fail(FAULT.CONTEXT_UNREADABLE);
    const w0 = e[0]!;
    this.fpd = context.fpd(w0);
    if (!context.p(w0)) return this.#fail(FAULT.CONTEXT_P);
    if (this.#reserved(TABLE_RESERVED.CONTEXT, 4) || (e[1]! & this.#high) !== 0) {
      return this.#fail(FAULT.CONTEXT_RESERVED);
    }
    const unit = this.#unit;
    const tt = context.tt(w0);
    const aw = context.aw(e[2]!);
    const typed =
      tt === TT.UNTRANSLATED || (tt === TT.ALL && unit.deviceTlb) || (tt === TT.PASS_THROUGH && unit.passThrough);
    if (!typed || !unit.walks(aw)) return this.#fail(FAULT.CONTEXT_INVALID);
    into.takeLegacy(e, this.fpd);
    return true;
  }

  #scalableContext(table: number, rid: number, into: VtdContext): boolean {
    const e = this.#e;
    // Only the selected half of the root entry is looked at.
    const half = (rid & 0x80) >>> 4;
    if (!this.#load(table + (rid >>> 8) * ROOT_BYTES + half, 2)) return this.#fail(FAULT.SM_ROOT_UNREADABLE);
    if (!root.p(e[0]!)) return this.#fail(FAULT.SM_ROOT_P);
    if (this.#reserved(TABLE_RESERVED.SM_ROOT, 2) || (e[1]! & this.#high) !== 0) {
      return this.#fail(FAULT.SM_ROOT_RESERVED);
    }
    const at = root.pointer(e[0]!, e[1]!) + (rid & 0x7f) * SM_CONTEXT_BYTES;
    if (!this.#load(at, 8)) return this.#fail(FAULT.SM_CONTEXT_UNREADABLE);
    const w0 = e[0]!;
    this.fpd = smContext.fpd(w0);
    if (!smContext.p(w0)) return this.#fail(FAULT.SM_CONTEXT_P);
    if (this.#reserved(this.#smContextReserved, 8)) return this.#fail(FAULT.SM_CONTEXT_RESERVED);
    const pasids = 2 ** (smContext.pdts(w0) + 13);
    const ridPasid = this.#unit.ridPasid ? smContext.ridPasid(e[2]!) : 0;
    if ((smContext.pre(w0) && !smContext.dte(w0)) || ridPasid >= pasids) return this.#fail(FAULT.SM_CONTEXT_INVALID);
    into.takeScalable(e, this.fpd);
    into.ridPasid = ridPasid;
    into.ridPriv = smContext.ridPriv(e[2]!);
    return true;
  }

  /** Whether a request with this PASID may be made at all (VT-d §7.1.3); else `reason`. */
  allowsPasid(c: VtdContext, pasid: number): boolean {
    this.fpd = c.fpd;
    if (!c.scalable) {
      this.fpd = false;
      return this.#fail(FAULT.PASID_IN_LEGACY);
    }
    if (!c.paside) return this.#fail(FAULT.SM_PASIDE);
    if (pasid >= 2 ** this.#unit.pasidBits) return this.#fail(FAULT.PASID_BEYOND_PSS);
    if (pasid >= c.pasids) return this.#fail(FAULT.SM_PASID_BEYOND);
    return this.#unit.ridPasidRequests || pasid !== c.ridPasid || this.#fail(FAULT.SM_RID_PASID);
  }

  /**
   * The PASID entry of a scalable-mode context.
   * @param pasid below `c.pasids`. @param into filled when the entry is good.
   */
  pasid(c: VtdContext, pasid: number, into: VtdRegime): boolean {
    const e = this.#e;
    this.fpd = c.fpd;
    if (!this.#load(c.directory + (pasid >>> 6) * PASID_DIR_BYTES, 2)) return this.#fail(FAULT.DIR_UNREADABLE);
    this.fpd ||= pasidDir.fpd(e[0]!);
    if (!pasidDir.p(e[0]!)) return this.#fail(FAULT.DIR_P);
    if (this.#reserved(TABLE_RESERVED.PASID_DIR, 2) || (e[1]! & this.#high) !== 0)
      return this.#fail(FAULT.DIR_RESERVED);
    const at = pasidDir.smptblptr(e[0]!, e[1]!) + (pasid & 0x3f) * PASID_BYTES;
    if (!this.#load(at, 16)) return this.#fail(FAULT.PASID_UNREADABLE);
    this.fpd ||= pasidEntry.fpd(e[0]!);
    if (!pasidEntry.p(e[0]!)) return this.#fail(FAULT.PASID_P);
    if (this.#reserved(this.#pasidReserved, 16)) return this.#fail(FAULT.PASID_RESERVED);
    if (!this.#programmed()) return this.#fail(FAULT.PASID_INVALID);
    this.#decode(into);
    into.pasid = pasid;
    return true;
  }

  /** Whether the unit can do what the PASID entry asks for. */
  #programmed(): boolean {
    const unit = this.#unit;
    const w0 = this.#e[0]!;
    const w4 = this.#e[4]!;
    const pgtt = pasidEntry.pgtt(w0);
    const first = pgtt === PGTT.FIRST || pgtt === PGTT.NESTED;
    const second = pgtt === PGTT.SECOND || pgtt === PGTT.NESTED;
    if (!first && !second) return pgtt === PGTT.PASS_THROUGH && unit.passThrough;
    if (pgtt === PGTT.NESTED && !unit.nested) return false;
    if (first && !(unit.firstStage && unit.walksFirst(pasidEntry.fspm(w4)))) return false;
    return !second || (unit.secondStage && unit.walks(pasidEntry.aw(w0)));
  }

  #decode(into: VtdRegime): void {
    const e = this.#e;
    const w0 = e[0]!;
    const w2 = e[2]!;
    const w4 = e[4]!;
    into.scalable = true;
    into.pgtt = pasidEntry.pgtt(w0);
    into.firstRoot = pasidEntry.fsptptr(w4, e[5]!);
    into.firstBits = FSPM_BITS[pasidEntry.fspm(w4)]!;
    into.wpe = pasidEntry.wpe(w4);
    into.eafe = pasidEntry.eafe(w4);
    into.sre = pasidEntry.sre(w4);
    into.secondRoot = pasidEntry.ssptptr(w0, e[1]!);
    into.secondLevels = awLevels(pasidEntry.aw(w0)) || 4;
    into.ssade = pasidEntry.ssade(w0);
    into.did = pasidEntry.did(w2);
    into.pgsnp = pasidEntry.pgsnp(w2);
    into.fpd = this.fpd;
  }
}
