import type { Root, Slot } from './topology.ts';

/** Which function an IOMMU means by a requester id (hardware numbering). */
export class StreamSlots {
  readonly #roots = new Map<Root, Map<number, Slot[]>>();

  /** The function the IOMMU of `root` knows by this stream: the one plugged in first, where a bridge lets several share it. */
  find(root: Root, stream: number): Slot | undefined {
    return this.#roots.get(root)?.get(stream)?.[0];
  }

  /** The same below any root. */
  anywhere(stream: number): Slot | undefined {
    for (const streams of this.#roots.values()) {
      const slot = streams.get(stream)?.[0];
      if (slot !== undefined) return slot;
    }
    return undefined;
  }

  /** A slice has no streams of its own. */
  add(slot: Slot): void {
    if (slot.slice !== null) return;
    const streams = this.#roots.get(slot.bus.root) ?? new Map<number, Slot[]>();
    this.#roots.set(slot.bus.root, streams);
    for (const stream of new Set(slot.streams)) {
      const users = streams.get(stream);
      if (users === undefined) streams.set(stream, [slot]);
      else users.push(slot);
    }
  }

  remove(slot: Slot): void {
    const streams = this.#roots.get(slot.bus.root);
    if (streams === undefined || slot.slice !== null) return;
    for (const stream of new Set(slot.streams)) {
      const left = (streams.get(stream) ?? []).filter((s) => s !== slot);
      if (left.length === 0) streams.delete(stream);
      else streams.set(stream, left);
    }
  }
}
