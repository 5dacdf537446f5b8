import type { HostMemory } from '../../../lib/memory/host-memory.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { MOCK, MOCK_DEVICE_FLAG, MOCK_PAGETABLE } from '../../../spec/iommufd/selftest.ts';
import { HWPT_FLAG } from '../../../spec/iommufd/uapi.ts';
import type { DeviceDescription } from '../../kernel/device.ts';
import type {
  BlockedDomain,
  DriverData,
  DriverViommu,
  HostDevice,
  HwInfo,
  IommuDriver,
  NestedDomain,
  PagingDomain,
  ReservedRegion,
  Result,
  ViommuServices,
} from '../../kernel/driver.ts';
import { MockBlocked, type MockDeviceState, MockNested, MockPaging } from './domains.ts';
import { MockViommu, readHwptData } from './viommu.ts';

/** The IOMMU of the kernel's iommufd selftest: no hardware behind it, only the core's rules and a page table of runs. */
export class MockDriver implements IommuDriver {
  readonly name = 'mock';
  readonly driver = 'mock';
  readonly enforcesCoherency = false;
  readonly userPasidTable = true;
  readonly blocked: BlockedDomain;
  readonly #memory: HostMemory;
  readonly #states = new Map<number, MockDeviceState>();
  #created = 0;
  #nextFlags = 0;

  readonly #dirtyUnit: number;

  /** @param dirtyUnit bytes that become dirty together: an entry (Linux 7.2), or a page of the host (7.3). */
  constructor(memory: HostMemory, dirtyUnit: number = MOCK.PAGE) {
    this.#memory = memory;
    this.#dirtyUnit = dirtyUnit;
    this.blocked = new MockBlocked(this);
  }

  probe(): void {}

  /** Describes a new mock device for HostKernel.addDevice. @param flags MOCK_DEVICE_FLAG bits. @returns -EINVAL: unknown flag. */
  describe(flags: number): DeviceDescription | number {
    if ((flags & ~(MOCK_DEVICE_FLAG.NO_DIRTY | MOCK_DEVICE_FLAG.PASID)) !== 0) return -E.INVAL;
    this.#nextFlags = flags;
    const n = this.#created++;
    const maxPasids = (flags & MOCK_DEVICE_FLAG.PASID) !== 0 ? 2 ** MOCK.PASID_WIDTH : 1;
    return { name: `iommufd_mock${n}`, streams: [n], iommu: this, maxPasids };
  }

  addDevice(dev: HostDevice): number {
    this.#states.set(dev.index, {
      flags: this.#nextFlags,
      cache: new Uint32Array(MOCK.WORDS).fill(MOCK.DEVICE_CACHE),
      viommu: null,
      virtId: 0n,
      pasidFails: false,
    });
    return 0;
  }
  /** A mock device goes. */
  removeDevice(dev: HostDevice): void {
    this.#states.delete(dev.index);
  }
  /** @internal */
  state(dev: HostDevice): MockDeviceState {
    return this.#states.get(dev.index)!;
  }

  hwInfo(_dev: HostDevice, type: number): HwInfo | null {
    if (type !== 0 && type !== MOCK.HW_INFO) return null;
    const data = new Uint8Array(8);
    new DataView(data.buffer).setUint32(4, MOCK.HW_INFO_REG, true);
    return { type: MOCK.HW_INFO, data };
  }
  dirtyCapable(dev: HostDevice): boolean {
    return (this.state(dev).flags & MOCK_DEVICE_FLAG.NO_DIRTY) === 0;
  }
  atsCapable(): boolean {
    return false;
  }
  reservedRegions(): readonly ReservedRegion[] {
    return [];
  }

  allocPaging(dev: HostDevice, flags: number, data: DriverData | null): Result<PagingDomain> {
    const dirty = (flags & HWPT_FLAG.DIRTY_TRACKING) !== 0;
    if (dirty && !this.dirtyCapable(dev)) return -E.OPNOTSUPP;
    const blob = new Uint32Array(2);
    if (data !== null) {
      const r = readHwptData(data, blob);
      if (r !== 0) return r;
    }
    const kind = blob[1]!;
    if (kind !== MOCK_PAGETABLE.DEFAULT && kind !== MOCK_PAGETABLE.HUGE) return -E.OPNOTSUPP;
    const parent = (flags & HWPT_FLAG.NEST_PARENT) !== 0;
    const huge = kind === MOCK_PAGETABLE.HUGE;
    return new MockPaging(this, { nestParent: parent, dirty, huge, dirtyUnit: this.#dirtyUnit });
  }

  allocNested(_dev: HostDevice, parent: PagingDomain, _flags: number, data: DriverData): Result<NestedDomain> {
    const blob = new Uint32Array(2);
    const r = readHwptData(data, blob);
    return r !== 0 ? r : new MockNested(this, { parent, viommu: null, iotlb: blob[0]! });
  }

  viommuSupported(_dev: HostDevice, type: number): boolean {
    return type === MOCK.VIOMMU;
  }
  viommuInit(
    _dev: HostDevice,
    _type: number,
    parent: PagingDomain,
    data: DriverData | null,
    services: ViommuServices,
  ): Result<DriverViommu> {
    const viommu = new MockViommu({ owner: this, parent, services, memory: this.#memory });
    const r = data === null ? 0 : viommu.loopBack(data);
    if (r === 0) return viommu;
    viommu.destroy();
    return r;
  }

  pageResponse(): void {}
}
