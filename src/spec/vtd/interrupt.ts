/**
 * Intel D51397 revision 5.10 (Virtualization Technology for Directed I/O, architecture specification): interrupt
 * remapping, message formats and table entries, §5.1, §9.9 and §9.10.
 */

/** The interrupt address range, 1 MiB at 0xFEE0_0000. */
export const INTERRUPT_BASE = 0xfee0_0000;
/** Last byte of the range. */
export const INTERRUPT_LAST = 0xfeef_ffff;

/** Whether an address (lo, hi words) lies in the interrupt range. */
export function isInterruptAddress(lo: number, hi: number): boolean {
  return hi === 0 && lo >>> 20 === 0xfee;
}

/** Fields of a message address in remappable format. */
export const message = {
  /** Interrupt format: remappable. */
  remappable: (address: number): boolean => (address & 0x10) !== 0,
  handle: (address: number): number => ((address >>> 5) & 0x7fff) | ((address & 4) << 13),
  shv: (address: number): boolean => (address & 8) !== 0,
} as const;

/**
 * IRTE.SVT: how the requester is verified. NONE: not at all. SID: against SID under SQ. BUS: its bus lies between two.
 */
export const SVT = { NONE: 0, SID: 1, BUS: 2, RESERVED: 3 } as const;

/** Bytes of an interrupt remapping table entry. */
export const IRTE_BYTES = 16;

/** Interrupt remapping table entry: words w0, w1 (low qword), w2, w3 (high qword). */
export const irte = {
  p: (w0: number): boolean => (w0 & 1) !== 0,
  fpd: (w0: number): boolean => (w0 & 2) !== 0,
  /** Destination mode, redirection hint, trigger mode, delivery mode. */
  dm: (w0: number): number => (w0 >>> 2) & 1,
  rh: (w0: number): number => (w0 >>> 3) & 1,
  tm: (w0: number): number => (w0 >>> 4) & 1,
  dlm: (w0: number): number => (w0 >>> 5) & 7,
  /** IRTE mode: posted. */
  posted: (w0: number): boolean => (w0 & 0x8000) !== 0,
  vector: (w0: number): number => (w0 >>> 16) & 0xff,
  dst: (w1: number): number => w1 >>> 0,
  sid: (w2: number): number => w2 & 0xffff,
  sq: (w2: number): number => (w2 >>> 16) & 3,
  svt: (w2: number): number => (w2 >>> 18) & 3,
  /** Posted format: urgent, and the posted-interrupt descriptor's address [63:6]. */
  urgent: (w0: number): boolean => (w0 & 0x4000) !== 0,
  pda: (w1: number, w3: number): number => (w3 & 0xf_ffff) * 0x1_0000_0000 + ((w1 & ~0x3f) >>> 0),
} as const;

/** Reserved bits: remapped entry (bits 14:12 and 31:24 of q0, 63:20 of q1), the same with 8-bit destinations, posted. */
// biome-ignore format: table
export const IRTE_RESERVED = {
  REMAPPED: [0xff00_7000 | 0, 0,                  0xfff0_0000 | 0, -1],
  XAPIC:    [0xff00_7000 | 0, 0xffff_00ff | 0,    0xfff0_0000 | 0, -1],
  POSTED:   [0xff00_30fc | 0, 0x0000_003f,        0xfff0_0000 | 0, 0],
} as const;

/** Bytes of a posted-interrupt descriptor, which is aligned to them: 256 bits of requests, then a word of control (§9.11). */
export const PID_BYTES = 64;
/** Offset of the qword with ON, SN, NV and NDST. */
export const PID_CONTROL = 32;
/** Fields of the words of that qword; and what is reserved in them, NDST of 8 bits in `XAPIC`. */
export const pid = {
  on: (lo: number): boolean => (lo & 1) !== 0,
  sn: (lo: number): boolean => (lo & 2) !== 0,
  nv: (lo: number): number => (lo >>> 16) & 0xff,
  ndst: (hi: number): number => hi >>> 0,
  RESERVED: 0xff00_fffc | 0,
  XAPIC: 0xffff_00ff | 0,
} as const;

/** Source id mask of SQ: which function bits (2:0) the comparison leaves out. */
export const SQ_MASK: readonly number[] = [0xffff, 0xfffb, 0xfff9, 0xfff8];

/** MSI address of a remapped interrupt. Destination: 8 bits at [19:12]; with 32 bits the rest goes to [63:40] (not shown). */
export function msiAddress(dst: number, dm: number, rh: number): number {
  return (INTERRUPT_BASE | ((dst & 0xff) << 12) | (rh << 3) | (dm << 2)) >>> 0;
}
/** MSI data of a remapped interrupt; the level bit is always 1 (assert). */
export function msiData(vector: number, dlm: number, tm: number): number {
  return vector | (dlm << 8) | 0x4000 | (tm << 15);
}
