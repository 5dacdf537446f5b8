/**
 * Intel D51397 revision 5.10 (Virtualization Technology for Directed I/O, architecture specification): fault reasons
 * and records, §7.1 and §11.4.7.
 */

/** Fault reasons, FRCD.FR (VT-d §7.1.3). */
// biome-ignore format: table
export const FAULT = {
  // Legacy mode; QEMU uses 1 to e in scalable mode too.
  ROOT_P: 0x01, CONTEXT_P: 0x02, CONTEXT_INVALID: 0x03, BEYOND_WIDTH: 0x04, WRITE: 0x05, READ: 0x06, TABLE_UNREADABLE: 0x07,
  ROOT_UNREADABLE: 0x08, CONTEXT_UNREADABLE: 0x09, ROOT_RESERVED: 0x0a, CONTEXT_RESERVED: 0x0b, ENTRY_RESERVED: 0x0c,
  TRANSLATION_BLOCKED: 0x0d, INTERRUPT_OUTPUT: 0x0e,
  // Interrupt requests.
  IR_REQUEST_RESERVED: 0x20, IR_INDEX: 0x21, IR_P: 0x22, IR_UNREADABLE: 0x23, IR_RESERVED: 0x24, IR_COMPATIBILITY: 0x25, IR_SOURCE: 0x26,
  IR_PID_UNREADABLE: 0x27, IR_PID_RESERVED: 0x28, IR_REQUEST_TYPE: 0x29,
  // Table mode.
  TTM_UNSUPPORTED: 0x30, PASID_IN_LEGACY: 0x31, PAGE_REQUEST_IN_LEGACY: 0x32, ABORT_MODE: 0x33, ENTRY_ER: 0x34,
  // Scalable mode: root, context, requests.
  SM_ROOT_UNREADABLE: 0x38, SM_ROOT_P: 0x39, SM_ROOT_RESERVED: 0x3a, SM_CONTEXT_UNREADABLE: 0x40, SM_CONTEXT_P: 0x41,
  SM_CONTEXT_RESERVED: 0x42, SM_CONTEXT_INVALID: 0x43, SM_DTE: 0x44, SM_PASIDE: 0x45, SM_PASID_BEYOND: 0x46, SM_PRE: 0x47,
  SM_RID_PASID: 0x48,
  // PASID directory and table.
  DIR_UNREADABLE: 0x50, DIR_P: 0x51, DIR_RESERVED: 0x52, PASID_UNREADABLE: 0x58, PASID_P: 0x59, PASID_RESERVED: 0x5a,
  PASID_INVALID: 0x5b, PASID_SRE: 0x5d,
  // First stage.
  FS_UNREADABLE: 0x70, FS_P: 0x71, FS_RESERVED: 0x72, FS_ROOT_UNREADABLE: 0x73, FS_ADDRESS: 0x74,
  // Nested: the second stage refuses the read of the first table, of a lower one, the write of a flag.
  FS_ROOT_SECOND_READ: 0x75, FS_SECOND_READ: 0x76, FS_SECOND_WRITE: 0x77,
  // A flag could not be written: snooping is off; the store aborted.
  FS_UPDATE_SNOOP: 0x90, FS_UPDATE: 0x91,
  // Second stage in scalable mode.
  SS_UNREADABLE: 0x78, SS_NONE: 0x79, SS_RESERVED: 0x7a, SS_ROOT_UNREADABLE: 0x7b, SS_A: 0x7c, SS_D: 0x7d,
  // What both stages share.
  NON_CANONICAL: 0x80, US: 0x81, SS_BEYOND: 0x84, SM_WRITE: 0x85, SM_READ: 0x86, SM_INTERRUPT: 0x87, PASID_BEYOND_PSS: 0x89,
  PT_BEYOND: 0x83,
} as const;

/** Reasons FPD never suppresses: what was wrong before an entry with FPD could be trusted (VT-d §7.1). */
export function isQualified(reason: number): boolean {
  switch (reason) {
    case FAULT.ROOT_P:
    case FAULT.ROOT_UNREADABLE:
    case FAULT.CONTEXT_UNREADABLE:
    case FAULT.ROOT_RESERVED:
    case FAULT.IR_REQUEST_RESERVED:
    case FAULT.IR_INDEX:
    case FAULT.IR_UNREADABLE:
    case FAULT.IR_COMPATIBILITY:
    case FAULT.IR_REQUEST_TYPE:
    case FAULT.SM_CONTEXT_UNREADABLE:
    case FAULT.DIR_UNREADABLE:
    case FAULT.PASID_UNREADABLE:
      return false;
    default:
      return !(reason >= FAULT.TTM_UNSUPPORTED && reason <= FAULT.SM_ROOT_RESERVED);
  }
}

/**
 * Fault record, 4 words (VT-d §11.4.7.6). QEMU keeps 16 bits of the PASID. `hi3` is word 3: F 31, T1 30, AT [29:28],
 * PASID[19:0] at [27:8], FR [7:0]; word 2: PP 31, EXE 30, PRIV 29, T2 28, SID [15:0].
 */
export function frcdWord3(read: boolean, at: number, pasid: number, reason: number): number {
  return (read ? 0x4000_0000 : 0) | ((at & 3) << 28) | ((pasid < 0 ? 0 : pasid & 0xf_ffff) << 8) | (reason & 0xff);
}
/** Word 2 of a fault record. @param pasid -1 without one. */
export function frcdWord2(sid: number, pasid: number, exec: boolean, priv: boolean): number {
  return (pasid < 0 ? 0 : 0x8000_0000 | (exec ? 0x4000_0000 : 0) | (priv ? 0x2000_0000 : 0)) | (sid & 0xffff);
}

/** Fields of a fault record's words w0 to w3. */
export const frcd = {
  isFault: (w3: number): boolean => w3 < 0,
  isRead: (w3: number): boolean => (w3 & 0x4000_0000) !== 0,
  addressType: (w3: number): number => (w3 >>> 28) & 3,
  reason: (w3: number): number => w3 & 0xff,
  sid: (w2: number): number => w2 & 0xffff,
  /** PASID of the request, -1 without one. */
  pasid: (w2: number, w3: number): number => (w2 < 0 ? (w3 >>> 8) & 0xf_ffff : -1),
  isExec: (w2: number): boolean => (w2 & 0x4000_0000) !== 0,
  isPriv: (w2: number): boolean => (w2 & 0x2000_0000) !== 0,
  /** FI of an address translation fault: the page number (52 bits, exact). */
  page: (w0: number, w1: number): number => (w1 >>> 0) * 0x10_0000 + (w0 >>> 12),
  /** FI of an interrupt fault: the index. */
  interruptIndex: (w1: number): number => w1 >>> 16,
} as const;

/** The reason in words, for traces. */
export function faultName(reason: number): string {
  for (const [name, code] of Object.entries(FAULT)) if (code === reason) return name;
  return `0x${reason.toString(16)}`;
}
