import { TWO32 } from '../../core/bits.ts';
import type { Memory } from '../../ports/memory.ts';
import {
  blockAllowed,
  contiguousLog2,
  DESC_TYPE,
  OA_HI,
  S2_HI,
  S2_LO,
  S2_MEMATTR_OUTER,
} from '../../spec/smmuv3/descriptors.ts';
import { EVENT } from '../../spec/smmuv3/events.ts';
import { TableReader } from './table-reader.ts';
import { VMSA_ARCHITECTURE, VMSA_ORDER, type VmsaCheckOrder, type VmsaChoices } from './vmsa-choices.ts';
import { PERM_ALL, PERM_EXEC, PERM_READ, PERM_WRITE, type Stage2Regime } from './vmsa-regime.ts';

/** XN[1:0] to executability by privilege: 0 both, 1 unprivileged only, 2 none, 3 privileged only (IHI 0070 §3.13). */
const EXEC_BY_XN = [PERM_EXEC, 0x04, 0, 0x20] as const;

/**
 * VMSAv8-64 stage 2: intermediate physical address to physical address, with concatenated start tables, blocks, the
 * contiguous hint, access flag and dirty state updates. Addresses are words; results are fields, valid until the next walk.
 */
export class Stage2Walker {
  readonly #memory: Memory;
  readonly #reader: TableReader;
  #choices = VMSA_ARCHITECTURE;
  #order = VMSA_ORDER;
  /** Output address of the byte asked for. */
  outLo = 0;
  outHi = 0;
  /** log2 bytes of the mapping around it. */
  shift = 0;
  /** What the mapping allows now, as PERM bits (no W while a write must still mark it dirty). */
  perm = 0;
  /** Level of the leaf, or of the fault. */
  level = 0;
  /** Memory type of the leaf is a device type. */
  device = false;
  /** Physical address of the descriptor that could not be accessed (F_WALK_EABT). */
  fetch = 0;

  constructor(memory: Memory) {
    this.#memory = memory;
    this.#reader = new TableReader(memory);
  }

  /** See `VmsaChoices` and `VmsaCheckOrder`. */
  choose(choices: VmsaChoices, order: VmsaCheckOrder): void {
    this.#choices = choices;
    this.#order = order;
  }

  /** Memory may have changed since the last walk: to be called before the first walk of a request. */
  begin(): void {
    this.#reader.begin();
  }

  /**
   * @param lo,hi the intermediate address, at most 53 bits.
   * @param need PERM bits; 0 asks for the translation alone.
   * @returns 0, or the event code of the fault (F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION, F_WALK_EABT).
   */
  walk(s2: Stage2Regime, lo: number, hi: number, need: number): number {
    const reader = this.#reader;
    const granule = s2.granule;
    const stride = granule - 3;
    const inBits = s2.inBits;
    const outBits = s2.outBits;
    const choices = this.#choices;
    let level = s2.startLevel;
    if (inBits >= 32 ? hi >>> (inBits - 32) !== 0 : hi !== 0 || lo >>> inBits !== 0) {
      return this.#fault(EVENT.F_TRANSLATION, level);
    }
    let tableLo = s2.ttbLo;
    let tableHi = s2.ttbHi;
    let shift = granule + stride * (3 - level);
    // Concatenation widens the first index; the later ones are one table's worth.
    let mask = (1 << Math.max(0, inBits - shift)) - 1;
    if (s2.firstTableOnly) mask &= (1 << stride) - 1;
    for (;;) {
      const atLo = tableLo + (index(lo, hi, shift) & mask) * 8;
      const i = reader.at(atLo | 0, tableHi);
      if (i < 0) return this.#abort(atLo | 0, tableHi, level);
      const dlo = reader.words[i]!;
      const dhi = reader.words[i + 1]!;
      const type = dlo & 3;
      if ((type & 1) === 0) return this.#fault(EVENT.F_TRANSLATION, level);
      const oaLo = dlo & -(1 << granule);
      const oaHi = outputHi(dlo, dhi, granule, outBits);
      if (level < 3 && type === DESC_TYPE.TABLE) {
        if (oaHi >>> (outBits - 32) !== 0 && choices.tableAddressSize) return this.#fault(EVENT.F_ADDR_SIZE, level);
        tableLo = oaLo;
        tableHi = oaHi;
        mask = (1 << stride) - 1;
        shift -= stride;
        level++;
        continue;
      }
      if (level === 3 ? type !== DESC_TYPE.TABLE : !(!choices.blockLevels || blockAllowed(granule, level, outBits))) {
        return this.#fault(EVENT.F_TRANSLATION, level);
      }
      this.level = level;
      const outside = oaHi >>> (outBits - 32) !== 0;
      if (outside && !this.#order.leafSizeLast) return EVENT.F_ADDR_SIZE;
      this.outLo = leafLo(oaLo, lo, shift);
      this.outHi = leafHi(oaHi, hi, shift);
      this.shift = shift;
      const fault = this.#leaf(s2, need, dlo, dhi, atLo | 0, tableHi);
      if (fault === 0 && outside) return EVENT.F_ADDR_SIZE;
      if (fault === 0 && (dhi & S2_HI.CONT) !== 0 && choices.contiguousHint) {
        this.shift = joined(granule, level, shift, this.outLo ^ lo, this.outHi ^ hi, inBits);
      }
      return fault;
    }
  }

  #leaf(s2: Stage2Regime, need: number, dlo: number, dhi: number, atLo: number, atHi: number): number {
    const young = (dlo & S2_LO.AF) !== 0;
    if (!young && !s2.ha && !s2.affd) return EVENT.F_ACCESS;
    let perm = EXEC_BY_XN[executeNever(dhi, s2.xnx) as 0 | 1 | 2 | 3];
    if ((dlo & S2_LO.S2AP_READ) !== 0) perm |= PERM_READ;
    if ((dlo & S2_LO.S2AP_WRITE) !== 0) perm |= PERM_WRITE;
    const dirtiable = s2.hd && (dhi & S2_HI.DBM) !== 0 && (perm & PERM_WRITE) === 0;
    if ((need & ~(dirtiable ? perm | PERM_WRITE : perm)) !== 0) {
      this.perm = perm;
      return EVENT.F_PERMISSION;
    }
    const dirty = dirtiable && (need & PERM_WRITE) !== 0;
    if (dirty || (!young && s2.ha)) {
      const bits = (s2.ha ? S2_LO.AF : 0) | (dirty ? S2_LO.S2AP_WRITE : 0);
      if (!this.#memory.store64(atHi * TWO32 + (atLo >>> 0), dlo | bits, dhi)) {
        return this.#abort(atLo, atHi, this.level);
      }
      if (dirty) perm |= PERM_WRITE;
    }
    this.perm = perm & PERM_ALL;
    this.device = (dlo & S2_MEMATTR_OUTER) === 0;
    return 0;
  }

