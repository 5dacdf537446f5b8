import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { ACCESS, NO_PASID } from '../../src/ports/dma.ts';
import type { EventFd } from '../../src/ports/iommufd.ts';
import { PGFAULT_CODE, PGFAULT_FLAG, PGFAULT_PERM } from '../../src/spec/iommufd/uapi.ts';

/** Bytes of struct iommu_hwpt_pgfault and iommu_hwpt_page_response. */
const FAULT_BYTES = 40;
const ANSWER_BYTES = 8;
const RECORDS = 64;

/** One page request as the kernel delivers it. */
export interface HostPageRequest {
  readonly devId: number;
  /** NO_PASID: none. */
  readonly pasid: number;
  readonly group: number;
  readonly access: number;
  readonly lo: number;
  readonly hi: number;
  readonly last: boolean;
  /** What the kernel wants back in the answer. */
  readonly cookie: number;
}

/**
 * The page requests of a host without upcalls: iommufd's fault queue, read when it becomes readable and answered by
 * cookie. One per unit, shared by its nested HWPTs.
 */
export class HostPageRequests {
  readonly faultId: number;
  readonly #fd: EventFd;
  readonly #deliver: (f: HostPageRequest) => void;
  readonly #records = new Uint8Array(FAULT_BYTES * RECORDS);
  readonly #answer = new Uint8Array(ANSWER_BYTES);

  constructor(faultId: number, fd: EventFd, deliver: (f: HostPageRequest) => void) {
    this.faultId = faultId;
    this.#fd = fd;
    this.#deliver = deliver;
    fd.onReadable = () => this.#read();
  }

  /** @returns null when the host has no fault queue to give. */
  static open(verbs: HostVerbs, deliver: (f: HostPageRequest) => void): HostPageRequests | null {
    const queue = verbs.faultQueue();
    return typeof queue === 'number' ? null : new HostPageRequests(queue.id, queue.fd, deliver);
  }

  #read(): void {
    const d = new DataView(this.#records.buffer);
    for (;;) {
      const n = this.#fd.read(this.#records);
      if (n <= 0) return;
      for (let at = 0; at + FAULT_BYTES <= n; at += FAULT_BYTES) {
        const flags = d.getUint32(at, true);
        const perm = d.getUint32(at + 16, true);
        this.#deliver({
          devId: d.getUint32(at + 4, true),
          pasid: (flags & PGFAULT_FLAG.PASID_VALID) !== 0 ? d.getUint32(at + 8, true) : NO_PASID,
          group: d.getUint32(at + 12, true),
          access:
            ((perm & PGFAULT_PERM.READ) !== 0 ? ACCESS.READ : 0) |
            ((perm & PGFAULT_PERM.WRITE) !== 0 ? ACCESS.WRITE : 0) |
            ((perm & PGFAULT_PERM.EXEC) !== 0 ? ACCESS.EXEC : 0) |
            ((perm & PGFAULT_PERM.PRIV) !== 0 ? ACCESS.PRIV : 0),
          lo: d.getInt32(at + 24, true),
          hi: d.getInt32(at + 28, true),
          last: (flags & PGFAULT_FLAG.LAST_PAGE) !== 0,
          cookie: d.getUint32(at + 36, true),
        });
      }
    }
  }

  /** The kernel knows two answers; a response failure is Invalid to it. @returns 0 or -errno. */
  respond(cookie: number, code: number): VerbOutcome {
    const d = new DataView(this.#answer.buffer);
    d.setUint32(0, cookie, true);
    d.setUint32(4, code === 0 ? PGFAULT_CODE.SUCCESS : PGFAULT_CODE.INVALID, true);
    return Math.min(this.#fd.write(this.#answer), 0);
  }
}
