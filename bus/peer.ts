import { fromWords } from '../src/core/bits.ts';
import { AT } from '../src/ports/dma.ts';
import type { MemoryWindow } from '../src/ports/memory.ts';
import { ACS_CAP } from '../src/spec/pcie/capabilities.ts';
import { readBar, writeBar } from './registers.ts';
import type { PciBus, Slot } from './topology.ts';

/** A BAR as other functions see it: at a host-physical address. */
export class PeerWindow implements MemoryWindow {
  readonly name: string;
  /** The function. */
  readonly slot: Slot;
  /** Which of the function's windows. */
  readonly bar: number;
  /** Host-physical address (bytes). */
  readonly base: number;
  /** Size in bytes. */
  readonly bytes: number;
  /** Takes the window away. */
  readonly remove: () => void;

  /** @param remove takes it off the list it is on. */
  constructor(slot: Slot, bar: number, base: number, remove: () => void) {
    this.name = `${slot.fn.name} window ${bar}`;
    this.slot = slot;
    this.bar = bar;
    this.base = base;
    this.bytes = slot.fn.windows[bar]!.bytes;
    this.remove = remove;
  }

  read(offset: number, size: number): number {
    return readBar(this.slot, this.bar, offset, size);
  }

  write(offset: number, size: number, value: number): void {
    writeBar(this.slot, this.bar, offset, size, value);
  }

  /** A function that lets nobody in now does not answer. */
  claims(): boolean {
    return this.slot.gate.open;
  }

  /**
   * Moves `count` bytes at `offset` in naturally aligned pieces of at most 4 bytes.
   * @returns false: the function does not answer.
   */
  transfer(write: boolean, offset: number, bytes: Uint8Array, start: number, count: number): boolean {
    for (let i = 0; i < count; ) {
      if (!this.slot.gate.open) return false;
      const at = offset + i;
      const left = count - i;
      const size = at % 4 === 0 && left >= 4 ? 4 : at % 2 === 0 && left >= 2 ? 2 : 1;
      if (write) {
        let value = 0;
        for (let b = 0; b < size; b++) value |= bytes[start + i + b]! << (8 * b);
        this.write(at, size, value >>> 0);
      } else {
        const value = this.read(at, size);
        for (let b = 0; b < size; b++) bytes[start + i + b] = value >>> (8 * b);
      }
      i += size;
    }
    return true;
  }
}

/**
 * The window a request reaches without going up to the root: on a shared conventional bus, or below one switch whose
 * downstream port does not redirect it (ACS RR for untranslated requests; DT lets translated ones through all the same).
 * @returns null: the request goes to the IOMMU.
 */
export function directPeer(
  peers: readonly PeerWindow[],
  slot: Slot,
  lo: number,
  hi: number,
  at: number,
): PeerWindow | null {
  if (peers.length === 0 || slot.bus.parent === null || hi >>> 20 !== 0) return null;
  const address = fromWords(lo, hi);
  for (const peer of peers) {
    if (address < peer.base || address >= peer.base + peer.bytes || peer.slot === slot) continue;
    return reaches(slot, peer.slot, at) ? peer : null;
  }
  return null;
}

function reaches(from: Slot, to: Slot, at: number): boolean {
  for (let bus: PciBus | null = from.bus; bus?.parent != null; bus = bus.parent.bus) {
    const port = bus.parent.bridge!;
    if (contains(bus, to)) {
      // Met below a root port's single link: only a switch or a conventional bus has two ways out.
      return true;
    }
    const redirect = (port.acs & ACS_CAP.RR) !== 0 && !(at === AT.TRANSLATED && (port.acs & ACS_CAP.DT) !== 0);
    if (redirect || port.kind === 'root') return false;
  }
  return false;
}

function contains(bus: PciBus, slot: Slot): boolean {
  for (let at: PciBus | null = slot.bus; at !== null; at = at.parent?.bus ?? null) if (at === bus) return true;
  return false;
}
