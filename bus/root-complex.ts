import { ViommuError } from '../src/core/errors.ts';
import { AccessGate, AccessNesting } from '../src/lib/access/access-gate.ts';
import { hostBus } from '../src/lib/pci/rids.ts';
import type { Clock } from '../src/ports/clock.ts';
import type { EndpointPort } from '../src/ports/dma.ts';
import type { InterruptPort } from '../src/ports/irq.ts';
import type { Memory } from '../src/ports/memory.ts';
import type { AccessWork, PciFunction } from '../src/ports/pci.ts';
import { Bridge } from './bridge.ts';
import type { BusListener } from './bus-message.ts';
import { configTarget } from './config-routing.ts';
import { NOT_SET_UP } from './departure.ts';
import type { Fabric, Latency, Sender } from './fabric.ts';
import { IntxWires, lineOf } from './intx-wires.ts';
import type { IommuPorts } from './iommu-ports.ts';
import { Link } from './link.ts';
import { LinkWork } from './link-work.ts';
import { Messages } from './messages.ts';
import { PeerWindow } from './peer.ts';
import { checkPlug, type PlugListener, type PlugOptions, type SliceOptions } from './plug.ts';
import {
  checkPlaces,
  checkSavedFunctions,
  placeOf,
  type RootComplexState,
  type SavedFunction,
  saveFunctions,
} from './saved-bus.ts';
import { StreamSlots } from './stream-slots.ts';
import { type PciBus, Root, type Slice, Slot } from './topology.ts';

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
  /** What the gates of the machine share; default: one of its own. */
  readonly accesses?: AccessNesting;
  /** Runs an action soon, outside of any access: what one access may not cost goes on there. Default: the clock does, if there is one. */
  readonly later?: (action: () => void) => void;
}

/**
 * The PCI side of a machine: root buses, what is plugged in below them, and how requests, messages and configuration
 * accesses get from one to the other.
 */
