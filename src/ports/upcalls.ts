/**
 * The way from the host back to the device models: first uses of streams, misses in shadowed second stages, faults and page
 * requests arrive through it; beside them stand the few verbs that a model can offer and Linux does not, one named entry
 * each. Everything else a device does to the host goes through `ports/iommufd`.
 *
 * A machine has upcalls by default. In its other mode, `linuxOnly: true`, they are left away: the drivers then do what
 * Linux does and nothing else (faults arrive in vEVENTQs and fault queues only, nothing is configured on first use, nothing
 * is shadowed on demand). A test per entry shows what the guest loses then.
 */
export interface HostUpcalls {
  /** The device model of one vIOMMU instance registers for the streams of `devId`s it serves. @returns takes it back. */
  serve(devIds: readonly number[], handlers: UpcallHandlers): () => void;
  /**
   * Invalidation completions outstanding for work a device of this listener asked for. 0 with zero latency. While it is
   * not 0, a guest's CMD_SYNC/WAIT must not complete (Linux blocks in the ioctl instead; a model cannot).
   */
  outstanding(handlers: UpcallHandlers): number;
  /**
   * The unit was reset: what is outstanding for this listener counts no longer, and it hears neither of its end nor of its
   * errors. Absent: nothing is ever outstanding.
   */
  abandon?(handlers: UpcallHandlers): void;
  /**
   * Whether the units behind this listener's devices have forgotten all that the host asked them to; what one refused is asked
   * for again here. Linux's DETACH says nothing of it. While it is not 0, something detached or unmapped may still be in use,
   * and a guest's CMD_SYNC/WAIT must not complete. Absent: units refuse nothing.
   * @returns 0 or -EIO.
   */
  confirm?(handlers: UpcallHandlers): number;
  /**
   * A vDEVICE for one stream of a device with several StreamIDs (Linux 7.2: EOPNOTSUPP at VDEVICE_ALLOC). Two streams of a
   * device may be in two vIOMMUs, because the guest may give them different VMIDs or second stages.
   * @param stream index of the stream in the device. @param vsid its StreamID as the guest knows it.
   * @returns id of an object that DESTROY takes back, or -errno (the name or the stream is taken: EEXIST; the device is
   *   attached as a whole: EBUSY; the driver has no such names: EOPNOTSUPP).
   */
  streamVdevice(viommuId: number, devId: number, stream: number, vsid: number): number;
  /**
   * Attaches a HWPT to one stream of a device that is attached to nothing as a whole; the attachment holds the HWPT (DESTROY:
   * EBUSY). A stage 1 of the guest needs the stream's `streamVdevice` in its vIOMMU (ENOENT).
   * @param hwptId 0: the stream is detached, and the hardware asks on its next use (`onStreamMiss`).
   * @param pasid one PASID of the stream, where the host owns the PASID table; absent or NO_PASID: its other requests.
   * @returns 0 or -errno, and then what was attached still is.
   */
  attachStream(devId: number, stream: number, hwptId: number, pasid?: number): number;
  /** Which host-physical stage 2 misses of this HWPT come back as `onStageTwoMiss` (a shadow filled on demand). */
  shadow(hwptId: number, on: boolean): number;
  /**
   * The table of a new HWPT over an empty IOAS, to be filled straight from the memory that another IOAS maps; to be called
   * before the HWPT is used. With Linux's verbs alone every piece would be an area of its own (IOAS_MAP, IOAS_UNMAP). Absent:
   * the host does not offer it. It goes with the HWPT; DESTROY of the memory's IOAS is -EBUSY until then.
   * @param ramIoasId the IOAS that maps guest RAM where the guest sees it.
   * @returns the table, or -errno (no such object: ENOENT; the HWPT is in use: EBUSY; its driver cannot: EOPNOTSUPP).
   */
  shadowTable?(hwptId: number, ramIoasId: number): ShadowTable | number;
  /**
   * Answers a page request or a stall that arrived through `onPageRequest`/`onFault`.
   * @param code 0 success/retry, 1 invalid/terminate, 15 failure/abort. @param stream index of the stream that waits, since
   *   two streams of a device may use one group; absent: whichever does. @returns 0 or -errno (unknown group: EINVAL).
   */
  respond(devId: number, pasid: number, group: number, code: number, stall: boolean, stream?: number): number;
  /**
   * Ends every stalled transaction of a stream with an abort (CMD_STALL_TERM), also those the hardware has no STAG for and has
   * not reported. Absent: the hardware does not stall. @returns 0 or -errno.
   */
  terminateStalls?(devId: number, stream: number): number;
  /**
   * A PASID that is attached to nothing stays silent (on) while what is still on its way drains: its entry is not present
   * and has fault reporting off. Linux does that only for exiting processes. The next attach ends it.
   * @returns 0; -EOPNOTSUPP: the guest owns the PASID table; -EBUSY: something is attached; -EINVAL: no such PASID; -ENOMEM.
   */
  quiet?(devId: number, pasid: number, on: boolean): number;
  /**
   * A guest's own device-TLB invalidation (VT-d: Linux has no verb for it and invalidates by itself with every nested
   * invalidation and unmap). Encoding as on the bus: S at bit 11 of `lo`. `pasid` NO_PASID: without.
   * @param stream index of the stream whose requester id it goes to; absent: to each of the device's.
   * @returns 0 or -errno; completions count in `outstanding`.
   */
  invalidateDeviceTlb?(devId: number, pasid: number, lo: number, hi: number, global: boolean, stream?: number): number;
}

