import { Undo } from '../../core/undo.ts';
import { NO_PASID } from '../../ports/dma.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { BlockedDomain, Domain, HostDevice } from './driver.ts';

/** What a group needs of its members beyond what drivers know of them. */
export interface GroupMember extends HostDevice {
  /** Host-physical page of the interrupt doorbell the device writes to; -1: none. */
  readonly msiDoorbell: number;
}

/**
 * An IOMMU group: the devices that cannot be told apart or isolated from each other. The IOMMU core attaches one domain
 * per group and PASID slot, to every device of it (drivers/iommu/iommu.c).
 */
export class IommuGroup {
  /** What the kernel knows the group by. */
  readonly key: string;
  readonly devices: GroupMember[] = [];
  /** RID domain of the whole group. */
  domain: Domain;
  readonly pasids = new Map<number, Domain>();
  /** The iommufd context that claimed DMA ownership, and how many of its bound devices hold the claim. */
  owner: object | null = null;
  ownerCount = 0;
  /** A kernel driver uses the group's DMA (EBUSY at bind). */
  kernelUse = false;
  /** A device of the group is being reset: attach, replace and PASID operations answer EBUSY. */
  resetting = false;
  readonly #blocked: BlockedDomain;
  /** Devices that joined while the group's domain could not take them yet (a nested one wants their vDEVICE): blocked. */
  #behind: Set<HostDevice> | null = null;
  /** Devices whose streams are attached one by one: what the group is attached to does not concern them. */
  #apart: Set<HostDevice> | null = null;

  constructor(key: string, blocked: BlockedDomain) {
    this.key = key;
    this.#blocked = blocked;
    this.domain = blocked;
  }

  /**
   * A device appears in the group (hot-plug): what the group is attached to, it is attached to (`__iommu_probe_device`).
   * A domain that cannot take it yet leaves it blocked. @returns 0, or -ENOMEM and the device is not in the group.
   */
  join(dev: GroupMember): number {
    if (this.domain === this.#blocked && this.pasids.size === 0) {
      this.devices.push(dev);
      return 0;
    }
    const undo = new Undo();
    const attach = (domain: Domain, pasid: number, old: Domain | null): number => {
      const r = domain.attach(dev, pasid, old);
      if (r === 0) undo.add(() => this.#blocked.attach(dev, pasid, domain, true));
      return r;
    };
    let r = this.domain === this.#blocked ? 0 : attach(this.domain, NO_PASID, this.#blocked);
    const behind = r !== 0;
    for (const [pasid, domain] of this.pasids) {
      if (r !== -E.NOMEM && dev.maxPasids > pasid) r = attach(domain, pasid, null);
    }
    if (r === -E.NOMEM) {
      undo.run();
      return r;
    }
    this.devices.push(dev);
    if (behind) this.#setBehind(dev);
    return 0;
  }

  /** A device goes: what was attached to it has been taken away by the driver. */
  leave(dev: GroupMember): void {
    this.devices.splice(this.devices.indexOf(dev), 1);
    this.#behind?.delete(dev);
    this.#apart?.delete(dev);
  }

  isApart(dev: HostDevice): boolean {
    return this.#apart?.has(dev) === true;
  }

  #isBehind(dev: HostDevice): boolean {
    return this.#behind?.has(dev) === true;
  }

