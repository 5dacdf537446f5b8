import { fromWords, toBigint } from '../src/core/bits.ts';
import { ACCESS, AT, ATS, DMA, NO_PASID } from '../src/ports/dma.ts';
import type { PciFunction, Upstream } from '../src/ports/pci.ts';
import { ACS_CAP } from '../src/spec/pcie/capabilities.ts';
import { COMMAND, HEADER } from '../src/spec/pcie/header.ts';
import { directPeer } from './peer.ts';
import type { RootComplex } from './root-complex.ts';
import type { Slot } from './topology.ts';

const PAGE = 4096;
/** Failing pieces of one request that are tried one by one: a guest's length must not become unbounded work. */
const MOST_TRIES = 4096;

/** The piece QEMU's memory core makes of a failing access: naturally aligned, at most 4 bytes. */
function pieceOf(lo: number, left: number): number {
  const aligned = (lo & 3) === 0 ? 4 : (lo & 1) === 0 ? 2 : 1;
  const n = Math.min(aligned, left);
  return n === 3 ? 2 : n;
}

/** The way upstream of one function: its requests meet the ports above, the IOMMU, and then memory. */
export class Link implements Upstream {
  done = 0;
  stallToken = 0;
  atsLo = 0;
  atsHi = 0;
  atsShift = 12;
  atsPerm = 0;
  atsUntranslated = false;
  atsNoSnoop = false;
  /**
   * QEMU's memory core does not stop at a failing piece but tries the rest of the request, piece by piece: one fault record
   * each. Real requests end at their first abort.
   */
  insist = false;
  /** A requester id the function pretends to have (host numbering); -1: its own. Source validation stops it. */
  forged = -1;
  /** Requests leave although COMMAND.MASTER is off (QEMU's iommu-testdev). */
  ignoreMaster = false;
  readonly #complex: RootComplex;
  readonly #slot: Slot;
  readonly #fn: PciFunction;
  readonly #pins = [false, false, false, false];
  #cut = false;
  /** Bytes the last piece really was; 0: all of it. */
  #taken = 0;

  constructor(complex: RootComplex, slot: Slot) {
    this.#complex = complex;
    this.#slot = slot;
    this.#fn = slot.fn;
  }

  get rid(): number {
    return this.#slot.rid;
  }

