import { Smmuv3 } from '../../devices/smmuv3/device.ts';
import { type Smmuv3Deviations, smmuv3Deviations } from '../../devices/smmuv3/profile.ts';
import { checkSmmuv3Properties, type Smmuv3Properties } from '../../devices/smmuv3/properties.ts';
import { Smmuv3Driver } from '../host/drivers/smmuv3/driver.ts';
import { AccessGate } from '../lib/access/access-gate.ts';
import { GatedDevice, ownWork } from '../lib/access/gated-device.ts';
import { PhysicalSmmuv3 } from '../piommu/smmuv3/device.ts';
import type { Smmuv3CacheSizes } from '../piommu/smmuv3/options.ts';
import type { Smmuv3Identification } from '../piommu/smmuv3/registers.ts';
import type { TranslatePort } from '../ports/dma.ts';
import type { HwPort } from '../ports/hw.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { MmioDevice } from '../ports/mmio.ts';
import type { Tell } from '../ports/tell.ts';
import { smmuv3HardwareOf } from './hardware-options.ts';
import { EndpointRelay, HwRelay } from './hw-relay.ts';
import { SubstreamsUnseen } from './smmuv3-substreams.ts';
import type { FunctionDescription, IommuUnit, UnitFunction } from './unit.ts';
import { noSlices, UnitFunctions } from './unit-functions.ts';
import type { Vm } from './vm.ts';

const PAGE = 4096;

/** A vSMMUv3 with its host's SMMU, as a machine orders it. */
export interface Smmuv3UnitConfig {
  /** Name in `tell`. */
  readonly name: string;
  /** Properties of the vSMMUv3. */
  readonly properties: Smmuv3Properties;
  /** Single rows of the deviation table, away from the profile's column. */
  readonly deviations?: Partial<Smmuv3Deviations>;
  /** Its wired lines and messages. */
  readonly irq: InterruptPort;
  /** Hears everything that happens. */
  readonly tell?: Tell | null;
  /** Sizes of the physical SMMU's caches. */
  readonly caches?: Smmuv3CacheSizes;
  /** Debugging: the physical SMMU swallows invalidations. */
  readonly ignoreInvalidations?: boolean;
  /** Linux's partial count in batches, and a device model that believes it. */
  readonly batchQuirk?: boolean;
  /** No upcalls: what the guest then loses, Linux does not offer. */
  readonly linuxOnly?: boolean;
  /** Guest-physical page of the MSI doorbell: where the host puts its software MSI window. */
  readonly doorbell: number;
  /** Which devices wait when an access faults (platform devices; PCI functions do not). */
  readonly canStall?: (name: string) => boolean;
  /** Nanoseconds an ATS invalidation may take. */
  readonly invalidateTimeout?: number;
  /** VMIDs the kernel may use; default all the hardware has. */
  readonly maxVmids?: number;
  /** Identification registers of the physical SMMU, where it is another than the properties ask for: a host that has less. */
  readonly hardware?: Partial<Smmuv3Identification>;
  /** Stands between kernel and hardware: fault injection. */
  readonly wrapHw?: (hw: HwPort) => HwPort;
}

/** `msi-gpa` says where the guest believes its doorbell; without it the machine does. */
function doorbellPage(msiGpa: number, machine: number): number {
  return msiGpa === 0 ? machine : msiGpa - (msiGpa % PAGE);
}

/** One vSMMUv3 with everything under it: the kernel's driver and a physical SMMU of its own. */
export class Smmuv3Unit implements IommuUnit {
  /** Name in `tell`. */
  readonly name: string;
  /** What the guest sees. */
  readonly device: Smmuv3;
  /** The host kernel's driver. */
  readonly driver: Smmuv3Driver;
  /** The physical SMMU. */
  readonly hardware: PhysicalSmmuv3;
  readonly endpoints = new EndpointRelay();
  readonly remap = null;
  /** The guest's context descriptors are its PASID table: the host has no part in how it manages PASIDs. */
  readonly managements = ['guest-table'] as const;
  readonly pasidBits: number;
  /** A stream's PASIDs all lie in one guest table, so none can be another device's. */
  readonly slices = false;
  readonly translate: TranslatePort;
  readonly window: MmioDevice;
  readonly #functions: UnitFunctions;
  /** The guest's StreamIDs by the host's requester ids. */
  readonly #sids = new Map<number, number>();