  #setBehind(dev: HostDevice): void {
    this.#behind ??= new Set();
    this.#behind.add(dev);
  }

  /** The device's streams are attached one by one from now on; as a whole it is blocked. @returns 0 or -errno. */
  setApart(dev: GroupMember): number {
    if (this.isApart(dev)) return 0;
    let r = 0;
    if (this.domain !== this.#blocked && !this.#isBehind(dev)) r = this.#blocked.attach(dev, NO_PASID, this.domain);
    for (const [pasid, domain] of this.pasids) {
      if (dev.maxPasids > 0) r = this.#blocked.attach(dev, pasid, domain) || r;
    }
    this.#behind?.delete(dev);
    this.#apart ??= new Set();
    this.#apart.add(dev);
    return r;
  }

  /** The device is one with its group again. What the group has and the device cannot take leaves it blocked there. */
  rejoin(dev: GroupMember): void {
    if (this.#apart?.delete(dev) !== true || !this.devices.includes(dev)) return;
    const behind = this.domain !== this.#blocked && this.domain.attach(dev, NO_PASID, this.#blocked) !== 0;
    if (behind) this.#setBehind(dev);
    // As at `join`: a PASID the device cannot take stays blocked.
    for (const [pasid, domain] of this.pasids) if (dev.maxPasids > pasid) domain.attach(dev, pasid, null);
  }

  /** The device is attached to what its group has already. @returns 0 or -errno. */
  catchUp(dev: GroupMember): number {
    if (!this.#isBehind(dev)) return 0;
    const r = this.domain.attach(dev, NO_PASID, this.#blocked);
    if (r === 0) this.#behind?.delete(dev);
    return r;
  }

  #from(dev: GroupMember, old: Domain): Domain {
    return this.#isBehind(dev) ? this.#blocked : old;
  }

  /** `iommu_device_claim_dma_owner`. @returns 0, -EPERM claimed by another context, -EBUSY in kernel use. */
  claim(owner: object): number {
    if (this.ownerCount > 0) {
      if (this.owner !== owner) return -E.PERM;
      this.ownerCount++;
      return 0;
    }
    if (this.kernelUse) return -E.BUSY;
    this.owner = owner;
    this.ownerCount = 1;
    return 0;
  }

  /** Gives one claim back. */
  release(): void {
    if (--this.ownerCount === 0) this.owner = null;
  }

  /** A device that `domain` took already goes back to where it was; if even that fails it is blocked, as one that is behind. */
  #back(dev: GroupMember, domain: Domain, old: Domain): void {
    if (this.#from(dev, old).attach(dev, NO_PASID, domain) === 0) return;
    this.#blocked.attach(dev, NO_PASID, domain);
    this.#setBehind(dev);
  }

  /** Moves the RID of every device to `domain`; on failure those already moved go back. */
  setDomain(domain: Domain): number {
    if (this.resetting) return -E.BUSY;
    const old = this.domain;
    if (old === domain) return 0;
    for (let i = 0; i < this.devices.length; i++) {
      const dev = this.devices[i]!;
      const r = this.isApart(dev) ? 0 : domain.attach(dev, NO_PASID, this.#from(dev, old));
      if (r === 0) continue;
      while (--i >= 0) if (!this.isApart(this.devices[i]!)) this.#back(this.devices[i]!, domain, old);
      return r;
    }
    this.#behind = null;
    this.domain = domain;
    return 0;
  }

  /** Detaches the RID: everything it does is blocked from now on. Cannot fail. @param undo the attach is taken back. */
  block(blocked: BlockedDomain, undo = false): void {
    const old = this.domain;
    if (old === blocked) return;
    for (const d of this.devices) {
      if (!this.#isBehind(d) && !this.isApart(d)) blocked.attach(d, NO_PASID, old, undo);
    }
    this.#behind = null;
    this.domain = blocked;
  }

  /**
   * `iommu_attach_device_pasid` (nothing may be there) and `iommu_replace_device_pasid` (something must be).
   * Devices without PASID support are skipped.
   */
  setPasid(domain: Domain, pasid: number, replace: boolean): number {
    if (!domain.pasidCapable) return -E.OPNOTSUPP;
    if (this.resetting) return -E.BUSY;
    for (const d of this.devices) {
      // PASID 0 belongs to the RID of such a device; a device with PASIDs cannot send one beyond its width.
      if (d.maxPasids > 0 && pasid >= d.maxPasids) return -E.INVAL;
    }
    const old = this.pasids.get(pasid) ?? null;
    if (!replace && old !== null) return -E.BUSY;
    if (replace && old === null) return -E.INVAL;
    if (old === domain) return 0;
    for (let i = 0; i < this.devices.length; i++) {
      const d = this.devices[i]!;
      if (d.maxPasids === 0 || this.isApart(d)) continue;
      const r = domain.attach(d, pasid, old);
      if (r === 0) continue;
      while (--i >= 0) {
        const moved = this.devices[i]!;
        if (moved.maxPasids > 0 && !this.isApart(moved)) (old ?? moved.iommu.blocked).attach(moved, pasid, domain);
      }
      return r;
    }
    this.pasids.set(pasid, domain);
    return 0;
  }

  /** Detaches a PASID: it is blocked from now on. Cannot fail. @param undo the attach is taken back. */
  clearPasid(pasid: number, undo = false): void {
    const old = this.pasids.get(pasid);
    if (old === undefined) return;
    for (const d of this.devices) {
      if (d.maxPasids > 0 && !this.isApart(d)) d.iommu.blocked.attach(d, pasid, old, undo);
    }
    this.pasids.delete(pasid);
  }
}
