import { ConfigPorts } from '../../bus/config-access.ts';
import { PciWindowSpace } from '../../bus/decode.ts';
import type { Latency } from '../../bus/fabric.ts';
import { Untranslated } from '../../bus/iommu-ports.ts';
import { RootComplex } from '../../bus/root-complex.ts';
import type { RootComplexState } from '../../bus/saved-bus.ts';
import type { PciBus, Root, Slot } from '../../bus/topology.ts';
import { IommuTestdev } from '../../devices/endpoints/iommu-testdev.ts';
import { ViommuError } from '../core/errors.ts';
import type { AccessNesting } from '../lib/access/access-gate.ts';
import type { AddressSpace } from '../lib/memory/address-space.ts';
import { checkFormOf, type FormOf, refuseField, UNSIGNED } from '../lib/saved/state-form.ts';
import type { Clock } from '../ports/clock.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { Memory } from '../ports/memory.ts';
import type { PciFunction } from '../ports/pci.ts';
import { IOAPIC_FORM, type Ioapic, type IoapicState } from './ioapic.ts';
import { PhysicalMap } from './physical-map.ts';
import { LOW_MEMORY_FORM, type LowMemory, type LowMemoryPage } from './q35-low-memory.ts';

/** Where a board has RAM: guest-physical, bytes. */
export interface RamPiece {
  readonly base: number;
  readonly bytes: number;
}

export interface BoardDeps {
  /** Guest-physical space, RAM already in it. */
  readonly guest: AddressSpace;
  /** Host-physical space: where translated requests arrive. */
  readonly memory: Memory;
  readonly irq: InterruptPort | null;
  readonly clock: Clock | null;
  readonly latency?: Partial<Latency>;
  /** What the gates of the machine share. */
  readonly accesses?: AccessNesting;
  /** QEMU's default devices, on unless the command line takes them away. */
  readonly vga?: boolean;
  readonly nic?: boolean;
}

export interface BoardState {
  readonly complex: RootComplexState;
  readonly ports: number;
  readonly ioapic: IoapicState | null;
  readonly lowMemory: readonly LowMemoryPage[];
}

const FORM: FormOf<Omit<BoardState, 'complex'> & { readonly complex: unknown }> = {
  members: { complex: 'anything', ports: UNSIGNED, ioapic: { orNull: IOAPIC_FORM }, lowMemory: LOW_MEMORY_FORM },
};

/** The memory map and the PCI side of a QEMU machine, ready for an IOMMU at its place. */
export class Board {
  readonly name: 'virt' | 'q35';
  readonly map: PhysicalMap;
  readonly complex: RootComplex;
  /** Root bus 0. */
  readonly root: Root;
  /** Follows registers of the chipset that a reset or a load has changed without a write (q35: where the ECAM is). */
  chipset: (() => void) | null = null;
  /** Requests are cut into pieces as QEMU's memory core does it; else they are what PCIe says, as in the profile `arch`. */
  likeQemu = true;
  /** q35: what lies below 1 MiB beside RAM; null: nothing does. */
  lowMemory: LowMemory | null = null;
  /** q35: where wired interrupts go. */
  ioapic: Ioapic | null = null;
  readonly #guest: AddressSpace;
  readonly #ports: ConfigPorts | null;
  readonly #io: PciWindowSpace | null;

  /** @param ports whether the board has I/O ports with configuration mechanism 1. */
  constructor(name: 'virt' | 'q35', deps: BoardDeps, ports: boolean) {
    this.name = name;
    this.#guest = deps.guest;
    this.map = new PhysicalMap(deps.guest);
    this.complex = new RootComplex({
      memory: deps.memory,
      irq: deps.irq,
      clock: deps.clock,
      ...(deps.latency === undefined ? {} : { latency: deps.latency }),
      ...(deps.accesses === undefined ? {} : { accesses: deps.accesses }),
    });
    this.root = this.complex.addRoot(0, { translate: new Untranslated(), ats: null, remap: null });
    this.#ports = ports ? new ConfigPorts(this.complex) : null;
    this.#io = ports
      ? new PciWindowSpace(this.complex, { base: 0, bytes: 0x1_0000, unclaimed: 0xffff_ffff, io: true })
      : null;
  }

