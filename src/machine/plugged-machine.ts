import { Bridge } from '../../bus/bridge.ts';
import { Ecam } from '../../bus/config-access.ts';
import { PciWindowSpace } from '../../bus/decode.ts';
import type { PlugOptions } from '../../bus/plug.ts';
import { RootComplex } from '../../bus/root-complex.ts';
import type { RootComplexState } from '../../bus/saved-bus.ts';
import type { PciBus, Root, Slot } from '../../bus/topology.ts';
import { toBigint } from '../core/bits.ts';
import { ViommuError } from '../core/errors.ts';
import type { MachineUsage } from '../lib/limits/machine-limits.ts';
import { extendedCapability } from '../lib/pci/capability-list.ts';
import { loadOrReturn } from '../lib/saved/load-or-return.ts';
import { checkFormOf, type FormOf } from '../lib/saved/state-form.ts';
import type { MemoryWindow } from '../ports/memory.ts';
import type { MmioDevice } from '../ports/mmio.ts';
import type { PciFunction } from '../ports/pci.ts';
import type { Finding } from '../sanitize/index.ts';
import { ATS_CAP, EXT } from '../spec/pcie/index.ts';
import { portsOf, putBehind, recordedPorts, recordedTell } from './behind-unit.ts';
import { InterruptQueue } from './interrupt-queue.ts';
import { checkPlan, type Emulator, type MachinePlan, type MakeUnit } from './machine-plan.ts';
import type { PasidInfo } from './pasid/pasid-info.ts';
import { windowOf } from './physical-map.ts';
import { MachineSanitizer, type SanitizedMachine } from './sanitize.ts';
import type { IommuUnit } from './unit.ts';
import { Vm, type VmRam } from './vm.ts';

/** Bytes below bit 40. */
const EXTENDED = 2 ** 40;
/** Timers that may run until nothing is in flight any more. */
const SETTLE = 1_000_000;

/** A machine without its memory: that is the emulator's to save. */
export interface MachineState {
  /** What the guest sees of its IOMMU. */
  readonly unit: unknown;
  /** Every function, and the wires. */
  readonly bus: RootComplexState;
}

/** What is in them is checked by the unit and by the bus. */
const FORM: FormOf<Record<keyof MachineState, unknown>> = { members: { unit: 'anything', bus: 'anything' } };

/** How a function is plugged into a machine. */
export interface MachinePlugOptions extends Omit<PlugOptions, 'slice'> {
  /** The function is a slice of another one that is plugged in: its requests go out as that one's, under PASIDs of that one. */
  readonly slice?: { readonly of: PciFunction; readonly pasid: number };
}

/**
 * A vIOMMU, a PCIe root complex and functions, plugged into somebody's emulator. Handlers never throw into the emulator,
 * and interrupts never arrive from inside an access.
 */
export class PluggedMachine {
  /** Memory, host and clock. */
  readonly vm: Vm;
  /** Its IOMMU. */
  readonly unit: IommuUnit;
  /** Its PCI side. */
  readonly complex: RootComplex;
  /** Its root bus. */
  readonly root: Root;
  /** Interrupts that wait until the emulator is outside of any access. */
  readonly interrupts: InterruptQueue;
  readonly #report: (error: unknown) => void;
  /** Follows the guest's tables: for findings, and so that a recording has every store to them. */
  readonly #judge: MachineSanitizer | null;
  readonly #judges: boolean;