export class RootComplex implements Fabric {
  readonly memory: Memory;
  readonly irq: InterruptPort | null;
  readonly clock: Clock | null;
  readonly later: Fabric['later'];
  /** What the access under way may cost, as listeners see it. What they put off is done as in an access, with the whole budget. */
  readonly work: AccessWork;
  /** How long messages travel; may be changed while nothing is in flight. */
  readonly latency: Latency;
  /** Its root buses, in ascending order of their numbers. */
  readonly roots: Root[] = [];
  /** Windows of functions in host-physical space. */
  readonly peers: PeerWindow[] = [];
  /** Counts everything that can change where an access goes. */
  generation = 0;
  sender: Sender | null = null;
  /** Sees every message on the links; null while nobody does, and then nothing is made for it. */
  onMessage: BusListener | null = null;
  /** Translated requests refused because the address was not the machine's. */
  forgeries = 0;
  /** Plain memory writes into the interrupt window name no requester (QEMU; messages of MSI capabilities do). */
  anonymousWrites = false;
  /** Messages to functions below any root, for one IOMMU over all of them. */
  readonly everywhere: EndpointPort = new Messages(this, (stream) => this.#streams.anywhere(stream));
  readonly #accesses: AccessNesting;
  readonly #listeners: PlugListener[] = [];
  readonly #streams = new StreamSlots();
  readonly #links = new Map<Slot, Link>();
  readonly #functions = new Map<PciFunction, Slot>();
  readonly #wires: IntxWires;

  constructor(deps: RootComplexDeps) {
    this.memory = deps.memory;
    this.#accesses = deps.accesses ?? new AccessNesting();
    this.irq = deps.irq;
    this.#wires = new IntxWires(deps.irq);
    const { clock } = deps;
    this.clock = clock;
    this.later = deps.later ?? (clock === null ? null : (action) => void clock.after(1, action));
    this.work = new LinkWork(this, new AccessGate(this.#accesses), () => true);
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
    return root;
  }

  /** Tells a listener of every change from now on. @returns stops it. */
  listen(listener: PlugListener): () => void {
    this.#listeners.push(listener);
    return () => void this.#listeners.splice(this.#listeners.indexOf(listener), 1);
  }

  /**
   * Plugs a function in, also while the guest runs. What a listener or the function throws undoes it: nothing of the
   * function stays.
   * @param by the function that brings it to life.
   * @throws ViommuError see `checkPlug`; `EBUSY` also when the function is plugged in already, `ENOSPC` when no hardware
   *   number is left for the bus behind a bridge.
   */
  plug(bus: PciBus, devfn: number, fn: PciFunction, options: PlugOptions = {}, by?: Slot): Slot {
    checkPlug(bus, devfn, fn, options);
    if (this.#functions.has(fn))
      throw new ViommuError('EBUSY', 'caller', `${fn.name} is plugged in already`, { devfn });
    const { aliases = [], pasids = null, slice } = options;
    const slot = new Slot({
      fn,
      bus,
      devfn,
      aliases,
      pasids,
      hostBehind: fn instanceof Bridge ? (options.hostBus ?? hostBus(this.#freeBus())) : -1,
      slice: slice === undefined ? null : newSlice(slice),
      gate: new AccessGate(this.#accesses, by?.gate ?? null),
    });
    const link = new Link(this, slot);
    bus.slots.set(devfn, slot);
    bus.aliased += aliases.length;
    this.#links.set(slot, link);
    this.#functions.set(fn, slot);
    this.#streams.add(slot);
    slot.slice?.parent.slices.add(slot);
    if (slot.bridge !== null) {
      slot.bridge.onBusReset = () => this.#resetBehind(slot.behind!);
      slot.bridge.onError = (fatal) => errorMessage(slot, fatal);
    }
    this.generation++;
    const told: PlugListener[] = [];
    try {
      for (const l of this.#listeners) {
        l.plugged?.(slot);
        told.push(l);
      }
      fn.connect(link);
    } catch (error) {
      this.#forget(slot);
      for (const l of told) l.unplugged?.(slot);
      throw error;
    }
    bus.parent?.bridge?.presence(true, options.hot === true);
    return slot;
  }

  /** The lowest bus number nobody has: what a guest that enumerates in this order will give the next bus. */
  #freeBus(): number {
    const used = new Set(this.roots.map((r) => r.bus.hostNumber));
    for (const slot of this.slots()) if (slot.behind !== null) used.add(slot.behind.hostNumber);
    for (let n = 1; n < 256; n++) if (!used.has(hostBus(n))) return n;
    throw new ViommuError('ENOSPC', 'caller', 'every bus number is in use');
  }

  /** Takes a function out, and with it its slices, and everything behind a bridge. Nothing of it is answered any more. */
  unplug(slot: Slot): void {
    if (!this.plugged(slot)) return;
    for (const part of slot.slices) this.unplug(part);
    for (const below of [...(slot.behind?.slots.values() ?? [])]) this.unplug(below);
    this.#forget(slot);
    try {
      slot.fn.connect(null);
    } finally {
      for (const l of this.#listeners) l.unplugged?.(slot);
      if (slot.bus.slots.size === 0) slot.bus.parent?.bridge?.presence(false, true);
    }
  }

  #forget(slot: Slot): void {
    this.#links.get(slot)!.cut();
    this.#links.delete(slot);
    this.#functions.delete(slot.fn);
    this.#streams.remove(slot);
    slot.bus.slots.delete(slot.devfn);
    slot.bus.aliased -= slot.aliases.length;
    slot.slice?.parent.slices.delete(slot);
    this.generation++;
  }

  /**
   * Software's requester id of the memory request that is being delivered: windows that stand for an interrupt controller
   * look at it. -1: there was none yet.
   */
  get requester(): number {
    return this.sender?.requester ?? -1;
  }

  /** Where a function is plugged in; undefined: nowhere. */
  slotOf(fn: PciFunction): Slot | undefined {
    return this.#functions.get(fn);
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
    return this.#streams.find(root, stream);
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
    return configTarget(this.roots, bus, devfn);
  }

  /** A configuration read by bus number; where no function answers, all ones. */
  configRead(bus: number, devfn: number, offset: number, size: number): number {
    const slot = this.configTarget(bus, devfn);
    if (slot === null) return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
    return slot.fn.configRead(offset, size);
  }

  /**
   * A configuration write by bus number; where no function answers, nothing happens. Only processors make configuration
   * requests: a write that comes from inside an access is refused, since it could reset whoever has a request under way.
   */
  configWrite(bus: number, devfn: number, offset: number, size: number, value: number): void {
    const slot = this.configTarget(bus, devfn);
    if (slot === null || this.#accesses.depth > 0 || !slot.gate.enter()) return;
    this.generation++;
    try {
      slot.fn.configWrite(offset, size, value);
      if (slot.bridge !== null) for (const l of this.#listeners) l.renumbered?.();
    } finally {
      slot.gate.leave();
    }
  }

  /** Brings to its end what was begun in parts. It comes before anything of the machine is saved. */
  settle(): void {
    for (const slot of [...this.slots()]) slot.fn.settle?.();
    for (const l of this.#listeners) l.settle?.();
  }

  /** Everything functions and bridges remember. What is plugged in where is the machine's to make again. */
  save(): RootComplexState {
    const functions = saveFunctions(this.slots(), (slot) => this.#links.get(slot)!);
    return { functions, lines: this.#wires.save() };
  }

  /**
   * Whether `load` would take a state; changes nothing.
   * @throws ViommuError `EINVAL` other functions are plugged in than were saved, or a field is damaged; it is named.
   */
  checkState(state: unknown): RootComplexState {
    const slots = [...this.slots()];
    checkPlaces(slots, state as RootComplexState);
    checkSavedFunctions(slots, state as RootComplexState, lineOf);
    return state as RootComplexState;
  }

  /**
   * Goes on where `save` was, on a host that makes its tables anew. Everything is reset first, then bridges get their bus
   * numbers back, then functions go on with their work.
   * @param between runs when bus numbers are right and no function has gone on yet: IOMMUs are loaded there.
   * @throws ViommuError `EINVAL` when other functions are plugged in than were saved; nothing is changed then.
   */
  load(state: RootComplexState, between: () => void = () => {}): void {
    this.checkState(state);
    this.reset();
    this.#wires.load(state.lines);
    const saved = new Map(state.functions.map((f) => [f.place, f]));
    const each = (bridges: boolean, action: (slot: Slot, f: SavedFunction) => void) => {
      for (const slot of [...this.slots()]) {
        const f = saved.get(placeOf(slot));
        if (f !== undefined && (slot.bridge !== null) === bridges) action(slot, f);
      }
    };
    const load = (slot: Slot, f: SavedFunction) => {
      this.#links.get(slot)!.loadPins(f.pins);
      if (f.state !== null) slot.fn.load?.(f.state, true);
      this.generation++;
    };
    each(true, load);
    for (const l of this.#listeners) l.renumbered?.();
    each(false, (slot, f) => {
      if (f.state !== null) slot.fn.respawn?.(f.state);
    });
    between();
    each(false, load);
    this.#wires.drive();
  }

  /** A pin of a function rises or falls. */
  wire(slot: Slot, pin: number, asserted: boolean): void {
    this.#wires.set(slot, pin, asserted);
  }
}

/** A slice that no IOMMU knows yet. */
function newSlice({ of, pasid }: SliceOptions): Slice {
  return { parent: of, pasid, hostPasid: () => -1, guestPasid: () => NOT_SET_UP, refused: () => {} };
}

/** An error message goes up to the root port, as far as the bridges between let it. */
function errorMessage(from: Slot, fatal: boolean): void {
  for (let at: Slot | null = from; at !== null; at = at.bus.parent) {
    if (at !== from && !at.bridge!.forwardsErrors) return;
    if (at.bridge!.kind === 'root') at.bridge!.errorMessage(from.rid, fatal);
  }
}
