/** PCI Express Base Specification revision 6.0: capabilities of the configuration space, chapter 7. */

/** Ids of conventional capabilities (configuration offsets below 0x100). */
export const CAP = { PM: 0x01, MSI: 0x05, SSVID: 0x0d, PCIE: 0x10, MSIX: 0x11 } as const;

/** Ids of extended capabilities (from 0x100). */
// biome-ignore format: table
export const EXT = { AER: 0x0001, ACS: 0x000d, ARI: 0x000e, ATS: 0x000f, SRIOV: 0x0010, PRI: 0x0013, PASID: 0x001b } as const;

/** Device/port type, PCIE_CAP bits 7:4. */
// biome-ignore format: table
export const PORT = { ENDPOINT: 0, ROOT: 4, UPSTREAM: 5, DOWNSTREAM: 6, TO_PCI: 7, FROM_PCI: 8, INTEGRATED: 9 } as const;

/** PCI Express capability: byte offsets inside it. */
// biome-ignore format: table
export const PCIE = {
  BYTES: 0x3c, CAP: 2, DEVCAP: 4, DEVCTL: 8, DEVSTA: 10, LNKCAP: 12, LNKCTL: 16, LNKSTA: 18, SLTCAP: 20, SLTCTL: 24, SLTSTA: 26,
  RTCTL: 28, RTCAP: 30, RTSTA: 32, DEVCAP2: 36, DEVCTL2: 40, LNKCAP2: 44, LNKCTL2: 48,
  DEVCAP_FLR: 0x1000_0000, DEVCTL_FLR: 0x8000, DEVCTL2_ARI: 0x20, DEVCAP2_ARI: 0x20, DEVCAP2_TLP_PREFIX: 0x0020_0000,
  SLTCAP_ATTENTION: 1, SLTCAP_SURPRISE: 0x20, SLTCAP_HOTPLUG: 0x40, SLTCAP_NO_COMPLETED: 0x4_0000,
  SLTSTA_ATTENTION: 1, SLTSTA_PRESENCE_CHANGED: 8, SLTSTA_PRESENT: 0x40, SLTSTA_LINK_CHANGED: 0x100,
  SLTCTL_HOTPLUG_IRQ: 0x20, SLTCTL_LINK_CHANGED: 0x1000, LNKSTA_ACTIVE: 0x2000,
  DEVSTA_NONFATAL: 2, DEVSTA_FATAL: 4,
} as const;

/** MSI: control word at +2; 64-bit layout with per-vector masking. */
// biome-ignore format: table
export const MSI = {
  BYTES: 0x18, CONTROL: 2, ADDRESS: 4, ADDRESS_HIGH: 8, DATA: 12, MASK: 16, PENDING: 20,
  ENABLE: 1, WIDE: 0x80, MASKING: 0x100,
} as const;

/** MSI-X: control word at +2, table and PBA as BIR (bits 2:0) and offset. Table entries are 16 bytes. */
// biome-ignore format: table
export const MSIX = {
  BYTES: 12, CONTROL: 2, TABLE: 4, PBA: 8, ENABLE: 0x8000, FUNCTION_MASK: 0x4000, ENTRY: 16, ENTRY_MASK: 1,
} as const;

/** ATS (PCIe ATS §10.5.1). */
// biome-ignore format: table
export const ATS_CAP = {
  BYTES: 8, CAP: 4, CONTROL: 6, DEPTH: 0x1f, PAGE_ALIGNED: 0x20, GLOBAL: 0x40, RELAXED: 0x80, STU: 0x1f, ENABLE: 0x8000,
} as const;

/** PRI (PCIe ATS §10.5.2). */
// biome-ignore format: table
export const PRI_CAP = {
  BYTES: 16, CONTROL: 4, STATUS: 6, CAPACITY: 8, ALLOCATION: 12,
  ENABLE: 1, RESET: 2, RESPONSE_FAILURE: 1, UNEXPECTED_INDEX: 2, STOPPED: 0x100, PASID_REQUIRED: 0x8000,
} as const;

/** PASID (PCIe §7.8.9). */
export const PASID_CAP = { BYTES: 8, CAP: 4, CONTROL: 6, ENABLE: 1, EXEC: 2, PRIV: 4 } as const;

/** ACS (PCIe §7.7.11): the same bits in capability (+4) and control (+6). */
// biome-ignore format: table
export const ACS_CAP = {
  BYTES: 8, CAP: 4, CONTROL: 6,
  SV: 1, TB: 2, RR: 4, CR: 8, UF: 0x10, EC: 0x20, DT: 0x40,
} as const;

/** ARI (PCIe §7.8.8): next function in bits 15:8 of +4. */
export const ARI_CAP = { BYTES: 8, CAP: 4, CONTROL: 6 } as const;

/** AER (PCIe §7.8.4). */
// biome-ignore format: table
export const AER_CAP = {
  BYTES: 0x48, UNCORRECTABLE: 4, UNCORRECTABLE_MASK: 8, UNCORRECTABLE_SEVERITY: 12, CORRECTABLE: 16, CORRECTABLE_MASK: 20,
  CONTROL: 24, LOG: 28, ROOT_COMMAND: 44, ROOT_STATUS: 48, SOURCE: 52,
  COMPLETION_TIMEOUT: 1 << 14, COMPLETER_ABORT: 1 << 15, UNEXPECTED_COMPLETION: 1 << 16, UNSUPPORTED_REQUEST: 1 << 20,
  ACS_VIOLATION: 1 << 21, SURPRISE_DOWN: 1 << 5, ADVISORY: 1 << 13,
  ROOT_NONFATAL_ON: 2, ROOT_FATAL_ON: 4,
  ROOT_UNCORRECTABLE: 4, ROOT_MULTIPLE: 8, ROOT_FIRST_FATAL: 0x10, ROOT_NONFATAL: 0x20, ROOT_FATAL: 0x40,
} as const;

/** SR-IOV (PCIe §9.3.3). */
// biome-ignore format: table
export const SRIOV_CAP = {
  BYTES: 0x40, CAP: 4, CONTROL: 8, STATUS: 10, INITIAL: 12, TOTAL: 14, NUM: 16, FIRST_OFFSET: 20, STRIDE: 22, DEVICE: 26,
  PAGES_SUPPORTED: 28, PAGES: 32, BAR0: 36, ENABLE: 1, MSE: 8, ARI: 0x10,
} as const;
