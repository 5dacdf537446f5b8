import type { VtdFeatures } from '../../../src/lib/check/vtd-features.ts';
import { fetchWords, NOWHERE } from '../../../src/lib/memory/fetch-words.ts';
import type { VtdContext, VtdRegime } from '../../../src/lib/walk/vtd-regime.ts';
import type { Memory } from '../../../src/ports/memory.ts';
import { FAULT } from '../../../src/spec/vtd/faults.ts';
import {
  aboveWidth,
  CONTEXT_BYTES,
  context,
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
} from '../../../src/spec/vtd/tables.ts';
import type { VtdDeviations } from '../profile.ts';

/** QEMU keeps the bits of a pointer above 52: it leads nowhere. @param hi its high word. @param pointer its low 52 bits. */
function reachable(hi: number, pointer: number): number {
  return hi >>> 20 === 0 ? pointer : NOWHERE;
}

/** Scalable-mode reason of a legacy one (§7.1.3). */
const SCALABLE = new Map<number, number>([
  [FAULT.ROOT_UNREADABLE, FAULT.SM_ROOT_UNREADABLE],
  [FAULT.ROOT_P, FAULT.SM_ROOT_P],
  [FAULT.ROOT_RESERVED, FAULT.SM_ROOT_RESERVED],
  [FAULT.CONTEXT_UNREADABLE, FAULT.SM_CONTEXT_UNREADABLE],
  [FAULT.CONTEXT_P, FAULT.SM_CONTEXT_P],
  [FAULT.CONTEXT_RESERVED, FAULT.SM_CONTEXT_RESERVED],
]);

/**
 * QEMU 11.1's reading, switch by switch: legacy reason codes in both modes, PGTT before P in a PASID entry, no reserved-bit
 * checks in PASID structures, FPD of the context entry only for faults found here; RID_PASID and PASID limits are ignored.
 */
export class QemuTables {
  reason = 0;
  fpd = false;
  readonly #memory: Memory;
  readonly #features: VtdFeatures;
  readonly #deviations: VtdDeviations;
  readonly #high: number;
  readonly #e = new Int32Array(16);
  /** Bits of a PASID entry that are not defined for this unit; those of qword 2 are where there is a first stage. */
  readonly #entryReserved = Int32Array.from(TABLE_RESERVED.PASID);

  constructor(memory: Memory, features: VtdFeatures, deviations: VtdDeviations) {
    this.#memory = memory;
    this.#features = features;
    this.#deviations = deviations;
    this.#high = aboveWidth(features.haw);
    const reserved = this.#entryReserved;
    if (features.pageWalkCoherency) reserved[2]! &= ~PWSNP;
    if (features.snoopControl) reserved[2]! &= ~PGSNP;
    if (features.firstStage) reserved[4] = reserved[5] = 0;
  }

  #load(at: number, words: number): boolean {
    return fetchWords(this.#memory, at, this.#e, words);
  }

