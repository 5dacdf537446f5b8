import type { ConfigSlot } from '../../lib/cache/config-cache.ts';
import type { TlbContext } from '../../lib/cache/tags.ts';
import type { Smmuv3Features } from '../../lib/check/smmuv3-features.ts';
import type { VmsaChoices } from '../../lib/walk/vmsa-choices.ts';
import {
  readStage1,
  readStage2,
  type Stage1Regime,
  type Stage2Regime,
  stage1Regime,
  stage2Regime,
} from '../../lib/walk/vmsa-regime.ts';
import { CD_WORDS, cdA, cdR, cdS } from '../../spec/smmuv3/cd.ts';
import {
  S1DSS,
  STE_WORDS,
  steConfig,
  steEats,
  stePpar,
  steS1CdMax,
  steS1Dss,
  steS1Enabled,
  steS1Fmt,
  steS1Stalld,
  steS2Enabled,
  steS2R,
  steS2S,
  steS2Vmid,
} from '../../spec/smmuv3/ste.ts';

/** A decoded STE; `keyA` is the StreamID. */
export interface Smmuv3HwStream extends ConfigSlot {
  readonly words: Int32Array;
  config: number;
  s1: boolean;
  s2: boolean;
  s1Fmt: number;
  /** 0 also when the SMMU has no substreams. */
  s1CdMax: number;
  s1Dss: number;
  /** CD of transactions without SubstreamID; -1: they have none. */
  plainSsid: number;
  /** Whether SubstreamID 0 may be named (not when S1DSS gives CD 0 to those without). */
  zeroSsid: boolean;
  stalld: boolean;
  eats: number;
  /** PPAR: automatic page responses repeat the PASID. */
  ppar: boolean;
  vmid: number;
  s2Record: boolean;
  s2Stall: boolean;
  readonly regime2: Stage2Regime;
  /** (VMID, -1): what stage 2 translates. */
  context2: TlbContext | null;
  /** Cached CDs of this stream carry this number; a new one forgets them all. */
  stamp: number;
}

/** A decoded CD; `keyA` is the StreamID, `keyB` the SubstreamID. */
export interface Smmuv3HwContext extends ConfigSlot {
  /** Good only while equal to the stream's. */
  stamp: number;
  readonly words: Int32Array;
  readonly regime: Stage1Regime;
  record: boolean;
  abort: boolean;
  stall: boolean;
  vmid: number;
  context: TlbContext | null;
}

const unused = () => ({ keyA: -1, keyB: -1, generation: -1 });

export function smmuv3HwStream(): Smmuv3HwStream {
  return {
    ...unused(),
    words: new Int32Array(STE_WORDS),
    config: 0,
    s1: false,
    s2: false,
    s1Fmt: 0,
    s1CdMax: 0,
    s1Dss: 0,
    plainSsid: -1,
    zeroSsid: false,
    stalld: false,
    eats: 0,
    ppar: false,
    vmid: 0,
    s2Record: false,
    s2Stall: false,
    regime2: stage2Regime(),
    context2: null,
    stamp: 0,
  };
}

export function smmuv3HwContext(): Smmuv3HwContext {
  return {
    ...unused(),
    stamp: -1,
    words: new Int32Array(CD_WORDS),
    regime: stage1Regime(),
    record: false,
    abort: true,
    stall: false,
    vmid: 0,
    context: null,
  };
}

/** Decodes the slot's words, which `checkSte` has found valid. */
export function decodeStream(s: Smmuv3HwStream, f: Smmuv3Features): void {
  const w = s.words;
  s.config = steConfig(w, 0);
  s.s1 = steS1Enabled(w, 0);
  s.s2 = steS2Enabled(w, 0);
  s.s1Fmt = steS1Fmt(w, 0);
  s.s1CdMax = f.ssidSize === 0 ? 0 : steS1CdMax(w, 0);
  s.s1Dss = steS1Dss(w, 0);
  s.plainSsid = s.s1 && (s.s1CdMax === 0 || s.s1Dss === S1DSS.SSID0) ? 0 : -1;
  s.zeroSsid = s.s1CdMax > 0 && s.s1Dss !== S1DSS.SSID0;
  s.stalld = steS1Stalld(w, 0) !== 0;
  s.eats = steEats(w, 0);
  s.ppar = stePpar(w, 0) !== 0;
  // The VMID tags stage-1-only translations too, as far as there are VMIDs (IHI 0070 §5.2).
  s.vmid = f.s2p ? steS2Vmid(w, 0) & (f.vmid16 ? 0xffff : 0xff) : 0;
  s.s2Record = steS2R(w, 0) !== 0;
  s.s2Stall = steS2S(w, 0) !== 0;
  if (s.s2) readStage2(s.regime2, w, 0, f.oas, f.xnx);
  s.context2 = null;
}

/** Decodes the slot's words, which `checkCd` has found valid. */
export function decodeContext(c: Smmuv3HwContext, f: Smmuv3Features, vmid: number, choices: VmsaChoices): void {
  const w = c.words;
  readStage1(c.regime, w, 0, f.oas, choices);
  if (!f.asid16) c.regime.asid &= 0xff;
  c.record = cdR(w, 0) !== 0;
  c.abort = cdA(w, 0) !== 0;
  c.stall = cdS(w, 0) !== 0;
  c.vmid = vmid;
  c.context = null;
}
