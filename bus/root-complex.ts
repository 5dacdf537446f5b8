import { ViommuError } from '../src/core/errors.ts';
import { hostBus } from '../src/lib/pci/rids.ts';
import type { Clock } from '../src/ports/clock.ts';
import type { EndpointPort } from '../src/ports/dma.ts';
import type { InterruptPort } from '../src/ports/irq.ts';
import type { Memory } from '../src/ports/memory.ts';
import type { PciFunction } from '../src/ports/pci.ts';
import type { BusListener } from './bus-message.ts';
import type { Fabric, Latency } from './fabric.ts';
import { IntxWires } from './intx-wires.ts';
import type { IommuPorts } from './iommu-ports.ts';
import { Link } from './link.ts';
import { Messages } from './messages.ts';
import { PeerWindow } from './peer.ts';
import { type PciBus, Root, Slot } from './topology.ts';

/** What a root complex stands on. */
export interface RootComplexDeps {
  /** Where translated requests arrive: host-physical memory. */
  readonly memory: Memory;
  /** INTA … INTD as lines 0 … 3, and messages. */
  readonly irq: InterruptPort | null;
  /** Needed only with latencies above 0. */
  readonly clock: Clock | null;
  /** Default: messages arrive inside the call that sends them. */
  readonly latency?: Partial<Latency>;
}

/** How a function is plugged in. */
export interface PlugOptions {
  /** Hardware number of the bus behind a bridge; by default the next free one. */
  readonly hostBus?: number;
  /** The slot was empty while the guest ran: the port above announces it. */
  readonly hot?: boolean;
}

/** A function's place changed: what a machine listens to. */
export interface PlugListener {
  /** A function is there; it is not connected yet. */
  plugged?(slot: Slot): void;
  /** A function is gone; it was disconnected before. */
  unplugged?(slot: Slot): void;
  /** Software wrote into a bridge: bus numbers may have changed. */
  renumbered?(): void;
}

/** A function's state, by its place: number of the root bus, then the devfn on each bus on the way down. */
export interface SavedFunction {
  /** Number of the root bus, then the devfn on each bus on the way down. */
  readonly path: readonly number[];
  /** What the function saved. */
  readonly state: unknown;
  /** INTA to INTD as the function drives them. */
  readonly pins: readonly boolean[];
}

/** Saved state of a root complex: every function's, by its place, and the wires. */
export interface RootComplexState {
  readonly functions: readonly SavedFunction[];
  readonly lines: readonly number[];
}

/** Where a function is plugged in, independent of bus numbers a guest may have changed. */
export function pathOf(slot: Slot): number[] {
  const above = slot.bus.parent;
  return [...(above === null ? [slot.bus.root.number] : pathOf(above)), slot.devfn];
}

