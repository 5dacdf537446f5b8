export { type DeviceDescription, KernelDevice } from './device.ts';
export type { DriverViommu, IommuDriver, NestedDomain, PagingDomain } from './driver.ts';
export { IommufdFile } from './iommufd.ts';
export { HostKernel, type KernelDeps } from './kernel.ts';
export { VfioFile } from './vfio-device.ts';
