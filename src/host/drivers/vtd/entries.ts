import { hiWord, loWord } from '../../../core/bits.ts';
import { PGSNP, PGTT, PWSNP } from '../../../spec/vtd/tables.ts';

/** 32-bit words of a PASID entry. */
export const PASID_ENTRY_WORDS = 16;

/** Fields of a scalable-mode context entry's first word (VT-d §9.4). */
export const CONTEXT = { DTE: 0x4, PASIDE: 0x8, PRE: 0x10, PDTS_AT: 9 } as const;

const P = 1;
const SSADE = 0x200;
const SRE = 0x1;
const FSPM_AT = 2;
const WPE = 0x10;
const EAFE = 0x80;

/** What the kernel puts behind a (device, PASID). Addresses are host-physical, `firstRoot` of a nested entry guest-physical. */
export interface PasidEntryContent {
  readonly pgtt: number;
  readonly did: number;
  readonly firstRoot: number;
  /** Paging mode of the first stage, FSPM. */
  readonly fspm: number;
  readonly sre: boolean;
  readonly wpe: boolean;
  readonly eafe: boolean;
  readonly secondRoot: number;
  readonly secondLevels: number;
  readonly ssade: boolean;
  /** Table reads snoop; every access snoops. */
  readonly pwsnp: boolean;
  readonly pgsnp: boolean;
}

/** Builds a present PASID entry (VT-d §9.6). */
export function buildEntry(into: Int32Array, e: PasidEntryContent): void {
  into.fill(0);
  const first = e.pgtt === PGTT.FIRST || e.pgtt === PGTT.NESTED;
  const second = e.pgtt === PGTT.SECOND || e.pgtt === PGTT.NESTED;
  into[0] = P | (e.pgtt << 6);
  if (second) {
    into[0] |= loWord(e.secondRoot) | ((e.secondLevels - 2) << 2) | (e.ssade ? SSADE : 0);
    into[1] = hiWord(e.secondRoot);
  }
  into[2] = e.did | (e.pwsnp ? PWSNP : 0) | (e.pgsnp ? PGSNP : 0);
  if (!first) return;
  const flags = (e.sre ? SRE : 0) | (e.sre && e.wpe ? WPE : 0) | (e.eafe ? EAFE : 0);
  into[4] = loWord(e.firstRoot) | flags | (e.fspm << FSPM_AT);
  into[5] = hiWord(e.firstRoot);
}
