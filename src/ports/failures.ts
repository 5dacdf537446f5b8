/**
 * The internal steps that can be made to fail. Those above `ID` are steps of the emulated host that fail for want of memory,
 * and are answered as the kernel answers a failed allocation (ENOMEM).
 */
export const FAILURE_STEP = {
  /** Pages for the kernel's own tables and queues. */
  KERNEL_PAGES: 'kernel pages',
  /** An id, and the object behind it. */
  OBJECT: 'object',
  DOMAIN: 'domain',
  /** A device, its group, what is remembered of an attachment. */
  DEVICE: 'device',
  GROUP: 'group',
  ATTACHMENT: 'attachment',
  /** What IOAS_MAP keeps: the description of the memory, and the piece of the address space. */
  PAGES: 'pages',
  AREA: 'area',
  /** A piece of user memory is pinned. */
  PIN: 'pin',
  /** A reserved region, an allow-list, a region to mmap. */
  RESERVED: 'reserved region',
  ALLOWED: 'allow-list',
  MMAP: 'mmap region',
  /** A page request or an event waits for its reader. */
  FAULT: 'page request',
  EVENT: 'event',
  /** A number that hardware tags translations with (VMID, ASID, domain id): none is left. The driver's own errno (ENOSPC, EBUSY). */
  ID: 'id',
  /** A command of the kernel's driver, which the physical IOMMU refuses as illegal. */
  COMMAND: 'command',
  /** A load that a physical IOMMU or a device model makes from memory (tables, queues): the bus aborts it. */
  FETCH: 'fetch',
  /** A record or page request for the guest finds its queue full. Records of stalls are never lost, and not asked about. */
  QUEUE: 'queue',
  /** The completion of a device-TLB invalidation never arrives, arrives late, or arrives twice. */
  COMPLETION_LOST: 'completion lost',
  COMPLETION_LATE: 'completion late',
  COMPLETION_DOUBLED: 'completion doubled',
} as const;
/** A step of `FAILURE_STEP`. */
export type FailureStep = (typeof FAILURE_STEP)[keyof typeof FAILURE_STEP];

/**
 * Decides which internal steps fail, so that every way back can be tried. It is asked once before each step. An operation of
 * the host one of whose steps fails leaves everything as it was.
 */
export interface FailurePlan {
  /** @returns true: the step fails. */
  fails(step: FailureStep): boolean;
}

/** Who carries the plan in force; null: nothing fails but for real. */
export interface FailureSource {
  /** The plan in force. */
  readonly failures: FailurePlan | null;
}
