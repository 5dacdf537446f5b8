import type { VtdProperties } from '../../devices/vtd/properties.ts';
import { hostRid } from '../lib/pci/rids.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../ports/dma.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { Tell } from '../ports/tell.ts';
import type { ReplayOptions, ReplayTarget, TraceHeader } from '../trace/index.ts';
import { cachedLines } from './explain-cache.ts';
import { PromptEndpoints } from './replay-endpoints.ts';
import { ReplayMemory } from './replay-memory.ts';
import { Vm } from './vm.ts';
import { VtdUnit } from './vtd-unit.ts';

const CACHES = {
  full: {},
  tiny: { iotlb: 16, contexts: 4, pasids: 4 },
  off: { iotlb: 0, contexts: 0, pasids: 0 },
} as const;

/** Interrupts are compared through `tell`; nothing else listens in a replay. */
const SILENT: InterruptPort = { pulse() {}, level() {}, message: () => true };

/** The machine a recording of a VT-d guest describes. */
export class VtdReplayMachine extends ReplayMemory implements ReplayTarget {
  readonly unit: VtdUnit;
  lo = 0;
  hi = 0;
  out = 0;
  perm = 0;
  guestShift = 0;
  tag = -1;
  outAddress = 0;
  outData = 0;
  readonly #pair = new Int32Array(2);

  constructor(header: TraceHeader, properties: VtdProperties, options: ReplayOptions, tell: Tell) {
    super(new Vm({ ram: header.ram.map((r) => ({ base: r.gpa, bytes: r.size })), tell }));
    this.unit = new VtdUnit(this.vm, {
      name: 'vtd',
      properties,
      irq: SILENT,
      tell,
      caches: CACHES[options.caches ?? 'full'],
      ignoreInvalidations: options.ignoreInvalidations ?? false,
    });
    this.unit.endpoints.to = new PromptEndpoints(this.unit.hardware);
    for (const d of header.devices) this.#plug(d.sid, d.name, d.ats, d.pri ?? false);
  }

  #plug(rid: number, name: string, ats: boolean, pri: boolean): void {
    this.unit.addFunction([rid], [hostRid(rid)], { name, ats, pri });
  }

  read(offset: number, size: number): void {
    const { device } = this.unit;
    if (size === 8) {
      device.read64(offset, this.#pair);
      this.lo = this.#pair[0]!;
      this.hi = this.#pair[1]!;
    } else {
      this.lo = device.read(offset, size);
      this.hi = 0;
    }
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    this.unit.device.write(offset, size, lo, hi);
  }

  dma(rid: number, lo: number, hi: number, access: number): number {
    // A function that appeared after the recording of the header was made: it was hot-plugged.
    if (this.unit.functionOf(rid) === undefined) this.#plug(rid, `rid${rid}`, false, false);
    const hw = this.unit.hardware;
    const status = hw.translate(hostRid(rid), NO_PASID, lo, hi, access, AT.UNTRANSLATED);
    if (status !== DMA.OK) return status;
    this.out = this.vm.memory.gpaOf(hw.out);
    this.perm = hw.outPerm & (ACCESS.READ | ACCESS.WRITE);
    const { lookup } = this.unit.device;
    lookup.find(rid, NO_PASID, lo, hi, access);
    this.guestShift = lookup.shift;
    this.tag = lookup.did;
    return status;
  }

  pageRequest(rid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    this.unit.hardware.pageRequest(hostRid(rid), NO_PASID, lo, hi, access, group, last);
  }

  remap(rid: number, address: number, data: number): boolean {
    const { interrupts } = this.unit.device;
    if (!interrupts.remap(rid, address, data)) return false;
    this.outAddress = interrupts.outAddress;
    this.outData = interrupts.outData;
    return true;
  }

  irte(index: number, into: Int32Array): boolean {
    const { interrupts } = this.unit.device;
    if (interrupts.outIndex !== index) return false;
    into.set(interrupts.outEntry);
    return true;
  }

  explain(limit: number): string[] {
    return cachedLines(this.unit.hardware.cached(), 'domain', 'PASID', this.vm.memory, limit);
  }

  reset(): void {
    this.unit.device.reset();
  }
}
