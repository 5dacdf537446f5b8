/** Arm IHI 0070 issue G.b (System Memory Management Unit architecture, version 3): memory map and registers, chapter 6. */

import type { RegisterTable } from '../../core/registers.ts';

/** Page 1 begins here in the window; the queue indices the guest polls most live in it (IHI 0070 §6.1). */
export const PAGE1_BASE = 0x1_0000;
/** Bytes of the two-page window. */
export const WINDOW_BYTES = 0x2_0000;

/**
 * Register page 0 (IHI 0070 §6.1, §6.3). `rw` is what an implementation with every modelled feature keeps; a device that
 * shows fewer features in its IDRs narrows it.
 */
// biome-ignore format: table
export const PAGE0 = {
  IDR0: { at: 0x000, size: 4, fields: {
    S2P: [0, 1], S1P: [1, 1], TTF: [2, 2], COHACC: [4, 1], BTM: [5, 1], HTTU: [6, 2], DORMHINT: [8, 1], HYP: [9, 1],
    ATS: [10, 1], NS1ATS: [11, 1], ASID16: [12, 1], MSI: [13, 1], SEV: [14, 1], ATOS: [15, 1], PRI: [16, 1], VMW: [17, 1],
    VMID16: [18, 1], CD2L: [19, 1], VATOS: [20, 1], TTENDIAN: [21, 2], ATSRECERR: [23, 1], STALL_MODEL: [24, 2],
    TERM_MODEL: [26, 1], ST_LEVEL: [27, 2] } },
  IDR1: { at: 0x004, size: 4, fields: {
    SIDSIZE: [0, 6], SSIDSIZE: [6, 5], PRIQS: [11, 5], EVENTQS: [16, 5], CMDQS: [21, 5], ATTR_PERMS_OVR: [26, 1],
    ATTR_TYPES_OVR: [27, 1], REL: [28, 1], QUEUES_PRESET: [29, 1], TABLES_PRESET: [30, 1], ECMDQ: [31, 1] } },
  IDR2: { at: 0x008, size: 4 },
  IDR3: { at: 0x00c, size: 4, fields: {
    HAD: [2, 1], PBHA: [3, 1], XNX: [4, 1], PPS: [5, 1], MPAM: [7, 1], FWB: [8, 1], STT: [9, 1], RIL: [10, 1],
    BBML: [11, 2], E0PD: [13, 1], PTWNNC: [14, 1], DPT: [15, 1] } },
  IDR4: { at: 0x010, size: 4 },
  IDR5: { at: 0x014, size: 4, fields: {
    OAS: [0, 3], GRAN4K: [4, 1], GRAN16K: [5, 1], GRAN64K: [6, 1], VAX: [10, 2], STALL_MAX: [16, 16] } },
  IIDR: { at: 0x018, size: 4 },
  AIDR: { at: 0x01c, size: 4, fields: { ArchMinorRev: [0, 4], ArchMajorRev: [4, 4] } },
  CR0: { at: 0x020, size: 4, rw: 0x1dfn, fields: {
    SMMUEN: [0, 1], PRIQEN: [1, 1], EVENTQEN: [2, 1], CMDQEN: [3, 1], ATSCHK: [4, 1], VMW: [6, 3] } },
  CR0ACK: { at: 0x024, size: 4 },
  CR1: { at: 0x028, size: 4, rw: 0xfffn, fields: {
    QUEUE_IC: [0, 2], QUEUE_OC: [2, 2], QUEUE_SH: [4, 2], TABLE_IC: [6, 2], TABLE_OC: [8, 2], TABLE_SH: [10, 2] } },
  CR2: { at: 0x02c, size: 4, rw: 0xfn, fields: { E2H: [0, 1], RECINVSID: [1, 1], PTM: [2, 1], REC_CFG_ATS: [3, 1] } },
  STATUSR: { at: 0x040, size: 4 },
  GBPA: { at: 0x044, size: 4, rw: 0x001f_3f1fn, reset: 0x1000n, fields: {
    MEMATTR: [0, 4], MTCFG: [4, 1], ALLOCCFG: [8, 4], SHCFG: [12, 2], PRIVCFG: [16, 2], INSTCFG: [18, 2], ABORT: [20, 1],
    UPDATE: [31, 1] } },
  IRQ_CTRL: { at: 0x050, size: 4, rw: 0x7n, fields: { GERROR_IRQEN: [0, 1], PRIQ_IRQEN: [1, 1], EVENTQ_IRQEN: [2, 1] } },
  IRQ_CTRLACK: { at: 0x054, size: 4 },
  GERROR: { at: 0x060, size: 4, fields: {
    CMDQ_ERR: [0, 1], EVENTQ_ABT_ERR: [2, 1], PRIQ_ABT_ERR: [3, 1], MSI_CMDQ_ABT_ERR: [4, 1], MSI_EVENTQ_ABT_ERR: [5, 1],
    MSI_PRIQ_ABT_ERR: [6, 1], MSI_GERROR_ABT_ERR: [7, 1], SFM_ERR: [8, 1] } },
  GERRORN: { at: 0x064, size: 4, rw: 0x1fdn },
  GERROR_IRQ_CFG0: { at: 0x068, size: 8, rw: 0x000f_ffff_ffff_fffcn },
  GERROR_IRQ_CFG1: { at: 0x070, size: 4, rw: 0xffff_ffffn },
  GERROR_IRQ_CFG2: { at: 0x074, size: 4, rw: 0x3fn },
  STRTAB_BASE: { at: 0x080, size: 8, rw: 0x400f_ffff_ffff_ffc0n },
  STRTAB_BASE_CFG: { at: 0x088, size: 4, rw: 0x0003_07ffn, fields: { LOG2SIZE: [0, 6], SPLIT: [6, 5], FMT: [16, 2] } },
  CMDQ_BASE: { at: 0x090, size: 8, rw: 0x400f_ffff_ffff_ffffn, fields: { LOG2SIZE: [0, 5] } },
  CMDQ_PROD: { at: 0x098, size: 4, rw: 0x000f_ffffn },
  CMDQ_CONS: { at: 0x09c, size: 4, rw: 0x000f_ffffn, fields: { RD: [0, 20], ERR: [24, 7] } },
  EVENTQ_BASE: { at: 0x0a0, size: 8, rw: 0x400f_ffff_ffff_ffffn, fields: { LOG2SIZE: [0, 5] } },
  EVENTQ_IRQ_CFG0: { at: 0x0b0, size: 8, rw: 0x000f_ffff_ffff_fffcn },
  EVENTQ_IRQ_CFG1: { at: 0x0b8, size: 4, rw: 0xffff_ffffn },
  EVENTQ_IRQ_CFG2: { at: 0x0bc, size: 4, rw: 0x3fn },
  PRIQ_BASE: { at: 0x0c0, size: 8, rw: 0x400f_ffff_ffff_ffffn, fields: { LOG2SIZE: [0, 5] } },
  PRIQ_IRQ_CFG0: { at: 0x0d0, size: 8, rw: 0x000f_ffff_ffff_fffcn },
  PRIQ_IRQ_CFG1: { at: 0x0d8, size: 4, rw: 0xffff_ffffn },
  PRIQ_IRQ_CFG2: { at: 0x0dc, size: 4, rw: 0x8000_003fn, fields: { LO: [31, 1] } },
} as const satisfies RegisterTable;

