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

/** Single root I/O virtualization: VF Enable brings virtual functions to life, clearing it takes them away. */
export class Sriov<F> {
  readonly #config: ConfigSpace;
  readonly #at: number;
  readonly #options: SriovOptions<F>;
  readonly #bars: Bars;
  #alive: (() => void)[] = [];
  /** The physical function's way upstream; null while it is not plugged in. */
  upstream: Upstream | null = null;

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
  }

  /** Where virtual function `index` decodes its BAR `i`: -1 while VF Memory Space Enable is off. */
  address(index: number, i: number): number {
    if ((this.#config.get(this.#at + SRIOV_CAP.CONTROL, 2) & SRIOV_CAP.MSE) === 0) return -1;
    const base = this.#bars.programmed(i);
    return base < 0 ? -1 : base + index * this.#options.bars[i]!.bytes;
  }

  #enable(): void {
    const asked = this.#config.get(this.#at + SRIOV_CAP.NUM, 2);
    if (this.upstream === null) return;
    // More than TotalVFs is undefined; the device brings up what it has.
    for (let i = 0; i < Math.min(asked, this.#options.total); i++) {
      const offset = this.#options.offset + i * this.#options.stride;
      const away = this.#options.spawn(this.upstream, offset, this.#options.create(i));
      if (away !== null) this.#alive.push(away);
    }
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

  /** Takes every virtual function away: VF Enable cleared, reset or unplugged. */
  disable(): void {
    const alive = this.#alive;
    this.#alive = [];
    for (const away of alive) away();
  }

  /** Virtual functions alive now. */
  get count(): number {
    return this.#alive.length;
  }
}
