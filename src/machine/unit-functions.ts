import { ViommuError } from '../core/errors.ts';
import { VfioFile } from '../host/iommufd/vfio-device.ts';
import type { IommuDriver } from '../host/kernel/driver.ts';
import type { PasidManagement } from '../lib/pasid/pasid-management.ts';
import type { VfioDevice } from '../ports/iommufd.ts';
import { errnoName } from '../spec/iommufd/errno.ts';
import { pasidInfo } from './pasid/pasid-info.ts';
import type { FunctionDescription, IommuUnit, UnitFunction } from './unit.ts';
import type { Vm } from './vm.ts';

/** @param unit its name. */
export function noSlices(unit: string): ViommuError {
  return new ViommuError('EOPNOTSUPP', 'caller', `${unit} has no slices of functions`);
}

/**
 * @param slice the function is a slice of another one.
 * @throws ViommuError `EOPNOTSUPP` when the unit cannot have a function managed like that.
 */
export function requireSupport(unit: IommuUnit, pasids: PasidManagement | null | undefined, slice: boolean): void {
  const { name, managements } = unit;
  if (slice && !unit.slices) throw noSlices(name);
  if (pasids == null || managements.includes(pasids)) return;
  const has = managements.map((m) => `'${m}'`).join(' or ');
  throw new ViommuError('EOPNOTSUPP', 'caller', `${name} manages PASIDs as ${has}, not as '${pasids}'`);
}

/** A function on its way into a device model. */
export interface BoundFunction {
  /** Requester ids as the guest knows them. */
  readonly rids: readonly number[];
  /** The VMM's open VFIO device, bound to its iommufd. */
  readonly vfio: VfioDevice;
  /** What the machine said about it. */
  readonly description: FunctionDescription;
}

/**
 * Takes a function into the guest-visible device. @returns takes it out again.
 * @throws ViommuError what the host or the device model refuses.
 */
export type TakeFunction = (f: BoundFunction) => () => void;

/**
 * The functions behind one unit. Each is known in three places: the kernel's bus, the VMM's iommufd, and the device model.
 * It comes into all three, in this order, or into none, and goes in the reverse order.
 */
export class UnitFunctions {
  readonly #vm: Vm;
  readonly #driver: IommuDriver;
  readonly #unit: IommuUnit;
  readonly #take: TakeFunction;
  readonly #byRid = new Map<number, UnitFunction>();

  /** @param unit whose functions they are. @param take takes a bound function into the device model. */
  constructor(vm: Vm, unit: IommuUnit & { readonly driver: IommuDriver }, take: TakeFunction) {
    this.#vm = vm;
    this.#unit = unit;
    this.#driver = unit.driver;
    this.#take = take;
  }

  /** The function the guest knows by this requester id. */
  of(rid: number): UnitFunction | undefined {
    return this.#byRid.get(rid);
  }

  /** See `IommuUnit.addFunction`. */
  add(rids: readonly number[], streams: readonly number[], description: FunctionDescription): UnitFunction {
    requireSupport(this.#unit, description.pasids, false);
    const { kernel, iommufd } = this.#vm;
    const { pasids: _, ...described } = description;
    const device = kernel.addDevice({ ...described, streams, iommu: this.#driver });
    const vfio = new VfioFile(device);
    const release = (undo: boolean) => {
      vfio.close();
      kernel.removeDevice(device, undo);
    };
    const unit = this.#unit;
    let away: () => void;
    try {
      const r = vfio.bind(iommufd);
      if (r !== 0) {
        throw new ViommuError('EIO', 'host', `${description.name} cannot be bound: ${errnoName(r)}`, { errno: -r });
      }
      away = this.#take({ rids, vfio, description });
    } catch (error) {
      release(true);
      throw error;
    }
    const fn: UnitFunction = {
      rids,
      streams,
      device,
      vfio,
      get pasidInfo() {
        const { pasidBits, pasidSplit = 0 } = unit;
        return pasidInfo(iommufd, vfio, description.pasids === 'global', pasidSplit, pasidBits);
      },
      remove: () => {
        if (this.#byRid.get(rids[0]!) !== fn) return;
        for (const rid of rids) this.#byRid.delete(rid);
        try {
          away();
        } finally {
          release(false);
        }
      },
    };
    for (const rid of rids) this.#byRid.set(rid, fn);
    return fn;
  }
}