  #reserved(mask: ArrayLike<number>, words: number): boolean {
    let bad = this.#e[1]! & this.#high;
    for (let i = 0; i < words; i++) bad |= this.#e[i]! & mask[i]!;
    return bad !== 0;
  }

  /** @param reason a legacy code; the scalable one of the same place replaces it unless the profile has legacy codes only. */
  #fail(reason: number, scalable = false): boolean {
    this.reason = scalable && !this.#deviations.legacyCodes ? (SCALABLE.get(reason) ?? reason) : reason;
    return false;
  }

  context(table: number, scalable: boolean, rid: number, into: VtdContext): boolean {
    const e = this.#e;
    this.fpd = false;
    if (!this.#load(table + (rid >>> 8) * ROOT_BYTES, 4)) return this.#fail(FAULT.ROOT_UNREADABLE, scalable);
    const half = scalable && (rid & 0x80) !== 0 ? 2 : 0;
    if (!root.p(e[half]!)) return this.#fail(FAULT.ROOT_P, scalable);
    const mask = scalable ? TABLE_RESERVED.SM_ROOT : TABLE_RESERVED.ROOT;
    const upper = scalable ? e[3]! & this.#high : 0;
    if (this.#reserved(mask, 4) || upper !== 0) return this.#fail(FAULT.ROOT_RESERVED, scalable);
    const base = root.pointer(e[half]!, e[half + 1]!);
    return scalable ? this.#scalable(base, rid, into) : this.#legacy(base, rid, into);
  }

  #legacy(base: number, rid: number, into: VtdContext): boolean {
    const e = this.#e;
    if (!this.#load(base + (rid & 0xff) * CONTEXT_BYTES, 4)) return this.#fail(FAULT.CONTEXT_UNREADABLE);
    const w0 = e[0]!;
    this.fpd = context.fpd(w0);
    if (!context.p(w0)) return this.#fail(FAULT.CONTEXT_P);
    if (this.#reserved(TABLE_RESERVED.CONTEXT, 4)) {
      if (this.#deviations.fpdNeedsValid) this.fpd = false;
      return this.#fail(FAULT.CONTEXT_RESERVED);
    }
    const tt = context.tt(w0);
    const aw = context.aw(e[2]!);
    if (!this.#features.walks(aw) || tt === TT.RESERVED || (tt === TT.ALL && !this.#features.deviceTlb)) {
      return this.#fail(FAULT.CONTEXT_INVALID);
    }
    into.takeLegacy(e, this.fpd);
    return true;
  }

  #scalable(base: number, rid: number, into: VtdContext): boolean {
    const e = this.#e;
    if (!this.#load(base + (rid & 0x7f) * SM_CONTEXT_BYTES, 8)) return this.#fail(FAULT.CONTEXT_UNREADABLE, true);
    const w0 = e[0]!;
    this.fpd = smContext.fpd(w0);
    if (!smContext.p(w0)) return this.#fail(FAULT.CONTEXT_P, true);
    if (this.#reservedContext()) {
      if (this.#deviations.fpdNeedsValid) this.fpd = false;
      return this.#fail(FAULT.CONTEXT_RESERVED, true);
    }
    into.takeScalable(e, this.fpd);
    return true;
  }

  /** DTE, PASIDE and PRE count as defined whatever the capabilities; EPTR and HPTE are reserved. */
  #reservedContext(): boolean {
    const e = this.#e;
    const mask = TABLE_RESERVED.SM_CONTEXT;
    let bad = (e[0]! & mask[0] & ~0x1c) | (e[1]! & this.#high) | (e[2]! & 0xffe0_0000);
    for (let i = 3; i < 8; i++) bad |= e[i]!;
    return bad !== 0;
  }

  allowsPasid(c: VtdContext, _pasid: number): boolean {
    this.fpd = false;
    return c.scalable || this.#fail(FAULT.PASID_IN_LEGACY);
  }

  pasid(c: VtdContext, pasid: number, into: VtdRegime): boolean {
    const e = this.#e;
    const deviations = this.#deviations;
    this.fpd = c.fpd;
    if (!this.#load(c.directory + (pasid >>> 6) * PASID_DIR_BYTES, 2)) return this.#fail(FAULT.DIR_UNREADABLE);
    let fpd = c.fpd || pasidDir.fpd(e[0]!);
    if (!deviations.fpdNeedsValid) this.fpd = fpd;
    if (!pasidDir.p(e[0]!)) return this.#fail(FAULT.DIR_P);
    if (!deviations.pasidReservedUnchecked && this.#reserved(TABLE_RESERVED.PASID_DIR, 2)) {
      return this.#fail(FAULT.DIR_RESERVED);
    }
    const at = reachable(e[1]!, pasidDir.smptblptr(e[0]!, e[1]!)) + (pasid & 0x3f) * PASID_BYTES;
    if (!this.#load(at, 16)) return this.#fail(FAULT.PASID_UNREADABLE);
    const w0 = e[0]!;
    const w4 = e[4]!;
    fpd ||= pasidEntry.fpd(w0);
    if (!deviations.fpdNeedsValid) this.fpd = fpd;
    const typed = this.#typed(pasidEntry.pgtt(w0), pasidEntry.aw(w0), pasidEntry.fspm(w4));
    if (deviations.typeBeforePresent && !typed) return this.#fail(FAULT.PASID_INVALID);
    if (!pasidEntry.p(w0)) return this.#fail(FAULT.PASID_P);
    if (!deviations.pasidReservedUnchecked && this.#reserved(this.#entryReserved, 16))
      return this.#fail(FAULT.PASID_RESERVED);
    if (!typed) return this.#fail(FAULT.PASID_INVALID);
    into.scalable = !deviations.legacyCodes;
    into.pgtt = pasidEntry.pgtt(w0);
    into.firstRoot = reachable(e[5]!, pasidEntry.fsptptr(w4, e[5]!));
    into.firstBits = deviations.canonicalByAw ? widthOfAw(pasidEntry.aw(w0)) : 48;
    into.wpe = pasidEntry.wpe(w4);
    into.eafe = false;
    into.sre = pasidEntry.sre(w4);
    into.secondRoot = reachable(e[1]!, pasidEntry.ssptptr(w0, e[1]!));
    into.secondLevels = pasidEntry.aw(w0) + 2;
    into.ssade = false;
    into.did = pasidEntry.did(e[2]!);
    into.pgsnp = false;
    into.fpd = fpd;
    into.pasid = pasid;
    return true;
  }

  #typed(pgtt: number, aw: number, fspm: number): boolean {
    if (pgtt === PGTT.FIRST) return this.#features.firstStage && fspm === 0;
    if (pgtt === PGTT.SECOND) return this.#features.secondStage && this.#features.walks(aw);
    return pgtt === PGTT.PASS_THROUGH;
  }
}

/** Input bits of a first stage whose PASID entry has this AW: 30, 39, or 48 for everything above. */
function widthOfAw(aw: number): number {
  return aw < 2 ? 30 + 9 * aw : 48;
}
