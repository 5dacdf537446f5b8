/**
 * Where QEMU 11.1 and the architecture (IHI 0070) disagree: one row per deviation, named after what QEMU does. The two
 * profiles are the two columns of this table and differ in nothing else; tests turn single rows on and off.
 *
 * Two of QEMU's ways are not followed. When both tables of a CD are enabled under stage 2 it translates both TTBx as soon as
 * it decodes the CD, so a table nobody uses can fault every access; here a table counts when it is walked. And S2AA64=0
 * stops QEMU; here the stream is bad.
 */
// biome-ignore format: table
export const DEVIATIONS = {
  /** CMDQ_CONS.ERR stays after the error was acknowledged (UNKNOWN then, §6.3.28). */
  staleConsError:          { qemu: true,  arch: false },
  /** Registers keep every bit a guest writes, queue indices included. */
  rawRegisters:            { qemu: true,  arch: false },
  /** CMDQ_CONS is writable at any time; else only while the queue is disabled (§6.3.28). */
  consAlwaysWritable:      { qemu: true,  arch: false },
  /** EVENTQ_PROD and PRIQ_PROD likewise (§6.3.95). */
  prodAlwaysWritable:      { qemu: true,  arch: false },
  /** A full event queue is GERROR.EVENTQ_ABT_ERR; else it toggles OVFLG (§7.4). */
  fullQueueIsAbort:        { qemu: true,  arch: false },
  /** Records are written while EVENTQ_ABT_ERR is active (§7.2). */
  abortDoesNotStop:        { qemu: true,  arch: false },
  /** CR0ACK and IRQ_CTRL_ACK show reserved bits (§6.3.9, §6.3.18). */
  ackEchoesReserved:       { qemu: true,  arch: false },
  /** GBPA keeps reserved bits of an accepted update (§6.3.14). */
  rawGbpa:                 { qemu: true,  arch: false },
  /** STRTAB_BASE_CFG.FMT never goes back from two-level to linear (§6.3.24). */
  stickyTwoLevel:          { qemu: true,  arch: false },
  /** Base registers, CR2 and the stream table are writable while enabled; else the write is ignored (§6.3). */
  ungatedBases:            { qemu: true,  arch: false },
  /** Commands of features that are not there are consumed without effect; else CERROR_ILL (§4.1–§4.7). */
  absentCommandsConsumed:  { qemu: true,  arch: false },
  /** SSec is looked at in CFGI_STE and CFGI_CD forms only, not in PREFETCH, RESUME, STALL_TERM (§4.1.5). */
  ssecInCfgiOnly:          { qemu: true,  arch: false },
  /** With accel=on a stream table entry the host cannot take makes CFGI_STE illegal; else later traffic records it (§4.3.1). */
  badSteIsIll:             { qemu: true,  arch: false },
  /** No MSI at all: IDR0.MSI=0 and the IRQ_CFG registers are storage (§3.18). */
  noMsi:                   { qemu: true,  arch: false },
  /** A range invalidation with TG≠0 and NUM=SCALE=TTL=0 is accepted (§4.4.1). */
  emptyRangeAccepted:      { qemu: true,  arch: false },
  /** F_CD_FETCH has its address in the input-address field (§7.3.10). */
  cdFetchAddressInInput:   { qemu: true,  arch: false },
  /** CLASS, S2, RnW and IPA of records as QEMU fills them, SubstreamIDs never (§7.3). */
  qemuRecordFields:        { qemu: true,  arch: false },
  /** Page 1 is page 0 again; 8-byte accesses work on a few registers only; EVENTQ_IRQ_CFG reads 0. */
  qemuAccess:              { qemu: true,  arch: false },
  /** C_BAD_STREAMID is recorded whatever CR2.RECINVSID says (§6.3.12). */
  badStreamAlwaysRecorded: { qemu: true,  arch: false },
  /** A level-1 span N covers 2^N entries and beyond it is C_BAD_STE; else 2^(N-1) and C_BAD_STREAMID (§5.1). */
  wideSpan:                { qemu: true,  arch: false },
  /** S1CDMax≠0 is C_BAD_STE although SSIDSIZE is 0; else it is ignored then (§5.2). */
  cdMaxWithoutSsid:        { qemu: true,  arch: false },
  /** The event interrupt fires for every record; else when the queue was empty (§3.18). */
  interruptPerRecord:      { qemu: true,  arch: false },
  /** A reset leaves CR1, CR2, base addresses and interrupt registers; queue sizes are preset to 19; tables are linear again. */
  resetKeepsConfiguration: { qemu: true,  arch: false },
  /** Queue bases are 64-byte aligned; else to their size, at least 32 bytes (§6.3.26). */
  queueBase64:             { qemu: true,  arch: false },
  /** A stage-2-only input beyond the address size is not recorded. */
  silentInputSize:         { qemu: true,  arch: false },
  /** S2T0SZ is judged against the effective S2PS; else against OAS (§5.2). */
  inputByS2ps:             { qemu: true,  arch: false },
  /** STE.STRW is not looked at: everything is NS-EL1 (§5.2). */
  anyStreamWorld:          { qemu: true,  arch: false },
  /** S2HA, S2HD and S2PTW are not looked at; else judged against IDR0.HTTU, and PTW does what it says (§5.2). */
  stage2BitsIgnored:       { qemu: true,  arch: false },
  /** Pointers of level-1 descriptors and STEs keep bits above 51 and lead nowhere; else those are reserved (§5.1, §5.2). */
  wideTablePointer:        { qemu: true,  arch: false },
  /** A table whose APTable forbids the access faults there, before what it points to is looked at; else leaves decide. */
  tablePermission:         { qemu: true,  arch: false },
  /** Stage 1 does not tell privileged from unprivileged accesses: AP[2] alone decides. */
  anyPrivilege:            { qemu: true,  arch: false },
  /** Only leaves are held against the output size; a table beyond it is fetched. */
  anyTableAddress:         { qemu: true,  arch: false },
  /** Blocks are taken at every level above the last. */
  anyBlock:                { qemu: true,  arch: false },
  /** CD.TBI0 counts for both halves. */
  tbi0ForBoth:             { qemu: true,  arch: false },
  /** A leaf's access flag and permissions are judged before its output size; else after it (§7.3.22). */
  sizeLast:                { qemu: true,  arch: false },
  /** The contiguous hint of descriptors is not looked at; else it makes larger mappings where it is consistent. */
  noContiguous:            { qemu: true,  arch: false },
  /** S1ContextPtr beyond the output size is fetched; else it is illegal (§5.2). */
  anyContextPointer:       { qemu: true,  arch: false },
  /** S2T0SZ may leave no address bits for the start level. */
  shallowStart:            { qemu: true,  arch: false },
  /** Of concatenated stage-2 start tables only the first is looked at. */
  firstTableOnly:          { qemu: true,  arch: false },
} as const;

export type DeviationName = keyof typeof DEVIATIONS;
export type Smmuv3Deviations = Readonly<Record<DeviationName, boolean>>;
export type ProfileName = 'qemu-11.1' | 'arch';
export const PROFILES: readonly ProfileName[] = ['qemu-11.1', 'arch'];

/** The switches of a profile, with single rows changed by `override` (for tests and experiments). */
export function deviationsOf(profile: ProfileName, override: Partial<Smmuv3Deviations> = {}): Smmuv3Deviations {
  const column = profile === 'arch' ? 'arch' : 'qemu';
  const rows = Object.entries(DEVIATIONS).map(([name, row]) => [name, row[column]]);
  return { ...(Object.fromEntries(rows) as Smmuv3Deviations), ...override };
}
