import { fromWords } from '../core/bits.ts';
import { AddressSpace, ramBacking } from '../lib/memory/address-space.ts';
import type { HostMemory } from '../lib/memory/host-memory.ts';
import type { UserMemory } from '../ports/iommufd.ts';
import type { Backing, MemoryWindow } from '../ports/memory.ts';

/** Where the VMM process has the guest's physical address 0 mapped. */
const USER_BASE = 0x7000_0000_0000n;

interface Placed {
  readonly gpa: number;
  readonly bytes: number;
  readonly hpa: number;
  readonly writable: boolean;
  readonly ram: boolean;
  /** The VMM has it mapped: it can go into an IOAS. */
  readonly user: boolean;
  readonly undo: readonly (() => void)[];
}

/**
 * One VM's memory in its three addresses: guest-physical (`guest`, as the machine shows it, windows included),
 * host-physical (where the hardware finds it), and the VMM process's virtual addresses that IOAS_MAP names.
 */
export class VmMemory implements UserMemory {
  /** Guest-physical space: RAM and windows as the guest sees them. */
  readonly guest = new AddressSpace();
  hpa = 0;
  run = 0;
  readonly #host: HostMemory;
  #placed: Placed[] = [];

  constructor(host: HostMemory) {
    this.#host = host;
  }

  /**
   * Adds RAM at `gpa` (bytes, 4 KiB aligned).
   * @returns takes it out of every address space again (unmap it from the IOASes first).
   * @throws ViommuError `EINVAL` unaligned, `EBUSY` when something is there.
   */
  addRam(gpa: number, bytes: number, backing: Backing = ramBacking(bytes), writable = true): () => void {
    const away = this.guest.addRam(gpa, bytes, backing, writable);
    const hpa = this.#host.place(gpa, bytes, backing, writable);
    return this.#add({ gpa, bytes, hpa, writable, ram: true, user: true, undo: [away, () => this.#host.unplace(hpa)] });
  }

  /**
   * Gives a device window a host-physical place, so that DMA can reach it: a doorbell page, a peer's BAR.
   * @param gpa where the guest sees it, or -1 when only the host knows it.
   * @param user the VMM has the window mapped as well (a device's BAR region), so that IOAS_MAP can name it.
   * @returns the host-physical address of the window.
   */
  addHostWindow(gpa: number, bytes: number, window: MemoryWindow, user = false): number {
    const hpa = this.#host.place(Math.max(gpa, 0), bytes, null);
    const undo = this.#host.space.addWindow(hpa, bytes, window);
    if (gpa >= 0) this.#add({ gpa, bytes, hpa, writable: true, ram: false, user, undo: [undo] });
    return hpa;
  }

  /** Takes a window away that `addHostWindow` gave the host-physical place `hpa`. */
  removeWindow(hpa: number): void {
    const p = this.#placed.find((q) => q.hpa === hpa && !q.ram);
    this.#placed = this.#placed.filter((q) => q !== p);
    for (const u of p?.undo ?? []) u();
  }

  #add(p: Placed): () => void {
    this.#placed.push(p);
    return () => {
      this.#placed = this.#placed.filter((q) => q !== p);
      for (const u of p.undo) u();
    };
  }

  /** The RAM regions, ascending. */
  ram(): readonly { readonly gpa: number; readonly bytes: number }[] {
    return this.#placed
      .filter((p) => p.ram)
      .map(({ gpa, bytes }) => ({ gpa, bytes }))
      .sort((a, b) => a.gpa - b.gpa);
  }

  /** The VMM's virtual address of what DMA may reach at `gpa` (RAM, a placed window), or -1n when nothing is there. */
  userVa(gpa: number): bigint {
    return this.#at(gpa) === null ? -1n : USER_BASE + BigInt(gpa);
  }

  /** Bytes from `gpa` to the end of its region; 0 when nothing is there. */
  roomAt(gpa: number): number {
    const p = this.#at(gpa);
    return p === null ? 0 : p.gpa + p.bytes - gpa;
  }

  /** Undoes the host's stage 2: the guest-physical address of a host-physical one, or -1. */
  gpaOf(hpa: number): number {
    for (const p of this.#placed) if (hpa >= p.hpa && hpa < p.hpa + p.bytes) return p.gpa + (hpa - p.hpa);
    return -1;
  }

  /** Whether a host-physical address, as two words, is guest RAM. */
  holds(lo: number, hi: number): boolean {
    const hpa = fromWords(lo, hi);
    for (let i = 0; i < this.#placed.length; i++) {
      const p = this.#placed[i]!;
      if (hpa >= p.hpa && hpa < p.hpa + p.bytes) return true;
    }
    return false;
  }

  pin(va: bigint, bytes: bigint, write: boolean): boolean {
    const gpa = Number(va - USER_BASE);
    const p = gpa < 0 ? null : this.#at(gpa);
    if (p === null || (write && !p.writable)) return false;
    this.hpa = p.hpa + (gpa - p.gpa);
    const room = p.gpa + p.bytes - gpa;
    this.run = bytes < BigInt(room) ? Number(bytes) : room;
    return true;
  }

  #at(gpa: number): Placed | null {
    for (const p of this.#placed) if (gpa >= p.gpa && gpa < p.gpa + p.bytes) return p;
    return null;
  }
}
