export { MockDriver } from './drivers/mock/driver.ts';
export { MockCommands, type MockDeviceIds } from './drivers/mock/test-commands.ts';
export type { PageAllocator } from './drivers/page-allocator.ts';
export { type PoolMember, ShadowPool } from './drivers/shadow/pool.ts';
export type { CmdqvOptions } from './drivers/smmuv3/cmdqv.ts';
export type { PartialCount } from './drivers/smmuv3/commands.ts';
export { Smmuv3Driver, type Smmuv3DriverOptions } from './drivers/smmuv3/driver.ts';
export { VtdDriver, type VtdDriverOptions } from './drivers/vtd/driver.ts';
export type { Respond } from './iommufd/context.ts';
export { IommufdFile } from './iommufd/file.ts';
export { VfioFile } from './iommufd/vfio-device.ts';
export { type DeviceDescription, KernelDevice } from './kernel/device.ts';
export {
  type BlockedDomain,
  type DeviceControl,
  type DirtyOps,
  type DirtySink,
  type Domain,
  type DriverData,
  type DriverHwQueue,
  type DriverViommu,
  type HostDevice,
  type HwInfo,
  type HwQueueOps,
  type Invalidation,
  type IommuDriver,
  type KernelServices,
  MAP_PROT,
  type NestedDomain,
  type PageFault,
  type PagingDomain,
  type ReservedRegion,
  type Result,
  type StageCopy,
  type ViommuServices,
} from './kernel/driver.ts';
export { answerDriverData, copyDriverData } from './kernel/driver-data.ts';
export { HostKernel, type KernelDeps, type PhysicalBytes } from './kernel/kernel.ts';
export { type GoldenFailure, type GoldenResult, replayGolden } from './replay/golden.ts';
export { type GoldenOp, type GoldenSeedText, parseGolden } from './replay/golden-text.ts';
export { upcallsOf } from './upcalls/context-upcalls.ts';
export type { DriverUpcalls, UpcallDriver } from './upcalls/driver-upcalls.ts';
export { UpcallHub } from './upcalls/upcall-hub.ts';