/** Register page 1, offsets relative to its base (IHI 0070 §6.1). Bit 31: OVFLG in PROD, OVACKFLG in CONS. */
// biome-ignore format: table
export const PAGE1 = {
  EVENTQ_PROD: { at: 0x0a8, size: 4, rw: 0x800f_ffffn, fields: { WR: [0, 20], OVFLG: [31, 1] } },
  EVENTQ_CONS: { at: 0x0ac, size: 4, rw: 0x800f_ffffn, fields: { RD: [0, 20], OVACKFLG: [31, 1] } },
  PRIQ_PROD: { at: 0x0c8, size: 4, rw: 0x800f_ffffn, fields: { WR: [0, 20], OVFLG: [31, 1] } },
  PRIQ_CONS: { at: 0x0cc, size: 4, rw: 0x800f_ffffn, fields: { RD: [0, 20], OVACKFLG: [31, 1] } },
} as const satisfies RegisterTable;

/** CR0 and CR0ACK bits (IHI 0070 §6.3.9). */
export const CR0 = { SMMUEN: 1 << 0, PRIQEN: 1 << 1, EVENTQEN: 1 << 2, CMDQEN: 1 << 3, ATSCHK: 1 << 4 } as const;
/** CR2 bits. */
export const CR2 = { E2H: 1 << 0, RECINVSID: 1 << 1, PTM: 1 << 2, REC_CFG_ATS: 1 << 3 } as const;
/** GBPA bits. */
export const GBPA = { ABORT: 1 << 20, UPDATE: 1 << 31 } as const;
/** IRQ_CTRL and IRQ_CTRLACK bits. */
export const IRQ_CTRL = { GERROR_IRQEN: 1 << 0, PRIQ_IRQEN: 1 << 1, EVENTQ_IRQEN: 1 << 2 } as const;
/** GERROR and GERRORN bits (IHI 0070 §6.3.19). An error is active while the two registers differ in its bit. */
export const GERROR = {
  CMDQ_ERR: 1 << 0,
  EVENTQ_ABT_ERR: 1 << 2,
  PRIQ_ABT_ERR: 1 << 3,
  MSI_CMDQ_ABT_ERR: 1 << 4,
  MSI_EVENTQ_ABT_ERR: 1 << 5,
  MSI_PRIQ_ABT_ERR: 1 << 6,
  MSI_GERROR_ABT_ERR: 1 << 7,
  SFM_ERR: 1 << 8,
} as const;
/** CMDQ_CONS.ERR (IHI 0070 §7.1). */
export const CERROR = { NONE: 0, ILL: 1, ABT: 2, ATC_INV_SYNC: 3 } as const;
/** Stream-table formats of STRTAB_BASE_CFG.FMT; 2 and 3 behave as linear. */
export const STRTAB_FMT = { LINEAR: 0, TWO_LEVEL: 1 } as const;

/** Output address size in bits for IDR5.OAS, CD.IPS and STE.S2PS; 7 is reserved and taken as 52. */
export const ADDRESS_BITS = [32, 36, 40, 42, 44, 48, 52, 52] as const;

/** Peripheral and component identification bytes at 0xfd0..0xffc, one per word, as QEMU's model answers. */
export const ID_REGISTERS_AT = 0xfd0;
/** The bytes themselves, CIDR and PIDR in the order of their offsets. */
export const ID_REGISTERS = [0x04, 0x00, 0x00, 0x00, 0x84, 0xb4, 0xf0, 0x10, 0x0d, 0xf0, 0x05, 0xb1] as const;
