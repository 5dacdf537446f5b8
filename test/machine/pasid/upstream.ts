import type { Vm } from '../../../src/machine/vm.ts';
import { AT, ATS, DMA, NO_PASID, type TranslatePort } from '../../../src/ports/dma.ts';
import type { Upstream } from '../../../src/ports/pci.ts';

const PAGE = 4096;

/** The way up for one function: its requests, through an IOMMU, into host memory. No ATS, no interrupts. */
export class Wire implements Upstream {
  readonly rid: number;
  readonly aliases = [];
  done = 0;
  stallToken = 0;
  readonly atsLo = 0;
  readonly atsHi = 0;
  readonly atsShift = 12;
  readonly atsPerm = 0;
  readonly atsUntranslated = false;
  readonly atsNoSnoop = false;
  /** PASIDs that were seen on it. */
  readonly seen = new Set<number>();
  readonly #vm: Vm;
  readonly #iommu: TranslatePort;
  /** PASID of requests that name none: a slice's own. */
  readonly #own: number;

  constructor(vm: Vm, iommu: TranslatePort, rid: number, own = NO_PASID) {
    this.#vm = vm;
    this.#iommu = iommu;
    this.rid = rid;
    this.#own = own;
  }

  #move(
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    bytes: Uint8Array,
    start: number,
    count: number,
    out: boolean,
  ): number {
    const named = pasid === NO_PASID ? this.#own : pasid;
    this.seen.add(named);
    this.done = 0;
    while (this.done < count) {
      const at = (lo >>> 0) + (hi >>> 0) * 2 ** 32 + this.done;
      const n = Math.min(count - this.done, PAGE - (at % PAGE));
      const r = this.#iommu.translate(this.rid, named, at | 0, (at / 2 ** 32) | 0, access, AT.UNTRANSLATED);
      if (r !== DMA.OK) return r;
      const { space } = this.#vm.hostMemory;
      const part = bytes.subarray(start + this.done, start + this.done + n);
      if (!(out ? space.writeBytes(this.#iommu.out, part) : space.readBytes(this.#iommu.out, part))) return DMA.ABORT;
      this.done += n;
    }
    return DMA.OK;
  }

  read(
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    _at: number,
    into: Uint8Array,
    start: number,
    count: number,
  ): number {
    return this.#move(pasid, lo, hi, access, into, start, count, false);
  }

  write(
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    _at: number,
    from: Uint8Array,
    start: number,
    count: number,
  ): number {
    return this.#move(pasid, lo, hi, access, from, start, count, true);
  }

  message(): number {
    return DMA.OK;
  }
  intx(): void {}
  translationRequest(): number {
    return ATS.UR;
  }
  invalidateCompletion(): void {}
  pageRequest(): void {}
  spawn(): null {
    return null;
  }
}