  /** INTA … INTD as they are held now. */
  savePins(): boolean[] {
    return [...this.#pins];
  }

  loadPins(pins: readonly boolean[]): void {
    for (const [i, pin] of pins.entries()) this.#pins[i] = pin;
  }

  /** The function was taken out: wires drop, nothing goes up any more. */
  cut(): void {
    for (let pin = 1; pin <= 4; pin++) this.intx(pin, false);
    this.#cut = true;
  }

  /** Whether requests of the function get off its link at all. */
  #may(at: number): boolean {
    if (this.#cut) return false;
    if (!this.ignoreMaster && (this.#fn.configRead(HEADER.COMMAND, 2) & COMMAND.MASTER) === 0) return false;
    if (this.#slot.bus.parent === null) return true;
    if (!this.#slot.forwarded) return false;
    const acs = this.#slot.acs;
    if (at !== AT.UNTRANSLATED && (acs & ACS_CAP.TB) !== 0) return this.#violation();
    if (this.forged >= 0 && (acs & ACS_CAP.SV) !== 0) {
      const bus = this.forged >>> 8;
      if (bus !== this.#slot.bus.hostNumber) return this.#violation();
    }
    return true;
  }

  #violation(): boolean {
    this.#slot.bus.parent!.bridge!.violation();
    return false;
  }

  /** A translated address that nobody gave to this machine: refused, and told at the port above. */
  #forgery(): number {
    this.#complex.forgeries++;
    this.#slot.bus.parent?.bridge?.violation();
    return DMA.ABORT;
  }

  #stream(): number {
    return this.forged >= 0 ? this.forged : this.#slot.stream;
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
    const outcome = this.#move(false, pasid, lo, hi, access, at, into, start, count);
    if (this.#complex.onMessage !== null) this.#told('memory read', pasid, lo, hi, access, at, count, outcome);
    return outcome;
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
    const outcome = this.#move(true, pasid, lo, hi, access, at, from, start, count);
    if (this.#complex.onMessage !== null) this.#told('memory write', pasid, lo, hi, access, at, count, outcome);
    return outcome;
  }

  #told(
    kind: 'memory read' | 'memory write',
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    at: number,
    bytes: number,
    outcome: number,
  ): void {
    const address = toBigint(lo, hi);
    this.#complex.onMessage?.({ kind, stream: this.#stream(), pasid, address, access, at, bytes, outcome });
  }

  #move(
    write: boolean,
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    at: number,
    bytes: Uint8Array,
    start: number,
    count: number,
  ): number {
    this.done = 0;
    if (!this.#may(at)) return DMA.ABORT;
    let result: number = DMA.OK;
    let tries = 0;
    let left = count;
    let from = start;
    while (left > 0) {
      let n = Math.min(left, PAGE - (lo & (PAGE - 1)));
      const outcome = this.#chunk(write, pasid, lo, hi, access, at, bytes, from, n);
      if (this.#taken > 0) n = this.#taken;
      if (outcome !== DMA.OK && outcome !== DMA.RAZ_WI) {
        if (!this.insist || tries++ === MOST_TRIES) return outcome;
        result = outcome;
        if (this.#taken === 0) n = pieceOf(lo, n);
      } else if (result === DMA.OK) this.done += n;
      left -= n;
      from += n;
      const next = (lo >>> 0) + n;
      lo = next | 0;
      if (next >= 0x1_0000_0000) hi = (hi + 1) | 0;
    }
    return result;
  }

  /** One piece inside one page. */
  #chunk(
    write: boolean,
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    at: number,
    bytes: Uint8Array,
    start: number,
    count: number,
  ): number {
    this.#taken = 0;
    const complex = this.#complex;
    const slot = this.#slot;
    const peer = directPeer(complex, slot, lo, hi, at);
    if (peer !== null) {
      const offset = fromWords(lo, hi) - peer.base;
      return peer.transfer(write, offset, bytes, start, count) ? DMA.OK : DMA.ABORT;
    }
    const port = slot.bus.root.iommu.translate;
    const outcome = port.translate(this.#stream(), pasid, lo, hi, access, at);
    switch (outcome) {
      case DMA.OK: {
        if (at === AT.TRANSLATED && slot.bus.root.iommu.permits?.(port.out) === false) return this.#forgery();
        complex.requester = slot.aliasRid;
        const part = start === 0 && count === bytes.length ? bytes : bytes.subarray(start, start + count);
        const ok = write ? complex.memory.writeBytes(port.out, part) : complex.memory.readBytes(port.out, part);
        return ok ? DMA.OK : DMA.ABORT;
      }
      case DMA.RAZ_WI:
        if (!write) bytes.fill(0, start, start + count);
        return DMA.RAZ_WI;
      case DMA.STALLED:
        this.stallToken = port.stallToken ?? 0;
        return DMA.STALLED;
      case DMA.INTERRUPT: {
        // Only a DWORD write without PASID is an interrupt (VT-d §3.15); QEMU makes several of a longer one.
        if (this.insist) this.#taken = pieceOf(lo, count);
        if (!write || pasid !== NO_PASID || (lo & 3) !== 0) return DMA.ABORT;
        if (count !== 4 && this.#taken !== 4) return DMA.ABORT;
        const data = bytes[start]! | (bytes[start + 1]! << 8) | (bytes[start + 2]! << 16) | (bytes[start + 3]! << 24);
        return this.#interrupt(complex.anonymousWrites ? 0 : slot.aliasRid, lo >>> 0, data >>> 0);
      }
      default:
        return outcome;
    }
  }

  #interrupt(rid: number, address: number, data: number): number {
    const irq = this.#complex.irq;
    const remap = this.#slot.bus.root.iommu.remap;
    if (remap === null) return irq === null || irq.message(address, data) ? DMA.OK : DMA.ABORT;
    if (!remap.remap(rid, address, data)) return DMA.ABORT;
    return irq === null || irq.message(remap.outAddress, remap.outData) ? DMA.OK : DMA.ABORT;
  }

  message(lo: number, hi: number, data: number): number {
    const outcome = this.#message(lo, hi, data);
    this.#complex.onMessage?.({
      kind: 'interrupt message',
      stream: this.#stream(),
      pasid: NO_PASID,
      address: toBigint(lo, hi),
      data,
      outcome,
    });
    return outcome;
  }

  #message(lo: number, hi: number, data: number): number {
    if (!this.#may(AT.UNTRANSLATED)) return DMA.ABORT;
    const port = this.#slot.bus.root.iommu.translate;
    const outcome = port.translate(this.#stream(), NO_PASID, lo, hi, ACCESS.WRITE, AT.UNTRANSLATED);
    if (outcome === DMA.INTERRUPT) return this.#interrupt(this.#slot.aliasRid, lo >>> 0, data >>> 0);
    if (outcome !== DMA.OK) return outcome;
    this.#complex.requester = this.#slot.aliasRid;
    return this.#complex.memory.store32(port.out, data | 0) ? DMA.OK : DMA.ABORT;
  }

  intx(pin: number, asserted: boolean): void {
    if (this.#cut || this.#pins[pin - 1] === asserted) return;
    this.#pins[pin - 1] = asserted;
    this.#complex.wire(this.#slot, pin, asserted);
  }

  translationRequest(pasid: number, lo: number, hi: number, access: number): number {
    const status = this.#translationRequest(pasid, lo, hi, access);
    this.#complex.onMessage?.({
      kind: 'translation request',
      stream: this.#stream(),
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
    if (ats === null || !this.#may(AT.TRANSLATION_REQUEST)) return ATS.UR;
    const status = ats.translationRequest(this.#stream(), pasid, lo, hi, access);
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
    if (ats === null || this.#cut) return;
    const stream = this.#stream();
    this.#complex.onMessage?.({ kind: 'invalidate completion', stream, pasid: NO_PASID, itags, count });
    const delay = this.#complex.latency.completion;
    if (delay === 0) ats.invalidateCompletion(stream, itags, count & 7);
    else this.#complex.clock!.after(delay, () => ats.invalidateCompletion(stream, itags, count & 7));
  }

  pageRequest(pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    if (!this.#may(AT.UNTRANSLATED)) return;
    this.#complex.onMessage?.({
      kind: 'page request',
      stream: this.#stream(),
      pasid,
      address: toBigint(lo, hi),
      access,
      group,
      last,
    });
    this.#slot.bus.root.iommu.ats?.pageRequest(this.#stream(), pasid, lo, hi, access, group, last);
  }

  spawn(offset: number, fn: PciFunction): (() => void) | null {
    const devfn = this.#slot.devfn + offset;
    if (this.#cut || devfn > 255 || this.#slot.bus.slots.has(devfn)) return null;
    const slot = this.#complex.plug(this.#slot.bus, devfn, fn);
    return () => this.#complex.unplug(slot);
  }
}
