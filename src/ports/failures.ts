/** The internal steps of the emulated host that can fail for want of memory. */
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
} as const;
/** A step of `FAILURE_STEP`. */
export type FailureStep = (typeof FAILURE_STEP)[keyof typeof FAILURE_STEP];

/**
 * Decides which internal steps of the host fail, so that every way back can be tried. It is asked once before each step;
 * a step that fails is answered as the kernel answers a failed allocation (ENOMEM), and the operation it belongs to must
 * leave everything as it was.
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
