import { smmuv3Defaults as smmuDefaults } from '../../devices/smmuv3/properties.ts';
import { vtdDefaults } from '../../devices/vtd/properties.ts';
import { ramBacking } from '../../src/lib/memory/address-space.ts';
import { guestRid, hostRid } from '../../src/lib/pci/rids.ts';
import { PromptEndpoints } from '../../src/machine/replay-endpoints.ts';
import { MachineSanitizer } from '../../src/machine/sanitize.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import type { IommuUnit } from '../../src/machine/unit.ts';
import { Vm } from '../../src/machine/vm.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';
import { ACCESS, AT, NO_PASID, type TranslatePort } from '../../src/ports/dma.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import type { Finding } from '../../src/sanitize/index.ts';
import { SeenInterrupts } from '../bus/harness.ts';
import { type GuestActs, RAM } from './driver.ts';

const RAM_BYTES = 0x1000_0000;
const lo = (v: bigint | number) => Number(BigInt.asIntN(32, BigInt(v)));
const hi = (v: bigint | number) => Number(BigInt.asIntN(32, BigInt(v) >> 32n));

/** A guest program on a machine of this package: the IOMMU answers, and the sanitizer hears all of it. */
export class LiveGuest implements GuestActs {
  readonly unit: IommuUnit;
  readonly #vm: Vm;
  readonly #watch: MachineSanitizer;
  readonly #registers: MmioDevice;
  readonly #translate: TranslatePort;
  readonly #functions = new Set<number>();
  readonly #told: boolean;
  #next = RAM + 0x10_0000;

  /** @param hearing `told`: every store is; `compared`: memory is looked at before every event. */
  constructor(iommu: 'smmuv3' | 'vtd', scalable = false, hearing: 'told' | 'compared' = 'told') {
    this.#told = hearing === 'told';
    this.#watch = new MachineSanitizer({ iommu, ram: [{ gpa: RAM, size: RAM_BYTES }] });
    const { recorder } = this.#watch;
    const backing = this.#told ? {} : { backing: recorder.watch(RAM, ramBacking(RAM_BYTES)) };
    this.#vm = new Vm({ ram: [{ base: RAM, bytes: RAM_BYTES, ...backing }], tell: recorder.tell });
    const common = { irq: new SeenInterrupts(), tell: recorder.tell };
    this.unit =
      iommu === 'smmuv3'
        ? new Smmuv3Unit(this.#vm, {
            ...common,
            name: 'smmuv3',
            properties: { ...smmuDefaults('arch'), stage: '1', ats: true, pri: true, ssidsize: 20 },
            doorbell: 0x0809_0000,
          })
        : new VtdUnit(this.#vm, {
            ...common,
            name: 'vtd',
            properties: {
              ...vtdDefaults('arch'),
              deviceIotlb: true,
              ...(scalable ? { scalableMode: true, fsts: true, pasidBits: 20, svm: true } : {}),
            },
          });
    this.unit.endpoints.to = new PromptEndpoints(this.unit.ats);
    const gpaOf = (hpa: number) => this.#vm.memory.gpaOf(hpa);
    this.#registers = recorder.device(this.unit.window);
    this.#translate = recorder.translate(this.unit.translate, guestRid, gpaOf);
  }

  alloc(bytes = 4096): number {
    const size = Math.max(4096, bytes);
    this.#next = Math.ceil(this.#next / size) * size;
    const at = this.#next;
    this.#next += size;
    return at;
  }

  get(gpa: number): bigint {
    const { guest } = this.#vm.memory;
    guest.load64(gpa);
    return (BigInt(guest.hi >>> 0) << 32n) | BigInt(guest.lo >>> 0);
  }

  st(gpa: number, value: bigint | number): this {
    this.#vm.memory.guest.store64(gpa, lo(value), hi(value));
    if (this.#told) this.#watch.stored(gpa, 8, lo(value), hi(value));
    return this;
  }

  w(off: number, value: bigint | number, size = 4): this {
    this.#registers.write(off, size, lo(value), size === 8 ? hi(value) : 0);
    return this;
  }

  r(off: number, _value: bigint | number, size = 4): this {
    if (size === 8) this.#registers.read64(off, new Int32Array(2));
    else this.#registers.read(off, 4);
    return this;
  }

  /** Puts the function behind the IOMMU. */
  plug(sid: number): this {
    if (this.#functions.has(sid)) return this;
    this.#functions.add(sid);
    this.unit.addFunction([sid], [hostRid(sid)], { name: `fn${sid}`, ats: true, pri: true, pasidBits: 20 });
    return this;
  }

  /** Lets the function access memory; what becomes of it the machine says. */
  dma(sid: number, iova: number): this {
    this.plug(sid);
    this.#translate.translate(hostRid(sid), NO_PASID, lo(iova), hi(iova), ACCESS.WRITE, AT.UNTRANSLATED);
    return this;
  }

  /** Lets the function ask for a page. */
  pageRequest(sid: number, pasid: number, iova: number): void {
    this.unit.ats.pageRequest(hostRid(sid), pasid, lo(iova), hi(iova), ACCESS.READ, 0, true);
  }

  refused(sid: number, iova: number): this {
    return this.dma(sid, iova);
  }

  /** The IOMMU writes by itself here. */
  written(): this {
    return this;
  }

  add(): this {
    return this;
  }

  judge(): Finding[] {
    return this.#watch.findings();
  }
}
