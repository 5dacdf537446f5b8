import { E } from '../../spec/iommufd/errno.ts';
import {
  VFIO,
  VFIO_DEPENDENT_DEVICE,
  VFIO_HOT_RESET,
  VFIO_HOT_RESET_DEVID,
  VFIO_HOT_RESET_FLAG,
  VFIO_HOT_RESET_INFO,
} from '../../spec/iommufd/vfio.ts';
import type { Caller } from '../ioctl/caller.ts';

/** A function on the bus that is reset as a whole. */
export interface HotResetMember {
  /** Bus and devfn as software sees them. */
  readonly busDevfn: number;
  /** Number of its IOMMU group. */
  readonly group: number;
  /** How it is open: by its node, through its group, or not at all. */
  readonly open: 'cdev' | 'group' | null;
  /** Who holds it: compared only. Null: nobody. */
  readonly owner: object | null;
  /** Its id in the owner's iommufd. */
  readonly devId: number;
  /** Resets the function as a part of its bus. */
  reset(): void;
}

/** Hot resets of a bus: they reset every function on it, and so the caller has to hold them all (`vfio_pci_core.c`). */
export class VfioHotReset {
  /** The functions; each is added once. */
  readonly members: HotResetMember[] = [];

  /** VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and VFIO_DEVICE_PCI_HOT_RESET of one of them. */
  ioctl(by: HotResetMember, request: number, arg: bigint, caller: Caller): number {
    return request === VFIO.DEVICE_PCI_HOT_RESET ? this.#reset(by, arg, caller) : this.#info(by, arg, caller);
  }

  /** @returns 0; -EFAULT; -EINVAL too short; -ENOSPC no room for all of them, and the count says how many there are. */
  #info(by: HotResetMember, arg: bigint, caller: Caller): number {
    const head = new Uint8Array(VFIO_HOT_RESET_INFO.bytes);
    if (!caller.read(arg, head)) return -E.FAULT;
    const { argsz } = VFIO_HOT_RESET_INFO.decode(head);
    if (argsz < head.length) return -E.INVAL;
    const room = Math.floor((argsz - head.length) / VFIO_DEPENDENT_DEVICE.bytes);
    const ids = by.open === 'cdev';
    const owned = this.members.every((m) => m.owner === by.owner);
    const flags = ids ? VFIO_HOT_RESET_FLAG.DEV_ID | (owned ? VFIO_HOT_RESET_FLAG.DEV_ID_OWNED : 0) : 0;
    for (const [i, m] of this.members.slice(0, room).entries()) {
      const devId = m.owner === by.owner ? m.devId : VFIO_HOT_RESET_DEVID.NOT_OWNED;
      const one = VFIO_DEPENDENT_DEVICE.encode({ id: ids ? devId : m.group, segment: 0, busDevfn: m.busDevfn });
      const at = arg + BigInt(head.length + i * VFIO_DEPENDENT_DEVICE.bytes);
      if (!caller.write(at, one)) return -E.FAULT;
    }
    const out = VFIO_HOT_RESET_INFO.encode({ argsz, flags, count: this.members.length });
    if (!caller.write(arg, out)) return -E.FAULT;
    return this.members.length > room ? -E.NOSPC : 0;
  }

  /**
   * A device that was opened by its node is reset by whoever holds all of the bus in one iommufd. Through groups each group's
   * descriptor has to be named: not here. @returns 0; -EFAULT; -EINVAL.
   */
  #reset(by: HotResetMember, arg: bigint, caller: Caller): number {
    const head = new Uint8Array(VFIO_HOT_RESET.bytes);
    if (!caller.read(arg, head)) return -E.FAULT;
    const { argsz, flags, count } = VFIO_HOT_RESET.decode(head);
    if (argsz < head.length || flags !== 0) return -E.INVAL;
    if (by.open !== 'cdev' || count !== 0) return -E.INVAL;
    if (this.members.some((m) => m.owner !== by.owner)) return -E.INVAL;
    for (const m of this.members) m.reset();
    return 0;
  }
}
