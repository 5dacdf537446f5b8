import { type BarSpec, Bars } from '../../src/lib/pci/bars.ts';
import { ConfigSpace } from '../../src/lib/pci/config-space.ts';
import { endpointHeader, type PciIdentity } from '../../src/lib/pci/header.ts';
import { type InterruptState, Interrupts } from '../../src/lib/pci/interrupts.ts';
import { addAcs, addAer, addPcie } from '../../src/lib/pci/standard.ts';
import { checkFormOf, refuseField } from '../../src/lib/saved/state-form.ts';
import type { PciFunction, PciWindow, Upstream } from '../../src/ports/pci.ts';
import { PORT } from '../../src/spec/pcie/capabilities.ts';
import { Requester, type RequesterOptions, type RequesterState } from './requester.ts';

/** What an endpoint does, inside the shell every PCI Express function has. */
export interface Behaviour {
  /** 1, 2 or 4 bytes, naturally aligned: unsigned. MSI-X structures are not seen here. */
  barRead(bar: number, offset: number, size: number): number;
  /** 1, 2 or 4 bytes, naturally aligned. */
  barWrite(bar: number, offset: number, size: number, value: number): void;
  /** Power-on state of everything behind the BARs. */
  reset(): void;
  /** A stalled access was decided. */
  resumed?(token: number, outcome: number): void;
  /** What is behind the BARs, as plain data. */
  save?(): unknown;
  /** Whether `load` would take a state. @throws ViommuError `EINVAL` names the field that does not fit. */
  checkState?(state: unknown, path: string): void;
  /** See `PciFunction.spawnedBy`. @param config the saved configuration space. */
  spawnedBy?(config: readonly number[]): readonly { readonly offset: number; readonly fn: PciFunction }[];
  /** See `PciFunction.settle`. */
  settle?(): void;
  /** Brings virtual functions to life again, as the loaded configuration space has them. */
  respawn?(): void;
  /**
   * Goes back to what `save` gave. The configuration space was loaded before.
   * @param cold the IOMMU is another one: it knows nothing of requests that wait.
   */
  load?(state: unknown, cold: boolean): void;
}

/** What a PCI Express endpoint is, from the outside. */
export interface ShellOptions extends RequesterOptions {
  /** For messages, listings and the host kernel's device name. */
  readonly name: string;
  /** Its header. */
  readonly identity: PciIdentity;
  /** Its BARs; their order is the `bar` of `Behaviour.barRead`. */
  readonly bars: readonly BarSpec[];
  /** MSI vectors, a power of two up to 32 (default: no MSI). */
  readonly msi?: number;
  /**
   * MSI-X: vectors, the BAR its structures are in, and their offsets there in bytes, both multiples of 8 (default: no
   * MSI-X).
   */
  readonly msix?: { readonly vectors: number; readonly bar: number; readonly table: number; readonly pending: number };
  /** On a root bus, without a link (default: an endpoint on a link). */
  readonly integrated?: boolean;
  /** A virtual function: its ids read as ones and its BARs are where the physical function's SR-IOV capability puts them. */
  readonly virtual?: { address(bar: number): number };
}

/** Saved state of `Shell`, its behaviour's included. */
export interface ShellState {
  readonly config: readonly number[];
  readonly interrupts: InterruptState;
  readonly requester: RequesterState;
  /** What is behind the BARs. */
  readonly behaviour: unknown;
}

/** Configuration space, capabilities, interrupts and memory side of an endpoint; its behaviour sits behind the BARs. */
export class Shell implements PciFunction {
  readonly name: string;
  readonly windows: readonly PciWindow[];
  /** Its configuration space, for capabilities of one's own. */
  readonly config: ConfigSpace;
  /** Its interrupts: `raise(vector)`. */
  readonly interrupts: Interrupts;
  /** Its memory requests. */
  readonly memory: Requester;
  /** Where software has put its BARs. */
  readonly bars: Bars;
  #behaviour: Behaviour | null = null;
  /** Told when the function is plugged in or taken out, and when it is reset. */
  onUpstream: ((upstream: Upstream | null) => void) | null = null;

