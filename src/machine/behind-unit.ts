import type { IommuPorts } from '../../bus/iommu-ports.ts';
import { type FollowerParts, FunctionFollower } from './function-follower.ts';
import type { IommuUnit } from './unit.ts';
import type { Vm } from './vm.ts';

/** What requests of a root bus meet when a unit is above it. A function's translated requests reach memory of the VM only. */
export function portsOf(vm: Vm, unit: IommuUnit): IommuPorts {
  const { translate, remap } = unit;
  const ats = vm.failures?.completions(unit.ats, vm.clock) ?? unit.ats;
  return { translate, ats, remap, permits: (lo, hi) => vm.memory.holds(lo, hi) };
}

/**
 * Puts everything below a root bus behind a unit: requests go up through it, and its list of functions follows what is
 * plugged in, now and later. The unit's messages to functions are the caller's to connect (`unit.endpoints`).
 * @param ports what requests meet, when it is not the unit itself.
 */
export function putBehind(vm: Vm, parts: FollowerParts, ports: IommuPorts = portsOf(vm, parts.unit)): FunctionFollower {
  parts.root.iommu = ports;
  return new FunctionFollower(parts);
}
