import type { IommuPorts } from '../../bus/iommu-ports.ts';
import type { RootComplex } from '../../bus/root-complex.ts';
import type { Root } from '../../bus/topology.ts';
import { guestRid } from '../lib/pci/rids.ts';
import type { Tell } from '../ports/tell.ts';
import type { TraceRecorder } from '../trace/recorder.ts';
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

/** What requests of a root bus meet, told to a recorder: a recording names functions as the guest does at that moment. */
export function recordedPorts(
  record: TraceRecorder,
  vm: Vm,
  complex: RootComplex,
  root: Root,
  ports: IommuPorts,
): IommuPorts {
  const guest = (stream: number) => {
    const slot = complex.byStream(root, stream);
    return slot === undefined ? guestRid(stream) : slot.aliasRidOf(Math.max(0, slot.streams.indexOf(stream)));
  };
  const gpaOf = (hpa: number) => vm.memory.gpaOf(hpa);
  const ats = ports.ats === null ? null : record.ats(ports.ats, guest, gpaOf);
  return { ...ports, translate: record.translate(ports.translate, guest, gpaOf), ats };
}

/** What happens in a machine, told to its recorder, if it has one, and to whoever listens. */
export function recordedTell(tell: Tell | null, record: TraceRecorder | null): Tell | null {
  if (record === null) return tell;
  return (said) => {
    record.tell(said);
    tell?.(said);
  };
}
