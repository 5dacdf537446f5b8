import { POW2 } from '../../core/bits.ts';
import {
  cdA,
  cdAa64,
  cdEndi,
  cdEpd0,
  cdEpd1,
  cdHa,
  cdHd,
  cdIps,
  cdS,
  cdT0sz,
  cdT1sz,
  cdTg0,
  cdTg1,
  cdTtb0,
  cdTtb1,
  cdValid,
  GRANULE0,
  GRANULE1,
} from '../../spec/smmuv3/cd.ts';
import { EVENT } from '../../spec/smmuv3/events.ts';
import { outputBits } from '../walk/vmsa-regime.ts';
import { granuleSupported, type Smmuv3Features } from './smmuv3-features.ts';
import { httuLegal } from './ste.ts';

/**
 * The validity rules of a CD (IHI 0070 §5.4). What belongs to one table is judged only while EPDx = 0.
 * @param w,at the descriptor's words and its word index.
 * @param stallDisabled STE.S1STALLD.
 * @returns 0 or EVENT.C_BAD_CD.
 */
export function checkCd(w: Int32Array, at: number, f: Smmuv3Features, stallDisabled: boolean): number {
  if (!cdValid(w, at) || cdAa64(w, at) === 0) return EVENT.C_BAD_CD;
  const stalls = cdS(w, at) !== 0;
  if (stalls ? stallDisabled || f.stallModel === 1 : f.stallModel === 2) return EVENT.C_BAD_CD;
  if (cdA(w, at) === 0 && f.abortOnly) return EVENT.C_BAD_CD;
  if (!httuLegal(cdHa(w, at), cdHd(w, at), f.httu)) return EVENT.C_BAD_CD;
  const ips = cdIps(w, at);
  const endi = cdEndi(w, at) !== 0;
  const granule0 = GRANULE0[cdTg0(w, at) as 0 | 1 | 2 | 3];
  const granule1 = GRANULE1[cdTg1(w, at) as 0 | 1 | 2 | 3];
  if (cdEpd0(w, at) === 0 && (endi || !tableLegal(f, granule0, cdT0sz(w, at), ips, cdTtb0(w, at)))) {
    return EVENT.C_BAD_CD;
  }
  if (cdEpd1(w, at) === 0 && (endi || !tableLegal(f, granule1, cdT1sz(w, at), ips, cdTtb1(w, at)))) {
    return EVENT.C_BAD_CD;
  }
  return 0;
}

function tableLegal(f: Smmuv3Features, granule: number, tsz: number, ips: number, ttb: number): boolean {
  if (!granuleSupported(f, granule) || tsz < 16 || tsz > 39) return false;
  return ttb < POW2[outputBits(ips, f.oas, granule)]!;
}
