import type { CachedTranslation } from '../lib/cache/listing.ts';
import { hostRid } from '../lib/pci/rids.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../ports/dma.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { ReplayTarget, TraceHeader } from '../trace/index.ts';
import { type GrantedTranslation, GrantedTranslations } from './granted.ts';
import { PromptEndpoints } from './replay-endpoints.ts';
import { ReplayMemory } from './replay-memory.ts';
import type { IommuUnit } from './unit.ts';
import type { Vm } from './vm.ts';

/** Interrupts of a replay are compared through `tell`; nothing else listens. */
export const SILENT_INTERRUPTS: InterruptPort = { pulse() {}, level() {}, message: () => true };

/** The IOMMU of a replay, and what its architecture says in its own way. */
export interface ReplayedIommu {
  readonly unit: IommuUnit;
  /** Puts a function behind it, under requester id `rid`. */
  plug(rid: number, name: string, ats: boolean, pri: boolean): void;
  /** Looks up what an access that was just translated met in the guest's tables: fills `tag` and `guestShift`. */
  look(rid: number, lo: number, hi: number, access: number): void;
  /** See `ReplayTarget.tag`. */
  readonly tag: number;
  /** See `ReplayTarget.guestShift`. */
  readonly guestShift: number;
  /** See `ReplayTarget.irte`. */
  irte(index: number, into: Int32Array): boolean;
  /** The hardware's cached translations. */
  translations(): CachedTranslation[];
  /** The same as lines of a listing. @param limit lines of each context. */
  cached(limit: number): string[];
}

/** The machine a recording describes: memory, host, hardware, the guest's IOMMU, and whoever sends DMA. */
export class ReplayMachine implements ReplayTarget {
  lo = 0;
  hi = 0;
  out = 0;
  perm = 0;
  guestShift = 0;
  tag = -1;
  outAddress = 0;
  outData = 0;
  /** The VM, with its host. */
  readonly vm: Vm;
  /** The guest's IOMMU. */
  readonly iommu: ReplayedIommu;
  readonly #memory: ReplayMemory;
  readonly #granted = new GrantedTranslations();
  readonly #pair = new Int32Array(2);
  /** What an access has left for the next occasion. */
  readonly #later: (() => void)[] = [];

  /** @param header names the functions that are there from the beginning. */
  constructor(vm: Vm, iommu: ReplayedIommu, header: TraceHeader) {
    this.vm = vm;
    this.iommu = iommu;
    this.#memory = new ReplayMemory(vm);
    vm.defer = (action) => void this.#later.push(action);
    iommu.unit.endpoints.to = new PromptEndpoints(iommu.unit.ats, this.#granted);
    for (const d of header.devices) {
      iommu.plug(d.sid, d.name, d.ats, d.pri ?? false);
      if (d.ats) this.#granted.add(d.sid);
    }
  }

  store(gpa: number, size: number, lo: number, hi: number): boolean {
    return this.#memory.store(gpa, size, lo, hi);
  }

  page(gpa: number, bytes: Uint8Array | null): boolean {
    return this.#memory.page(gpa, bytes);
  }

  drop(gpa: number): void {
    this.#memory.drop(gpa);
  }

  load(gpa: number, into: Uint8Array): boolean {
    return this.#memory.load(gpa, into);
  }

  read(offset: number, size: number): void {
    const { window } = this.iommu.unit;
    if (size === 8) {
      window.read64(offset, this.#pair);
      this.lo = this.#pair[0]!;
      this.hi = this.#pair[1]!;
    } else {
      this.lo = window.read(offset, size);
      this.hi = 0;
    }
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    this.iommu.unit.window.write(offset, size, lo, hi);
    this.#rest();
  }

  /** A recording has no other occasion: the machine it was made on was done before the next event. */
  #rest(): void {
    for (let action = this.#later.shift(); action !== undefined; action = this.#later.shift()) action();
  }

  dma(rid: number, lo: number, hi: number, access: number): number {
    const { iommu } = this;
    // The recording's header was made before the function was plugged in.
    if (iommu.unit.functionOf(rid) === undefined) iommu.plug(rid, `rid${rid}`, false, false);
    const hw = iommu.unit.translate;
    const status = hw.translate(hostRid(rid), NO_PASID, lo, hi, access, AT.UNTRANSLATED);
    if (status !== DMA.OK) return status;
    this.out = this.vm.memory.gpaOf(hw.out);
    this.perm = hw.outPerm & (ACCESS.READ | ACCESS.WRITE);
    this.#granted.granted(rid, lo, hi, this.out, this.perm);
    iommu.look(rid, lo, hi, access);
    this.tag = iommu.tag;
    this.guestShift = iommu.guestShift;
    return status;
  }

  pageRequest(rid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    this.iommu.unit.ats.pageRequest(hostRid(rid), NO_PASID, lo, hi, access, group, last);
  }

  remap(rid: number, address: number, data: number): boolean {
    const { remap } = this.iommu.unit;
    if (remap?.remap(rid, address, data) !== true) return false;
    this.outAddress = remap.outAddress;
    this.outData = remap.outData;
    return true;
  }

  irte(index: number, into: Int32Array): boolean {
    return this.iommu.irte(index, into);
  }

  translations(): CachedTranslation[] {
    return this.iommu.translations().map((c) => ({ ...c, out: this.vm.memory.gpaOf(c.out) }));
  }

  granted(): GrantedTranslation[] {
    return this.#granted.list();
  }

  explain(limit: number): string[] {
    return this.iommu.cached(limit);
  }

  reset(): void {
    this.iommu.unit.reset();
    this.#granted.clear();
  }
}
