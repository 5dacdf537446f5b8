import { extendedCapability } from '../src/lib/pci/capability-list.ts';
import { EXT } from '../src/spec/pcie/capabilities.ts';
import { type PciBus, pathOf, type Slot } from './topology.ts';

/** Whether every port from here to the root keeps peers apart. An upstream port has no peers below it to keep apart. */
function isolates(port: Slot): boolean {
  for (let at: Slot | null = port; at !== null; at = at.bus.parent) {
    if (at.bridge!.kind !== 'upstream' && !at.bridge!.canIsolate) return false;
  }
  return true;
}

/**
 * Names the isolation group of a function: everything that a request of it could reach, or pass for, without asking the
 * IOMMU (Linux pci_device_group). These are all functions below the highest port that cannot isolate, and the functions of
 * one device that have no access control services. The name follows from the place alone: it stays when neighbours come
 * and go.
 */
export function isolationGroupName(slot: Slot): string {
  let top = slot;
  for (let above = slot.bus.parent; above !== null; above = above.bus.parent) {
    if (!isolates(above)) top = above;
  }
  const path = pathOf(top);
  const alone = extendedCapability(top.fn, EXT.ACS) !== 0;
  const devfn = path.pop()!;
  return `${path.join('/')}/${devfn >>> 3}.${alone ? devfn & 7 : '*'}`;
}

/** The members of a function's isolation group that are plugged in now. @returns streams, ascending. */
export function isolationGroup(slot: Slot): number[] {
  const name = isolationGroupName(slot);
  const streams = new Set<number>();
  const collect = (bus: PciBus) => {
    for (const s of bus.slots.values()) {
      if (isolationGroupName(s) === name) for (const stream of s.streams) streams.add(stream);
      if (s.behind !== null) collect(s.behind);
    }
  };
  collect(slot.bus.root.bus);
  return [...streams].sort((a, b) => a - b);
}
