import type { MachineQuotas } from '../../src/lib/limits/machine-limits.ts';
import type { FailureSource } from '../../src/ports/failures.ts';
import type { Iommufd, VfioDevice } from '../../src/ports/iommufd.ts';
import type { InterruptPort } from '../../src/ports/irq.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { Tell } from '../../src/ports/tell.ts';
import type { HostUpcalls } from '../../src/ports/upcalls.ts';
import type { Smmuv3Deviations } from './profile.ts';
import type { Smmuv3Properties } from './properties.ts';

/** Wired interrupt lines of the device, in QEMU's order; all are edges. */
export const LINE = { EVTQ: 0, PRIQ: 1, CMD_SYNC: 2, GERROR: 3 } as const;
/** Names of the lines, in the order of LINE. */
export const LINE_NAMES = ['evtq', 'priq', 'cmd_sync', 'gerror'] as const;

/** Everything a vSMMUv3 asks of the machine it lives in. */
export interface Smmuv3Deps {
  /** Name in `tell`; 'smmuv3' unless there are several. */
  readonly name?: string;
  /** Its properties, as QEMU spells them. */
  readonly properties: Smmuv3Properties;
  /** Rows of the deviation table that are set otherwise than the profile says. */
  readonly deviations?: Partial<Smmuv3Deviations>;
  /** Guest-physical space with its windows. */
  readonly memory: Memory;
  /** The VMM's open /dev/iommu. */
  readonly iommufd: Iommufd;
  /** IOAS in which the machine has all guest RAM (and the doorbell page) mapped. */
  readonly ioasId: number;
  /** What Linux does not offer; null is the switch `linux-only`. */
  readonly upcalls: HostUpcalls | null;
  /** Its wired lines (LINE) and its messages. */
  readonly irq: InterruptPort;
  /** Hears everything that happens; null: nobody does. */
  readonly tell: Tell | null;
  /**
   * The VMM's virtual address of a guest-physical one that DMA may reach (RAM, and the doorbell page), or -1n. Shadows
   * map these.
   */
  userVa(gpa: number): bigint;
  /** Bytes from `gpa` on whose virtual addresses are contiguous; 0 when `userVa` is -1n. */
  roomAt(gpa: number): number;
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
  /** Whether the access under way lies inside another one (a function's request); absent: none does. */
  readonly inner?: () => boolean;
  /**
   * Believes HWPT_INVALIDATE's count after a failure, as a naive VMM does. The kernel counts commands it never issued, so
   * invalidations are lost: only for showing that.
   */
  readonly trustPartialCount?: boolean;
}

/** A device behind this vSMMU. */
export interface AttachedDevice {
  /** StreamIDs as the guest knows them, in the order of the device's physical streams. */
  readonly sids: readonly number[];
  /** Bound to the iommufd, or bound here. */
  readonly vfio: VfioDevice;
  /**
   * The host's name of its isolation group: devices with the same one share one domain on the host. Default: it is alone in
   * its group.
   */
  readonly group?: string;
}
