import { toBigint } from '../src/core/bits.ts';
import { ViommuError } from '../src/core/errors.ts';
import { MemoryRequest } from '../src/lib/pci/memory-request.ts';
import { ACCESS, AT, ATS, type AtsPort, DMA, NO_PASID } from '../src/ports/dma.ts';
import type { PciFunction, Upstream } from '../src/ports/pci.ts';
import { PRG } from '../src/spec/pcie/messages.ts';
import { Departure, deliverInterrupt, NOT_SET_UP } from './departure.ts';
import type { Fabric } from './fabric.ts';
import { LinkWork } from './link-work.ts';
import { MemoryPath } from './memory-path.ts';
import type { Slot } from './topology.ts';

/** Units of work of a request that fails: it is a fault for somebody to record. */
const FAILED_WORK = 1;
/** log2 of the bytes that cost a unit. */
const UNIT_SHIFT = 11;

/**
 * The way upstream of one function under one of its requester ids: its requests meet the ports above, the IOMMU, and then
 * memory.
 */
export class Link implements Upstream {
  atsLo = 0;
  atsHi = 0;
  atsShift = 12;
  atsPerm = 0;
  atsUntranslated = false;
  atsNoSnoop = false;
  readonly #fabric: Fabric;
  readonly #slot: Slot;
  readonly #departure: Departure;
  readonly #path: MemoryPath;
  /** INTA … INTD as they are held now. */
  readonly #pins = [false, false, false, false];
  /** Functions brought to life by this one (SR-IOV): they go with it. */
  readonly #spawned = new Set<Slot>();
  /** Used again by the next request; null while one is under way, because a write may come back to the same function. */
  #idle: MemoryRequest | null = new MemoryRequest();

  readonly work: LinkWork;
  /** The ways up under its further requester ids. */
  readonly aliases: readonly Link[];
  /** The function's own way up; wires are there only. */
  readonly #main: Link;
  readonly #index: number;

  /** @param index which of the slot's requester ids; 0: its own. @param main set with `index` > 0. */
  constructor(fabric: Fabric, slot: Slot, index = 0, main: Link | null = null) {
    this.#fabric = fabric;
    this.#slot = slot;
    this.#index = index;
    this.#main = main ?? this;
    this.aliases = main === null ? slot.aliases.map((_, i) => new Link(fabric, slot, i + 1, this)) : [];
    this.#departure = new Departure(fabric, slot, index);
    this.#path = new MemoryPath(fabric, slot, this.#departure);
    this.work = main?.work ?? new LinkWork(fabric, slot.gate, () => fabric.plugged(slot));
  }

  get rid(): number {
    return this.#slot.ridOf(this.#index);
  }

  get done(): number {
    return this.#path.done;
  }

  get stallToken(): number {
    return this.#path.stallToken;
  }

  /** See `MemoryPath.insist`. */
  get insist(): boolean {
    return this.#path.insist;
  }
  set insist(on: boolean) {
    this.#path.insist = on;
  }

  /** See `Departure.forged`. */
  get forged(): number {
    return this.#departure.forged;
  }
  set forged(rid: number) {
    this.#departure.forged = rid;
  }

  /** See `Departure.ignoreMaster`. */
  get ignoreMaster(): boolean {
    return this.#departure.ignoreMaster;
  }
  set ignoreMaster(on: boolean) {
    this.#departure.ignoreMaster = on;
  }