  constructor(options: ShellOptions) {
    this.name = options.name;
    this.config = new ConfigSpace(4096);
    const { virtual } = options;
    const ids = virtual === undefined ? {} : { vendor: 0xffff, device: 0xffff, pin: 0 };
    endpointHeader(this.config, { ...options.identity, ...ids });
    addPcie(this.config, {
      port: options.integrated === true ? PORT.INTEGRATED : PORT.ENDPOINT,
      onFlr: () => this.#functionReset(),
    });
    this.interrupts = new Interrupts(this.config, {
      ...(options.msi === undefined ? {} : { msi: options.msi }),
      ...(options.msix === undefined ? {} : { msix: options.msix }),
    });
    addAer(this.config, false);
    if (options.identity.multifunction === true) addAcs(this.config, 0);
    this.memory = new Requester(this.config, options);
    this.bars = new Bars(virtual === undefined ? this.config : new ConfigSpace(256), options.bars);
    this.windows = options.bars.map((b, i) => ({
      bytes: b.bytes,
      io: b.kind === 'io',
      address: () => (virtual === undefined ? this.bars.address(i) : virtual.address(i)),
    }));
  }

  /** Puts the endpoint's own part in. */
  behave(behaviour: Behaviour): void {
    this.#behaviour = behaviour;
    behaviour.reset();
  }

  /** The way upstream; null while it is not plugged in. */
  get upstream(): Upstream | null {
    return this.memory.upstream;
  }

  configRead(offset: number, size: number): number {
    return this.config.read(offset, size);
  }

  configWrite(offset: number, size: number, value: number): void {
    this.config.write(offset, size, value);
  }

  barRead(bar: number, offset: number, size: number): number {
    const index = this.bars.specs[bar]!.index;
    if (this.interrupts.claims(index, offset)) return this.interrupts.read(offset, size);
    return this.#behaviour?.barRead(bar, offset, size) ?? 0;
  }

  barWrite(bar: number, offset: number, size: number, value: number): void {
    const index = this.bars.specs[bar]!.index;
    if (this.interrupts.claims(index, offset)) this.interrupts.write(offset, size, value);
    else this.#behaviour?.barWrite(bar, offset, size, value);
  }

  connect(upstream: Upstream | null): void {
    this.memory.upstream = upstream;
    this.interrupts.upstream = upstream;
    this.onUpstream?.(upstream);
    // Taken out: what it remembers of the machine is worth nothing in the next slot.
    if (upstream === null) this.reset();
  }

  reset(): void {
    this.interrupts.reset();
    this.config.reset();
    this.memory.reset();
    this.#behaviour?.reset();
  }

  /** FLR: everything but what places the function (PCIe §6.6.2 lets software write that again; so it does). */
  #functionReset(): void {
    this.reset();
  }

  invalidate(pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean {
    return this.memory.invalidate(pasid, itag, lo, hi, global);
  }

  pageResponse(pasid: number, group: number, code: number): void {
    this.memory.pageResponse(pasid, group, code);
  }

  resumed(token: number, outcome: number): void {
    this.#behaviour?.resumed?.(token, outcome);
  }

  save(): ShellState {
    return {
      config: this.config.save(),
      interrupts: this.interrupts.save(),
      requester: this.memory.save(),
      behaviour: this.#behaviour?.save?.() ?? null,
    };
  }

  settle(): void {
    this.#behaviour?.settle?.();
  }

  checkState(state: unknown, path: string): void {
    const members = {
      config: this.config.form(),
      interrupts: this.interrupts.form(),
      requester: this.memory.form(),
      behaviour: 'anything',
    } as const;
    checkFormOf<ShellState>(state, { members }, path);
    const { behaviour } = state as ShellState;
    const own = `${path}.behaviour`;
    if (this.#behaviour?.save === undefined && behaviour !== null) refuseField(own, behaviour, 'null: it has none');
    this.#behaviour?.checkState?.(behaviour, own);
  }

  spawnedBy(state: unknown): readonly { readonly offset: number; readonly fn: PciFunction }[] {
    return this.#behaviour?.spawnedBy?.((state as ShellState).config) ?? [];
  }

  respawn(saved: unknown): void {
    this.config.load((saved as ShellState).config);
    this.#behaviour?.respawn?.();
  }

  load(saved: unknown, cold = false): void {
    const state = saved as ShellState;
    this.config.load(state.config);
    this.interrupts.load(state.interrupts);
    this.memory.load(state.requester, cold);
    this.#behaviour?.load?.(state.behaviour, cold);
  }
}
