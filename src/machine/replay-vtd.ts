import type { VtdProperties } from '../../devices/vtd/properties.ts';
import type { CachedTranslation } from '../lib/cache/listing.ts';
import { hostRid } from '../lib/pci/rids.ts';
import { NO_PASID } from '../ports/dma.ts';
import type { Tell } from '../ports/tell.ts';
import type { ReplayOptions } from '../trace/index.ts';
import { cachedLines } from './explain-cache.ts';
import { type ReplayedIommu, SILENT_INTERRUPTS } from './replay-machine.ts';
import type { Vm } from './vm.ts';
import { VtdUnit } from './vtd-unit.ts';

/** What the replay asks of the machine's caches. */
const CACHES = {
  full: {},
  tiny: { iotlb: 16, contexts: 4, pasids: 4 },
  off: { iotlb: 0, contexts: 0, pasids: 0 },
} as const;

/** What the vVT-d of a recording is made of. */
export interface ReplayedVtdParts {
  readonly vm: Vm;
  readonly properties: VtdProperties;
  readonly options: ReplayOptions;
  readonly tell: Tell;
}

/** The vVT-d of a recording. */
export class ReplayedVtd implements ReplayedIommu {
  readonly unit: VtdUnit;
  tag = -1;
  guestShift = 0;
  readonly #vm: Vm;

  constructor({ vm, properties, options, tell }: ReplayedVtdParts) {
    this.#vm = vm;
    this.unit = new VtdUnit(vm, {
      name: 'vtd',
      properties,
      irq: SILENT_INTERRUPTS,
      tell,
      caches: CACHES[options.caches ?? 'full'],
      ignoreInvalidations: options.ignoreInvalidations ?? false,
    });
    if (options.tellHardware === true) this.unit.hardware.tell = tell;
  }

  plug(rid: number, name: string, ats: boolean, pri: boolean): void {
    this.unit.addFunction([rid], [hostRid(rid)], { name, ats, pri });
  }

  look(rid: number, lo: number, hi: number, access: number): void {
    const { lookup } = this.unit.device;
    lookup.find(rid, NO_PASID, lo, hi, access);
    this.guestShift = lookup.shift;
    this.tag = lookup.did;
  }

  irte(index: number, into: Int32Array): boolean {
    const { interrupts } = this.unit.device;
    if (interrupts.outIndex !== index) return false;
    into.set(interrupts.outEntry);
    return true;
  }

  translations(): CachedTranslation[] {
    return this.unit.hardware.cached();
  }

  cached(limit: number): string[] {
    return cachedLines({ list: this.translations(), domain: 'domain', id: 'PASID', memory: this.#vm.memory, limit });
  }
}
