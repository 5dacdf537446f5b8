import type { HostDevice } from '../kernel/driver.ts';
import type { IommufdDevice } from './device.ts';
import type { Viommu } from './viommu.ts';

/** What a guest calls a device behind a vIOMMU. A device has at most one, in one vIOMMU. */
export class Vdevice {
  readonly kind = 'vdevice';
  id = 0;
  users = 0;
  readonly viommu: Viommu;
  readonly device: IommufdDevice;
  readonly virtId: bigint;

  /** The driver has taken the name already (`DriverViommu.vdeviceInit`); `destroy` gives it back. */
  constructor(viommu: Viommu, device: IommufdDevice, virtId: bigint) {
    this.viommu = viommu;
    this.device = device;
    this.virtId = virtId;
    viommu.users++;
    viommu.addVdevice(this);
    device.vdevice = this;
  }

  get dev(): HostDevice {
    return this.device.dev;
  }

  destroy(): void {
    this.viommu.driver.vdeviceDestroy(this.dev, this.virtId);
    this.viommu.removeVdevice(this);
    this.viommu.users--;
    this.device.vdevice = null;
  }
}
