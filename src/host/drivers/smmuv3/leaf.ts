import { S1_HI, S1_LO, S2_HI, S2_LO } from '../../../spec/smmuv3/descriptors.ts';

/** Protection of a mapping. CACHE is what iommufd always asks for; MMIO marks doorbell pages. */
export const PROT = {
  READ: 1,
  WRITE: 2,
  CACHE: 4,
  NOEXEC: 8,
  MMIO: 16,
  PRIV: 32,
  NOEXEC_UNPRIV: 64,
  NOEXEC_PRIV: 128,
} as const;

export interface Smmuv3PageTableConfig {
  readonly stage: 1 | 2;
  /** Input address bits (stage 2: the IPA size), 32..48. */
  readonly ias: number;
  /** Output address bits. */
  readonly oas: number;
  /** Stage 2 with STE.S2FWB: MemAttr is read as a forced write-back. */
  readonly fwb?: boolean;
  /** Stage 1 with CD.HD: writable entries carry DBM, so the hardware clears AP[2] on the first write. */
  readonly dirty?: boolean;
}

const SH_OUTER = 2 << 8;
const SH_INNER = 3 << 8;
/** AttrIndx into the MAIR of the kernel's context descriptors. */
const ATTR_STAGE1 = { NC: 0, CACHE: 1 << 2, DEVICE: 2 << 2 } as const;
/** Stage-2 MemAttr; FORCED is write-back as S2FWB spells it. */
const ATTR_STAGE2 = { NC: 5 << 2, CACHE: 0xf << 2, DEVICE: 1 << 2, FORCED: 6 << 2 } as const;

/** Low attributes of a block or page, without its type (DDI 0487 D8.3). The access flag is always set. */
export function leafAttributes(config: Smmuv3PageTableConfig, prot: number): number {
  const share = (prot & PROT.CACHE) !== 0 ? SH_INNER : SH_OUTER;
  if (config.stage === 2) {
    const read = (prot & PROT.READ) !== 0 ? S2_LO.S2AP_READ : 0;
    const write = (prot & PROT.WRITE) !== 0 ? S2_LO.S2AP_WRITE : 0;
    const cached = config.fwb === true ? ATTR_STAGE2.FORCED : ATTR_STAGE2.CACHE;
    return S2_LO.AF | share | read | write | pick(prot, ATTR_STAGE2.DEVICE, cached, ATTR_STAGE2.NC);
  }
  const readOnly = (prot & PROT.WRITE) === 0 && (prot & PROT.READ) !== 0 ? S1_LO.AP2_READ_ONLY : 0;
  const user = (prot & PROT.PRIV) === 0 ? S1_LO.AP1_UNPRIV : 0;
  const attr = pick(prot, ATTR_STAGE1.DEVICE, ATTR_STAGE1.CACHE, ATTR_STAGE1.NC);
  return S1_LO.AF | share | S1_LO.NG | readOnly | user | attr;
}

/** High attributes of a block or page. */
export function leafAttributesHigh(config: Smmuv3PageTableConfig, prot: number): number {
  if (config.stage === 2) return executeNever(prot);
  const never = (prot & PROT.NOEXEC) !== 0 ? S1_HI.PXN | S1_HI.UXN : 0;
  return never | (config.dirty === true && (prot & PROT.WRITE) !== 0 ? S1_HI.DBM : 0);
}

/** XN[1:0] of stage 2 (FEAT_XNX, DDI 0487 D8.4): 0 executable, 1 by unprivileged accesses only, 2 never, 3 by privileged ones only. */
function executeNever(prot: number): number {
  const unprivileged = (prot & (PROT.NOEXEC | PROT.NOEXEC_UNPRIV)) !== 0;
  const privileged = (prot & (PROT.NOEXEC | PROT.NOEXEC_PRIV)) !== 0;
  if (unprivileged) return privileged ? S2_HI.XN1 : S2_HI.XN1 | S2_HI.XN0;
  return privileged ? S2_HI.XN0 : 0;
}

/** NOEXEC_UNPRIV and NOEXEC_PRIV as the high word of a stage-2 leaf says them. */
export function neverExecuted(high: number): number {
  const xn0 = (high & S2_HI.XN0) !== 0;
  if ((high & S2_HI.XN1) !== 0) return PROT.NOEXEC_UNPRIV | (xn0 ? 0 : PROT.NOEXEC_PRIV);
  return xn0 ? PROT.NOEXEC_PRIV : 0;
}

function pick(prot: number, device: number, cached: number, plain: number): number {
  if ((prot & PROT.MMIO) !== 0) return device;
  return (prot & PROT.CACHE) !== 0 ? cached : plain;
}