/** The PCI side of a machine: root buses, what is plugged in below, and the roads between them. */
export class RootComplex implements Fabric {
  readonly memory: Memory;
  readonly irq: InterruptPort | null;
  readonly clock: Clock | null;
  /** How long messages travel; may be changed while nothing is in flight. */
  readonly latency: Latency;
  /** Its root buses, in ascending order of their numbers. */
  readonly roots: Root[] = [];
  /** Windows of functions in host-physical space. */
  readonly peers: PeerWindow[] = [];
  /** Counts everything that can change where an access goes. */
  generation = 0;
  /** Software's requester id of the write being delivered; windows that stand for an interrupt controller look at it. */
  requester = 0;
  /** Sees every message on the links; null while nobody does, and then nothing is made for it. */
  onMessage: BusListener | null = null;
  /** Translated requests refused because the address was not the machine's. */
  forgeries = 0;
  /** Plain memory writes into the interrupt window name no requester (QEMU; messages of MSI capabilities do). */
  anonymousWrites = false;
  /** Messages to functions below any root, for one IOMMU over all of them. */
  readonly everywhere: EndpointPort = new Messages(this, (stream) => this.#anywhere(stream));
  readonly #listeners: PlugListener[] = [];
  readonly #streams = new Map<Root, Map<number, Slot>>();
  readonly #links = new Map<Slot, Link>();
  readonly #wires: IntxWires;
  #nextBus = 1;

  constructor(deps: RootComplexDeps) {
    this.memory = deps.memory;
    this.irq = deps.irq;
    this.#wires = new IntxWires(deps.irq);
    this.clock = deps.clock;
    this.latency = { invalidate: 0, completion: 0, response: 0, ...deps.latency };
  }

  /**
   * A root bus with the IOMMU its requests pass.
   * @param number bus number, 0 … 255. @throws ViommuError `EEXIST` when a root has it already.
   */
  addRoot(number: number, iommu: IommuPorts): Root {
    if (this.roots.some((r) => r.number === number)) {
      throw new ViommuError('EEXIST', 'caller', 'two root buses with one number', { number });
    }
    const endpoints = new Messages(this, (stream) => this.byStream(root, stream));
    const root: Root = new Root({ number, hostNumber: hostBus(number), iommu, endpoints });
    this.roots.push(root);
    this.roots.sort((a, b) => a.number - b.number);
    this.#streams.set(root, new Map());
    return root;
  }

  /** Tells a listener of functions that come and go. @returns stops telling it. */
  listen(listener: PlugListener): () => void {
    this.#listeners.push(listener);
    return () => void this.#listeners.splice(this.#listeners.indexOf(listener), 1);
  }

  /**
   * Plugs a function in.
   * @throws ViommuError `EBUSY` when the place is taken; `EINVAL` for a devfn a point-to-point link does not have.
   */
  plug(bus: PciBus, devfn: number, fn: PciFunction, options: PlugOptions = {}): Slot {
    if (bus.slots.has(devfn)) throw new ViommuError('EBUSY', 'caller', 'the slot is taken', { bus: bus.number, devfn });
    if (!(devfn >= 0 && devfn < 256)) throw new ViommuError('EINVAL', 'caller', 'a devfn is 0 … 255', { devfn });
    const slot = new Slot(fn, bus, devfn, options.hostBus ?? hostBus(this.#freeBus()));
    if (slot.behind !== null) this.#nextBus = this.#freeBus() + 1;
    bus.slots.set(devfn, slot);
    const link = new Link(this, slot);
    this.#links.set(slot, link);
    const streams = this.#streams.get(bus.root)!;
    if (!streams.has(slot.stream)) streams.set(slot.stream, slot);
    if (slot.bridge !== null) {
      slot.bridge.onBusReset = () => this.#resetBehind(slot.behind!);
      slot.bridge.onError = (fatal) => errorMessage(slot, fatal);
    }
    this.generation++;
    for (const l of this.#listeners) l.plugged?.(slot);
    fn.connect(link);
    bus.parent?.bridge?.presence(true, options.hot === true);
    return slot;
  }

  /** The number a guest that enumerates in this order will give the next bus. */
  #freeBus(): number {
    let n = this.#nextBus;
    while (this.roots.some((r) => r.number === n)) n++;
    return n;
  }

  /** Takes a function out, and with a bridge everything behind it. Nothing of it is answered any more. */
  unplug(slot: Slot): void {
    if (!this.plugged(slot)) return;
    for (const below of [...(slot.behind?.slots.values() ?? [])]) this.unplug(below);
    this.#links.get(slot)!.cut();
    this.#links.delete(slot);
    slot.bus.slots.delete(slot.devfn);
    const streams = this.#streams.get(slot.bus.root)!;
    if (streams.get(slot.stream) === slot) streams.delete(slot.stream);
    this.generation++;
    slot.fn.connect(null);
    for (const l of this.#listeners) l.unplugged?.(slot);
    if (slot.bus.slots.size === 0) slot.bus.parent?.bridge?.presence(false, true);
  }

  /** @internal The function's own way upstream, with its test knobs. */
  link(slot: Slot): Link | undefined {
    return this.#links.get(slot);
  }

  /**
   * Gives window `bar` of a function the host-physical address `base`, so that other functions reach it: directly where
   * the ports between allow it, else through the IOMMU. The caller puts the result into host memory as a window.
   */
  expose(slot: Slot, bar: number, base: number): PeerWindow {
    const window = new PeerWindow(slot, bar, base, () => void this.peers.splice(this.peers.indexOf(window), 1));
    this.peers.push(window);
    return window;
  }

  plugged(slot: Slot): boolean {
    return this.#links.has(slot);
  }

  /** The function whose requests carry `stream` below a root. */
  byStream(root: Root, stream: number): Slot | undefined {
    return this.#streams.get(root)?.get(stream);
  }

  #anywhere(stream: number): Slot | undefined {
    for (const root of this.roots) {
      const slot = this.byStream(root, stream);
      if (slot !== undefined) return slot;
    }
    return undefined;
  }

  /** The function software calls `rid` now. */
  byRid(rid: number): Slot | null {
    return this.configTarget(rid >>> 8, rid & 0xff);
  }

  /** Everything plugged in, roots first, ascending devfn, depth first. */
  *slots(): Generator<Slot> {
    function* walk(bus: PciBus): Generator<Slot> {
      for (const slot of [...bus.slots.values()].sort((a, b) => a.devfn - b.devfn)) {
        yield slot;
        if (slot.behind !== null) yield* walk(slot.behind);
      }
    }
    for (const root of this.roots) yield* walk(root.bus);
  }

  /** Power-on state of every function. */
  reset(): void {
    for (const slot of this.slots()) slot.fn.reset();
    this.generation++;
    for (const l of this.#listeners) l.renumbered?.();
  }

  #resetBehind(bus: PciBus): void {
    for (const slot of [...bus.slots.values()]) {
      slot.fn.reset();
      if (slot.behind !== null) this.#resetBehind(slot.behind);
    }
    this.generation++;
  }

  /** The function a configuration request reaches, or null (no answer: all ones). */
  configTarget(bus: number, devfn: number): Slot | null {
    for (const root of this.roots) {
      if (root.number === bus) return root.bus.slots.get(devfn) ?? null;
    }
    let at: PciBus | null = null;
    for (const root of this.roots) if (root.number < bus) at = root.bus;
    for (let depth = 0; at !== null && depth < 256; depth++) {
      let next: PciBus | null = null;
      for (const slot of at.slots.values()) {
        const b = slot.bridge;
        if (b === null || b.secondary === 0 || bus < b.secondary || bus > b.subordinate) continue;
        next = slot.behind!;
        if (b.secondary !== bus) break;
        if (b.pointToPoint && devfn > 7 && !b.ari) return null;
        return next.slots.get(devfn) ?? null;
      }
      at = next;
    }
    return null;
  }

  /** A configuration read by bus number; where no function answers, all ones. */
  configRead(bus: number, devfn: number, offset: number, size: number): number {
    const slot = this.configTarget(bus, devfn);
    if (slot === null) return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
    return slot.fn.configRead(offset, size);
  }

  /** A configuration write by bus number; where no function answers, nothing happens. */
  configWrite(bus: number, devfn: number, offset: number, size: number, value: number): void {
    const slot = this.configTarget(bus, devfn);
    if (slot === null) return;
    this.generation++;
    slot.fn.configWrite(offset, size, value);
    if (slot.bridge !== null) for (const l of this.#listeners) l.renumbered?.();
  }

  /** Everything functions and bridges remember. What is plugged in where is the machine's to make again. */
  save(): RootComplexState {
    const functions = [...this.slots()].map((slot) => ({
      path: pathOf(slot),
      state: slot.fn.save?.() ?? null,
      pins: this.#links.get(slot)!.savePins(),
    }));
    return { functions, lines: this.#wires.save() };
  }

  /**
   * Bridges come before what is behind them, so bus numbers are right when the functions go on with their work.
   * @throws ViommuError `ENOENT` for a function that is not plugged in here.
   */
  load(state: RootComplexState): void {
    this.#wires.load(state.lines);
    const slots = new Map([...this.slots()].map((s) => [pathOf(s).join(), s]));
    for (const saved of state.functions) {
      const slot = slots.get(saved.path.join());
      if (slot === undefined) {
        throw new ViommuError('ENOENT', 'caller', 'no function at a saved place', { path: saved.path.join('/') });
      }
      this.#links.get(slot)!.loadPins(saved.pins);
      slot.fn.load?.(saved.state);
      this.generation++;
      if (slot.bridge !== null) for (const l of this.#listeners) l.renumbered?.();
    }
  }

  /** A pin of a function rises or falls. */
  wire(slot: Slot, pin: number, asserted: boolean): void {
    this.#wires.set(slot, pin, asserted);
  }
}

/** An error message goes up to the root port, as far as the bridges between let it. */
function errorMessage(from: Slot, fatal: boolean): void {
  for (let at: Slot | null = from; at !== null; at = at.bus.parent) {
    if (at !== from && !at.bridge!.forwardsErrors) return;
    if (at.bridge!.kind === 'root') at.bridge!.errorMessage(from.rid, fatal);
  }
}
