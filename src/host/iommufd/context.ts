import type { UserMemory } from '../../ports/iommufd.ts';
import type { HostKernel } from '../kernel/kernel.ts';
import type { AccessObject } from './access.ts';
import type { IommufdDevice, IommufdGroups } from './device.ts';
import type { FaultQueue } from './fault-queue.ts';
import type { HwQueue } from './hw-queue.ts';
import type { Ioas } from './ioas/ioas.ts';
import type { PinnedRuns } from './ioas/pinned-runs.ts';
import { MmapTable } from './mmap.ts';
import type { Hwpt, NestedHwpt } from './nested-hwpt.ts';
import type { ForeignObject } from './object.ts';
import { ObjectTable } from './object-table.ts';
import type { PagingHwpt } from './paging-hwpt.ts';
import type { StreamVdevice } from './stream-vdevice.ts';
import type { Vdevice } from './vdevice.ts';
import type { VeventQueue } from './veventq.ts';
import type { Viommu } from './viommu.ts';

/** Everything that has an id in an iommufd. */
export type IommufdObject =
  | Ioas
  | PagingHwpt
  | NestedHwpt
  | IommufdDevice
  | FaultQueue
  | Viommu
  | Vdevice
  | StreamVdevice
  | VeventQueue
  | HwQueue
  | AccessObject
  | ForeignObject;

/** Copies the answer to the user. false: EFAULT, and what the verb made is taken back. */
export type Respond = () => boolean;
/** For callers whose answer is an object of their own: it cannot fail. */
export const respondAlways: Respond = () => true;

/** The state of one open /dev/iommu (`iommufd_ctx`). */
export class IommufdContext {
  readonly kernel: HostKernel;
  /** The address space of the process inside the verb: where IOAS_MAP's addresses point. */
  memory: UserMemory;
  readonly objects: ObjectTable<IommufdObject>;
  readonly mmaps: MmapTable;
  readonly groups: IommufdGroups = new Map();
  /** Doorbell pages of all devices of this context: the index is the page's place in every software MSI window. */
  readonly doorbells: number[] = [];
  /** HWPTs that attaching an IOAS made, in the order they were made: the first that suits is used again. */
  readonly automatic = new Map<Ioas, Set<PagingHwpt>>();
  /** Where the memory of an IOAS lies, for tables that are filled from its pins. */
  readonly pins = new Map<Ioas, PinnedRuns>();
  /** The IOAS of the VFIO compatibility calls. */
  vfioIoas: Ioas | null = null;
  /** OPTION RLIMIT_MODE. */
  rlimitMode = 0;
  /** Whether the owner may change RLIMIT_MODE (CAP_SYS_RESOURCE). */
  privileged: boolean;
  #holders = 1;

  constructor(kernel: HostKernel, memory: UserMemory, privileged: boolean) {
    this.kernel = kernel;
    this.objects = new ObjectTable(kernel.memory);
    this.mmaps = new MmapTable(kernel.memory);
    this.memory = memory;
    this.privileged = privileged;
  }

  /** An open file or a bound device keeps the context alive. */
  hold(): void {
    this.#holders++;
  }

  /** The last one out destroys everything that is left, leaves first. */
  drop(): void {
    if (--this.#holders > 0) return;
    for (let more = true; more; ) {
      more = false;
      for (const o of [...this.objects.objects()]) {
        if (o.users > 0 || this.objects.any(o.id) !== o) continue;
        this.objects.remove(o);
        more = true;
      }
    }
  }

  /** Whether anybody holds it still. */
  get alive(): boolean {
    return this.#holders > 0;
  }

  /** Publishes an object whose id was reserved, once its answer has been copied; else takes it back. */
  finish(object: IommufdObject, respond: Respond): boolean {
    if (respond()) {
      this.objects.publish(object);
      return true;
    }
    this.abort(object);
    return false;
  }

  /** Takes back an object that never became visible. */
  abort(object: IommufdObject): void {
    object.destroy();
    this.objects.release(object.id);
  }

  /** Publishes a HWPT that attaching an IOAS made. It goes away with its last attachment. */
  publishAutomatic(hwpt: PagingHwpt): void {
    hwpt.auto = true;
    const there = this.automatic.get(hwpt.ioas);
    if (there === undefined) this.automatic.set(hwpt.ioas, new Set([hwpt]));
    else there.add(hwpt);
    this.objects.publish(hwpt);
  }

  /** Gives up one use of a HWPT; an automatic one without users goes away. */
  putHwpt(hwpt: Hwpt): void {
    hwpt.users--;
    if (hwpt.kind !== 'hwpt_paging' || !hwpt.auto || hwpt.users > 0) return;
    const there = this.automatic.get(hwpt.ioas);
    there?.delete(hwpt);
    if (there?.size === 0) this.automatic.delete(hwpt.ioas);
    this.objects.remove(hwpt);
  }
}
