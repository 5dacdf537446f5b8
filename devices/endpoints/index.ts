export { ACCEL, Accelerator, type AcceleratorOptions, DRAIN, QUEUE_MODE } from './accelerator.ts';
export { Atc } from './atc.ts';
export { type Descriptor, encodeDescriptor, WORK_FLAG, WORK_OP, WORK_STATUS } from './descriptor.ts';
export { DmaEngine, ENGINE, type EngineOptions } from './dma-engine.ts';
export { IommuTestdev, RESULT, TESTDEV } from './iommu-testdev.ts';
export { NvmeController } from './nvme/controller.ts';
export { type Disk, RamDisk } from './nvme/disk.ts';
export { Requester } from './requester.ts';
