/**
 * Where QEMU 11.1's intel-iommu leaves the architecture: one switch per behaviour, nothing else separates the profiles.
 * True is QEMU's way. The text after each switch is the architecture's rule (VT-d rev 5.10).
 */
// biome-ignore format: table
export const QEMU_11_1 = {
  /** CFI is a level like TE and IRE and shows in GSTS.CFIS (§11.4.4). QEMU ignores it. */
  cfiIgnored: true,
  /** Compatibility-format interrupts are blocked with 0x25 unless CFIS=1 and EIME=0 (§5.1.4). QEMU passes them. */
  compatibilityPasses: true,
  /** SHV=1 wants data[31:16] zero, else 0x20 (§5.1.5.2). QEMU does not look. */
  shvDataUnchecked: true,
  /** Requests without PASID to 0xFEEx_xxxx other than DWORD writes are blocked with 0x29 (§3.15). QEMU records nothing. */
  interruptRangeSilent: true,
  /** IRTE.IM without posted-interrupt support is a reserved bit, 0x24 (§9.9). QEMU takes the entry as a remapped one. */
  postedAsRemapped: true,
  /** With SVT=2 SID[15:8] is the first bus and SID[7:0] the last (§9.9). QEMU has them the other way round. */
  busRangeReversed: true,
  /** IRTE destination bits outside [15:8] are reserved without EIME, and EIME without ECAP.EIM (§9.9). QEMU does not look. */
  destinationUnchecked: true,
  /** IRTEs are cached until an interrupt-entry-cache invalidation (§6.2). QEMU reads the table for every interrupt. */
  entriesUncached: true,
  /** QIE can always be cleared (§6.5.2). QEMU refuses unless the queue is empty and ended with a wait. */
  queueOffNeedsWait: true,
  /** IQA reads back as written. QEMU shows the base it latched when QIE was set. */
  queueBaseLatched: true,
  /** DW against the table mode is IQEI 5, a reserved mode IQEI 7; types 6 to 9 belong to scalable mode (§6.5.2). QEMU looks at DW. */
  queueWidthUnchecked: true,
  /** Clearing IQE resumes the queue (§6.5.2). QEMU waits for the next IQT write. */
  resumeNeedsTail: true,
  /** IQERCD says why (§11.4.9); ITE and ICE exist (§6.5.2.10). QEMU has none of them. */
  noQueueErrorRecord: true,
  /** A wait with none of IF, SW and FN is legal and does nothing. QEMU: IQE. */
  emptyWaitIsError: true,
  /** A wait whose status write fails signals nothing. QEMU raises its interrupt before it stops the queue. */
  failedWaitSignals: true,
  /** MAMV limits type 2 only (§6.5.2.4). QEMU limits type 6 too. */
  pasidIotlbLimited: true,
  /** Device-TLB descriptors are illegal without ECAP.DT, page-group responses without ECAP.PRS. QEMU takes them. */
  deviceTlbWithoutDt: true,
  /** Page-group responses are 256-bit descriptors (§6.5.2.11). QEMU takes them in a 128-bit queue, and any upper half. */
  responseInNarrowQueue: true,
  /** A page-group response without a PASID is legal (§6.5.2.11). QEMU: IQE. */
  responseNeedsPasid: true,
  /** ICC/IVT clear with CAIG/IAIG 0 when the request is refused (§6.5.1). QEMU leaves them set while QIE=1. */
  refusedRequestHangs: true,
  /** CAIG reports what was done. QEMU reports a domain-selective context request as global. */
  contextDomainIsGlobal: true,
  /** IP clears when every status bit was serviced, FRCD.F included (§11.4.7.2). QEMU looks at FSTS writes only. */
  pendingOutlivesFault: true,
  /** PECTL resets masked (§11.4.11.4). */
  pageEventsUnmasked: true,
  /** A store that covers two registers acts for both. QEMU acts for the one at its address, though bits of both change. */
  effectOfFirst: true,
  /** Several fault recording registers, used in a ring (§7.2.1). QEMU has one. */
  oneFaultRecord: true,
  /** Each fault is recorded. QEMU drops one whose source id already has a pending record (which is allowed). */
  mergeSameSource: true,
  /** FEUADDR, IEUADDR, PEUADDR are writable with EIM (§11.4.7.5); QEMU: 0, PEUADDR apart. */
  upperAddressesFixed: true,
  /** IEDATA has 16 bits. QEMU: 32. */
  wideInvalidationData: true,
  /** All of RTADDR.TTM counts (§11.4.5). QEMU looks at bit 10, and only in scalable mode. */
  tableModeBitOnly: true,
  /** Scalable mode has reason codes of its own (§7.1.3). QEMU uses the legacy ones for root, context and second stage. */
  legacyCodes: true,
  /** Canonical means bits 63:47 (or 63:56) of a first stage (§3.6). QEMU takes the width from AW of the PASID entry. */
  canonicalByAw: true,
  /** Presence, then reserved bits, then the permissions of the path (§3.6, §3.7). QEMU: permissions of each entry first. */
  permissionFirst: true,
  /** P=0 hides the rest of a PASID entry (§9.6). QEMU looks at PGTT first. */
  typeBeforePresent: true,
  /** FPD counts whatever P is, and for reserved bits of the context entry (§7.1). QEMU: only in a present, valid entry. */
  fpdNeedsValid: true,
  /** SNP in a second-stage leaf is reserved without ECAP.SC (§9.8). QEMU allows it in scalable mode. */
  snoopInScalable: true,
  /** Reserved bits of PASID directory and table entries are checked (§9.5, §9.6). QEMU does not. */
  pasidReservedUnchecked: true,
  /** A pass-through request beyond the address width is a fault (§3.7.1). QEMU takes it for a memory address. */
  passThroughUnchecked: true,
  /** An 8-byte write reaches the register beside FECTL and IECTL. QEMU takes the low half only. */
  controlLowOnly: true,
  /** PRO answers automatically: Success for the last of a group, nothing for the rest (§7.4.1). QEMU answers nothing. */
  overflowUnanswered: true,
  /** PGTT nested, first stage beside second stage, VCMD, TTM abort and 57 bits exist. QEMU offers none. */
  noExtensions: true,
} as const;

export type Deviation = keyof typeof QEMU_11_1;
export type Quirks = Readonly<Record<Deviation, boolean>>;

/** The profile that follows the specification: every switch off. */
export const ARCH: Quirks = Object.fromEntries(Object.keys(QEMU_11_1).map((k) => [k, false])) as Record<
  Deviation,
  boolean
>;

export type ProfileName = 'qemu-11.1' | 'arch';

export const QUIRKS: Readonly<Record<ProfileName, Quirks>> = { 'qemu-11.1': QEMU_11_1, arch: ARCH };
