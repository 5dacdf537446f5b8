import { type AtsPort, DMA, type InterruptRemapPort, type TranslatePort } from '../src/ports/dma.ts';

/** What the requests of one root bus meet on their way to memory. */
export interface IommuPorts {
  /** Translates every request. */
  readonly translate: TranslatePort;
  /** Answers translation requests, completions and page requests; null: they are unsupported requests. */
  readonly ats: AtsPort | null;
  /** x86: interrupt remapping, as the machine's own device does it; null: messages go on unchanged. */
  readonly remap: InterruptRemapPort | null;
  /**
   * The host's device permission table (SMMUv3 DPT, VT-d HPT): whether functions of this root may touch a host-physical
   * address (low and high word) they translated themselves. Without one a function that invents translated addresses reaches
   * everything.
   */
  readonly permits?: (lo: number, hi: number) => boolean;
}

/** No IOMMU at all: bus addresses are memory addresses. For machines without one, and for tests of the bus alone. */
export class Untranslated implements TranslatePort {
  out = 0;
  readonly outShift = 12;
  readonly outPerm = 15;
  readonly guestShift = 0;
  readonly tag = -1;

  translate(_rid: number, _pasid: number, lo: number, hi: number): number {
    if (hi >>> 20 !== 0) return DMA.ABORT;
    this.out = (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0);
    return DMA.OK;
  }
}
