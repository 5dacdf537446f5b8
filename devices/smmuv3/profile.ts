import { type Deviations, deviationsOf, type ProfileName } from '../../src/lib/profile/profile.ts';

/**
 * Where QEMU 11.1's arm-smmuv3 leaves the architecture (Arm IHI 0070, issue G.b; sections are its unless DDI 0487, the Arm
 * ARM, is named). See `DeviationRows`.
 *
 * Two of QEMU's ways are not followed. When both tables of a CD are enabled under stage 2 it translates both TTBx as soon as
 * it decodes the CD, so a table nobody uses can fault every access; here a table counts when it is walked. And S2AA64=0
 * stops QEMU; here the stream is bad.
 */
// biome-ignore format: table
export const SMMUV3_DEVIATIONS = {
  staleConsError:
    'CMDQ_CONS.ERR means nothing once the error was acknowledged, and here it is 0 then (§6.3.28). QEMU leaves it.',
  rawRegisters:
    'Reserved bits of registers and queue indices read 0 (§6.3). QEMU keeps every bit a guest writes.',
  consAlwaysWritable:
    'CMDQ_CONS is writable while the queue is disabled (§6.3.28). QEMU lets it be written at any time.',
  prodAlwaysWritable:
    'EVENTQ_PROD and PRIQ_PROD are writable while their queue is disabled (§6.3.95). QEMU lets them be written at any time.',
  fullQueueIsAbort:
    'A full event queue toggles OVFLG (§7.4). QEMU raises GERROR.EVENTQ_ABT_ERR.',
  abortDoesNotStop:
    'No records are written while EVENTQ_ABT_ERR is active (§7.2). QEMU goes on writing.',
  ackEchoesReserved:
    'CR0ACK and IRQ_CTRLACK show what is implemented (§6.3.9, §6.3.18). QEMU shows reserved bits too.',
  rawGbpa:
    'Reserved bits of GBPA read 0 (§6.3.14). QEMU keeps those of an accepted update.',
  stickyTwoLevel:
    'STRTAB_BASE_CFG.FMT says whether the table has two levels (§6.3.24). QEMU never goes back from two-level to linear.',
  ungatedBases:
    'Base registers, CR2 and STRTAB_* ignore writes while what they configure is enabled (§6.3). QEMU takes them.',
  absentCommandsConsumed:
    'Commands of absent features and reserved encodings in them are CERROR_ILL (§4.1 to §4.7). QEMU consumes them, but for TLB invalidations.',
  ssecInCfgiOnly:
    'SSec=1 is illegal in every command that has it (§4.1.5). QEMU looks at it in CFGI commands only.',
  sidFolds:
    'A CFGI command that names a StreamID beyond SIDSIZE concerns no stream (§4.3). QEMU looks at the low 16 bits of the StreamID.',
  badSteIsIll:
    'An entry that cannot be used is reported when traffic uses it (§4.3.1). QEMU with accel=on makes CFGI_STE illegal.',
  fewFeatures:
    'IDR0.CD2L and IDR0.ATSRECERR come with SubstreamIDs and ATS (§6.3.1). QEMU shows neither.',
  noMsi:
    'IDR0.MSI says whether interrupts can be messages (§3.18). QEMU has none: the IRQ_CFG registers are storage.',
  emptyRangeAccepted:
    'A range invalidation with TG≠0 and NUM=SCALE=TTL=0 is illegal (§4.4.1). QEMU takes it.',
  cdFetchAddressInInput:
    'F_CD_FETCH has FetchAddr in its last 64 bits (§7.3.10). QEMU puts it where other records have the input address.',
  qemuRecordFields:
    'CLASS, S2, RnW, IPA and SubstreamID say what was accessed (§7.3). QEMU fills some of them its own way, SubstreamIDs never.',
  qemuAccess:
    'Registers are in one of two pages and take 8-byte accesses where they have 8 bytes (§6.1, §6.2). QEMU shows page 0 twice, takes 8 bytes at a few only, and EVENTQ_IRQ_CFG reads 0.',
  badStreamAlwaysRecorded:
    'C_BAD_STREAMID is recorded with CR2.RECINVSID=1 (§6.3.12). QEMU records it always.',
  wideSpan:
    'A level-1 span N covers 2^(N-1) entries, and beyond it is C_BAD_STREAMID (§5.1). QEMU: 2^N, and C_BAD_STE.',
  cdMaxWithoutSsid:
    'S1CDMax is ignored where SSIDSIZE is 0 (§5.2). QEMU takes anything but 0 as C_BAD_STE.',
  interruptPerRecord:
    'The event interrupt tells that the queue is no longer empty (§3.18). QEMU raises it for every record.',
  resetKeepsConfiguration:
    'A reset brings registers to their reset values (§6.3). QEMU leaves CR1, CR2, base addresses and interrupt registers, presets queue sizes to 19, and forgets two-level tables.',
  queueBase64:
    'Queue bases are aligned to the size of the queue, at least 32 bytes (§6.3.26). QEMU aligns them to 64 bytes.',
  silentInputSize:
    'An input beyond the address size is a fault that is recorded (§3.4). QEMU records none where stage 1 is off, and lets the CD hide it in a nested stage 2.',
  inputByS2ps:
    'S2T0SZ is held against OAS (§5.2). QEMU holds it against the effective S2PS.',
  anyStreamWorld:
    'STE.STRW chooses the StreamWorld, and is illegal where there is no EL2 (§5.2). QEMU takes every stream as NS-EL1.',
  stage2BitsIgnored:
    'S2HA and S2HD are held against IDR0.HTTU, and S2PTW protects (§5.2). QEMU does not look at them.',
  wideTablePointer:
    'Bits above 51 of L2Ptr and S1ContextPtr are reserved (§5.1, §5.2). QEMU keeps them, and the pointer leads nowhere. ' +
    'The address in an F_CD_FETCH of such an S1ContextPtr is the last one below 2^52, not the pointer.',
  tablePermission:
    'The permissions of tables and leaf together decide, after the walk (DDI 0487, §D8.4). QEMU faults at the table whose APTable forbids the access.',
  anyPrivilege:
    'AP[1] tells privileged from unprivileged accesses, and XN forbids execution (DDI 0487, §D8.4). QEMU looks at AP[2] only.',
  anyTableAddress:
    'The address of a table is held against the output size like that of a leaf (DDI 0487, §D8.2). QEMU looks at leaves only.',
  anyBlock:
    'Each granule has blocks at certain levels (DDI 0487, §D8.3). QEMU takes them at every level above the last.',
  tbi0ForBoth:
    'CD.TBI0 and CD.TBI1 count for their halves (§5.4). QEMU takes TBI0 for both.',
  sizeLast:
    'The output size of a leaf is judged before its access flag and permissions (§7.3.22). QEMU judges it after them.',
  noContiguous:
    'The contiguous hint may make larger translations (DDI 0487, §D8.7.1). QEMU does not look at it.',
  anyContextPointer:
    'S1ContextPtr beyond OAS is illegal (§5.2). QEMU fetches there.',
  shallowStart:
    'S2T0SZ leaves the start level at least one address bit (§5.2). QEMU takes less, and reads a table at address 0.',
  firstTableOnly:
    'Start tables of stage 2 may be concatenated (DDI 0487, §D8.2). QEMU reads the first of them only.',
} as const;

/** Name of a row. */
export type Smmuv3DeviationName = keyof typeof SMMUV3_DEVIATIONS;
/** For each row, whether the device goes QEMU's way. */
export type Smmuv3Deviations = Deviations<typeof SMMUV3_DEVIATIONS>;

/** The rows of a profile, single ones changed by `override`. @throws ViommuError `EINVAL` for what is not there. */
export function smmuv3Deviations(profile: ProfileName, override?: Partial<Smmuv3Deviations>): Smmuv3Deviations {
  return deviationsOf(SMMUV3_DEVIATIONS, profile, override);
}
