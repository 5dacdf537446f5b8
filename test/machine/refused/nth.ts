import { FaultyHw } from '../../../src/lib/inject/faulty-hw.ts';
import { HW_ERROR, type HwPort } from '../../../src/ports/hw.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';

export type What = 'verb' | 'command';
type Verbs = Record<string, ((...a: never[]) => number) | undefined>;

/** What can be refused for want of memory; the other verbs fail with EIO. */
const ALLOCATES = new Set([
  'ioasAlloc',
  'hwptAlloc',
  'ioasMap',
  'viommuAlloc',
  'vdeviceAlloc',
  'attach',
  'attachStream',
]);
const FD_VERBS = ['ioasAlloc', 'hwptAlloc', 'ioasMap', 'ioasUnmap', 'invalidate', 'viommuAlloc', 'vdeviceAlloc'];
const UPCALL_VERBS = ['attachStream', 'streamVdevice', 'shadow', 'invalidateDeviceTlb'];

/** Counts the host's verbs or its hardware's commands; the n-th fails, and with `lasting` every one until it is mended. */
export class Nth {
  readonly what: What;
  readonly lasting: boolean;
  /** Passed since it was armed. */
  count = 0;
  /** Failed since it was armed. */
  hits = 0;
  #n = 0;
  #armed = false;

  constructor(what: What, lasting: boolean) {
    this.what = what;
    this.lasting = lasting;
  }

  /** @param n from 1; 0: nothing fails. */
  arm(n: number): void {
    this.#n = n;
    this.#armed = true;
    this.count = this.hits = 0;
  }

  mend(): void {
    this.#armed = false;
  }

  #now(): boolean {
    if (!this.#armed) return false;
    this.count++;
    if (this.#n === 0 || (this.lasting ? this.count < this.#n : this.count !== this.#n)) return false;
    this.hits++;
    return true;
  }

  /** @param words 32-bit words of a command. */
  hw(hw: HwPort, words: number): HwPort {
    if (this.what !== 'command') return hw;
    const faulty = new FaultyHw(hw, { commandWords: words });
    // A command that is refused, or a queue that cannot be read there.
    for (const [error, unreadable] of [[HW_ERROR.ILLEGAL, false] as const, [HW_ERROR.ABORT, true] as const]) {
      const match = () => (this.#n % 3 === 0) === unreadable && this.#now();
      faulty.inject({ match, error, times: Number.POSITIVE_INFINITY });
    }
    return faulty;
  }

  #wrap(of: object, names: readonly string[]): void {
    const verbs = of as Verbs;
    for (const name of names) {
      const real = verbs[name]?.bind(of);
      if (real === undefined) continue;
      const error = ALLOCATES.has(name) ? E.NOMEM : E.IO;
      verbs[name] = (...a) => (this.#now() ? -error : real(...a));
    }
  }

  /** The verbs of an open iommufd, of VFIO devices, and of the upcalls (null: there are none). */
  verbs(iommufd: object, vfio: readonly object[], upcalls: object | null): void {
    if (this.what !== 'verb') return;
    this.#wrap(iommufd, FD_VERBS);
    for (const v of vfio) this.#wrap(v, ['attach', 'detach']);
    if (upcalls !== null) this.#wrap(upcalls, UPCALL_VERBS);
  }
}