/** What a leaf of a `ShadowTable` forbids beside what it does not allow: execution by accesses of one privilege (SMMUv3 XN[1:0]). */
export const SHADOW_NEVER = { EXEC_UNPRIV: 64, EXEC_PRIV: 128 } as const;

/**
 * The table of a second stage that repeats one of the guest's (see `HostUpcalls.shadowTable`). It is like a TLB: the host may
 * empty it when it needs its pages, when guest RAM goes, or when a region is reserved, and what is gone comes back with the
 * next miss. Pages count 4 KiB. A call that changes it returns when every cache below has forgotten what went.
 */
export interface ShadowTable {
  /** 4 KiB pages its tables occupy now. */
  readonly pages: number;
  /** ACCESS.READ, ACCESS.WRITE and SHADOW_NEVER bits of what is mapped at `page`; 0: nothing is. */
  perm(page: number): number;
  /**
   * Maps `page`, where nothing is, to guest-physical page `gpa`, and as much around it as one table holds: pages [first, end)
   * follow each other on both sides. @param perm ACCESS.READ, ACCESS.WRITE and SHADOW_NEVER
   *   bits, as far as leaves can say them; memory that cannot be written is readable.
   * @returns pages mapped from `page` on, or -errno: no memory of the guest's there EFAULT; the page is reserved, or leaves
   *   of this kind are not possible, EINVAL; beyond the hardware's addresses ERANGE; no page for a table ENOMEM; EIO.
   */
  map(page: number, gpa: number, first: number, end: number, perm: number): number;
  /** Takes [page, page + pages) away. @returns 0 or -errno: some cache may still know it. */
  unmap(page: number, pages: number): number;
  /** Takes everything away, in constant time. @returns see `unmap`. */
  clear(): number;
}

/**
 * What a device model answers to its host. Every call is synchronous, in the middle of a request. An entry it leaves out is
 * treated as if nobody listened.
 */
export interface UpcallHandlers {
  /** First use of a stream without configuration. @returns true: configured now, look again. */
  onStreamMiss?(devId: number, stream: number, pasid: number): boolean;
  /**
   * A miss in a stage 2 declared with `shadow`. `lo`,`hi`: the request's input address.
   * @returns true: mapped now, walk again; false: it faults.
   */
  onStageTwoMiss?(
    devId: number,
    stream: number,
    pasid: number,
    ipa: number,
    access: number,
    lo: number,
    hi: number,
  ): boolean;
  /**
   * Every hardware fault, as the hardware wrote it (SMMUv3 8 words, VT-d 4); ids are physical; `stream` is the index in the
   * device. `ats`: see `HwEvents.fault`; such a record is the guest's if its own CR2.REC_CFG_ATS asks for it.
   */
  onFault?(devId: number, stream: number, record: Int32Array, ats?: boolean): void;
  /** Page requests (SMMUv3: Linux denies them all; VT-d: fault queue of iommufd). Record as the hardware wrote it. */
  onPageRequest?(devId: number, stream: number, record: Int32Array): boolean;
  /**
   * A late queue or ATS error of an invalidation that was already accepted: HW_ERROR. `stream`: whose it was; `pasid`: the
   * host's PASID it was for; absent or NO_PASID: without one, or that is not known. The device may have gone since.
   */
  onInvalidateError?(devId: number, error: number, stream: number, pasid?: number): void;
  /** Outstanding completions went to 0. */
  onDrained?(): void;
  /** Invalidations whose answers are missing became more (1) or fewer (-1). */
  onAwaited?(change: number): void;
}
