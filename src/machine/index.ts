export { createQemuMachine, QemuMachine } from './qemu-machine.ts';
export { makeReplayMachine } from './replay.ts';
export { Smmuv3Unit, type Smmuv3UnitConfig, type UnitFunction } from './smmuv3-unit.ts';
export { Vm, type VmOptions, type VmRam } from './vm.ts';
export { VmMemory } from './vm-memory.ts';
