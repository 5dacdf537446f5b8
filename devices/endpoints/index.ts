export { Accelerator } from './accelerator.ts';
export { Atc } from './atc.ts';
export { DmaEngine } from './dma-engine.ts';
export { IommuTestdev, RESULT, TESTDEV } from './iommu-testdev.ts';
export { NvmeController } from './nvme/controller.ts';
export { type Disk, RamDisk } from './nvme/disk.ts';
export { Requester } from './requester.ts';
