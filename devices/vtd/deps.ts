import type { HostVerbs } from '../../src/lib/uapi/host-verbs.ts';
import type { VfioDevice } from '../../src/ports/iommufd.ts';
import type { HostUpcalls } from '../../src/ports/upcalls.ts';

/** What a vVT-d has of the host: the VMM's side of the picture. */
export interface VtdHost {
  readonly verbs: HostVerbs;
  /** Null: linux-only. */
  readonly upcalls: HostUpcalls | null;
  /** The IOAS that maps guest RAM at its guest-physical addresses. */
  readonly ioasId: number;
  /** The VMM's virtual address of guest RAM at `gpa`; negative when no RAM is there. */
  userVa(gpa: number): bigint;
  /** Bytes of RAM from `gpa` to the end of its region; 0 when none is there. */
  roomAt(gpa: number): number;
  /** Bytes without RAM from `gpa` on (a positive multiple of 4096; 2^52 when none follows). */
  gapAt(gpa: number): number;
  /** IOAS_MAPs one fill may make; the rest waits for misses. VFIO's own limit is 65535. */
  readonly mapLimit: number;
}

/** A device of the VM behind this unit. */
export interface VtdFunction {
  /** Requester id as the guest sees it. */
  readonly rid: number;
  /** Guest requester ids of further streams of the same function (aliases); stream 0 is `rid`. */
  readonly aliases?: readonly number[];
  /** Bound to the iommufd of `VtdHost`. */
  readonly vfio: VfioDevice;
  /** `global`: each local PASID gets a twin from the unit's PASID space, for ENQCMD. Default: the guest's are the host's. */
  readonly pasids?: 'guest' | 'global';
  /** The function is a slice of `vfio`'s: its own requests carry this PASID, its PASIDs are virtual. */
  readonly slice?: number;
}
