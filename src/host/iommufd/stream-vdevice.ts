import type { HostDevice } from '../kernel/driver.ts';
import type { IommufdDevice } from './device.ts';
import type { Viommu } from './viommu.ts';

/**
 * What a guest calls one stream of a device with several. Linux has vDEVICEs for whole devices only; this is one for a
 * single stream, so that two streams of a device may be in two vIOMMUs.
 */
export class StreamVdevice {
  readonly kind = 'stream_vdevice';
  id = 0;
  users = 0;
  readonly viommu: Viommu;
  readonly device: IommufdDevice;
  readonly stream: number;
  readonly vsid: number;

  /** The driver has taken the name already (`DriverViommu.streamInit`); `destroy` gives it back. */
  constructor(viommu: Viommu, device: IommufdDevice, stream: number, vsid: number) {
    this.viommu = viommu;
    this.device = device;
    this.stream = stream;
    this.vsid = vsid;
    viommu.users++;
    viommu.streamNames.add(vsid);
    device.streamVdevices ??= new Map();
    device.streamVdevices.set(stream, this);
  }

  get dev(): HostDevice {
    return this.device.dev;
  }

  destroy(): void {
    this.viommu.driver.streamDestroy?.(this.dev, this.stream, this.vsid);
    this.viommu.streamNames.delete(this.vsid);
    this.viommu.users--;
    this.device.streamVdevices?.delete(this.stream);
  }
}
