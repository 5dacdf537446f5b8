import { Vtd } from '../../../devices/vtd/device.ts';
import type { VtdDeviations } from '../../../devices/vtd/profile.ts';
import { vtdPropertiesOf } from '../../../devices/vtd/properties.ts';
import type { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import type { ProfileName } from '../../../src/lib/profile/profile.ts';
import { parseOption } from '../../../src/lib/qemu-args/qemu-args.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import { FakeHost, RAM_BYTES } from './fake-host.ts';
import { GuestDriver } from './guest-driver.ts';

export interface GuestOptions {
  readonly linuxOnly?: boolean;
  readonly ramBytes?: number;
  readonly pasids?: PasidSpace | undefined;
  readonly deviations?: Partial<VtdDeviations>;
}

/** A vVT-d on a fake host, with the accesses a driver makes. */
export class Guest {
  readonly host: FakeHost;
  readonly vtd: Vtd;
  readonly driver: GuestDriver;
  readonly out = new Int32Array(2);
  readonly w32: GuestDriver['w32'];
  readonly w64: GuestDriver['w64'];
  readonly r32: GuestDriver['r32'];
  readonly r64: GuestDriver['r64'];
  readonly store: GuestDriver['store'];
  readonly load: GuestDriver['load'];
  readonly queueOn: GuestDriver['queueOn'];
  readonly submit: GuestDriver['submit'];
  readonly translateOn: GuestDriver['translateOn'];
  readonly fault: GuestDriver['fault'];

  /** @param options properties in QEMU's words. */
  constructor(options = '', profile: ProfileName = 'qemu-11.1', o: GuestOptions = {}) {
    const { linuxOnly = false, ramBytes = RAM_BYTES, pasids, deviations = {} } = o;
    const host = new FakeHost(ramBytes);
    this.host = host;
    this.vtd = new Vtd({
      properties: vtdPropertiesOf(parseOption(`intel-iommu,${options}`, 'driver'), profile),
      deviations,
      memory: host.memory,
      irq: {
        pulse() {},
        level() {},
        message: (address, data) => host.messages.push({ address, data }) > 0,
      },
      iommufd: host.iommufd,
      upcalls: linuxOnly ? null : host.upcalls,
      ioasId: host.ramIoas,
      tell: null,
      fillMaps: 1000,
      ...(pasids === undefined ? {} : { pasids }),
      userVa: (gpa) => host.userVa(gpa),
      roomAt: (gpa) => host.roomAt(gpa),
      ram: () => [{ gpa: 0, bytes: ramBytes }],
    });
    const d = new GuestDriver(this.vtd, host.memory);
    this.driver = d;
    this.w32 = d.w32.bind(d);
    this.w64 = d.w64.bind(d);
    this.r32 = d.r32.bind(d);
    this.r64 = d.r64.bind(d);
    this.store = d.store.bind(d);
    this.load = d.load.bind(d);
    this.queueOn = d.queueOn.bind(d);
    this.submit = d.submit.bind(d);
    this.translateOn = d.translateOn.bind(d);
    this.fault = d.fault.bind(d);
  }
}

export const READ = ACCESS.READ;
export const WRITE = ACCESS.WRITE;
