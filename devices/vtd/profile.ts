import { type Deviations, deviationsOf, type ProfileName } from '../../src/lib/profile/profile.ts';

/**
 * Where QEMU 11.1's intel-iommu leaves the architecture (Intel VT-d, D51397, revision 5.10; sections are its). See
 * `DeviationRows`.
 * Not followed: an entry of second-stage tables that is all ones is one with reserved bits set (0xC); QEMU, which says so by that
 * value, takes it for one that cannot be read (0x3 in the first table, 0x7 below).
 */
// biome-ignore format: table
export const VTD_DEVIATIONS = {
  cfiIgnored:
    'CFI is a level like TE and IRE and shows in GSTS.CFIS (§11.4.4). QEMU ignores it.',
  compatibilityPasses:
    'Compatibility-format interrupts are blocked with 0x25 unless CFIS=1 and EIME=0 (§5.1.4). QEMU passes them.',
  indexWraps:
    'Handle and subhandle add up to an index of 17 bits (§5.1.3). QEMU keeps 16.',
  shvDataUnchecked:
    'SHV=1 wants data[31:16] zero, else 0x20 (§5.1.5.2). QEMU does not look.',
  interruptRangeSilent:
    'Requests without PASID to 0xFEEx_xxxx other than DWORD writes are blocked with 0x29 (§3.15). QEMU records nothing.',
  postedAsRemapped:
    'IRTE.IM without posted-interrupt support is a reserved bit, 0x24 (§9.9). QEMU takes the entry as a remapped one.',
  busRangeReversed:
    'With SVT=2 SID[15:8] is the first bus and SID[7:0] the last (§9.9). QEMU has them the other way round.',
  destinationUnchecked:
    'IRTE destination bits outside [15:8] are reserved without EIME, and EIME without ECAP.EIM (§9.9). QEMU does not look.',
  entriesUncached:
    'IRTEs are cached until an interrupt-entry-cache invalidation (§6.2). QEMU reads the table for every interrupt.',
  queueOffNeedsWait:
    'QIE can always be cleared (§6.5.2). QEMU refuses unless the queue is empty and ended with a wait.',
  queueBaseLatched:
    'IQA reads back as written (§11.4.9). QEMU shows the base it latched when QIE was set.',
  queueWidthUnchecked:
    'DW against the table mode is IQEI 5, a reserved mode IQEI 7; types 6 to 9 belong to scalable mode (§6.5.2). QEMU looks at DW.',
  resumeNeedsTail:
    'Clearing IQE resumes the queue (§6.5.2). QEMU waits for the next IQT write.',
  noQueueErrorRecord:
    'IQERCD says why (§11.4.9); ITE and ICE exist (§6.5.2.11). QEMU has none of them.',
  emptyWaitIsError:
    'A wait with none of IF, SW and FN is legal and does nothing (§6.5.2.9). QEMU: IQE.',
  failedWaitSignals:
    'A wait whose status write fails signals nothing (§6.5.2.9). QEMU raises its interrupt before it stops the queue.',
  pasidIotlbLimited:
    'MAMV limits type 2 only (§6.5.2.3). QEMU limits type 6 too.',
  deviceTlbWithoutDt:
    'Device-TLB descriptors are illegal without ECAP.DT, page-group responses without ECAP.PRS (§6.5.2). QEMU takes them.',
  responseInNarrowQueue:
    'Page-group responses are 256-bit descriptors (§7.6.1). QEMU takes them in a 128-bit queue, and any upper half.',
  responseNeedsPasid:
    'A page-group response without a PASID is legal (§7.6.1). QEMU: IQE.',
  refusedRequestHangs:
    'ICC/IVT clear with CAIG/IAIG 0 when the request is refused (§6.5.1). QEMU leaves them set while QIE=1.',
  contextDomainIsGlobal:
    'CAIG reports what was done (§11.4.6). QEMU reports a domain-selective context request as global.',
  pendingOutlivesFault:
    'IP clears when every status bit was serviced, FRCD.F included (§11.4.7.2). QEMU looks at FSTS writes only.',
  pageEventsUnmasked:
    'PECTL resets masked (§11.4.11). QEMU: unmasked.',
  effectOfFirst:
    'A store that covers two registers acts for both (§11.2). QEMU acts for the one at its address, though bits of both change.',
  oneFaultRecord:
    'Several fault recording registers, used in a ring (§7.2.1). QEMU has one.',
  mergeSameSource:
    'Each fault is recorded (§7.2.1). QEMU drops one whose source id has a pending record, which is allowed too.',
  messagesToApicOnly:
    'An event message is a memory write to whatever address its registers name (§7.3). QEMU hands it to the local APICs.',
  upperAddressesFixed:
    'FEUADDR, IEUADDR, PEUADDR are writable with EIM (§11.4.7.5). QEMU: they read 0, PEUADDR apart.',
  wideInvalidationData:
    'IEDATA has 16 bits (§11.4.9.6). QEMU: 32.',
  basesWithinAw:
    'RTADDR, IRTA and IQA take every bit of an address (§11.4). QEMU drops those from aw-bits up.',
  tableModeBitOnly:
    'All of RTADDR.TTM counts (§11.4.5). QEMU looks at bit 10, and only in scalable mode.',
  legacyCodes:
    'Scalable mode has reason codes of its own (§7.1.3). QEMU uses the legacy ones for root, context and second stage.',
  canonicalByAw:
    'Canonical means bits 63:47 (or 63:56) of a first stage (§3.6). QEMU takes the width from AW of the PASID entry. ' +
    'A linux-only host has no first stage narrower than 48 bits: there AW decides which reason is reported, and what the ' +
    'tables map above it passes.',
  ridPasidRequested:
    'A request with a PASID that is RID_PASID is blocked, 0x48 (§7.1.3). QEMU translates it like one without PASID.',
  permissionFirst:
    'Presence, then reserved bits, then the permissions of the path (§3.6, §3.7). QEMU: permissions of each entry first.',
  typeBeforePresent:
    'P=0 hides the rest of a PASID entry (§9.6). QEMU looks at PGTT first.',
  fpdNeedsValid:
    'FPD counts whatever P is, and for reserved bits of the context entry (§7.1). QEMU: only in a present, valid entry.',
  snoopInScalable:
    'SNP in a second-stage leaf is reserved without ECAP.SC (§9.8). QEMU allows it in scalable mode.',
  pasidReservedUnchecked:
    'Reserved bits of PASID directory and table entries are checked (§9.5, §9.6). QEMU does not.',
  leafFlagsTogether:
    'A and D of a first-stage leaf are each set when they are clear (§3.6.2). QEMU: a write sets neither when one is set.',
  passThroughUnchecked:
    'A pass-through request beyond the address width is a fault (§3.7.1). QEMU takes it for a memory address.',
  controlLowOnly:
    'An 8-byte write reaches the register beside FECTL and IECTL (§11.2). QEMU takes the low half only.',
  overflowUnanswered:
    'PRO answers automatically: Success for the last of a group, nothing for the rest (§7.4.1). QEMU answers nothing.',
  noExtensions:
    'PGTT nested, first stage beside second stage, VCMD, TTM abort and 57 bits exist (§9.6, §11.4.3). QEMU offers none.',
} as const;

/** Name of a row. */
export type VtdDeviationName = keyof typeof VTD_DEVIATIONS;
/** For each row, whether the device goes QEMU's way. */
export type VtdDeviations = Deviations<typeof VTD_DEVIATIONS>;

/** The rows of a profile, single ones changed by `override`. @throws ViommuError `EINVAL` for what is not there. */
export function vtdDeviations(profile: ProfileName, override?: Partial<VtdDeviations>): VtdDeviations {
  return deviationsOf(VTD_DEVIATIONS, profile, override);
}
