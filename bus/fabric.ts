import type { Clock } from '../src/ports/clock.ts';
import type { InterruptPort } from '../src/ports/irq.ts';
import type { Memory } from '../src/ports/memory.ts';
import type { PciFunction } from '../src/ports/pci.ts';
import type { BusListener } from './bus-message.ts';
import type { PeerWindow } from './peer.ts';
import type { PlugOptions } from './plug.ts';
import type { PciBus, Slot } from './topology.ts';

/** Nanoseconds messages travel; 0: they arrive inside the call that sends them, as in QEMU. */
export interface Latency {
  /** Invalidation requests, from the IOMMU to a function. */
  invalidate: number;
  /** Invalidation completions, from a function to the IOMMU. */
  completion: number;
  /** Page group responses and decisions about stalled accesses, from the IOMMU to a function. */
  response: number;
}

/** Who sends a request. */
export interface Sender {
  /** Requester id as software sees it now, behind bridges the bridge's. */
  readonly requester: number;
}

/**
 * What the way of one function to memory, and the way of messages back to it, use of the root complex. The parts of the bus
 * know this interface only; the root complex knows the parts.
 */
export interface Fabric {
  /** Where translated requests arrive: host-physical memory. */
  readonly memory: Memory;
  /** INTA … INTD as lines 0 … 3, and messages; null: nobody takes interrupts. */
  readonly irq: InterruptPort | null;
  /** Needed only with latencies above 0. */
  readonly clock: Clock | null;
  /** How long messages travel. */
  readonly latency: Latency;
  /** Windows of functions in host-physical space. */
  readonly peers: readonly PeerWindow[];
  /** Runs an action soon, outside of any access; null: at once, so that nothing may be put off. */
  readonly later: ((action: () => void) => void) | null;
  /** Sees every message on the links; null while nobody does. */
  readonly onMessage: BusListener | null;
  /** Plain memory writes into the interrupt window name no requester. */
  readonly anonymousWrites: boolean;
  /** Who sent the memory request that is being delivered. */
  sender: Sender | null;
  /** Translated requests refused because the address was not the machine's. */
  forgeries: number;
  /** A pin of a function rises or falls. */
  wire(slot: Slot, pin: number, asserted: boolean): void;
  /** Whether the function is still at its place. */
  plugged(slot: Slot): boolean;
  /** Puts a further function on a bus; see `RootComplex.plug` for what it throws. @param by the function that asks. */
  plug(bus: PciBus, devfn: number, fn: PciFunction, options?: PlugOptions, by?: Slot): Slot;
  /** Takes a function off its bus. */
  unplug(slot: Slot): void;
}
