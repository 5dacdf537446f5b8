import type { PciBus, Root, Slot } from './topology.ts';

/** Bridges one below the other that a request may pass: a guest's numbers may lead in a circle. */
const MOST_BRIDGES = 256;

/** The function a configuration request reaches, or null (no answer: all ones). @param roots ascending by number. */
export function configTarget(roots: readonly Root[], bus: number, devfn: number): Slot | null {
  for (const root of roots) if (root.number === bus) return root.bus.slots.get(devfn) ?? null;
  let at: PciBus | null = null;
  for (const root of roots) if (root.number < bus) at = root.bus;
  for (let depth = 0; at !== null && depth < MOST_BRIDGES; depth++) {
    let next: PciBus | null = null;
    for (const slot of at.slots.values()) {
      const b = slot.bridge;
      if (b === null || b.secondary === 0) continue;
      // The secondary bus answers whatever the subordinate number is: firmware sets it when it has looked behind the bridge.
      if (b.secondary !== bus && (bus < b.secondary || bus > b.subordinate)) continue;
      next = slot.behind!;
      if (b.secondary !== bus) break;
      if (b.pointToPoint && devfn > 7 && !b.ari) return null;
      return next.slots.get(devfn) ?? null;
    }
    at = next;
  }
  return null;
}
