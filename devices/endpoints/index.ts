export {
  AtsCapability,
  type AtsOptions,
  PasidCapability,
  type PasidOptions,
  PriCapability,
  type PriOptions,
} from '../../src/lib/pci/ats.ts';
export { type BarSpec, Bars } from '../../src/lib/pci/bars.ts';
export { ConfigSpace } from '../../src/lib/pci/config-space.ts';
export { bridgeHeader, endpointHeader, type PciIdentity } from '../../src/lib/pci/header.ts';
export { type InterruptOptions, type InterruptState, Interrupts } from '../../src/lib/pci/interrupts.ts';
export { Sriov, type SriovOptions } from '../../src/lib/pci/sriov.ts';
export {
  addAcs,
  addAer,
  addAri,
  addPcie,
  announcesError,
  type PcieOptions,
  receiveError,
  recordError,
} from '../../src/lib/pci/standard.ts';
export { ACCESS, AT, ATS, DMA, NO_PASID } from '../../src/ports/dma.ts';
export type { AccessWork, PciFunction, PciWindow, Upstream } from '../../src/ports/pci.ts';
export { ACCEL, Accelerator, type AcceleratorOptions, DRAIN, QUEUE_MODE } from './accelerator.ts';
export { Atc, type AtcState } from './atc.ts';
export {
  type Descriptor,
  decodeDescriptor,
  encodeDescriptor,
  MOST_BYTES,
  WORK_FLAG,
  WORK_OP,
  WORK_STATUS,
} from './descriptor.ts';
export { DmaEngine, ENGINE, ENGINE_CONTROL, ENGINE_STATE, type EngineOptions } from './dma-engine.ts';
export { IommuTestdev, RESULT, TESTDEV, type TestdevJob, type TestdevState } from './iommu-testdev.ts';
export { NvmeController, type NvmeControllerDeps, type NvmeState } from './nvme/controller.ts';
export { type Disk, RamDisk } from './nvme/disk.ts';
export { NvmeFunction, type NvmeOptions } from './nvme/function.ts';
export type { NvmeIdentity } from './nvme/identify.ts';
export type { NvmeWaiting } from './nvme/in-hand.ts';
export { StallableDma, type StalledStep, type Verdict } from './nvme/stalls.ts';
export type { DmaPath } from './nvme/transfer.ts';
export {
  type LateWrite,
  PAGE_FAULT,
  Requester,
  type RequesterOptions,
  type RequesterState,
} from './requester.ts';
export { type Behaviour, Shell, type ShellOptions, type ShellState } from './shell.ts';
export { type WorkTiming, WorkUnit, type WorkUnitState } from './work-unit.ts';
