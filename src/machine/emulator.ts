import { Ecam } from '../../bus/config-access.ts';
import { PciWindowSpace } from '../../bus/decode.ts';
import { type PlugOptions, RootComplex } from '../../bus/root-complex.ts';
import type { PciBus, Root, Slot } from '../../bus/topology.ts';
import { ViommuError } from '../core/errors.ts';
import { guestRid } from '../lib/pci/rids.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { MemoryWindow } from '../ports/memory.ts';
import type { MmioDevice } from '../ports/mmio.ts';
import type { PciFunction } from '../ports/pci.ts';
import type { Tell } from '../ports/tell.ts';
import { EXT } from '../spec/pcie/capabilities.ts';
import type { TraceRecorder } from '../trace/recorder.ts';
import { atsControl } from './function-follower.ts';
import { InterruptQueue, type InterruptSink } from './interrupt-queue.ts';
import { loadFunctions, type MachineState, saveFunctions } from './snapshot.ts';
import type { IommuUnit } from './unit.ts';
import { Vm, type VmRam } from './vm.ts';

/** What an emulator gives. Everything else of a machine comes from here. */
export interface Emulator {
  /** Guest RAM: where it is and the emulator's own storage. */
  readonly ram: readonly VmRam[];
  /**
   * Claims [base, base + window.bytes) of guest-physical space: from now on accesses there call `window`. A write of 8
   * bytes may come whole or as two of 4, low first; the same for reads.
   */
  claim(base: number, window: MmioDevice): void;
  /** The interrupt controller. Called outside of accesses only. */
  readonly interrupts: InterruptSink;
  /** Runs an action soon, outside of any access. Default: a microtask. */
  defer?(action: () => void): void;
  /** Hears what went wrong inside a handler (a defect here or in a function of the caller's). Default: thrown later. */
  report?(error: unknown): void;
}

/** Where the machine's parts sit in guest-physical space (bytes), and how they are wired. */
export interface MachinePlan {
  /** Registers of the IOMMU. */
  readonly iommu: number;
  /** The emulator's line numbers of the IOMMU's wired interrupts (SMMUv3: event, PRI, sync, global error). */
  readonly lines?: readonly number[];
  /** INTA … INTD of the root complex. */
  readonly intx?: readonly number[];
  readonly ecam?: { readonly base: number; readonly buses: number };
  /** Memory for BARs: what no function decodes there reads as ones. An emulator that follows BARs itself leaves it out. */
  readonly pci?: { readonly base: number; readonly bytes: number };
  /** The page messages are written to (Arm: an ITS's or GICv2m's doorbell; x86: 0xfee00000 + 1 MiB). */
  readonly doorbell: { readonly base: number; readonly bytes: number };
  readonly tell?: Tell | null;
  /** Makes a recording of everything that passes between guest, IOMMU and functions. */
  readonly record?: TraceRecorder | null;
  /** Register reads are the guest's own (default). False: the emulator does not trap loads, and looks at registers itself. */
  readonly recordReads?: boolean;
}

/** Makes the IOMMU of a machine on its VM. `doorbellPage` is the host-physical page behind the guest's doorbell, or -1. */
export type MakeUnit = (vm: Vm, irq: InterruptPort, tell: Tell | null) => IommuUnit;

/** Timers that may run until nothing is in flight any more. */
const SETTLE = 1_000_000;

interface Plugged {
  /** As the guest names it; -1: not yet. */
  readonly rid: number;
  readonly detach: () => void;
}

/**
 * A vIOMMU, a PCIe root complex and functions, plugged into somebody's emulator. Handlers never throw into the emulator,
 * and interrupts never arrive from inside an access.
 */
export class PluggedMachine {
  readonly vm: Vm;
  readonly unit: IommuUnit;
  readonly complex: RootComplex;
  readonly root: Root;
  readonly interrupts: InterruptQueue;
  readonly #report: (error: unknown) => void;
  readonly #plugged = new Map<Slot, Plugged>();
  readonly #doorbell: number;
  #generation = -1;

