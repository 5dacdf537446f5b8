import { ViommuError } from '../core/errors.ts';
import { ShadowPool } from '../host/drivers/shadow/pool.ts';
import { IommufdFile } from '../host/iommufd/file.ts';
import { HostKernel } from '../host/kernel/kernel.ts';
import { ContextUpcalls, objectsOf } from '../host/upcalls/context-upcalls.ts';
import { UpcallHub } from '../host/upcalls/upcall-hub.ts';
import { AccessNesting } from '../lib/access/access-gate.ts';
import { VirtualClock } from '../lib/clock/virtual-clock.ts';
import { FailureInjector } from '../lib/inject/failure-injector.ts';
import type { FailureOptions } from '../lib/inject/failure-options.ts';
import {
  type MachineLimits,
  type MachineQuotas,
  type MachineUsage,
  machineLimits,
  machineQuotas,
} from '../lib/limits/machine-limits.ts';
import { HostMemory } from '../lib/memory/host-memory.ts';
import type { Iommufd } from '../ports/iommufd.ts';
import type { Backing, MemoryWindow } from '../ports/memory.ts';
import type { Tell } from '../ports/tell.ts';
import type { HostUpcalls } from '../ports/upcalls.ts';
import { VmMemory } from './vm-memory.ts';

/** A piece of guest RAM. */
export interface VmRam {
  /** Guest-physical address, bytes, 4 KiB aligned. */
  readonly base: number;
  /** Size in bytes, whole pages of 4 KiB. */
  readonly bytes: number;
  /** The emulator's own storage; fresh zeroed memory by default. */
  readonly backing?: Backing;
}

/** What a VM is made of. */
export interface VmOptions {
  /** Its RAM at the start; more can be added. */
  readonly ram: readonly VmRam[];
  /** Hears every verb of the host. */
  readonly tell?: Tell | null;
  /** How much of the host its guest can use, where that differs from the defaults. */
  readonly limits?: Partial<MachineLimits>;
  /**
   * Lets internal steps of the host and its hardware fail, from the moment on at which the VM stands (with `construction`:
   * while it is made, too). Default: nothing fails but for real. They are the host's: not together with `beside`.
   */
  readonly failures?: FailureOptions;
  /** Another VM whose host this one shares, with the `failures` that one has, or none. */
  readonly beside?: Vm;
}

/** FIXED_IOVA, WRITEABLE, READABLE. */
const MAP_FLAGS = 7;
const READ_ONLY_FLAGS = 5;

/**
 * A VM on the emulated host: its memory, and the VMM's open /dev/iommu with the one IOAS in which all guest RAM is mapped
 * where the guest sees it. Devices and IOMMUs are put on top by the machine.
 */
export class Vm {
  /** How much of the host its guest can use. */
  readonly limits: MachineLimits;
  /** @internal What it uses, counted by its units. */
  readonly quotas: MachineQuotas;
  /** Which internal steps fail; null: the options did not ask for it. */
  readonly failures: FailureInjector | null;
  /** @internal Pages of the tables that repeat stages of its guest, for all of its IOMMUs. */
  readonly shadowTables: ShadowPool;
  /** Virtual time of the machine and of its host. */
  readonly clock: VirtualClock;
  /** What the gates before the registers of its devices share. */
  readonly accesses: AccessNesting;
  /** Host-physical memory. */
  readonly hostMemory: HostMemory;
  /** The host kernel. */
  readonly kernel: HostKernel;
  /** The VM's memory in its three spaces: guest-physical, the VMM's own, host-physical. */
  readonly memory: VmMemory;
  /** The VMM's open /dev/iommu. */
  readonly iommufd: Iommufd;
  /** Which device model serves which device, beyond Linux: one per kernel. */
  readonly hub: UpcallHub;
  /** What its device models ask of the host beyond Linux. */
  readonly upcalls: HostUpcalls;
  /** The address space in which all guest RAM is mapped. */
  readonly ioasId: number;
  /** Runs an action soon, outside of any access; null: the clock does, a nanosecond later. */
  defer: ((action: () => void) => void) | null = null;
  /**
   * Called before guest memory is unplugged, with its first address and size (bytes): whoever has mapped it elsewhere
   * (shadows of guest tables) unmaps it.
   */
  readonly memoryLeaves = new Set<(gpa: number, bytes: number) => void>();

