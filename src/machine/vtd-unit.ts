import { Vtd } from '../../devices/vtd/device.ts';
import { type VtdDeviations, vtdDeviations } from '../../devices/vtd/profile.ts';
import { checkVtdProperties, type VtdProperties } from '../../devices/vtd/properties.ts';
import { ViommuError } from '../core/errors.ts';
import { VtdDriver } from '../host/drivers/vtd/driver.ts';
import type { ReservedRegion } from '../host/kernel/driver.ts';
import { AccessGate } from '../lib/access/access-gate.ts';
import { GatedDevice, ownWork } from '../lib/access/gated-device.ts';
import type { PasidManagement } from '../lib/pasid/pasid-management.ts';
import { PhysicalVtd } from '../piommu/vtd/device.ts';
import type { VtdCacheSizes } from '../piommu/vtd/options.ts';
import type { VtdIdentification } from '../piommu/vtd/registers.ts';
import { type AtsPort, type InterruptRemapPort, NO_PASID, type TranslatePort } from '../ports/dma.ts';
import type { HwPort } from '../ports/hw.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { MmioDevice } from '../ports/mmio.ts';
import type { Tell } from '../ports/tell.ts';
import { vtdHardwareOf } from './hardware-options.ts';
import { EndpointRelay, HwRelay } from './hw-relay.ts';
import type { PasidLayer } from './pasid/pasid-layer.ts';
import type { FunctionDescription, IommuUnit, UnitFunction, UnitSlice } from './unit.ts';
import { type BoundFunction, requireSupport, UnitFunctions } from './unit-functions.ts';
import type { Vm } from './vm.ts';

/** A vVT-d with its host's unit, as a machine orders it. */
export interface VtdUnitConfig {
  /** Name in `tell`. */
  readonly name: string;
  /** Properties of the vVT-d. */
  readonly properties: VtdProperties;
  /** Single rows of the deviation table, away from the profile's. */
  readonly deviations?: Partial<VtdDeviations>;
  /** Its messages. */
  readonly irq: InterruptPort;
  /** Hears everything that happens. */
  readonly tell?: Tell | null;
  /** Sizes of the physical unit's caches. */
  readonly caches?: VtdCacheSizes;
  /** Debugging: the physical unit swallows invalidations. */
  readonly ignoreInvalidations?: boolean;
  /** No upcalls. */
  readonly linuxOnly?: boolean;
  /** RMRRs: memory that stays mapped one to one for a device. */
  readonly reserved?: (name: string) => readonly ReservedRegion[];
  /** Nanoseconds an ATS invalidation may take. */
  readonly invalidateTimeout?: number;
  /** PASIDs of the VM, for functions in global mode, slices, and what must be drained. */
  readonly pasids?: PasidLayer;
  /** Capability registers of the physical unit, where it has not everything: a host that has less. */
  readonly hardware?: Partial<VtdIdentification>;
  /** Stands between kernel and hardware: fault injection. */
  readonly wrapHw?: (hw: HwPort) => HwPort;
}

/** One vVT-d with everything under it: the kernel's driver and a physical unit of its own. */
export class VtdUnit implements IommuUnit {
  /** Name in `tell`. */
  readonly name: string;
  /** What the guest sees. */
  readonly device: Vtd;
  /** The host kernel's driver. */
  readonly driver: VtdDriver;
  /** The physical unit. */
  readonly hardware: PhysicalVtd;
  readonly endpoints = new EndpointRelay();
  /** The host owns the PASID table. Twins for ENQCMD come from the VM's PASID layer. */
  readonly managements: readonly PasidManagement[];
  readonly slices: boolean;
  readonly pasidBits: number;
  readonly pasidSplit?: number;
  readonly window: MmioDevice;
  readonly #functions: UnitFunctions;

