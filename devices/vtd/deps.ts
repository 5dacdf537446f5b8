import type { MachineQuotas } from '../../src/lib/limits/machine-limits.ts';
import type { PasidDrain } from '../../src/lib/pasid/pasid-drain.ts';
import type { PasidSpace } from '../../src/lib/pasid/pasid-space.ts';
import type { FailureSource } from '../../src/ports/failures.ts';
import type { Iommufd, VfioDevice } from '../../src/ports/iommufd.ts';
import type { InterruptPort } from '../../src/ports/irq.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { Tell } from '../../src/ports/tell.ts';
import type { HostUpcalls } from '../../src/ports/upcalls.ts';
import type { GlobalPasids } from './pasid-modes.ts';
import type { VtdDeviations } from './profile.ts';
import type { VtdProperties } from './properties.ts';

/** Everything a vVT-d asks of the machine it lives in. Addresses and lengths are bytes. */
export interface VtdDeps {
  /** Name in `tell`; 'vtd' unless there are several. */
  readonly name?: string;
  /** Its properties, as QEMU spells them. */
  readonly properties: VtdProperties;
  /** Single rows of the deviation table, away from the profile's. */
  readonly deviations?: Partial<VtdDeviations>;
  /** Guest-physical memory, windows included. */
  readonly memory: Memory;
  /** The VMM's /dev/iommu. */
  readonly iommufd: Iommufd;
  /** The IOAS that maps guest RAM at its guest-physical addresses. */
  readonly ioasId: number;
  /** What Linux does not offer; null is the switch `linux-only`. */
  readonly upcalls: HostUpcalls | null;
  /** Its messages. */
  readonly irq: InterruptPort;
  /** Hears everything that happens; null: nobody does. */
  readonly tell: Tell | null;
  /** The VMM's virtual address of guest RAM at `gpa`; negative when none is there. */
  userVa(gpa: number): bigint;
  /** Bytes of RAM from `gpa` to the end of its region; 0 when none is there. */
  roomAt(gpa: number): number;
  /** RAM regions, ascending. */
  ram(): readonly { readonly gpa: number; readonly bytes: number }[];
  /** Most IOAS_MAPs one eager fill makes (256 by default, without upcalls 65535, VFIO's own limit); misses do the rest. */
  readonly fillMaps?: number;
  /** What the machine allows, counted with everybody who uses it. Default: the default limits, for this device alone. */
  readonly quotas?: MachineQuotas;
  /** Says which records find their queue full although it is not (fault injection). Default: none. */
  readonly failures?: FailureSource;
  /** Runs an action soon, outside of any access: what one access may not cost goes on there. Default: at the next read. */
  readonly later?: (action: () => void) => void;
  /**
   * Runs an action of the device's own, that no access to it caused, as if it were one: nobody gets at its registers meanwhile.
   * Default: as it is.
   */
  readonly alone?: (action: () => void) => void;
  /** Runs an action after so many nanoseconds of the machine's time (`vcmdDelay`). Default: at once. @returns takes it back. */
  readonly after?: (delay: number, action: () => void) => () => void;
  /** Whether the access under way lies inside another one (a function's request); absent: none does. */
  readonly inner?: () => boolean;
  /** The host's PASIDs [min, max), for slices and functions in global mode; local PASIDs lie below `min`. */
  readonly pasids?: PasidSpace;
  /** Twins in global mode, when several units of a VM share them (the processor has one table per VM). */
  readonly globals?: GlobalPasids;
  /** What must be through before a PASID is given out again. Default: nothing is ever in flight. */
  readonly drain?: PasidDrain;
}

/** A device of the VM behind a vVT-d. */
export interface VtdFunction {
  /** Requester id as the guest sees it. */
  readonly rid: number;
  /** Guest requester ids of further streams of the same function (aliases); stream 0 is `rid`. */
  readonly aliases?: readonly number[];
  /** Bound to the iommufd of the unit. */
  readonly vfio: VfioDevice;
  /** `global`: each local PASID gets a twin from the unit's PASID space, for ENQCMD. Default: the guest's are the host's. */
  readonly pasids?: 'guest' | 'global';
  /** The function is a slice of `vfio`'s: its own requests carry this PASID, its PASIDs are virtual. */
  readonly slice?: number;
  /**
   * The host's name of its isolation group: devices with the same one share one domain on the host. Default: it is alone in
   * its group.
   */
  readonly group?: string;
}
