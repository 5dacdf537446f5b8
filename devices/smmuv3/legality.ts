import type { Smmuv3Features } from '../../src/lib/check/smmuv3-features.ts';
import {
  cmdAtcSize,
  cmdNum,
  cmdOp,
  cmdScale,
  cmdTg,
  cmdTtl,
  OP,
  SSEC,
  syncCs,
} from '../../src/spec/smmuv3/commands.ts';
import type { Deviations } from './profile.ts';

/**
 * Whether a command is CERROR_ILL by its own words: what the identity registers do not show, Secure streams, reserved
 * encodings (IHI 0070 §4.1–§4.7).
 */
export function illegal(w0: number, w2: number, f: Smmuv3Features, d: Deviations): boolean {
  const secure = (w0 & SSEC) !== 0;
  const absent = !d.absentCommandsConsumed;
  switch (cmdOp(w0)) {
    case OP.PREFETCH_CONFIG:
    case OP.PREFETCH_ADDR:
      return secure && !d.ssecInCfgiOnly;
    case OP.CFGI_STE:
    case OP.CFGI_STE_RANGE:
      return secure;
    case OP.CFGI_CD:
    case OP.CFGI_CD_ALL:
      return secure || (absent && !f.s1p);
    case OP.TLBI_NH_ALL:
    case OP.TLBI_NH_ASID:
      return !f.s1p;
    case OP.TLBI_NH_VA:
    case OP.TLBI_NH_VAA:
      return !f.s1p || emptyRange(w0, w2, f, d);
    case OP.TLBI_S12_VMALL:
      return !f.s2p;
    case OP.TLBI_S2_IPA:
      return !f.s2p || emptyRange(w0, w2, f, d);
    case OP.TLBI_NSNH_ALL:
      return false;
    case OP.TLBI_EL2_ALL:
    case OP.TLBI_EL2_ASID:
    case OP.TLBI_EL2_VA:
    case OP.TLBI_EL2_VAA:
      return absent && !f.hyp;
    case OP.TLBI_EL3_ALL:
    case OP.TLBI_EL3_VA:
      return absent;
    case OP.ATC_INV:
      return absent && (!f.ats || cmdAtcSize(w2) > 52);
    case OP.PRI_RESP:
      return absent && (!f.pri || ((w2 >>> 12) & 3) === 3);
    case OP.RESUME:
    case OP.STALL_TERM:
      return absent && (f.stallModel === 1 || secure);
    case OP.SYNC:
      return absent && syncCs(w0) === 3;
    default:
      return true;
  }
}

/** A range form that names no range: TG≠0 with NUM=SCALE=TTL=0 (§4.4.1). */
function emptyRange(w0: number, w2: number, f: Smmuv3Features, d: Deviations): boolean {
  if (d.emptyRangeAccepted || !f.ril || cmdTg(w2) === 0) return false;
  return cmdNum(w0) === 0 && cmdScale(w0) === 0 && cmdTtl(w2) === 0;
}
