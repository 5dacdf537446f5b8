import type { Slot } from './topology.ts';

/** Whether every port from here to the root keeps peers apart. An upstream port has no peers below it to keep apart. */
function isolates(port: Slot): boolean {
  for (let at: Slot | null = port; at !== null; at = at.bus.parent) {
    if (at.bridge!.kind !== 'upstream' && !at.bridge!.canIsolate) return false;
  }
  return true;
}

/**
 * The isolation group of a function: everything a request of it could reach, or pass for, without asking the IOMMU
 * (Linux pci_device_group): functions that share an alias, all below a port that cannot isolate, and the functions of one
 * device unless they are on a root bus.
 * @returns streams, ascending.
 */
export function isolationGroup(slot: Slot): number[] {
  let top = slot;
  for (let above = slot.bus.parent; above !== null; above = above.bus.parent) {
    if (!isolates(above)) top = above;
  }
  const streams = new Set<number>();
  const collect = (s: Slot) => {
    streams.add(s.stream);
    for (const below of s.behind?.slots.values() ?? []) collect(below);
  };
  collect(top);
  return [...streams].sort((a, b) => a - b);
}
