/**
 * Intel D51397 revision 5.10 (Virtualization Technology for Directed I/O, architecture specification): page requests
 * and their responses, §7.4 and §7.6.
 */

/** Page request descriptor, 32 bytes (VT-d §7.4.1.1); words w0 to w3 matter, the rest is zero or private. */
export const PAGE_REQUEST_BYTES = 32;

/** Response codes (§7.6.1; PCIe PRI). */
export const RESPONSE = { SUCCESS: 0, INVALID: 1, FAILURE: 15 } as const;

/** Fields of a page request descriptor's words w0 to w3. */
export const pageRequest = {
  type: (w0: number): number => w0 & 0xff,
  /** PASID present. */
  pp: (w0: number): boolean => (w0 & 0x100) !== 0,
  sid: (w0: number): number => w0 >>> 16,
  pasid: (w1: number): number => w1 & 0xf_ffff,
  exec: (w1: number): boolean => (w1 & 0x10_0000) !== 0,
  priv: (w1: number): boolean => (w1 & 0x20_0000) !== 0,
  read: (w2: number): boolean => (w2 & 1) !== 0,
  write: (w2: number): boolean => (w2 & 2) !== 0,
  last: (w2: number): boolean => (w2 & 4) !== 0,
  group: (w2: number): number => (w2 >>> 3) & 0x1ff,
  /** Page number of the address. */
  page: (w2: number, w3: number): number => (w3 >>> 0) * 0x10_0000 + (w2 >>> 12),
} as const;

/** Type of a page request descriptor. */
export const PAGE_REQUEST_TYPE = 1;

/** Word 0: type, PP, SID. `pasid` -1: none. */
export function pageRequestWord0(sid: number, pasid: number): number {
  return PAGE_REQUEST_TYPE | (pasid < 0 ? 0 : 0x100) | ((sid & 0xffff) << 16);
}
/** Word 1. @param pasid -1 without one. */
export function pageRequestWord1(pasid: number, exec: boolean, priv: boolean): number {
  return pasid < 0 ? 0 : (pasid & 0xf_ffff) | (exec ? 0x10_0000 : 0) | (priv ? 0x20_0000 : 0);
}
/** Word 2. @param lo address bits 31:0. @param group PRG index, 0 to 511. */
export function pageRequestWord2(lo: number, group: number, read: boolean, write: boolean, last: boolean): number {
  return (lo & ~0xfff) | ((group & 0x1ff) << 3) | (last ? 4 : 0) | (write ? 2 : 0) | (read ? 1 : 0);
}
