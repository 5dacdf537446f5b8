export {
  MACHINE_LIMITS,
  type MachineLimits,
  type MachineQuotas,
  type MachineUsage,
  machineLimits,
  Quota,
  type QuotaUse,
} from '../lib/limits/machine-limits.ts';
export type { PasidManagement } from '../lib/pasid/pasid-management.ts';
export { EndpointRelay, HwRelay } from './hw-relay.ts';
export { InterruptQueue, type InterruptSink } from './interrupt-queue.ts';
export type { Emulator, MachinePlan, MakeUnit } from './machine-plan.ts';
export { type MachineEvents, MachineObserver } from './observer.ts';
export { type Grace, PasidBindings, type PasidUser, type Routing } from './pasid/bindings.ts';
export { CpuPasidTable, ENQUEUE, type EnqueueTarget } from './pasid/cpu-pasid-table.ts';
export type { PasidInfo } from './pasid/pasid-info.ts';
export { PasidLayer, polled } from './pasid/pasid-layer.ts';
export { PhysicalMap } from './physical-map.ts';
export { type MachinePlugOptions, type MachineState, PluggedMachine } from './plugged-machine.ts';
export {
  createQemuMachine,
  InterruptTap,
  type QemuDefaults,
  QemuMachine,
  type QemuMachineState,
} from './qemu-machine.ts';
export { makeReplayMachine } from './replay.ts';
export { MachineSanitizer, type SanitizedMachine } from './sanitize.ts';
export { Smmuv3Unit, type Smmuv3UnitConfig } from './smmuv3-unit.ts';
export type { FunctionDescription, IommuUnit, UnitFunction, UnitSlice } from './unit.ts';
export { type BoundFunction, noSlices, requireSupport, type TakeFunction, UnitFunctions } from './unit-functions.ts';
export { Vm, type VmOptions, type VmRam } from './vm.ts';
export { VmMemory } from './vm-memory.ts';
export { VtdUnit, type VtdUnitConfig } from './vtd-unit.ts';