  /** @throws ViommuError what the VM, the unit or the emulator refuses (overlapping windows: `EBUSY`). */
  constructor(emulator: Emulator, plan: MachinePlan, make: MakeUnit) {
    checkPlan(emulator.ram, plan);
    const defer = emulator.defer?.bind(emulator) ?? ((action) => queueMicrotask(action));
    this.#report =
      emulator.report?.bind(emulator) ??
      ((error) =>
        defer(() => {
          throw error;
        }));
    const ram = emulator.ram.map((r) => ({ gpa: r.base, size: r.bytes }));
    this.#judges = plan.sanitize !== undefined;
    this.#judge = watching(plan, ram);
    const record = this.#judge?.recorder ?? null;
    const tell = recordedTell(plan.tell ?? null, record);
    const watched = (r: VmRam): VmRam =>
      record === null || r.backing === undefined ? r : { ...r, backing: record.watch(r.base, r.backing) };
    const { limits = {}, failures } = plan;
    const chance = failures === undefined ? {} : { failures };
    this.vm = new Vm({ ram: emulator.ram.map(watched), tell, limits, ...chance });
    // The VM stands, the machine does not yet.
    if (this.vm.failures !== null) this.vm.failures.on = failures?.construction ?? false;
    this.vm.defer = (action) =>
      defer(() => {
        try {
          action();
        } catch (error) {
          this.#report(error);
        }
      });
    const { base, bytes } = plan.doorbell;
    // Behind interrupt remapping an extended APIC id has its high bits in bits 63:40 of the address (VT-d §5.1.2.2).
    const answers = (address: number) => {
      const at = this.unit.remap === null ? address : address % EXTENDED;
      return at >= base && at < base + bytes;
    };
    this.interrupts = new InterruptQueue(emulator.interrupts, answers, defer, this.vm.quotas.interrupts);
    const doorbell = this.vm.memory.addHostWindow(base, bytes, this.#messageWindow(base));
    this.unit = make(this.vm, this.interrupts.port(plan.lines ?? []), tell);
    const irq = this.interrupts.port(plan.intx ?? []);
    const { accesses, clock } = this.vm;
    const complex = new RootComplex({ memory: this.vm.hostMemory.space, irq, clock, accesses, later: this.vm.later });
    this.complex = complex;
    const ports = portsOf(this.vm, this.unit);
    const root = complex.addRoot(0, ports);
    this.root = root;
    this.unit.endpoints.to = root.endpoints;
    const parts = { complex, root, unit: this.unit, doorbell, report: (error: unknown) => this.#report(error) };
    putBehind(this.vm, parts, record === null ? ports : recordedPorts(record, this.vm, complex, root, ports));
    // What the IOMMU itself writes (records, the status of waits) finds registers where the processor finds them.
    const { guest } = this.vm.memory;
    guest.addWindow(plan.iommu, this.unit.window.bytes, windowOf(this.unit.window));
    const claims: [base: number, window: MmioDevice][] = [
      [plan.iommu, record?.device(this.unit.window, plan.recordReads) ?? this.unit.window],
    ];
    if (plan.ecam) claims.push([plan.ecam.base, new Ecam(complex, plan.ecam.buses)]);
    if (plan.pci) {
      const { base, bytes } = plan.pci;
      claims.push([base, new PciWindowSpace(complex, { base, bytes, unclaimed: 0xffff_ffff })]);
      // Functions reach each other's registers as they reach memory; where nothing is, their requests abort.
      const bars = windowOf(new PciWindowSpace(complex, { base, bytes, unclaimed: 0 }));
      this.vm.addWindow(base, bytes, bars);
      guest.addWindow(base, bytes, bars);
    }
    // Nothing is claimed for a machine that cannot be made. A claim that the emulator itself refuses ends it here, and what
    // was claimed before is the emulator's to forget: it alone knows why it refused.
    for (const [base, window] of claims) emulator.claim(base, this.guard(window));
    if (this.vm.failures !== null) this.vm.failures.on = true;
  }

  /**
   * What the guest's driver did wrong so far, by rule. Call it when the driver is done: some things show at the end only.
   * @throws ViommuError `EINVAL` the plan did not ask for it.
   */
  findings(): Finding[] {
    if (this.#judge === null || !this.#judges)
      throw new ViommuError('EINVAL', 'caller', 'the plan of this machine has no `sanitize`');
    return this.#judge.findings();
  }

  /**
   * The guest stored `size` bytes to RAM. An emulator that sees its guest's stores calls this for every one, right before or
   * after it takes place, whatever is stored; recordings and findings then have them in their order. One that sees none
   * calls it never: memory is compared before every event then. Without `record` or `sanitize` in the plan it does nothing.
   * @param gpa guest-physical, bytes, aligned or not; what is outside of RAM is passed over. @param size 1 to 8.
   * @param lo bits 31:0 of the value. @param hi bits 63:32; 0 up to 4 bytes.
   * @throws ViommuError `EINVAL` a size that no store has.
   */
  stored(gpa: number, size: number, lo: number, hi = 0): void {
    if (!(Number.isInteger(size) && size >= 1 && size <= 8))
      throw new ViommuError('EINVAL', 'caller', 'a store has 1 to 8 bytes', { size });
    if (this.#judge === null) return;
    const room = 8 - (gpa % 8);
    if (size <= room) {
      this.#told(gpa, size, lo, hi);
      return;
    }
    // Over the end of an aligned word of 8: byte `room` is the first of the next one.
    const value = toBigint(lo, hi);
    const rest = value >> BigInt(8 * room);
    const first = value & ((1n << BigInt(8 * room)) - 1n);
    this.#told(gpa, room, low(first), high(first));
    this.#told(gpa + room, size - room, low(rest), high(rest));
  }

  #told(gpa: number, size: number, lo: number, hi: number): void {
    if (this.vm.memory.guest.locate(gpa - (gpa % 4))) this.#judge?.stored(gpa, size, lo, hi);
  }

  /** What the guest uses of each limit now. */
  usage(): MachineUsage {
    return this.vm.usage();
  }

  #messageWindow(base: number): MemoryWindow {
    return {
      name: 'doorbell',
      read: () => 0,
      write: (offset, size, value) => {
        if (size === 4) this.interrupts.message(base + offset, value, this.complex.requester);
      },
    };
  }

  /** A window for the emulator: what happens behind it never throws. */
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
        } catch (error) {
          this.#report(error);
        }
      },
    };
  }

  /**
   * Plugs a function in, also while the guest runs. When anything refuses it, nothing of it stays.
   * @param devfn device and function number, 0 … 255. @param at a bus, or the bridge it is behind (default: the root bus).
   * @returns unplugs it. @throws ViommuError `EBUSY`: the place is taken, or the function is plugged in already; `EOPNOTSUPP`:
   *   the unit cannot have it like that; `ENOENT`: the bridge or the function it is a slice of is not plugged in; and what the
   *   host refuses.
   */
  plug(
    fn: PciFunction,
    devfn: number,
    at: PciBus | Bridge = this.root.bus,
    options: MachinePlugOptions = {},
  ): () => void {
    const { slice, ...rest } = options;
    const bus = at instanceof Bridge ? this.#slotOf(at).behind! : at;
    const part = slice === undefined ? {} : { slice: { of: this.#slotOf(slice.of), pasid: slice.pasid } };
    const slot = this.complex.plug(bus, devfn, fn, { ...rest, ...part });
    const ats = extendedCapability(fn, EXT.ATS);
    const enabled = () => (fn.configRead(ats + ATS_CAP.CONTROL, 2) & ATS_CAP.ENABLE) !== 0;
    const unfollow = ats === 0 ? undefined : this.#judge?.follow(() => slot.aliasRidOf(0), enabled);
    return () => {
      unfollow?.();
      this.complex.unplug(slot);
    };
  }

  /**
   * What a function can do with PASIDs as the guest has it (several address spaces or one, how many bits, whose the PASIDs are, and
   * up to where the guest chooses them): the least of what the function, the host and the vIOMMU have.
   * @throws ViommuError `ENOENT` it is not plugged in, the guest has no number for it yet, or it is a slice.
   */
  pasidInfo(fn: PciFunction): PasidInfo {
    const known = this.unit.functionOf(this.#slotOf(fn).rid);
    if (known !== undefined) return known.pasidInfo;
    throw new ViommuError('ENOENT', 'caller', `${fn.name} is no function of its own that the guest has numbered`);
  }

  #slotOf(fn: PciFunction): Slot {
    const slot = this.complex.slotOf(fn);
    if (slot === undefined) throw new ViommuError('ENOENT', 'caller', `${fn.name} is not plugged in`);
    return slot;
  }

  /**
   * The machine's state as plain data, without guest memory: save that beside it, at the same moment. Everything in flight
   * arrives first, and waiting interrupts are delivered. Call it outside of accesses.
   * @throws ViommuError `EBUSY` when something stays in flight for ever.
   */
  save(): MachineState {
    this.complex.settle();
    if (!this.vm.clock.settle(SETTLE))
      throw new ViommuError('EBUSY', 'caller', 'requests in flight do not come to rest');
    this.interrupts.flush();
    return { unit: this.unit.save(), bus: this.complex.save() };
  }

  /**
   * Goes on where `save` was, on this machine or on another one with the same functions plugged in; guest memory is loaded
   * before. The host's objects are made anew as the guest's tables say, from the first use on.
   * @throws ViommuError `EINVAL` when other functions are plugged in, or the state is of another IOMMU; `E_VERSION` when another
   *   version saved it; `EIO` when the host refuses what it needs. The machine is as before then, with cold caches.
   */
  load(state: MachineState): void {
    checkFormOf<Record<keyof MachineState, unknown>>(state, FORM, 'machine');
    this.unit.checkState?.(state.unit);
    this.complex.checkState(state.bus);
    loadOrReturn(
      () => this.save(),
      (s, anyway) => this.#load(s, anyway),
      state,
    );
  }

  #load(state: MachineState, anyway: boolean): void {
    this.complex.load(state.bus, () => {
      this.unit.reset();
      this.vm.clock.settle(SETTLE);
      this.interrupts.flush();
      this.unit.load(state.unit, anyway);
    });
  }

  /** Machine reset: functions first, so that nothing is in flight when the IOMMU resets. */
  reset(): void {
    this.complex.reset();
    this.unit.reset();
    this.#judge?.recorder.reset();
  }
}

/** What follows the driver of a machine that is judged or recorded; null: nobody asked. */
function watching(plan: MachinePlan, ram: SanitizedMachine['ram']): MachineSanitizer | null {
  const record = plan.record ?? undefined;
  const iommu = plan.sanitize ?? record?.iommu;
  return iommu === undefined ? null : new MachineSanitizer({ iommu, ram }, record);
}

function low(value: bigint): number {
  return Number(BigInt.asIntN(32, value));
}

function high(value: bigint): number {
  return Number(BigInt.asIntN(32, value >> 32n));
}