  /**
   * Makes the physical unit, gives the kernel its driver, and puts the device in front.
   * @throws ViommuError `EIO` the host refuses it; `E_PROFILE`, `EINVAL` its properties or deviations are not possible, and
   *   then nothing was made.
   */
  constructor(vm: Vm, config: VtdUnitConfig) {
    const properties = checkVtdProperties(config.properties);
    const hardware = vtdHardwareOf(vtdDeviations(properties.profile, config.deviations));
    this.name = config.name;
    this.managements = config.pasids === undefined ? ['host-table'] : ['host-table', 'global'];
    this.slices = config.pasids !== undefined;
    const { pasidBits } = properties;
    const split = config.pasids?.space.min;
    if (split !== undefined) this.pasidSplit = split;
    // The guest is shown no bits that reach beyond the split.
    this.pasidBits = split === undefined ? pasidBits : Math.min(pasidBits, Math.floor(Math.log2(split)));
    const events = new HwRelay();
    this.hardware = new PhysicalVtd({
      name: `${config.name}.hw`,
      memory: vm.failures?.memory(vm.hostMemory.walked) ?? vm.hostMemory.walked,
      ...hardware,
      ...config.hardware,
      clock: vm.clock,
      events,
      endpoints: this.endpoints,
      ...(config.caches === undefined ? {} : { caches: config.caches }),
      ...(config.invalidateTimeout === undefined ? {} : { invalidateTimeout: config.invalidateTimeout }),
      ignoreInvalidations: config.ignoreInvalidations ?? false,
    });
    const { reserved, pasids: layer } = config;
    const failing = vm.failures?.hw(this.hardware, 8) ?? this.hardware;
    this.driver = new VtdDriver({
      name: `${config.name}.kernel`,
      hw: config.wrapHw?.(failing) ?? failing,
      memory: vm.hostMemory,
      shadows: vm.shadowTables,
      upcalls: config.linuxOnly === true ? null : vm.hub,
      // A guest that is itself a hypervisor maps read-only pages; the modelled unit does not have the erratum.
      errata: config.linuxOnly === true,
      narrowFirstStages: hardware.narrowFirstStages === true && config.linuxOnly !== true,
      ...(reserved === undefined ? {} : { reserved: (dev) => reserved(dev.name) }),
    });
    vm.kernel.addIommu(this.driver);
    events.to = this.driver.events;
    const gate = new AccessGate(vm.accesses);
    const guest = vm.memory.guest.view(gate);
    const own = ownWork(gate, vm.later);
    this.device = new Vtd({
      properties,
      ...(config.deviations === undefined ? {} : { deviations: config.deviations }),
      memory: vm.failures?.memory(guest) ?? guest,
      irq: config.irq,
      iommufd: vm.iommufd,
      upcalls: config.linuxOnly === true ? null : vm.upcalls,
      ioasId: vm.ioasId,
      userVa: (gpa) => vm.memory.userVa(gpa),
      roomAt: (gpa) => vm.memory.roomAt(gpa),
      ram: () => vm.memory.ram(),
      ...own,
      after: (delay, action) => vm.clock.after(delay, () => own.alone(action)),
      inner: () => vm.accesses.depth > 1,
      quotas: vm.quotas,
      failures: vm.hostMemory,
      name: config.name,
      tell: config.tell ?? null,
      ...(layer === undefined ? {} : { pasids: layer.space, globals: layer.globals, drain: layer }),
    });
    this.window = new GatedDevice(this.device, gate);
    layer?.whenClosed(() => this.device.releasePasids());
    vm.memoryLeaves.add((gpa, bytes) => this.device.forget(gpa, bytes));
    this.#functions = new UnitFunctions(vm, this, (f) => this.#take(f));
  }

  #take({ rids, vfio, description }: BoundFunction): () => void {
    const pasids = description.pasids === 'global' ? 'global' : 'guest';
    const { group } = description;
    const isolated = group === undefined ? {} : { group };
    return this.device.addDevice({ rid: rids[0]!, aliases: rids.slice(1), vfio, pasids, ...isolated });
  }

  get translate(): TranslatePort {
    return this.hardware;
  }
  get ats(): AtsPort {
    return this.hardware;
  }
  get remap(): InterruptRemapPort {
    return this.device.interrupts;
  }

  addFunction(rids: readonly number[], streams: readonly number[], description: FunctionDescription): UnitFunction {
    return this.#functions.add(rids, streams, description);
  }

  addSlice(rid: number, parent: UnitFunction, pasid: number): UnitSlice {
    requireSupport(this, null, true);
    const { device } = this;
    const { name, maxPasids } = parent.device;
    if (!Number.isInteger(pasid) || pasid < 0 || pasid >= maxPasids) {
      const what = `${name} has ${maxPasids} PASIDs: a slice takes one of those`;
      throw new ViommuError('EINVAL', 'caller', what, { rid, pasid });
    }
    const remove = device.addDevice({ rid, vfio: parent.vfio, slice: pasid });
    const hostPasid = (own: number) => (own === NO_PASID ? pasid : device.usePasid(rid, own));
    const refused = (own: number, lo: number, hi: number, access: number) =>
      device.requestRefused(rid, own, lo, hi, access);
    const guestPasid = (host: number) => device.guestPasid(rid, host);
    return { rid, parent, pasid, hostPasid, guestPasid, refused, remove };
  }

  functionOf(rid: number): UnitFunction | undefined {
    return this.#functions.of(rid);
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