  /**
   * Plugs a function into a bus.
   * @param devfn by default the first free device number.
   * @throws ViommuError `ENOSPC` when the bus is full; `EBUSY` when the place is taken.
   */
  plug(fn: PciFunction, devfn?: number, bus: PciBus = this.root.bus): Slot {
    return this.complex.plug(bus, devfn ?? this.#freeDevfn(bus), fn);
  }

  #freeDevfn(bus: PciBus): number {
    for (let device = bus === this.root.bus ? 1 : 0; device < 32; device++) {
      let taken = false;
      for (let f = 0; f < 8; f++) taken ||= bus.slots.has((device << 3) | f);
      if (!taken) return device << 3;
    }
    throw new ViommuError('ENOSPC', 'caller', 'no free device number on the bus', { bus: bus.number });
  }

  /**
   * QEMU's test device as QEMU has it: it sends although bus mastering is off, and (`likeQemu`) after a failing piece of a
   * request it tries the next one.
   */
  plugTestdev(devfn?: number, bus: PciBus = this.root.bus): Slot {
    const slot = this.plug(new IommuTestdev(this.#guest), devfn, bus);
    const link = this.complex.link(slot)!;
    link.insist = this.likeQemu;
    link.ignoreMaster = true;
    return slot;
  }

  /** An I/O port read of 1, 2 or 4 bytes: all ones where nothing answers. */
  portRead(port: number, size: number): number {
    if (this.#ports?.claims(port) === true) return this.#ports.read(port, size);
    if (this.#io !== null && port + size <= 0x1_0000) return this.#io.read(port, size);
    return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
  }

  portWrite(port: number, size: number, value: number): void {
    if (this.#ports?.claims(port) === true) this.#ports.write(port, size, value);
    else if (port + size <= 0x1_0000) this.#io?.write(port, size, value | 0, 0);
  }

  /** Functions and configuration ports; RAM is its owner's to save. */
  save(): BoardState {
    const ioapic = this.ioapic?.save() ?? null;
    const lowMemory = this.lowMemory?.save() ?? [];
    return { complex: this.complex.save(), ports: this.#ports?.save() ?? 0, ioapic, lowMemory };
  }

  /** Whether `load` would take a state; changes nothing. @throws ViommuError `EINVAL` names the field that does not fit. */
  checkState(state: unknown): BoardState {
    checkFormOf<Omit<BoardState, 'complex'> & { readonly complex: unknown }>(state, FORM, 'machine.board');
    const { complex, ports, ioapic, lowMemory } = state as BoardState;
    if ((ioapic === null) !== (this.ioapic === null)) {
      refuseField('machine.board.ioapic', ioapic, this.ioapic === null ? 'null: the board has none' : 'what it saved');
    }
    if (this.#ports === null && ports !== 0) refuseField('machine.board.ports', ports, '0: the board has none');
    const pages = lowMemory.length;
    if (this.lowMemory === null && pages > 0) refuseField('machine.board.lowMemory', lowMemory, 'no pages');
    lowMemory.forEach(({ page, words }, i) => {
      const path = `machine.board.lowMemory.${i}`;
      if (i > 0 && page <= lowMemory[i - 1]!.page) refuseField(`${path}.page`, page, 'more than the one before');
      if (words.every((w) => w === 0)) refuseField(`${path}.words`, words, 'a word that is not 0');
    });
    this.complex.checkState(complex);
    return state as BoardState;
  }

  /**
   * Goes on where `save` was. @param between loads what functions meet on their way (see `RootComplex.load`).
   * @throws ViommuError `EINVAL` when other functions are plugged in than were saved; nothing is changed then.
   */
  load(state: BoardState, between: () => void): void {
    this.complex.load(state.complex, () => {
      between();
      this.#ports?.load(state.ports);
      if (state.ioapic !== null) this.ioapic?.load(state.ioapic);
      this.lowMemory?.load(state.lowMemory);
    });
    this.chipset?.();
  }

  /** Power-on state of every function and of the configuration ports; RAM keeps its contents. */
  reset(): void {
    // The configuration address register keeps its value: QEMU's host bridge has no reset for it.
    this.ioapic?.reset();
    this.complex.reset();
    this.chipset?.();
  }
}
