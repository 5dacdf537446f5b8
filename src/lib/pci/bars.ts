import { TWO32 } from '../../core/bits.ts';
import { ViommuError } from '../../core/errors.ts';
import { COMMAND, HEADER } from '../../spec/pcie/header.ts';
import type { ConfigSpace } from './config-space.ts';

/** One base address register as the function wires it. */
export interface BarSpec {
  /** 0 … 5. A 64-bit BAR takes the next one as well. */
  readonly index: number;
  /** Power of two; ≥ 16 for memory, ≥ 4 for I/O. */
  readonly bytes: number;
  /** Memory below 4 GiB, memory anywhere, or I/O ports. */
  readonly kind: 'mem32' | 'mem64' | 'io';
  /** Reads have no side effects: bridges may place it in their prefetchable window (default: no). */
  readonly prefetchable?: boolean;
}

/** Base address registers: sizing by all ones, windows that move with every write, gated by COMMAND.MEM and COMMAND.IO. */
export class Bars {
  /** As given; their order is the `bar` of `PciFunction.barRead`. */
  readonly specs: readonly BarSpec[];
  readonly #config: ConfigSpace;
  readonly #addresses: number[];
  /** Where the registers live: 0x10, or a SR-IOV capability's VF BARs. */
  readonly #first: number;
  #seen = -1;

  /**
   * @param first offset of BAR 0 in `config`. @throws ViommuError `EINVAL` when a size is no power of two or too small.
   */
  constructor(config: ConfigSpace, specs: readonly BarSpec[], first: number = HEADER.BAR0) {
    this.#config = config;
    this.specs = specs;
    this.#first = first;
    this.#addresses = specs.map(() => -1);
    for (const s of specs) {
      const least = s.kind === 'io' ? 4 : 16;
      if (s.bytes < least || 2 ** Math.round(Math.log2(s.bytes)) !== s.bytes) {
        throw new ViommuError('EINVAL', 'caller', 'a BAR is a power of two', { index: s.index, bytes: s.bytes });
      }
      const at = first + 4 * s.index;
      const type = s.kind === 'io' ? 1 : (s.kind === 'mem64' ? 4 : 0) | (s.prefetchable === true ? 8 : 0);
      config.preset(at, 4, type);
      config.writable(at, 4, s.bytes >= TWO32 ? 0 : -s.bytes >>> 0);
      if (s.kind === 'mem64') config.writable(at + 4, 4, s.bytes > TWO32 ? -(s.bytes / TWO32) >>> 0 : 0xffff_ffff);
    }
  }

  /** Address BAR number `i` of `specs` decodes now; -1: it does not (disabled, unset, or at the top from sizing). */
  address(i: number): number {
    if (this.#seen !== this.#config.writes) this.#update();
    return this.#addresses[i]!;
  }

  #update(): void {
    this.#seen = this.#config.writes;
    const command = this.#config.get(HEADER.COMMAND, 2);
    for (let i = 0; i < this.specs.length; i++) {
      const s = this.specs[i]!;
      const on = (command & (s.kind === 'io' ? COMMAND.IO : COMMAND.MEM)) !== 0;
      this.#addresses[i] = on ? this.programmed(i) : -1;
    }
  }

  /** What software wrote, whether decoding is on or not; -1 when that is no usable place. */
  programmed(i: number): number {
    const s = this.specs[i]!;
    const at = this.#first + 4 * s.index;
    const low = this.#config.get(at, 4);
    const base =
      s.kind === 'io'
        ? (low & 0xffff_fffc) >>> 0
        : ((low & 0xffff_fff0) >>> 0) + (s.kind === 'mem64' ? this.#config.get(at + 4, 4) * TWO32 : 0);
    const last = base + s.bytes - 1;
    if (base === 0) return -1;
    if (s.kind === 'io') return last >= 0xffff ? -1 : base;
    return last >= (s.kind === 'mem64' ? 2 ** 52 : TWO32 - 1) ? -1 : base;
  }
}
