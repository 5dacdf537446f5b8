import { smmuv3Defaults } from '../../devices/smmuv3/properties.ts';
import { vtdDefaults } from '../../devices/vtd/properties.ts';
import { hostRid } from '../../src/lib/pci/rids.ts';
import { windowOf } from '../../src/machine/physical-map.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import { Vm } from '../../src/machine/vm.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';
import { ACCESS, AT, NO_PASID } from '../../src/ports/dma.ts';
import type { DmaGuest } from './dma-writers.ts';

export type Kind = 'smmuv3' | 'vtd';
export type Profile = 'qemu-11.1' | 'arch';

export const RAM = 0x4000_0000;
export const OWN = 0x1000_0000;
export const OTHER = 0x1800_0000;
export const BAR = 0x3000_0000;
export const NOWHERE = 0x7000_0000;
const DOORBELL = 0x0809_0000;
/** A register of each kind that keeps a word and does nothing with it: EVENTQ_IRQ_CFG1, FEDATA. */
export const SCRATCH = { smmuv3: 0xb8, vtd: 0x3c } as const;
/** A register whose write sets something in motion: CMDQ_PROD, IQT. */
export const BELL = { smmuv3: 0x98, vtd: 0x88 } as const;

/** Two IOMMUs of a VM whose registers, with those of a function, lie in its memory. */
export class World implements DmaGuest {
  readonly ram = RAM;
  readonly vm = new Vm({ ram: [{ base: RAM, bytes: 0x100_0000 }] });
  readonly kind: Kind;
  readonly own: Smmuv3Unit | VtdUnit;
  readonly other: Smmuv3Unit | VtdUnit;
  readonly messages: number[] = [];
  /** Accesses to the function's registers. */
  reached = 0;
  last = 0;
  deepest = 0;

  constructor(kind: Kind, other: Kind, profile: Profile) {
    this.kind = kind;
    const { vm } = this;
    vm.memory.addHostWindow(DOORBELL, 4096, { name: 'its', read: () => 0, write: () => {} });
    this.own = this.#unit(kind, 'own', profile);
    this.other = this.#unit(other, 'other', profile);
    for (const unit of [this.own, this.other]) {
      unit.endpoints.to = {
        invalidate: (rid, _pasid, itag) => {
          unit.hardware.invalidateCompletion(rid, (1 << itag) >>> 0, 1);
          return true;
        },
        pageResponse: () => {},
        resumed: () => {},
      };
    }
    const see = () => {
      this.reached++;
      this.deepest = Math.max(this.deepest, vm.accesses.depth);
    };
    const bar = {
      name: 'bar',
      read: () => {
        see();
        return 0;
      },
      write: (_at: number, _size: number, value: number) => {
        see();
        this.last = value;
        // A function that answers with a write of its own: into both IOMMUs.
        for (const base of [OWN, OTHER]) vm.memory.guest.store32(base + BELL[base === OWN ? kind : other], 0);
      },
    };
    vm.memory.guest.addWindow(OWN, this.own.window.bytes, windowOf(this.own.window));
    vm.memory.guest.addWindow(OTHER, this.other.window.bytes, windowOf(this.other.window));
    vm.memory.guest.addWindow(BAR, 0x1_0000, bar);
  }

  #unit(kind: Kind, name: string, profile: Profile): Smmuv3Unit | VtdUnit {
    const irq = {
      pulse: () => {},
      level: () => {},
      message: (address: number) => {
        this.messages.push(address);
        return address === DOORBELL + 0x40;
      },
    };
    if (kind === 'vtd') {
      const properties = {
        ...vtdDefaults(profile),
        scalableMode: true,
        fsts: true,
        pasidBits: 8,
        svm: true,
        deviceIotlb: true,
      };
      const unit = new VtdUnit(this.vm, { name, properties, irq });
      unit.addFunction([0x10], [hostRid(0x10)], { name: `${name} f`, ats: true, pri: true, maxPasids: 256 });
      return unit;
    }
    const more = profile === 'arch' ? { ats: true, pri: true, ssidsize: 8 } : {};
    const properties = { ...smmuv3Defaults(profile), stage: 'nested' as const, ...more };
    const unit = new Smmuv3Unit(this.vm, { name, properties, irq, doorbell: DOORBELL });
    const pasids = profile === 'arch' ? { ats: true, pri: true, maxPasids: 256 } : {};
    unit.addFunction([0x10], [hostRid(0x10)], { name: `${name} f`, ...pasids });
    return unit;
  }

  w(at: number, value: number): void {
    this.own.window.write(at, 4, value | 0, 0);
  }
  w64(at: number, value: number): void {
    this.own.window.write(at, 8, value | 0, Math.floor(value / 2 ** 32) | 0);
  }
  r(at: number): number {
    return this.own.window.read(at, 4) >>> 0;
  }
  put(at: number, ...words: number[]): void {
    for (const [i, x] of words.entries()) this.vm.memory.guest.store32(at + 4 * i, x | 0);
  }
  load(at: number): number {
    return this.vm.memory.guest.load32(at) ? this.vm.memory.guest.lo : -1;
  }
  /** A request of the function behind the IOMMU. */
  dma(): void {
    this.own.hardware.translate(hostRid(0x10), NO_PASID, 0x5000, 0, ACCESS.WRITE, AT.UNTRANSLATED);
  }
  /** With a PASID on the VT-d: it takes no request without one in legacy mode. */
  ask(): void {
    const pasid = this.kind === 'smmuv3' ? NO_PASID : 1;
    this.own.hardware.pageRequest(hostRid(0x10), pasid, 0x9000, 0, ACCESS.READ, 3, true);
  }
  interrupt(): void {
    (this.own as VtdUnit).remap.remap(0x10, 0xfee0_0018, 0);
  }
}
