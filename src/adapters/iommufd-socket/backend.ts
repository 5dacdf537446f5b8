import { ViommuError } from '../../core/errors.ts';
import type { KernelDevice } from '../../host/device.ts';
import { MockDriver } from '../../host/drivers/mock/driver.ts';
import { MockTestIoctl } from '../../host/drivers/mock/test-ioctl.ts';
import type { TestIoctl } from '../../host/ioctl/iommufd-ioctl.ts';
import type { IommufdFile } from '../../host/iommufd.ts';
import { HostKernel } from '../../host/kernel.ts';
import { VirtualClock } from '../../lib/clock/virtual-clock.ts';
import { HostMemory } from '../../lib/memory/host-memory.ts';
import { MOCK_DEVICE_FLAG } from '../../spec/iommufd/selftest.ts';

/** The kernel a server runs, and the devices it offers as /dev/vfio/devices/NAME. */
export interface Backend {
  readonly kernel: HostKernel;
  readonly vfio: readonly KernelDevice[];
  /** IOMMU_TEST_CMD of an iommufd; null: this kernel has no test driver. */
  test(file: IommufdFile): TestIoctl | null;
}

export const BACKENDS = ['mock', 'smmuv3', 'vtd'] as const;

const VFIO_DEVICES = 4;

/** @throws ViommuError `E_USAGE` unknown name. */
export function makeBackend(name: string): Backend {
  const memory = new HostMemory();
  const kernel = new HostKernel({ memory, clock: new VirtualClock() });
  switch (name) {
    case 'mock': {
      const driver = new MockDriver(memory);
      kernel.addIommu(driver);
      const vfio = Array.from({ length: VFIO_DEVICES }, (_, i) => {
        const d = driver.describe(MOCK_DEVICE_FLAG.PASID);
        if (typeof d === 'number') throw new ViommuError('EINVAL', 'caller', 'mock device flags');
        return kernel.addDevice({ ...d, name: `vfio${i}` });
      });
      return { kernel, vfio, test: (file) => new MockTestIoctl(file, driver) };
    }
    default:
      throw new ViommuError('E_USAGE', 'caller', `--backend: expected ${BACKENDS.join(', ')}, found "${name}"`);
  }
}
