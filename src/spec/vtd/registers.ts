/**
 * Intel D51397 revision 5.10 (Virtualization Technology for Directed I/O, architecture specification): registers,
 * chapter 11.
 */

import type { RegisterTable } from '../../core/registers.ts';

/** First fault recording register and the place of IVA/IOTLB, as CAP.FRO and ECAP.IRO of every unit here have them. */
export const FRO = 0x220;
/** Offset of the invalidation address and IOTLB registers, IVA first. */
export const IRO = 0xf0;

/** The architectural register page (VT-d §11.4). Masks are those of a unit with every feature; a profile narrows them. */
// biome-ignore format: table
export const PAGE = {
  VER:        { at: 0x000, size: 4, reset: 0x10n, fields: { MINOR: [0, 4], MAJOR: [4, 4] } },
  CAP:        { at: 0x008, size: 8, fields: { ND: [0, 3], RWBF: [4, 1], PLMR: [5, 1], PHMR: [6, 1], CM: [7, 1], SAGAW: [8, 5],
                MGAW: [16, 6], ZLR: [22, 1], FRO: [24, 10], SSLPS: [34, 4], PSI: [39, 1], NFR: [40, 8], MAMV: [48, 6], DWD: [54, 1],
                DRD: [55, 1], FS1GP: [56, 1], PI: [59, 1], FS5LP: [60, 1], ECMDS: [61, 1], ESIRTPS: [62, 1], ESRTPS: [63, 1] } },
  ECAP:       { at: 0x010, size: 8, fields: { C: [0, 1], QI: [1, 1], DT: [2, 1], IR: [3, 1], EIM: [4, 1], PT: [6, 1], SC: [7, 1], IRO: [8, 10],
                MHMV: [20, 4], MTS: [25, 1], NEST: [26, 1], PRS: [29, 1], ERS: [30, 1], SRS: [31, 1], NWFS: [33, 1], EAFS: [34, 1],
                PSS: [35, 5], PASID: [40, 1], DIT: [41, 1], PDS: [42, 1], SMTS: [43, 1], VCS: [44, 1], SSADS: [45, 1], SSTS: [46, 1],
                FSTS: [47, 1], SMPWCS: [48, 1], RPS: [49, 1], ADMS: [52, 1], RPRIVS: [53, 1], HPTS: [55, 1], PTRS: [56, 1],
                SSIRWS: [57, 1], SMS: [58, 1], EIMER: [61, 1], IRREQ: [62, 1] } },
  GCMD:       { at: 0x018, size: 4, rw: 0xcf80_0000n, wo: 0xcf80_0000n },
  GSTS:       { at: 0x01c, size: 4, fields: { CFIS: [23, 1], IRTPS: [24, 1], IRES: [25, 1], QIES: [26, 1], WBFS: [27, 1],
                RTPS: [30, 1], TES: [31, 1] } },
  RTADDR:     { at: 0x020, size: 8, rw: 0xffff_ffff_ffff_fc00n, fields: { TTM: [10, 2] } },
  CCMD:       { at: 0x028, size: 8, rw: 0xe000_0003_ffff_ffffn, wo: 0x0000_0003_ffff_0000n,
                fields: { DID: [0, 16], SID: [16, 16], FM: [32, 2], CAIG: [59, 2], CIRG: [61, 2], ICC: [63, 1] } },
  FSTS:       { at: 0x034, size: 4, w1c: 0x71n, fields: { PFO: [0, 1], PPF: [1, 1], IQE: [4, 1], ICE: [5, 1], ITE: [6, 1], FRI: [8, 8] } },
  FECTL:      { at: 0x038, size: 4, reset: 0x8000_0000n, rw: 0x8000_0000n, fields: { IP: [30, 1], IM: [31, 1] } },
  FEDATA:     { at: 0x03c, size: 4, rw: 0xffffn },
  FEADDR:     { at: 0x040, size: 4, rw: 0xffff_fffcn },
  FEUADDR:    { at: 0x044, size: 4, rw: 0xffff_ffffn },
  PMEN:       { at: 0x064, size: 4 },
  PLMBASE:    { at: 0x068, size: 4 },
  PLMLIMIT:   { at: 0x06c, size: 4 },
  PHMBASE:    { at: 0x070, size: 8 },
  PHMLIMIT:   { at: 0x078, size: 8 },
  IQH:        { at: 0x080, size: 8, fields: { QH: [4, 15] } },
  IQT:        { at: 0x088, size: 8, rw: 0x7_fff0n, fields: { QT: [4, 15] } },
  IQA:        { at: 0x090, size: 8, rw: 0xffff_ffff_ffff_f807n, fields: { QS: [0, 3], DW: [11, 1] } },
  ICS:        { at: 0x09c, size: 4, w1c: 0x1n, fields: { IWC: [0, 1] } },
  IECTL:      { at: 0x0a0, size: 4, reset: 0x8000_0000n, rw: 0x8000_0000n, fields: { IP: [30, 1], IM: [31, 1] } },
  IEDATA:     { at: 0x0a4, size: 4, rw: 0xffff_ffffn },
  IEADDR:     { at: 0x0a8, size: 4, rw: 0xffff_fffcn },
  IEUADDR:    { at: 0x0ac, size: 4, rw: 0xffff_ffffn },
  IQERCD:     { at: 0x0b0, size: 8, fields: { IQEI: [0, 4], ITESID: [32, 16], ICESID: [48, 16] } },
  IRTA:       { at: 0x0b8, size: 8, rw: 0xffff_ffff_ffff_f80fn, fields: { S: [0, 4], EIME: [11, 1] } },
  PQH:        { at: 0x0c0, size: 8, rw: 0x7_ffe0n },
  PQT:        { at: 0x0c8, size: 8, rw: 0x7_ffe0n },
  PQA:        { at: 0x0d0, size: 8, rw: 0xffff_ffff_ffff_f007n, fields: { PQS: [0, 3] } },
  PRS:        { at: 0x0dc, size: 4, w1c: 0x3n, fields: { PPR: [0, 1], PRO: [1, 1] } },
  PECTL:      { at: 0x0e0, size: 4, reset: 0x8000_0000n, rw: 0x8000_0000n, fields: { IP: [30, 1], IM: [31, 1] } },
  PEDATA:     { at: 0x0e4, size: 4, rw: 0xffffn },
  PEADDR:     { at: 0x0e8, size: 4, rw: 0xffff_fffcn },
  PEUADDR:    { at: 0x0ec, size: 4, rw: 0xffff_ffffn },
  IVA:        { at: 0x0f0, size: 8, rw: 0xffff_ffff_ffff_f07fn, wo: 0xffff_ffff_ffff_f07fn, fields: { AM: [0, 6], IH: [6, 1] } },
  IOTLB:      { at: 0x0f8, size: 8, rw: 0xb003_ffff_0000_0000n, fields: { DID: [32, 16], DW: [48, 1], DR: [49, 1], IAIG: [57, 2],
                IIRG: [60, 2], IVT: [63, 1] } },
  MTRRCAP:    { at: 0x100, size: 8 },
  MTRRDEF:    { at: 0x108, size: 8 },
  MTRR_FIX64K_00000: { at: 0x120, size: 8 },
  MTRR_FIX16K_80000: { at: 0x128, size: 8 },
  MTRR_FIX16K_A0000: { at: 0x130, size: 8 },
  MTRR_FIX4K_C0000:  { at: 0x138, size: 8 },
  MTRR_FIX4K_C8000:  { at: 0x140, size: 8 },
  MTRR_FIX4K_D0000:  { at: 0x148, size: 8 },
  MTRR_FIX4K_D8000:  { at: 0x150, size: 8 },
  MTRR_FIX4K_E0000:  { at: 0x158, size: 8 },
  MTRR_FIX4K_E8000:  { at: 0x160, size: 8 },
  MTRR_FIX4K_F0000:  { at: 0x168, size: 8 },
  MTRR_FIX4K_F8000:  { at: 0x170, size: 8 },
  MTRR_PHYSBASE0:    { at: 0x180, size: 8 },
  MTRR_PHYSMASK0:    { at: 0x188, size: 8 },
  MTRR_PHYSBASE8:    { at: 0x200, size: 8 },
  MTRR_PHYSMASK8:    { at: 0x208, size: 8 },
  FRCD_LO:    { at: FRO,       size: 8 },
  FRCD_HI:    { at: FRO + 8,   size: 8, w1c: 0x8000_0000_0000_0000n },
  PERFCAP:    { at: 0x300, size: 8 },
  ECMD:       { at: 0x400, size: 8 },
  ECRSP:      { at: 0x410, size: 8 },
  VCMD:       { at: 0xe00, size: 8, rw: 0xffff_ffff_ffff_00ffn, fields: { CMD: [0, 8], OPERAND: [16, 48] } },
  VCMD_EO:    { at: 0xe08, size: 8, rw: 0xffff_ffff_ffff_ffffn },
  VCRSP:      { at: 0xe10, size: 8, fields: { IP: [0, 1], SC: [1, 7], RSLT: [16, 48] } },
  VCCAP:      { at: 0xe30, size: 8, fields: { PAS: [0, 1] } },
} as const satisfies RegisterTable;