  /** INTA … INTD as they are held now. */
  savePins(): boolean[] {
    return [...this.#pins];
  }

  loadPins(pins: readonly boolean[]): void {
    for (const [i, pin] of pins.entries()) this.#pins[i] = pin;
  }

  /** The function was taken out: wires drop, nothing goes up any more, and what it brought to life goes with it. */
  cut(): void {
    for (let pin = 1; pin <= 4; pin++) this.intx(pin, false);
    for (const link of [this, ...this.aliases]) link.#departure.cut = true;
    for (const slot of this.#spawned) this.#fabric.unplug(slot);
    this.#spawned.clear();
  }

  read(
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    at: number,
    into: Uint8Array,
    start: number,
    count: number,
  ): number {
    const r = this.#request(pasid, lo, hi, access, at);
    r.write = false;
    r.bytes = into;
    r.start = start;
    r.left = count;
    return this.#fabric.onMessage === null ? this.#move(r) : this.#told(r);
  }

  write(
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    at: number,
    from: Uint8Array,
    start: number,
    count: number,
  ): number {
    const r = this.#request(pasid, lo, hi, access, at);
    r.write = true;
    r.bytes = from;
    r.start = start;
    r.left = count;
    return this.#fabric.onMessage === null ? this.#move(r) : this.#told(r);
  }

  #request(pasid: number, lo: number, hi: number, access: number, at: number): MemoryRequest {
    const r = this.#idle ?? new MemoryRequest();
    this.#idle = null;
    r.pasid = this.#departure.pasid(pasid);
    if (r.pasid === NOT_SET_UP) this.#departure.refuse(pasid, lo, hi, access);
    r.lo = lo;
    r.hi = hi;
    r.access = access;
    r.at = at;
    return r;
  }

  #move(r: MemoryRequest): number {
    const { gate } = this.#slot;
    if (!gate.send()) return this.#refuse(r);
    gate.spend(1 + (r.left >>> UNIT_SHIFT));
    try {
      const outcome = this.#path.move(r);
      if (outcome !== DMA.OK) gate.spend(FAILED_WORK);
      return outcome;
    } finally {
      gate.sent();
      this.#idle = r;
    }
  }