  /** @throws ViommuError what the VM, the unit or the emulator refuses (overlapping windows: `EBUSY`). */
  constructor(emulator: Emulator, plan: MachinePlan, make: MakeUnit) {
    if (emulator.ram.length === 0) {
      throw new ViommuError('EINVAL', 'caller', 'the emulator has no guest RAM: give `ram` at least one region');
    }
    checkPlan(emulator.ram, plan);
    const defer = emulator.defer?.bind(emulator) ?? ((action) => queueMicrotask(action));
    this.#report =
      emulator.report?.bind(emulator) ??
      ((error) =>
        defer(() => {
          throw error;
        }));
    const record = plan.record ?? null;
    const tell = recorded(plan.tell ?? null, record);
    const watched = (r: VmRam): VmRam =>
      record === null || r.backing === undefined ? r : { ...r, backing: record.watch(r.base, r.backing) };
    this.vm = new Vm({ ram: emulator.ram.map(watched), tell });
    const { base, bytes } = plan.doorbell;
    const answers = (address: number) => address >= base && address < base + bytes;
    this.interrupts = new InterruptQueue(emulator.interrupts, answers, defer);
    this.#doorbell = this.vm.memory.addHostWindow(base, bytes, this.#messageWindow(base));
    this.unit = make(this.vm, this.interrupts.port(plan.lines ?? []), tell);
    const irq = this.interrupts.port(plan.intx ?? []);
    this.complex = new RootComplex({ memory: this.vm.hostMemory.space, irq, clock: this.vm.clock });
    const gpaOf = (hpa: number) => this.vm.memory.gpaOf(hpa);
    const { translate, ats, remap } = this.unit;
    this.root = this.complex.addRoot(0, {
      translate: record?.translate(translate, guestRid, gpaOf) ?? translate,
      ats: record?.ats(ats, guestRid, gpaOf) ?? ats,
      remap,
      permits: (hpa) => this.vm.memory.gpaOf(hpa) >= 0,
    });
    this.unit.endpoints.to = this.root.endpoints;
    this.complex.listen({ plugged: (slot) => this.#attach(slot), unplugged: (slot) => this.#detach(slot) });
    emulator.claim(plan.iommu, this.guard(record?.device(this.unit.window, plan.recordReads) ?? this.unit.window));
    if (plan.ecam) emulator.claim(plan.ecam.base, this.guard(new Ecam(this.complex, plan.ecam.buses)));
    if (plan.pci) {
      const window = new PciWindowSpace(this.complex, plan.pci.base, plan.pci.bytes, 0xffff_ffff);
      emulator.claim(plan.pci.base, this.guard(window));
    }
  }

  #messageWindow(base: number): MemoryWindow {
    const port = this.interrupts.port([]);
    return {
      name: 'doorbell',
      read: () => 0,
      write: (offset, size, value) => {
        if (size === 4) port.message(base + offset, value);
      },
    };
  }

  /** A window for the emulator: what happens behind it never throws, and bus numbers the guest changed are followed. */
  guard(window: MmioDevice): MmioDevice {
    const { name, bytes } = window;
    return {
      name,
      bytes,
      read: (offset, size) => {
        try {
          return window.read(offset, size);
        } catch (error) {
          this.#report(error);
          return size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
        }
      },
      read64: (offset, out) => {
        try {
          window.read64(offset, out);
        } catch (error) {
          this.#report(error);
          out.fill(-1, 0, 2);
        }
      },
      write: (offset, size, lo, hi) => {
        try {
          window.write(offset, size, lo, hi);
          if (this.complex.generation !== this.#generation) this.follow();
        } catch (error) {
          this.#report(error);
        }
      },
    };
  }

  /**
   * Plugs a function into a bus (default: the root bus), also while the guest runs.
   * @returns unplugs it. @throws ViommuError `EBUSY` the slot is taken.
   */
  plug(fn: PciFunction, devfn: number, bus: PciBus = this.root.bus, options: PlugOptions = {}): () => void {
    const slot = this.complex.plug(bus, devfn, fn, options);
    return () => this.complex.unplug(slot);
  }

  #attach(slot: Slot): void {
    const { fn, stream } = slot;
    // Behind a bridge without a bus number nothing can be named, and two bridges may pass through one number.
    const rid = slot.bus.parent !== null && slot.bus.number === 0 ? -1 : slot.rid;
    const taken = [...this.#plugged.values()].some((p) => p.rid === rid);
    if (rid < 0 || taken) {
      this.#plugged.set(slot, { rid: -1, detach: () => {} });
      return;
    }
    const has = (id: number) => extended(fn, id);
    const { remove: detach } = this.unit.addFunction([rid], [stream], {
      name: `${fn.name}@${stream.toString(16)}`,
      ats: has(EXT.ATS),
      control: atsControl(slot),
      pri: has(EXT.PRI),
      pasidBits: has(EXT.PASID) ? 20 : 0,
      msiDoorbell: this.#doorbell,
    });
    this.#plugged.set(slot, { rid, detach });
  }

  #detach(slot: Slot): void {
    this.#plugged.get(slot)?.detach();
    this.#plugged.delete(slot);
  }

  /** Requester ids follow the bus numbers the guest gives its bridges. */
  follow(): void {
    this.#generation = this.complex.generation;
    const moved = [...this.#plugged].filter(([slot, p]) => p.rid !== slot.rid).map(([slot]) => slot);
    for (const slot of moved) this.#detach(slot);
    for (const slot of moved) this.#attach(slot);
  }

  /**
   * The machine's state as plain data, without guest memory: save that beside it, at the same moment. Everything in flight
   * arrives first, and waiting interrupts are delivered. Call it outside of accesses.
   * @throws ViommuError `EBUSY` when something stays in flight for ever.
   */
  save(): MachineState {
    if (!this.vm.clock.settle(SETTLE))
      throw new ViommuError('EBUSY', 'caller', 'requests in flight do not come to rest');
    this.interrupts.flush();
    return { unit: this.unit.save(), functions: saveFunctions(this.complex) };
  }

  /**
   * Goes on where `save` was, on this machine or on another one with the same functions plugged in; guest memory is loaded
   * before. The host's objects are made anew as the guest's tables say, from the first use on.
   * @throws ViommuError `EINVAL` when other functions are plugged in; nothing is changed then.
   */
  load(state: MachineState): void {
    const functions = loadFunctions(this.complex, state.functions);
    this.reset();
    this.vm.clock.settle(SETTLE);
    this.interrupts.flush();
    functions();
    this.follow();
    this.unit.load(state.unit);
  }

  /** Machine reset: functions first, so that nothing is in flight when the IOMMU resets. */
  reset(): void {
    this.complex.reset();
    this.unit.reset();
    this.follow();
  }
}

/** @throws ViommuError `EBUSY` names two parts of the plan that overlap. */
function checkPlan(ram: readonly VmRam[], plan: MachinePlan): void {
  const parts: [name: string, base: number, bytes: number][] = ram.map((r) => ['guest RAM', r.base, r.bytes]);
  parts.push(['the IOMMU', plan.iommu, 4096], ['the doorbell', plan.doorbell.base, plan.doorbell.bytes]);
  if (plan.ecam) parts.push(['ECAM', plan.ecam.base, plan.ecam.buses * 0x10_0000]);
  if (plan.pci) parts.push(['memory for BARs', plan.pci.base, plan.pci.bytes]);
  parts.sort((a, b) => a[1] - b[1]);
  parts.forEach(([name, base], i) => {
    const below = parts[i - 1];
    if (below === undefined || below[1] + below[2] <= base) return;
    throw new ViommuError('EBUSY', 'caller', `${name} overlaps ${below[0]}: move one of them`, { base });
  });
}

/** Both hear everything. */
function recorded(tell: Tell | null, record: TraceRecorder | null): Tell | null {
  if (record === null) return tell;
  return (said) => {
    record.tell(said);
    tell?.(said);
  };
}

/** Whether a function has an extended capability. */
function extended(fn: PciFunction, id: number): boolean {
  for (let at = 0x100, left = 960; at >= 0x100 && left > 0; left--) {
    const head = fn.configRead(at, 4);
    if (head === 0 || head === 0xffff_ffff) return false;
    if ((head & 0xffff) === id) return true;
    at = (head >>> 20) & 0xffc;
  }
  return false;
}