/** Bits of GCMD and GSTS (VT-d §11.4.4). One-shots: SRTP, SIRTP, WBF; levels: TE, QIE, IRE, CFI. */
export const GCMD = {
  TE: 0x8000_0000 | 0,
  SRTP: 0x4000_0000,
  WBF: 0x0800_0000,
  QIE: 0x0400_0000,
  IRE: 0x0200_0000,
  SIRTP: 0x0100_0000,
  CFI: 0x0080_0000,
} as const;

/** FSTS bits. */
export const FSTS = { PFO: 0x1, PPF: 0x2, IQE: 0x10, ICE: 0x20, ITE: 0x40 } as const;

/** FECTL, IECTL and PECTL. */
export const EVENT_CONTROL = { IM: 0x8000_0000 | 0, IP: 0x4000_0000 } as const;

/** ICS.IWC: a wait descriptor with its interrupt flag completed. */
export const ICS_IWC = 1;
/** PRS bits. */
export const PRS = { PPR: 1, PRO: 2 } as const;

/** Translation table mode, RTADDR[11:10]. */
export const TTM = { LEGACY: 0, SCALABLE: 1, RESERVED: 2, ABORT: 3 } as const;

/** Invalidation queue error information, IQERCD.IQEI (VT-d §11.4.9). */
export const IQEI = {
  NONE: 0,
  TAIL_BEYOND: 1,
  FETCH: 2,
  TYPE: 3,
  RESERVED: 4,
  WIDTH: 5,
  TAIL_UNALIGNED: 6,
  TTM: 7,
} as const;

/** Virtual commands and the status codes of VCRSP.SC (VT-d §11.4.16). */
export const VCMD = { NULL: 0, ALLOC_PASID: 1, FREE_PASID: 2 } as const;
/** A virtual command that there is. */
export type VirtualCommand = (typeof VCMD)[keyof typeof VCMD];
/** VCRSP.SC: how a virtual command ended. */
export const VCRSP = { OK: 0, UNDEFINED: 1, NO_PASID: 16, INVALID_PASID: 16 } as const;
