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
import { PERM_ALL, PERM_EXEC, PERM_READ, PERM_WRITE, type Stage2Regime } from './vmsa-regime.ts';

/** XN[1:0] to executability by privilege: 0 both, 1 unprivileged only, 2 none, 3 privileged only (IHI 0070 §3.13). */
const EXEC_BY_XN = [PERM_EXEC, 0x04, 0, 0x20] as const;

/**
 * VMSAv8-64 stage 2: intermediate physical address to physical address, with concatenated start tables, blocks, the
 * contiguous hint, access flag and dirty state updates. Results are fields, valid until the next walk.
 */
export class Stage2Walker {
  readonly #memory: Memory;
  /** Output address of the byte asked for. */
  out = 0;
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
  }

  /**
   * @param ipa bytes, below 2^53.
   * @param need PERM bits; 0 asks for the translation alone.
   * @returns 0, or the event code of the fault (F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION, F_WALK_EABT).
   */
  walk(s2: Stage2Regime, ipa: number, need: number): number {
    const m = this.#memory;
    const granule = s2.granule;
    const stride = granule - 3;
    let level = s2.startLevel;
    this.level = level;
    if (ipa >= s2.inLimit) return EVENT.F_TRANSLATION;
    const lo = ipa | 0;
    const hi = (ipa / TWO32) | 0;
    let table = s2.ttb;
    // Concatenation widens the first index; the later ones are one table's worth.
    let mask = (1 << Math.max(0, s2.inBits - (granule + stride * (3 - level)))) - 1;
    for (;;) {
      const shift = granule + stride * (3 - level);
      const at = table + (index(lo, hi, shift) & mask) * 8;
      if (!m.load64(at)) return this.#abort(at, level);
      const dlo = m.lo;
      const dhi = m.hi;
      const type = dlo & 3;
      if ((type & 1) === 0) return this.#fault(EVENT.F_TRANSLATION, level);
      const oa = outputAddress(dlo, dhi, granule, s2.outBits);
      if (level < 3 && type === DESC_TYPE.TABLE) {
        if (oa >= s2.outLimit) return this.#fault(EVENT.F_ADDR_SIZE, level);
        table = oa;
        mask = (1 << stride) - 1;
        level++;
        continue;
      }
      if (level === 3 ? type !== DESC_TYPE.TABLE : !blockAllowed(granule, level, s2.outBits)) {
        return this.#fault(EVENT.F_TRANSLATION, level);
      }
      return this.#leaf(s2, ipa, need, level, shift, oa, dlo, dhi, at);
    }
  }

  #leaf(
    s2: Stage2Regime,
    ipa: number,
    need: number,
    level: number,
    shift: number,
    oa: number,
    dlo: number,
    dhi: number,
    at: number,
  ): number {
    const base = oa - lowBits(oa, shift);
    this.level = level;
    if (base >= s2.outLimit) return EVENT.F_ADDR_SIZE;
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
      if (!this.#memory.store64(at, dlo | bits, dhi)) return this.#abort(at, level);
      if (dirty) perm |= PERM_WRITE;
    }
    this.perm = perm & PERM_ALL;
    this.device = (dlo & S2_MEMATTR_OUTER) === 0;
    this.out = base + lowBits(ipa, shift);
    this.shift = (dhi & S2_HI.CONT) === 0 ? shift : joined(s2.granule, level, shift, this.out, ipa, s2.inBits);
    return 0;
  }

  #fault(code: number, level: number): number {
    this.level = level;
    return code;
  }

  #abort(at: number, level: number): number {
    this.fetch = at;
    this.level = level;
    return EVENT.F_WALK_EABT;
  }
}

/** Bits [shift + 31 : shift] of an address. @param shift 12..47. */
export function index(lo: number, hi: number, shift: number): number {
  return shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32);
}

/** The low `shift` bits of an address below 2^53. */
export function lowBits(address: number, shift: number): number {
  return shift < 31 ? address & ((1 << shift) - 1) : address % 2 ** shift;
}

/**
 * Output (or next table) address of a descriptor, aligned to the granule. With a 64K granule and 52-bit addresses bits
 * 15:12 are address bits 51:48.
 */
export function outputAddress(dlo: number, dhi: number, granule: number, outBits: number): number {
  const low = (dhi & OA_HI) * TWO32 + ((dlo & -(1 << granule)) >>> 0);
  return outBits === 52 && granule === 16 ? low + ((dlo >>> 12) & 0xf) * 2 ** 48 : low;
}

/** XN[1:0] of a stage-2 leaf: bits 54:53 with IDR3.XNX, bit 54 alone without. */
function executeNever(dhi: number, xnx: boolean): number {
  const xn = (dhi >>> 21) & 3;
  return xnx ? xn : xn & 2;
}

/**
 * log2 bytes a contiguous hint covers. The hint counts only when this very descriptor maps its page where the joined
 * block would have it, so a wrong hint never moves an access; and it never reaches beyond the input range.
 */
export function joined(
  granule: number,
  level: number,
  shift: number,
  out: number,
  input: number,
  inBits: number,
): number {
  const wider = shift + contiguousLog2(granule, level);
  if (wider > inBits) return shift;
  return lowBits(out, wider) === lowBits(input, wider) ? wider : shift;
}
