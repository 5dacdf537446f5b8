import type { Upstream } from '../../ports/pci.ts';
import { EXT, SRIOV_CAP } from '../../spec/pcie/capabilities.ts';
import { type BarSpec, Bars } from './bars.ts';
import type { ConfigSpace } from './config-space.ts';

/** What an SR-IOV capability says, and how its virtual functions are made. */
export interface SriovOptions<F> {
  /** Virtual functions the device has. */
  readonly total: number;
  /** Requester id of the first one, relative to the physical function; distance from one to the next. */
  readonly offset: number;
  /** Distance of requester ids from one virtual function to the next. */
  readonly stride: number;
  /** Device ID of the virtual functions. */
  readonly device: number;
  /** BARs of each virtual function; the registers in the capability place all of them. */
  readonly bars: readonly BarSpec[];
  /** Makes virtual function `index` (from 0). */
  readonly create: (index: number) => F;
  /** Brings it to life on the bus. @returns takes it away; null when its place is taken. */
  readonly spawn: (upstream: Upstream, offset: number, fn: F) => (() => void) | null;
}

/** Units of work of a virtual function that comes to life, and of one that goes; an access may cost about 2,000. */
const COME_WORK = 256;
const GO_WORK = 32;

/**
 * Single root I/O virtualization: VF Enable brings virtual functions to life, clearing it takes them away. What one access
 * of the guest may not cost follows soon after it: software waits 100 ms behind the one and 1 s behind the other (PCIe 5.0
 * §9.3.3.3.1). Those that go have gone before others come.
 */
export class Sriov<F> {
  readonly #config: ConfigSpace;
  readonly #at: number;
  readonly #options: SriovOptions<F>;
  readonly #bars: Bars;
  #alive: (() => void)[] = [];
  /** Those that are still there although VF Enable was cleared. */
  #going: (() => void)[] = [];
  /** Virtual functions that are to be there; those below `#tried` are, or their place is taken. */
  #asked = 0;
  #tried = 0;
  #waits = false;
  #upstream: Upstream | null = null;

  /** Adds the capability to `config`. @throws ViommuError `ENOSPC` when there is no room. */
  constructor(config: ConfigSpace, options: SriovOptions<F>) {
    this.#config = config;
    this.#options = options;
    const at = config.addExtended(EXT.SRIOV, 1, SRIOV_CAP.BYTES);
    this.#at = at;
    config.writable(at + SRIOV_CAP.CONTROL, 2, SRIOV_CAP.ENABLE | SRIOV_CAP.MSE | SRIOV_CAP.ARI);
    config.preset(at + SRIOV_CAP.INITIAL, 2, options.total);
    config.preset(at + SRIOV_CAP.TOTAL, 2, options.total);
    config.writable(at + SRIOV_CAP.NUM, 2, 0xffff);
    config.preset(at + SRIOV_CAP.FIRST_OFFSET, 2, options.offset);
    config.preset(at + SRIOV_CAP.STRIDE, 2, options.stride);
    config.preset(at + SRIOV_CAP.DEVICE, 2, options.device);
    config.preset(at + SRIOV_CAP.PAGES_SUPPORTED, 4, 0x553);
    config.preset(at + SRIOV_CAP.PAGES, 4, 1);
    config.writable(at + SRIOV_CAP.PAGES, 4, 0x553);
    this.#bars = new Bars(config, options.bars, at + SRIOV_CAP.BAR0);
    config.watch(at + SRIOV_CAP.CONTROL, 2, (before, now) => {
      const changed = before ^ now;
      if ((changed & SRIOV_CAP.ENABLE) === 0) return;
      if ((now & SRIOV_CAP.ENABLE) === 0) this.disable();
      else this.#enable();
    });
    // NumVFs is not to be written while VF Enable is set (§9.3.3.7): it stays what it was.
    config.watch(at + SRIOV_CAP.NUM, 2, (before) => {
      if ((config.get(at + SRIOV_CAP.CONTROL, 2) & SRIOV_CAP.ENABLE) !== 0) config.set(at + SRIOV_CAP.NUM, 2, before);
    });
  }

  /** The physical function's way upstream; null while it is not plugged in: then there are no virtual functions either. */
  get upstream(): Upstream | null {
    return this.#upstream;
  }
  set upstream(upstream: Upstream | null) {
    if (upstream === null) {
      this.disable();
      this.settle();
    }
    this.#upstream = upstream;
    this.#waits = false;
  }

  /** Where virtual function `index` decodes its BAR `i`: -1 while VF Memory Space Enable is off. */
  address(index: number, i: number): number {
    if ((this.#config.get(this.#at + SRIOV_CAP.CONTROL, 2) & SRIOV_CAP.MSE) === 0) return -1;
    const base = this.#bars.programmed(i);
    return base < 0 ? -1 : base + index * this.#options.bars[i]!.bytes;
  }

  #enable(): void {
    // More than TotalVFs is undefined; the device brings up what it has.
    this.#asked = Math.min(this.#config.get(this.#at + SRIOV_CAP.NUM, 2), this.#options.total);
    this.#tried = 0;
    this.#goOn(true);
  }

  /** @param inParts what one access may not cost comes later. */
  #goOn(inParts: boolean): void {
    const upstream = this.#upstream;
    const work = inParts ? upstream?.work : undefined;
    const { offset, stride, create, spawn } = this.#options;
    while (this.#going.length > 0 || (upstream !== null && this.#tried < this.#asked)) {
      if (work?.spent === true) {
        if (!this.#waits) work.later(() => this.#occasion());
        this.#waits = true;
        return;
      }
      const gone = this.#going.shift();
      work?.spend(gone === undefined ? COME_WORK : GO_WORK);
      if (gone !== undefined) gone();
      else {
        const i = this.#tried++;
        const away = spawn(upstream!, offset + i * stride, create(i));
        if (away !== null) this.#alive.push(away);
      }
    }
  }

  #occasion(): void {
    this.#waits = false;
    this.#goOn(true);
  }

  /** Those that are to come are there, and those that are to go are gone. */
  settle(): void {
    this.#goOn(false);
  }

  /** Brings virtual functions back to life when a loaded configuration space says they are there. */
  restore(): void {
    const control = this.#config.get(this.#at + SRIOV_CAP.CONTROL, 2);
    if ((control & SRIOV_CAP.ENABLE) !== 0 && this.#alive.length === 0) this.#enable();
  }

  /** Requester ids, relative to the physical function's, and functions that `restore` makes of saved configuration bytes. */
  spawnedBy(bytes: readonly number[]): readonly { readonly offset: number; readonly fn: F }[] {
    const word = (at: number) => bytes[this.#at + at]! | (bytes[this.#at + at + 1]! << 8);
    if ((word(SRIOV_CAP.CONTROL) & SRIOV_CAP.ENABLE) === 0) return [];
    const { total, offset, stride, create } = this.#options;
    const count = Math.min(word(SRIOV_CAP.NUM), total);
    return Array.from({ length: count }, (_, i) => ({ offset: offset + i * stride, fn: create(i) }));
  }

  /** Takes every virtual function away: VF Enable cleared, or reset. */
  disable(): void {
    this.#going.push(...this.#alive);
    this.#alive = [];
    this.#asked = 0;
    this.#goOn(true);
  }

  /** Virtual functions alive now. */
  get count(): number {
    return this.#alive.length;
  }
}