  /** Too many requests have set each other in motion. */
  #refuse(r: MemoryRequest): number {
    this.#path.done = 0;
    this.#idle = r;
    return DMA.ABORT;
  }

  #told(r: MemoryRequest): number {
    const { write, pasid, access, at, left: bytes } = r;
    const address = toBigint(r.lo, r.hi);
    const outcome = this.#move(r);
    const kind = write ? 'memory write' : 'memory read';
    const { stream } = this.#departure;
    this.#fabric.onMessage?.({ kind, stream, pasid, address, access, at, bytes, outcome });
    return outcome;
  }

  message(lo: number, hi: number, data: number): number {
    const { gate } = this.#slot;
    let outcome: number = DMA.ABORT;
    if (gate.send()) {
      try {
        outcome = this.#message(lo, hi, data);
      } finally {
        gate.sent();
      }
    }
    this.#fabric.onMessage?.({
      kind: 'interrupt message',
      stream: this.#departure.stream,
      pasid: NO_PASID,
      address: toBigint(lo, hi),
      data,
      outcome,
    });
    return outcome;
  }

  #message(lo: number, hi: number, data: number): number {
    if (!this.#departure.may(AT.UNTRANSLATED)) return DMA.ABORT;
    const port = this.#slot.bus.root.iommu.translate;
    const outcome = port.translate(this.#departure.stream, NO_PASID, lo, hi, ACCESS.WRITE, AT.UNTRANSLATED);
    if (outcome === DMA.INTERRUPT) {
      return deliverInterrupt(this.#fabric, this.#slot.bus.root, this.#departure.requester, lo >>> 0, data >>> 0);
    }
    if (outcome !== DMA.OK) return outcome;
    this.#fabric.sender = this.#departure;
    return this.#fabric.memory.store32(port.out, data | 0) ? DMA.OK : DMA.ABORT;
  }

  intx(pin: number, asserted: boolean): void {
    if (this.#main !== this) {
      this.#main.intx(pin, asserted);
      return;
    }
    if (this.#departure.cut || this.#pins[pin - 1] === asserted) return;
    this.#pins[pin - 1] = asserted;
    this.#fabric.wire(this.#slot, pin, asserted);
  }

  translationRequest(pasid: number, lo: number, hi: number, access: number): number {
    const own = this.#departure.pasid(pasid);
    // What cannot be asked for gets the completion of what is not mapped: a slice may have no such PASID yet.
    if (own === NOT_SET_UP) return this.#slot.slice === null ? ATS.UR : this.#notMapped();
    return this.#asked(own, lo, hi, access);
  }

  #notMapped(): number {
    this.atsPerm = 0;
    this.atsShift = 12;
    this.atsUntranslated = this.atsNoSnoop = false;
    return ATS.SUCCESS;
  }

  #asked(pasid: number, lo: number, hi: number, access: number): number {
    const { gate } = this.#slot;
    let status: number = ATS.CA;
    if (gate.send()) {
      gate.spend(1);
      try {
        status = this.#translationRequest(pasid, lo, hi, access);
      } finally {
        gate.sent();
      }
    }
    this.#fabric.onMessage?.({
      kind: 'translation request',
      stream: this.#departure.stream,
      pasid,
      address: toBigint(lo, hi),
      access,
      status,
      translated: toBigint(this.atsLo, this.atsHi),
      shift: this.atsShift,
      granted: this.atsPerm,
    });
    return status;
  }

  #translationRequest(pasid: number, lo: number, hi: number, access: number): number {
    const ats = this.#slot.bus.root.iommu.ats;
    if (ats === null || !this.#departure.may(AT.TRANSLATION_REQUEST)) return ATS.UR;
    const status = ats.translationRequest(this.#departure.stream, pasid, lo, hi, access);
    if (status !== ATS.SUCCESS) return status;
    this.atsLo = ats.atsOut | 0;
    this.atsHi = (ats.atsOut / 0x1_0000_0000) | 0;
    this.atsShift = ats.atsShift;
    this.atsPerm = ats.atsPerm;
    this.atsUntranslated = ats.atsUntranslated;
    this.atsNoSnoop = ats.atsNoSnoop;
    return status;
  }

  invalidateCompletion(itags: number, count: number): void {
    const ats = this.#slot.bus.root.iommu.ats;
    if (ats === null || this.#departure.cut) return;
    const stream = this.#departure.stream;
    this.#fabric.onMessage?.({ kind: 'invalidate completion', stream, pasid: NO_PASID, itags, count });
    const delay = this.#fabric.latency.completion;
    if (delay === 0) ats.invalidateCompletion(stream, itags, count & 7);
    else this.#completionLater(ats, delay, itags, count & 7);
  }

  #completionLater(ats: AtsPort, delay: number, itags: number, count: number): void {
    const { stream } = this.#departure;
    this.#fabric.clock!.after(delay, () => ats.invalidateCompletion(stream, itags, count));
  }

  pageRequest(pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    if (!this.#departure.may(AT.UNTRANSLATED)) return;
    const own = this.#departure.pasid(pasid);
    if (own !== NOT_SET_UP) this.#ask(own, lo, hi, access, group, last);
    // Nobody above knows a PASID that is not set up: the function hears so, as from an IOMMU without an entry for it.
    else if (last) this.#slot.fn.pageResponse?.(pasid, group, PRG.INVALID);
  }

  #ask(pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    this.#fabric.onMessage?.({
      kind: 'page request',
      stream: this.#departure.stream,
      pasid,
      address: toBigint(lo, hi),
      access,
      group,
      last,
    });
    const { gate } = this.#slot;
    if (!gate.send()) return;
    try {
      this.#slot.bus.root.iommu.ats?.pageRequest(this.#departure.stream, pasid, lo, hi, access, group, last);
    } finally {
      gate.sent();
    }
  }

  spawn(offset: number, fn: PciFunction): (() => void) | null {
    const { bus, devfn, pasids } = this.#slot;
    if (this.#departure.cut) return null;
    let slot: Slot;
    try {
      slot = this.#fabric.plug(bus, devfn + offset, fn, pasids === null ? {} : { pasids }, this.#slot);
    } catch (error) {
      // A guest asks for it: what cannot be (the place is taken, the host refuses the function) stays away.
      if (error instanceof ViommuError) return null;
      throw error;
    }
    slot.spawned = true;
    this.#spawned.add(slot);
    return () => {
      this.#spawned.delete(slot);
      this.#fabric.unplug(slot);
    };
  }
}
