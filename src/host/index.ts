export { type DeviceDescription, KernelDevice } from './device.ts';
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
} from './driver.ts';
export { MockDriver } from './drivers/mock/driver.ts';
export { MockCommands } from './drivers/mock/test-commands.ts';
export { Smmuv3Driver, type Smmuv3DriverOptions } from './drivers/smmuv3/driver.ts';
export { VtdDriver, type VtdDriverOptions } from './drivers/vtd/driver.ts';
export { IommufdFile } from './iommufd.ts';
export { HostKernel, type KernelDeps } from './kernel.ts';
export { type GoldenFailure, type GoldenResult, parseGolden, replayGolden } from './replay/golden.ts';
export { VfioFile } from './vfio-device.ts';
