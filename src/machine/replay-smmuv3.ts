import type { Smmuv3Properties } from '../../devices/smmuv3/properties.ts';
import { fromWords } from '../core/bits.ts';
import { cachedTranslations } from '../lib/cache/listing.ts';
import { hostRid } from '../lib/pci/rids.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../ports/dma.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { Tell } from '../ports/tell.ts';
import type { ReplayOptions, ReplayTarget, TraceHeader } from '../trace/index.ts';
import { cachedLines } from './explain-cache.ts';
import { PromptEndpoints } from './replay-endpoints.ts';
import { ReplayMemory } from './replay-memory.ts';
import { Smmuv3Unit } from './smmuv3-unit.ts';
import { Vm } from './vm.ts';

/** What the replay asks of the machine's caches. */
const CACHES = {
  full: {},
  tiny: { iotlb: 16, walks: 16, streams: 4, contexts: 4 },
  off: { iotlb: 0, walks: 0, streams: 0, contexts: 0 },
} as const;
const PAGE = 4096;

/** Interrupts are compared through `tell`; nothing else listens in a replay. */
const SILENT: InterruptPort = { pulse() {}, level() {}, message: () => true };

/** The machine a recording of an SMMUv3 guest describes: memory, host, hardware, vSMMUv3, and whoever sends DMA. */
export class Smmuv3ReplayMachine extends ReplayMemory implements ReplayTarget {
  readonly unit: Smmuv3Unit;
  lo = 0;
  hi = 0;
  out = 0;
  perm = 0;
  guestShift = 0;
  tag = -1;
  readonly outAddress = 0;
  readonly outData = 0;
  readonly #doorbell: number;
  readonly #pair = new Int32Array(2);

  constructor(header: TraceHeader, properties: Smmuv3Properties, options: ReplayOptions, tell: Tell, doorbell: number) {
    super(new Vm({ ram: header.ram.map((r) => ({ base: r.gpa, bytes: r.size })), tell }));
    this.#doorbell = this.vm.memory.addHostWindow(doorbell, PAGE, { name: 'its', read: () => 0, write: () => {} });
    this.unit = new Smmuv3Unit(this.vm, {
      name: 'smmuv3',
      properties,
      irq: SILENT,
      tell,
      caches: CACHES[options.caches ?? 'full'],
      ignoreInvalidations: options.ignoreInvalidations ?? false,
      batchQuirk: options.batchQuirk ?? false,
      doorbell: doorbell,
    });
    this.unit.endpoints.to = new PromptEndpoints(this.unit.hardware);
    for (const d of header.devices) this.#plug(d.sid, d.name);
  }

  #plug(sid: number, name: string): void {
    const description = { name, msiDoorbell: this.#doorbell };
    this.unit.addFunction([sid], [hostRid(sid)], description);
  }

  read(offset: number, size: number): void {
    if (size === 8) {
      this.unit.device.read64(offset, this.#pair);
      this.lo = this.#pair[0]!;
      this.hi = this.#pair[1]!;
    } else {
      this.lo = this.unit.device.read(offset, size);
      this.hi = 0;
    }
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    this.unit.device.write(offset, size, lo, hi);
  }

  dma(sid: number, lo: number, hi: number, access: number): number {
    // A function that appeared after the recording of the header was made: it was hot-plugged.
    if (this.unit.functionOf(sid) === undefined) this.#plug(sid, `sid${sid}`);
    const hw = this.unit.hardware;
    const status = hw.translate(hostRid(sid), NO_PASID, lo, hi, access, AT.UNTRANSLATED);
    if (status !== DMA.OK) return status;
    this.out = this.vm.memory.gpaOf(hw.out);
    this.perm = hw.outPerm & (ACCESS.READ | ACCESS.WRITE);
    this.tag = hw.tag;
    this.guestShift = hw.guestShift > 0 ? hw.guestShift : this.unit.device.shadowLeaf(sid, fromWords(lo, hi));
    return status;
  }

  remap(): boolean {
    return false;
  }

  irte(): boolean {
    return false;
  }

  explain(limit: number): string[] {
    return cachedLines(cachedTranslations(this.unit.hardware.save().iotlb), 'VMID', 'ASID', this.vm.memory, limit);
  }

  reset(): void {
    this.unit.device.reset();
  }
}