  #fault(code: number, level: number): number {
    this.level = level;
    return code;
  }

  #abort(lo: number, hi: number, level: number): number {
    this.fetch = hi * TWO32 + (lo >>> 0);
    this.level = level;
    return EVENT.F_WALK_EABT;
  }
}

/** Bits [shift + 31 : shift] of an address. @param shift 12..47. */
export function index(lo: number, hi: number, shift: number): number {
  return shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32);
}

/**
 * Bits 63:32 of a descriptor's output (or next table) address. With a 64K granule and 52-bit addresses bits 15:12 of the
 * descriptor are address bits 51:48; else they are ignored.
 */
export function outputHi(dlo: number, dhi: number, granule: number, outBits: number): number {
  const hi = dhi & OA_HI;
  return outBits === 52 && granule === 16 ? hi | (((dlo >>> 12) & 0xf) << 16) : hi;
}

/** Words of a leaf's output: the descriptor's bits from `shift` up, the input's below. @param shift 12..47. */
export function leafLo(oaLo: number, lo: number, shift: number): number {
  if (shift >= 32) return lo;
  const mask = (1 << shift) - 1;
  return (oaLo & ~mask) | (lo & mask);
}

export function leafHi(oaHi: number, hi: number, shift: number): number {
  if (shift < 32) return oaHi;
  const mask = (1 << (shift - 32)) - 1;
  return (oaHi & ~mask) | (hi & mask);
}

/** XN[1:0] of a stage-2 leaf: bits 54:53 with IDR3.XNX, bit 54 alone without. */
function executeNever(dhi: number, xnx: boolean): number {
  const xn = (dhi >>> 21) & 3;
  return xnx ? xn : xn & 2;
}

/**
 * log2 bytes a contiguous hint covers. The hint counts only when this very descriptor maps its page where the joined
 * block would have it, so a wrong hint never moves an access; and it never reaches beyond the input range.
 * @param differLo,differHi input XOR output.
 */
export function joined(
  granule: number,
  level: number,
  shift: number,
  differLo: number,
  differHi: number,
  inBits: number,
): number {
  const wider = shift + contiguousLog2(granule, level);
  if (wider > inBits) return shift;
  const same =
    wider < 32 ? (differLo & ((1 << wider) - 1)) === 0 : differLo === 0 && (differHi & ((1 << (wider - 32)) - 1)) === 0;
  return same ? wider : shift;
}
