import type { UserMemory } from '../../ports/iommufd.ts';
import type { IommuGroup } from '../kernel/group.ts';
import type { HostKernel } from '../kernel/kernel.ts';
import type { IommufdGroup } from './attach.ts';
import type { Hwpt } from './hwpt.ts';
import type { Ioas } from './ioas/ioas.ts';
import { MmapTable } from './mmap.ts';
import { type IommufdObject, ObjectTable } from './objects.ts';

/** Copies the answer to the user. false: EFAULT, and what the verb made is taken back. */
export type Respond = () => boolean;
export const respondAlways: Respond = () => true;

/** Doorbell pages one context can map, as many as the kernel's bitmap has bits. */
export const MAX_DOORBELLS = 64;

/** The state of one open /dev/iommu (`iommufd_ctx`). */
export class Context {
  readonly kernel: HostKernel;
  memory: UserMemory;
  readonly objects = new ObjectTable();
  readonly mmaps = new MmapTable();
  readonly groups = new Map<IommuGroup, IommufdGroup>();
  /** Doorbell pages of all devices of this context: the index is the page's place in every software MSI window. */
  readonly doorbells: number[] = [];
  /** The IOAS of the VFIO compatibility calls. */
  vfioIoas: Ioas | null = null;
  /** OPTION RLIMIT_MODE. */
  rlimitMode = 0;
  /** Whether the owner may change RLIMIT_MODE (CAP_SYS_RESOURCE). */
  readonly privileged: boolean;
  /** The HWPT at which the last successful attach or replace ended. */
  changedTo = 0;
  #holders = 1;

  constructor(kernel: HostKernel, memory: UserMemory, privileged: boolean) {
    this.kernel = kernel;
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

  /** Gives up one use of a HWPT; an automatic one without users goes away. */
  putHwpt(hwpt: Hwpt): void {
    hwpt.users--;
    if (hwpt.kind === 'hwpt_paging' && hwpt.auto && hwpt.users === 0) this.objects.remove(hwpt);
  }
}
