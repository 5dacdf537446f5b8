import type { Smmuv3Properties } from '../../devices/smmuv3/properties.ts';
import { fromWords } from '../core/bits.ts';
import { type CachedTranslation, cachedTranslations } from '../lib/cache/listing.ts';
import { hostRid } from '../lib/pci/rids.ts';
import type { Tell } from '../ports/tell.ts';
import type { ReplayOptions } from '../trace/index.ts';
import { cachedLines } from './explain-cache.ts';
import { type ReplayedIommu, SILENT_INTERRUPTS } from './replay-machine.ts';
import { Smmuv3Unit } from './smmuv3-unit.ts';
import type { Vm } from './vm.ts';

/** What the replay asks of the machine's caches. */
const CACHES = {
  full: {},
  tiny: { iotlb: 16, walks: 16, streams: 4, contexts: 4 },
  off: { iotlb: 0, walks: 0, streams: 0, contexts: 0 },
} as const;
const PAGE = 4096;

/** What the vSMMUv3 of a recording is made of. */
export interface ReplayedSmmuv3Parts {
  readonly vm: Vm;
  readonly properties: Smmuv3Properties;
  readonly options: ReplayOptions;
  readonly tell: Tell;
  /** Guest-physical page of the doorbell for messages. */
  readonly doorbell: number;
}

/** The vSMMUv3 of a recording. */
export class ReplayedSmmuv3 implements ReplayedIommu {
  readonly unit: Smmuv3Unit;
  tag = -1;
  guestShift = 0;
  readonly #vm: Vm;
  readonly #doorbell: number;

  constructor({ vm, properties, options, tell, doorbell }: ReplayedSmmuv3Parts) {
    this.#vm = vm;
    this.#doorbell = vm.memory.addHostWindow(doorbell, PAGE, { name: 'its', read: () => 0, write: () => {} });
    this.unit = new Smmuv3Unit(vm, {
      name: 'smmuv3',
      properties,
      irq: SILENT_INTERRUPTS,
      tell,
      caches: CACHES[options.caches ?? 'full'],
      ignoreInvalidations: options.ignoreInvalidations ?? false,
      batchQuirk: options.batchQuirk ?? false,
      doorbell,
    });
    if (options.tellHardware === true) this.unit.hardware.tell = tell;
  }

  plug(rid: number, name: string): void {
    this.unit.addFunction([rid], [hostRid(rid)], { name, msiDoorbell: this.#doorbell });
  }

  look(rid: number, lo: number, hi: number): void {
    const { hardware, device } = this.unit;
    this.tag = hardware.tag;
    this.guestShift = hardware.guestShift > 0 ? hardware.guestShift : device.shadowLeaf(rid, fromWords(lo, hi));
  }

  irte(): boolean {
    return false;
  }

  translations(): CachedTranslation[] {
    return cachedTranslations(this.unit.hardware.save().iotlb);
  }

  cached(limit: number): string[] {
    return cachedLines({ list: this.translations(), domain: 'VMID', id: 'ASID', memory: this.#vm.memory, limit });
  }
}
