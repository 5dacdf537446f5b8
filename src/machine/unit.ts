import type { DeviceDescription, KernelDevice } from '../host/kernel/device.ts';
import type { PasidManagement } from '../lib/pasid/pasid-management.ts';
import type { AtsPort, InterruptRemapPort, TranslatePort } from '../ports/dma.ts';
import type { VfioDevice } from '../ports/iommufd.ts';
import type { MmioDevice } from '../ports/mmio.ts';
import type { EndpointRelay } from './hw-relay.ts';
import type { PasidInfo } from './pasid/pasid-info.ts';

/** What a machine says about a function that it puts behind a unit: the kernel's description, and whose its PASIDs are. */
export interface FunctionDescription extends Omit<DeviceDescription, 'iommu' | 'streams'> {
  /** Default: the first of the unit's `managements`. */
  readonly pasids?: PasidManagement;
}

/** A function behind a unit. */
export interface UnitFunction {
  /** Requester ids (StreamIDs) as the guest knows them. */
  readonly rids: readonly number[];
  /** The same, in the same order, as the hardware knows them. */
  readonly streams: readonly number[];
  /** As the host kernel knows it. */
  readonly device: KernelDevice;
  /** The VMM's open VFIO device, bound to its iommufd. */
  readonly vfio: VfioDevice;
  /** What it can do with PASIDs behind this unit, and who chooses them. */
  readonly pasidInfo: PasidInfo;
  /** Takes it away: out of the device model, off the iommufd, off the kernel. */
  remove(): void;
}

/** A slice of a function: a device of its own for the guest, which the hardware knows by PASIDs of the function (SIOV). */
export interface UnitSlice {
  /** Requester id as the guest knows it. */
  readonly rid: number;
  /** The function it is a part of. */
  readonly parent: UnitFunction;
  /** The PASID under which the function sends what the slice sends without one. */
  readonly pasid: number;
  /** The PASID under which the function sends what the slice sends under `pasid` of the guest; -1: not set up. */
  hostPasid(pasid: number): number;
  /** The guest's name of a PASID of the function (NO_PASID: none); -2: it is not the slice's. */
  guestPasid(host: number): number;
  /** The slice sent something under a PASID that is not set up: the guest is told as the architecture says. */
  refused(pasid: number, lo: number, hi: number, access: number): void;
  /** Takes the slice away; before its function goes. */
  remove(): void;
}

/** A vIOMMU with everything under it, of either architecture, as the rest of a machine sees it. */
export interface IommuUnit {
  /** Name in `tell`. */
  readonly name: string;
  /** The guest's register window. */
  readonly window: MmioDevice;
  /** What every request of its functions passes. */
  readonly translate: TranslatePort;
  /** Translation requests, completions and page requests of its functions. */
  readonly ats: AtsPort;
  /** x86: interrupt remapping; null: the unit has none. */
  readonly remap: InterruptRemapPort | null;
  /** Where the hardware's messages to functions go. */
  readonly endpoints: EndpointRelay;
  /** How it can manage PASIDs of a function; the first is what it does when a description does not say. */
  readonly managements: readonly PasidManagement[];
  /** PASID bits that its guest is shown; a unit that leaves it out limits nothing. */
  readonly pasidBits?: number;
  /** The first PASID that is not the guest's where its functions have twins in the host's pool; a unit without a pool leaves it out. */
  readonly pasidSplit?: number;
  /** Whether it takes slices of functions. */
  readonly slices: boolean;
  /**
   * Puts a function behind the unit, also while the guest runs.
   * @param rids requester ids as the guest knows them. @param streams the same, in the same order, as the hardware does.
   * @throws ViommuError what the kernel, the host or the device model refuses (`EOPNOTSUPP`: a PASID management the unit
   *   does not have); then nothing of the function is left anywhere.
   */
  addFunction(rids: readonly number[], streams: readonly number[], description: FunctionDescription): UnitFunction;
  /**
   * Puts a slice of a function behind the unit, as a device of its own with requester id `rid`.
   * @param pasid host PASID of what the slice sends without one: one that `parent` can send.
   * @throws ViommuError `EOPNOTSUPP`: the unit has no slices; `EINVAL`: `parent` cannot send the PASID.
   */
  addSlice(rid: number, parent: UnitFunction, pasid: number): UnitSlice;
  /** The function the guest knows by this requester id (StreamID). */
  functionOf(rid: number): UnitFunction | undefined;
  /** Machine reset, after all DMA has come to rest. */
  reset(): void;
  /** The guest-visible state as plain data. */
  save(): unknown;
  /**
   * Whether `load` would take a state; changes nothing. A unit that leaves it out takes all.
   * @throws ViommuError `EINVAL` the state is of another device or machine, or damaged; `E_VERSION` of another version.
   */
  checkState?(state: unknown): void;
  /**
   * Goes on where `save` was. The host behind a loaded machine is a new one: its objects are made anew, on first use.
   * @param anyway what the host refuses is left to the first use, too.
   * @throws ViommuError `EIO` the host refuses; the unit is as it was.
   */
  load(state: unknown, anyway?: boolean): void;
}
