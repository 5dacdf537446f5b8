/**
 * Intel D51397 revision 5.10 (Virtualization Technology for Directed I/O, architecture specification): paging entries
 * of both stages, §9.7 and §9.8. Entries are words: `lo` bits 31:0, `hi` bits 63:32. Levels are counted from the leaf table:
 * 1 = PTE, 2 = PDE, 3 = PDPE, 4 = PML4E, 5 = PML5E. Nothing here has state.
 */

import { aboveWidth } from './tables.ts';

/** Second-stage entry, low word. An entry with neither R nor W is not present. */
export const SS = {
  R: 0x1,
  W: 0x2,
  /** Page size: a leaf at level 2 or 3. */
  PS: 0x80,
  /** Accessed and dirty: meaningful with SSADE, ignored otherwise. */
  A: 0x100,
  D: 0x200,
  SNP: 0x800,
} as const;

/** Second-stage entry, high word: transient mapping (bit 62). */
export const SS_HI_TM = 0x4000_0000;

/** First-stage entry, low word (the x86 format). */
export const FS = {
  P: 0x1,
  RW: 0x2,
  US: 0x4,
  A: 0x20,
  D: 0x40,
  PS: 0x80,
  /** Extended accessed: written with PASID entry EAFE. */
  EA: 0x400,
} as const;

/** log2 bytes one entry of a level spans. */
export function vtdLevelShift(level: number): number {
  return 3 + 9 * level;
}

/** Index of an address in the table of `level`. */
export function levelIndex(level: number, lo: number, hi: number): number {
  switch (level) {
    case 1:
      return (lo >>> 12) & 0x1ff;
    case 2:
      return (lo >>> 21) & 0x1ff;
    case 3:
      return ((lo >>> 30) | (hi << 2)) & 0x1ff;
    case 4:
      return (hi >>> 7) & 0x1ff;
    default:
      return (hi >>> 16) & 0x1ff;
  }
}

/** Whether an address lies beyond the input width of a second stage with `levels` levels (39, 48 or 57 bits). */
export function beyondWidth(levels: number, hi: number): boolean {
  return levels === 3 ? hi >>> 7 !== 0 : levels === 4 ? hi >>> 16 !== 0 : hi >>> 25 !== 0;
}

/**
 * Whether a first-stage input is canonical: the bits from `bits - 1` up are all equal.
 * @param bits 48 (four levels) or 57 (five levels, §3.6); 39 and 30 are not the architecture's (`VtdFeatures.narrowFirstStages`).
 */
export function isCanonical(bits: number, lo: number, hi: number): boolean {
  if (bits > 32) {
    const top = hi >> (bits - 33);
    return top === 0 || top === -1;
  }
  const top = lo >> (bits - 1);
  return (top === 0 || top === -1) && hi === top;
}

/** What a unit can do with paging entries: its capability registers, in the walker's words. */
export interface PagingLimits {
  /** Host address width: pointer bits from here up to 51 are reserved. 32 to 52. */
  readonly haw: number;
  /** Second-stage large pages, CAP.SSLPS. */
  readonly ss2m: boolean;
  /** Second-stage leaves of 1 GiB. */
  readonly ss1g: boolean;
  /** First-stage 1 GiB pages, CAP.FS1GP. */
  readonly fs1g: boolean;
  /** SNP is defined in second-stage leaves, ECAP.SC. */
  readonly snp: boolean;
  /** TM is defined in second-stage leaves. */
  readonly tm: boolean;
}

/**
 * Reserved bits of second-stage entries by level (1 to 5), as four tables: low and high word, of a table pointer and of a
 * leaf. A level that can hold no leaf has PS reserved in the pointer and everything in the leaf.
 */
export class SecondStageReserved {
  /** Reserved bits of an entry that points to a table, low word, by level. */
  readonly pointerLo = new Int32Array(6);
  /** Reserved bits of a leaf, low word, by level. */
  readonly leafLo = new Int32Array(6);
  /** Reserved bits of an entry that points to a table, high word. */
  readonly pointerHi: number;
  /** Reserved bits of a leaf, high word. */
  readonly leafHi: number;

  constructor(l: PagingLimits) {
    const address = aboveWidth(l.haw) & 0xf_ffff;
    this.pointerHi = address | SS_HI_TM;
    this.leafHi = address | (l.tm ? 0 : SS_HI_TM);
    const snp = l.snp ? 0 : SS.SNP;
    this.leafLo[1] = snp;
    for (let level = 2; level <= 5; level++) {
      const large = level === 2 ? l.ss2m : level === 3 ? l.ss1g : false;
      this.pointerLo[level] = SS.SNP;
      this.leafLo[level] = large ? snp | (level === 2 ? 0x001f_f000 : 0x3fff_f000) : SS.PS;
    }
  }
}

/** Reserved bits of first-stage entries by level (1 to 5). Bit 12 of a large leaf is PAT; [63:52] are ignored. */
export class FirstStageReserved {
  /** For an entry with PS (a leaf of level 2 or 3). */
  readonly leafLo = new Int32Array(6);
  /** Reserved bits of an entry, high word. */
  readonly hi: number;

  constructor(l: PagingLimits) {
    this.hi = aboveWidth(l.haw) & 0xf_ffff;
    this.leafLo[2] = 0x001f_e000;
    this.leafLo[3] = l.fs1g ? 0x3fff_e000 : FS.PS;
    this.leafLo[4] = FS.PS;
    this.leafLo[5] = FS.PS;
  }
}
