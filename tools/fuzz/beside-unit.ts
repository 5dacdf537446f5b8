import { Smmuv3 } from '../../devices/smmuv3/device.ts';
import { smmuv3Defaults } from '../../devices/smmuv3/properties.ts';
import { Vtd } from '../../devices/vtd/device.ts';
import { vtdDefaults } from '../../devices/vtd/properties.ts';
import { AccessGate } from '../../src/lib/access/access-gate.ts';
import { GatedDevice } from '../../src/lib/access/gated-device.ts';
import { EndpointRelay } from '../../src/machine/hw-relay.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import type { FunctionDescription, IommuUnit, UnitFunction } from '../../src/machine/unit.ts';
import { noSlices, UnitFunctions } from '../../src/machine/unit-functions.ts';
import type { Vm } from '../../src/machine/vm.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';
import type { AtsPort, InterruptRemapPort, TranslatePort } from '../../src/ports/dma.ts';
import type { HwPort } from '../../src/ports/hw.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';

const IRQ = { pulse() {}, level() {}, message: () => true };
export const SMMUV3 = { ...smmuv3Defaults('arch'), stage: 'nested', ats: true, pri: true, ssidsize: 8 } as const;
export const VTD = {
  ...vtdDefaults('arch'),
  scalableMode: true,
  fsts: true,
  pasidBits: 8,
  deviceIotlb: true,
  svm: true,
} as const;
const NO_DOORBELL = 0x0809_0000;

/** The unit of the first VM, with a physical IOMMU of its own. */
export function firstUnit(kind: 'smmuv3' | 'vtd', vm: Vm, wrapHw: (hw: HwPort) => HwPort): Smmuv3Unit | VtdUnit {
  const common = { name: 'first', irq: IRQ, wrapHw, invalidateTimeout: 1_000_000 };
  if (kind === 'vtd') return new VtdUnit(vm, { ...common, properties: VTD });
  return new Smmuv3Unit(vm, { ...common, properties: SMMUV3, doorbell: NO_DOORBELL });
}

/** A second VM's IOMMU behind the same physical one and the same driver of the host. */
export class BesideUnit implements IommuUnit {
  readonly name = 'second';
  readonly window: MmioDevice;
  readonly endpoints = new EndpointRelay();
  readonly managements: IommuUnit['managements'];
  readonly slices = false;
  readonly remap: InterruptRemapPort | null;
  readonly driver: (Smmuv3Unit | VtdUnit)['driver'];
  readonly #device: Smmuv3 | Vtd;
  readonly #hardware: TranslatePort & AtsPort;
  readonly #functions: UnitFunctions;

  constructor(vm: Vm, first: Smmuv3Unit | VtdUnit) {
    this.driver = first.driver;
    this.#hardware = first.hardware;
    this.managements = first.managements;
    const gate = new AccessGate(vm.accesses);
    const common = {
      name: this.name,
      memory: vm.memory.guest.view(gate),
      iommufd: vm.iommufd,
      ioasId: vm.ioasId,
      upcalls: vm.upcalls,
      irq: IRQ,
      tell: null,
      userVa: (gpa: number) => vm.memory.userVa(gpa),
      roomAt: (gpa: number) => vm.memory.roomAt(gpa),
      later: vm.later,
      quotas: vm.quotas,
    };
    if (first instanceof Smmuv3Unit) {
      const device = new Smmuv3({ ...common, properties: SMMUV3 });
      this.#device = device;
      this.remap = null;
      this.#functions = new UnitFunctions(vm, this, ({ rids, vfio }) => device.addDevice({ sids: rids, vfio }));
    } else {
      const device = new Vtd({ ...common, properties: VTD, ram: () => vm.memory.ram() });
      this.#device = device;
      this.remap = device.interrupts;
      const take = (rids: readonly number[], vfio: Parameters<Vtd['addDevice']>[0]['vfio']) =>
        device.addDevice({ rid: rids[0]!, aliases: rids.slice(1), vfio, pasids: 'guest' });
      this.#functions = new UnitFunctions(vm, this, ({ rids, vfio }) => take(rids, vfio));
    }
    this.window = new GatedDevice(this.#device, gate);
  }

  get translate(): TranslatePort {
    return this.#hardware;
  }
  get ats(): AtsPort {
    return this.#hardware;
  }
  addFunction(rids: readonly number[], streams: readonly number[], d: FunctionDescription): UnitFunction {
    return this.#functions.add(rids, streams, d);
  }
  addSlice(): never {
    throw noSlices(this.name);
  }
  functionOf(rid: number): UnitFunction | undefined {
    return this.#functions.of(rid);
  }
  reset(): void {
    this.#device.reset();
  }
  save(): unknown {
    return this.#device.save();
  }
  load(): never {
    throw new Error('two VMs behind one unit are not loaded');
  }
}
