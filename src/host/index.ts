export { MockDriver } from './drivers/mock/driver.ts';
export { MockCommands } from './drivers/mock/test-commands.ts';
export { Smmuv3Driver, type Smmuv3DriverOptions } from './drivers/smmuv3/driver.ts';
export { VtdDriver, type VtdDriverOptions } from './drivers/vtd/driver.ts';
export { IommufdFile } from './iommufd/file.ts';
export { VfioFile } from './iommufd/vfio-device.ts';
export { type DeviceDescription, KernelDevice } from './kernel/device.ts';
export type {
  DeviceControl,
  Domain,
  DriverViommu,
  HostDevice,
  IommuDriver,
  KernelServices,
  NestedDomain,
  PagingDomain,
  ReservedRegion,
  ViommuServices,
} from './kernel/driver.ts';
export { HostKernel, type KernelDeps } from './kernel/kernel.ts';
export { type GoldenFailure, type GoldenResult, replayGolden } from './replay/golden.ts';
export { parseGolden } from './replay/golden-text.ts';
