import { hiWord, loWord } from '../../../core/bits.ts';
import { CD_WORDS } from '../../../spec/smmuv3/cd.ts';
import { ENTRY_HALVES, type EntryRules } from './entry-writer.ts';

const V = 1 << 31;
const EPD0 = 1 << 14;
const EPD1 = 1 << 30;
/** T0SZ, TG0, IR0, OR0, SH0: what EPD0 makes the hardware ignore, with TTB0. */
const TCR0 = 0x3fff;
const TTB_LO = 0xffff_fff0 | 0;
const TTB_HI = 0xf_ffff;
const WALKS = (1 << 8) | (1 << 10) | (3 << 12);
const AA64 = 1 << 9;
const HD_HA = 3 << 10;
const S = 1 << 12;
const R_A = 3 << 13;
const ASET = 1 << 15;
/** Attr0 non-cacheable, Attr1 write-back, Attr2 device, Attr3 outer write-back: the indexes the page tables use. */
const MAIR_LO = 0xf404_ff44 | 0;

export const CD_RULES: EntryRules = {
  used(e, used) {
    used[0] = V;
    if ((e[0]! & V) === 0) return;
    for (let i = 0; i < ENTRY_HALVES; i++) used[i] = -1;
    if ((e[0]! & EPD0) === 0) return;
    used[0]! &= ~TCR0;
    used[2]! &= ~TTB_LO;
    used[3]! &= ~TTB_HI;
  },
  safe: null,
};

export interface StageOne {
  readonly asid: number;
  /** Host-physical address of the start table. */
  readonly ttb: number;
  readonly ias: number;
  readonly ipsCode: number;
  readonly dirty: boolean;
}

/** The context descriptor of one of the kernel's stage-1 domains: TTB0 only, faults recorded and aborted. */
export function stageOneCd(into: Int32Array, s1: StageOne, stall: boolean): void {
  into.fill(0, 0, CD_WORDS);
  into[0] = (64 - s1.ias) | WALKS | EPD1 | V;
  into[1] = s1.ipsCode | AA64 | (s1.dirty ? HD_HA : 0) | (stall ? S : 0) | R_A | ASET | (s1.asid << 16);
  into[2] = loWord(s1.ttb) & TTB_LO;
  into[3] = hiWord(s1.ttb) & TTB_HI;
  into[6] = MAIR_LO;
}
