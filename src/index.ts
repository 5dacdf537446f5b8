export type { WordArray } from './core/bits.ts';
export { type Blame, type Code, type Fact, type Facts, hex, ViommuError } from './core/errors.ts';
export { RegisterFile, type RegisterSpec, type RegisterTable } from './core/registers.ts';
export { AccessGate, AccessNesting } from './lib/access/access-gate.ts';
export { VirtualClock } from './lib/clock/virtual-clock.ts';
export { type FailureCount, FailureInjector } from './lib/inject/failure-injector.ts';
export {
  FAILURE_KINDS,
  type FailureKind,
  type FailureOptions,
  parseFailureOptions,
} from './lib/inject/failure-options.ts';
export { FailNth, SeededFailures } from './lib/inject/failure-plans.ts';
export { type CommandFault, FaultyHw, type FaultyHwOptions } from './lib/inject/faulty-hw.ts';
export { FaultyMemory } from './lib/inject/faulty-memory.ts';
export { AddressSpace, ramBacking } from './lib/memory/address-space.ts';
export { HostMemory } from './lib/memory/host-memory.ts';
export { DRAINED, type PasidDrain } from './lib/pasid/pasid-drain.ts';
export { PasidHandle, PasidSpace } from './lib/pasid/pasid-space.ts';
export { type DeviationRows, type Deviations, PROFILES, type ProfileName } from './lib/profile/profile.ts';
export { parseQemuArgs, type QemuArgs, type QemuOption } from './lib/qemu-args/qemu-args.ts';
export type { StateOrigin } from './lib/saved/device-state.ts';
export type { Clock } from './ports/clock.ts';
export {
  ACCESS,
  AT,
  ATS,
  type AtsPort,
  DMA,
  type EndpointPort,
  type InterruptRemapPort,
  NO_PASID,
  type TranslatePort,
} from './ports/dma.ts';
export { FAILURE_STEP, type FailurePlan, type FailureSource, type FailureStep } from './ports/failures.ts';
export {
  HW_ERROR,
  type HwEvents,
  type HwPort,
  type HwRegisters,
  type VirtualQueueInterface,
  type VirtualQueuePort,
} from './ports/hw.ts';
export type {
  EventFd,
  FaultQueueAlloc,
  GetDirtyBitmap,
  GetHwInfo,
  HwptAlloc,
  HwptInvalidate,
  HwQueueAlloc,
  IoasAlloc,
  IoasAllowIovas,
  IoasCopy,
  IoasIovaRange,
  IoasIovaRanges,
  IoasMap,
  IoasMapFile,
  IoasUnmap,
  Iommufd,
  IommufdOption,
  PageFile,
  PinAccount,
  SetDirtyTracking,
  UserData,
  UserMemory,
  VdeviceAlloc,
  VeventqAlloc,
  VfioDevice,
  VfioIoas,
  ViommuAlloc,
} from './ports/iommufd.ts';
export type { InterruptPort } from './ports/irq.ts';
export type { Backing, Memory, MemoryWindow } from './ports/memory.ts';
export type { MmioDevice } from './ports/mmio.ts';
export type { AccessWork, PciFunction, PciWindow, Upstream } from './ports/pci.ts';
export type { Said, Tell } from './ports/tell.ts';
export type { HostUpcalls, ShadowTable, UpcallHandlers } from './ports/upcalls.ts';
export { E, errnoName } from './spec/iommufd/errno.ts';