  /**
   * @throws ViommuError `EINVAL`/`EBUSY` for RAM that does not fit, a limit that is none, or `failures` beside another VM;
   *   `EIO` when the host refuses. Nothing of the VM stays at the host then.
   */
  constructor(options: VmOptions) {
    const { beside } = options;
    if (beside !== undefined && options.failures !== undefined)
      throw new ViommuError(
        'EINVAL',
        'caller',
        '`failures` are of the host: a VM `beside` another has those of that one',
      );
    this.limits = machineLimits(options.limits);
    this.quotas = machineQuotas(this.limits);
    this.failures = beside?.failures ?? (options.failures === undefined ? null : new FailureInjector(options.failures));
    this.clock = beside?.clock ?? new VirtualClock();
    this.accesses = beside?.accesses ?? new AccessNesting();
    this.hostMemory = beside?.hostMemory ?? new HostMemory(this.limits.tablePages, this.accesses);
    if (beside === undefined) this.hostMemory.failures = this.failures;
    this.shadowTables = new ShadowPool(this.hostMemory, this.limits.shadowTables);
    this.kernel =
      beside?.kernel ?? new HostKernel({ memory: this.hostMemory, clock: this.clock, tell: options.tell ?? null });
    this.hub = beside?.hub ?? new UpcallHub();
    this.memory = new VmMemory(this.hostMemory);
    const iommufd = new IommufdFile(this.kernel, this.memory);
    this.iommufd = iommufd;
    this.upcalls = new ContextUpcalls(this.hub, objectsOf(iommufd.context));
    const ioas = { flags: 0, outIoasId: 0 };
    const away: (() => void)[] = [];
    try {
      this.#must('IOAS_ALLOC', this.iommufd.ioasAlloc(ioas));
      this.ioasId = ioas.outIoasId;
      for (const r of options.ram) {
        away.push(this.memory.addRam(r.base, r.bytes, r.backing));
        this.#map(r.base, r.bytes, MAP_FLAGS);
      }
    } catch (error) {
      // Closing takes every mapping along, whatever fails: a verb for each of them could be refused in its turn.
      iommufd.close();
      for (const take of away) take();
      throw error;
    }
    if (beside === undefined && this.failures !== null) this.failures.on = true;
  }

  /**
   * Adds RAM, also while the VM runs (memory hot-plug).
   * @returns takes it away: out of the IOAS (with every cache that follows) and out of the address spaces.
   * @throws ViommuError `EINVAL`/`EBUSY` for RAM that does not fit; `EIO` when the host does not map it. Nothing is there then.
   */
  addRam(gpa: number, bytes: number, backing?: Backing, writable = true): () => void {
    const away = this.memory.addRam(gpa, bytes, backing, writable);
    this.#mapOr(away, gpa, bytes, writable ? MAP_FLAGS : READ_ONLY_FLAGS);
    return () => {
      for (const leaves of this.memoryLeaves) leaves(gpa, bytes);
      this.#must(
        'IOAS_UNMAP',
        this.iommufd.ioasUnmap({ ioasId: this.ioasId, iova: BigInt(gpa), length: BigInt(bytes) }),
      );
      away();
    };
  }

  /** What its guest uses of each limit now. */
  usage(): MachineUsage {
    const { pagesUsed: used, pagesLimit: limit, exhausted: met } = this.hostMemory;
    const counted = Object.entries(this.quotas).map(([name, q]) => [
      name,
      { used: q.used, limit: q.limit, met: q.met },
    ]);
    const tables = this.shadowTables;
    return {
      tablePages: { used, limit, met },
      shadowTables: { used: tables.pages, limit: tables.limit, met: tables.met },
      ...Object.fromEntries(counted),
    } as MachineUsage;
  }

  /** Where a device goes on with what one access may not cost. */
  readonly later = (action: () => void): void => {
    if (this.defer !== null) this.defer(action);
    else this.clock.after(1, action);
  };

  #map(gpa: number, bytes: number, flags: number): void {
    const userVa = this.memory.userVa(gpa);
    const { ioasId } = this;
    const map = { flags, ioasId, reserved: 0, userVa, length: BigInt(bytes), iova: BigInt(gpa) };
    this.#must('IOAS_MAP', this.iommufd.ioasMap(map));
  }

  /** A window of device registers as the VMM maps it for peers (BARs): in the IOAS at the place where the guest sees it. */
  addWindow(gpa: number, bytes: number, window: MemoryWindow): void {
    const hpa = this.memory.addHostWindow(gpa, bytes, window, true);
    this.#mapOr(() => this.memory.removeWindow(hpa), gpa, bytes, MAP_FLAGS);
  }

  #mapOr(undo: () => void, gpa: number, bytes: number, flags: number): void {
    try {
      this.#map(gpa, bytes, flags);
    } catch (error) {
      undo();
      throw error;
    }
  }

  #must(verb: string, result: number): void {
    if (result !== 0) throw new ViommuError('EIO', 'host', `${verb} failed`, { errno: -result });
  }
}
