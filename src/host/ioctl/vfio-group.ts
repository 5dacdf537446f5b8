import { E } from '../../spec/iommufd/errno.ts';
import type { IommufdFile } from '../iommufd/file.ts';
import { newIoas } from '../iommufd/verbs/ioas.ts';

/**
 * An IOMMU group as VFIO hands it out: to one program as a whole (/dev/vfio/N), or its devices one by one (/dev/vfio/devices),
 * never both (`struct vfio_group`).
 */
export class VfioGroup {
  /** The number of its node below /dev/vfio. */
  readonly number: number;
  #opened = false;
  #devices = 0;
  #iommufd: IommufdFile | null = null;

  constructor(number: number) {
    this.number = number;
  }

  /** Opens the node. @returns 0, or -EBUSY: it is open, or a device of it is bound by itself. */
  open(): number {
    if (this.#opened || this.#devices > 0) return -E.BUSY;
    this.#opened = true;
    return 0;
  }
  /** The node and all devices that were opened through it are closed. */
  release(): void {
    this.unsetContainer();
    this.#opened = false;
  }

  /** A device is bound by itself. @returns false: the group is open. */
  blockForDevice(): boolean {
    if (this.#opened) return false;
    this.#devices++;
    return true;
  }
  unblock(): void {
    this.#devices--;
  }

  /** What its devices are attached to; null: no container is set. */
  get iommufd(): IommufdFile | null {
    return this.#iommufd;
  }

  /** VFIO_GROUP_SET_CONTAINER with an iommufd: that gets a compatibility IOAS. @returns 0, -EINVAL one is set, -ENOMEM. */
  setContainer(iommufd: IommufdFile): number {
    if (this.#iommufd !== null) return -E.INVAL;
    const { context } = iommufd;
    if (context.vfioIoas === null) {
      const ioas = newIoas(context);
      if (ioas === null) return -E.NOMEM;
      context.objects.publish(ioas);
      context.vfioIoas = ioas;
    }
    context.hold();
    this.#iommufd = iommufd;
    return 0;
  }

  /** @returns 0, or -EINVAL: none is set. */
  unsetContainer(): number {
    if (this.#iommufd === null) return -E.INVAL;
    this.#iommufd.context.drop();
    this.#iommufd = null;
    return 0;
  }
}