  /**
   * Makes the physical SMMU, gives the kernel its driver, and puts the device in front.
   * @throws ViommuError `EIO` the host refuses it; `E_PROFILE`, `EINVAL` its properties or deviations are not possible, and
   *   then nothing was made.
   */
  constructor(vm: Vm, config: Smmuv3UnitConfig) {
    const { name } = config;
    const properties = checkSmmuv3Properties(config.properties);
    this.name = name;
    this.pasidBits = properties.ssidsize;
    const deviations = smmuv3Deviations(properties.profile, config.deviations);
    const events = new HwRelay();
    this.hardware = new PhysicalSmmuv3({
      name: `${name}.hw`,
      memory: vm.failures?.memory(vm.hostMemory.walked) ?? vm.hostMemory.walked,
      ...smmuv3HardwareOf(properties, deviations),
      ...config.hardware,
      events,
      clock: vm.clock,
      stallQuota: vm.quotas.stalls,
      endpoints: this.endpoints,
      ...(config.caches === undefined ? {} : { caches: config.caches }),
      ...(config.invalidateTimeout === undefined ? {} : { invalidateTimeout: config.invalidateTimeout }),
      ignoreInvalidations: config.ignoreInvalidations ?? false,
    });
    const failing = vm.failures?.hw(this.hardware, 4) ?? this.hardware;
    const hw = config.wrapHw?.(failing) ?? failing;
    this.driver = new Smmuv3Driver({
      name: `${name}.kernel`,
      hw,
      memory: vm.hostMemory,
      shadows: vm.shadowTables,
      upcalls: config.linuxOnly === true ? null : vm.hub,
      partialCount: config.batchQuirk === true ? 'linux-as-is' : 'uapi-ideal',
      swMsi: { start: doorbellPage(properties.msiGpa, config.doorbell), bytes: PAGE },
      canStall: (dev) => config.canStall?.(dev.name) ?? false,
      ...(config.maxVmids === undefined ? {} : { maxVmids: config.maxVmids }),
    });
    vm.kernel.addIommu(this.driver);
    events.to = this.driver.events;
    const gate = new AccessGate(vm.accesses);
    const guest = vm.memory.guest.view(gate);
    this.device = new Smmuv3({
      name,
      properties,
      ...(config.deviations === undefined ? {} : { deviations: config.deviations }),
      memory: vm.failures?.memory(guest) ?? guest,
      iommufd: vm.iommufd,
      ioasId: vm.ioasId,
      upcalls: config.linuxOnly === true ? null : vm.upcalls,
      irq: config.irq,
      tell: config.tell ?? null,
      userVa: (gpa) => vm.memory.userVa(gpa),
      roomAt: (gpa) => vm.memory.roomAt(gpa),
      ...ownWork(gate, vm.later),
      inner: () => vm.accesses.depth > 1,
      quotas: vm.quotas,
      failures: vm.hostMemory,
      trustPartialCount: config.batchQuirk ?? false,
    });
    const off = (rid: number) => this.device.bypasses(this.#sids.get(rid) ?? -1);
    this.translate = properties.ssidsize > 0 ? new SubstreamsUnseen(this.hardware, off) : this.hardware;
    this.window = new GatedDevice(this.device, gate);
    vm.memoryLeaves.add((gpa, bytes) => this.device.forget(gpa, bytes));
    this.#functions = new UnitFunctions(vm, this, ({ rids, vfio, description: { group } }) =>
      this.device.addDevice({ sids: rids, vfio, ...(group === undefined ? {} : { group }) }),
    );
  }

  get ats(): PhysicalSmmuv3 {
    return this.hardware;
  }

  addFunction(sids: readonly number[], streams: readonly number[], description: FunctionDescription): UnitFunction {
    const added = this.#functions.add(sids, streams, description);
    // They stay when the function goes: who sends under an id later has it from here again.
    for (const [i, rid] of streams.entries()) this.#sids.set(rid, sids[i]!);
    return added;
  }

  addSlice(): never {
    throw noSlices(this.name);
  }

  functionOf(sid: number): UnitFunction | undefined {
    return this.#functions.of(sid);
  }

  reset(): void {
    this.device.reset();
  }

  save(): unknown {
    return this.device.save();
  }

  checkState(state: unknown): void {
    this.device.checkState(state);
  }

  load(state: unknown, anyway = false): void {
    this.device.load(this.device.checkState(state), anyway);
  }
}
