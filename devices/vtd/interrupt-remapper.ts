import type { InterruptRemapPort } from '../../src/ports/dma.ts';
import { FAULT, frcdWord2, frcdWord3 } from '../../src/spec/vtd/faults.ts';
import {
  IRTE_BYTES,
  IRTE_RESERVED,
  irte,
  message,
  msiAddress,
  msiData,
  PID_CONTROL,
  pid,
  SQ_MASK,
  SVT,
} from '../../src/spec/vtd/interrupt.ts';
import type { VtdCore } from './core.ts';
import type { VtdRecords } from './records.ts';
import { basePointer } from './registers.ts';

/** Direct-mapped entries of the interrupt entry cache. */
const CACHED = 256;

/** Interrupt remapping as plain data: what SIRTP, IRE and CFI latched. */
export interface RemapperState {
  /** IRES. */
  readonly on: boolean;
  /** CFIS: messages in compatibility format pass. */
  readonly compatibility: boolean;
  /** The table, bytes. */
  readonly base: number;
  /** Entries. */
  readonly size: number;
  /** EIME: destinations of 32 bits. */
  readonly extended: boolean;
}

/** What the machine asks of interrupt remapping, and what it learns of the interrupt remapped last. */
export interface VtdInterruptPort extends InterruptRemapPort {
  /** 32-bit destination: `outAddress` carries what a 64-bit MSI address can. */
  readonly outDestination: number;
  /** Index of its entry; -1 when it passed unchanged. */
  readonly outIndex: number;
  /** Its entry, 4 words. */
  readonly outEntry: Int32Array;
}

/** Interrupt remapping (VT-d §5.1): decides every message in 0xFEEx_xxxx and every IOAPIC entry. */
export class InterruptRemapper implements VtdInterruptPort {
  outAddress = 0;
  outData = 0;
  posted = false;
  /** 32-bit destination of the last remapped interrupt: `outAddress` carries what a 64-bit MSI address can. */
  outDestination = 0;
  /** Index and entry (4 words) of the last remapped interrupt; index -1 when it passed unchanged. */
  outIndex = -1;
  readonly outEntry = new Int32Array(4);
  readonly #core: VtdCore;
  readonly #records: VtdRecords;
  #on = false;
  #compatibility = false;
  #base = 0;
  #size = 0;
  #extended = false;
  /** Index + 1 of the entry in each slot; 0: empty. Only present, well-formed entries are kept. */
  readonly #tags = new Int32Array(CACHED);
  readonly #lines = new Int32Array(CACHED * 4);

  constructor(core: VtdCore, records: VtdRecords) {
    this.#core = core;
    this.#records = records;
  }

  /** IRE and CFI as levels. */
  set(on: boolean, compatibility: boolean): void {
    this.#on = on;
    this.#compatibility = compatibility;
  }

  /** SIRTP: IRTA is latched, the entry cache emptied (ESIRTPS). Words of IRTA. */
  setTable(lo: number, hi: number): void {
    const { deps, deviations } = this.#core;
    this.#base = basePointer(lo, hi, deps.properties, deviations);
    this.#size = 2 ** ((lo & 0xf) + 1);
    this.#extended = (lo & 0x800) !== 0 && (deps.properties.eim || deviations.destinationUnchecked);
    this.invalidateAll();
  }

  invalidateAll(): void {
    this.#tags.fill(0);
  }

  /** Index-selective: 2^mask entries from `index`, aligned. */
  invalidate(index: number, mask: number): void {
    if (mask >= 8) {
      this.#tags.fill(0);
      return;
    }
    const first = index & -(1 << mask);
    for (let i = first; i < first + (1 << mask); i++) {
      if (this.#tags[i & (CACHED - 1)] === i + 1) this.#tags[i & (CACHED - 1)] = 0;
    }
  }

  /** §3.15; QEMU answers without a record. */
  refused(rid: number): void {
    if (this.#core.deviations.interruptRangeSilent) return;
    this.#records.record(0, 0, frcdWord2(rid, -1, false, false), frcdWord3(false, 0, -1, FAULT.IR_REQUEST_TYPE));
  }

  remap(rid: number, address: number, data: number): boolean {
    this.posted = false;
    this.outIndex = -1;
    this.outAddress = address;
    this.outData = data;
    if (!this.#on) return true;
    if (!message.remappable(address)) {
      if (this.#core.deviations.compatibilityPasses || (this.#compatibility && !this.#extended)) return true;
      return this.#block(FAULT.IR_COMPATIBILITY, rid, 0, false);
    }
    const shv = message.shv(address);
    let index = message.handle(address);
    if (shv) {
      if (!this.#core.deviations.shvDataUnchecked && data >>> 16 !== 0) {
        return this.#block(FAULT.IR_REQUEST_RESERVED, rid, index, false);
      }
      index += data & 0xffff;
      if (this.#core.deviations.indexWraps) index &= 0xffff;
    }
    if (index >= this.#size) return this.#block(FAULT.IR_INDEX, rid, index, false);
    const reason = this.#entry(index, rid);
    if (reason !== 0) return this.#block(reason, rid, index, irte.fpd(this.outEntry[0]!));
    if (this.#core.deps.properties.postedInterrupts && irte.posted(this.outEntry[0]!)) return this.#post(index, rid);
    this.#deliver(index, address);
    return true;
  }

  /** Fills `outEntry` and judges it for `rid`. @returns 0 or the fault reason. */
  #entry(index: number, rid: number): number {
    const e = this.outEntry;
    const slot = index & (CACHED - 1);
    const cached = !this.#core.deviations.entriesUncached && this.#tags[slot] === index + 1;
    if (cached) {
      for (let i = 0; i < 4; i++) e[i] = this.#lines[slot * 4 + i]!;
    } else {
      e.fill(0);
      const at = this.#base + index * IRTE_BYTES;
      const { memory } = this.#core.deps;
      const ok = memory.load64(at);
      e[0] = ok ? memory.lo : 0;
      e[1] = ok ? memory.hi : 0;
      if (!ok || !memory.load64(at + 8)) {
        e[0] = 0;
        return FAULT.IR_UNREADABLE;
      }
      e[2] = memory.lo;
      e[3] = memory.hi;
      if (!irte.p(e[0]!)) return FAULT.IR_P;
      if (this.#reserved(e)) return FAULT.IR_RESERVED;
      for (let i = 0; i < 4; i++) this.#lines[slot * 4 + i] = e[i]!;
      this.#tags[slot] = index + 1;
    }
    return this.#source(e[2]!, rid) ? 0 : FAULT.IR_SOURCE;
  }

  #reserved(e: Int32Array): boolean {
    const { postedAsRemapped, destinationUnchecked } = this.#core.deviations;
    const posts = this.#core.deps.properties.postedInterrupts;
    if (!posts && !postedAsRemapped && irte.posted(e[0]!)) return true;
    const wide = this.#extended || destinationUnchecked ? IRTE_RESERVED.REMAPPED : IRTE_RESERVED.XAPIC;
    const masks = posts && irte.posted(e[0]!) ? IRTE_RESERVED.POSTED : wide;
    const bad = (e[0]! & masks[0]) | (e[1]! & masks[1]) | (e[2]! & masks[2]) | (e[3]! & masks[3]);
    return bad !== 0;
  }

  /** Source-id validation (§9.9, SVT and SQ). */
  #source(w2: number, rid: number): boolean {
    switch (irte.svt(w2)) {
      case SVT.NONE:
        return true;
      case SVT.SID: {
        const mask = SQ_MASK[irte.sq(w2)]!;
        return (rid & mask) === (irte.sid(w2) & mask);
      }
      case SVT.BUS: {
        const bus = (rid >>> 8) & 0xff;
        const high = irte.sid(w2) >>> 8;
        const low = irte.sid(w2) & 0xff;
        return this.#core.deviations.busRangeReversed ? bus <= high && bus >= low : bus >= high && bus <= low;
      }
      default:
        return false;
    }
  }

  /**
   * Sets the vector's bit in the descriptor. Who is to be told is told once: ON stays until software clears it, and SN keeps
   * everything but urgent interrupts quiet (§5.2.3).
   */
  #post(index: number, rid: number): boolean {
    const e = this.outEntry;
    const { memory } = this.#core.deps;
    const fpd = irte.fpd(e[0]!);
    const at = irte.pda(e[1]!, e[3]!);
    const vector = irte.vector(e[0]!);
    const request = at + 8 * (vector >>> 6);
    if (!memory.load64(at + PID_CONTROL)) return this.#block(FAULT.IR_PID_UNREADABLE, rid, index, fpd);
    const { lo, hi } = memory;
    if ((lo & pid.RESERVED) !== 0 || (!this.#extended && (hi & pid.XAPIC) !== 0)) {
      return this.#block(FAULT.IR_PID_RESERVED, rid, index, fpd);
    }
    const bit = 1 << (vector & 31);
    const upper = (vector & 32) !== 0;
    const tells = !pid.on(lo) && (irte.urgent(e[0]!) || !pid.sn(lo));
    const stored =
      memory.load64(request) &&
      memory.store64(request, upper ? memory.lo : memory.lo | bit, upper ? memory.hi | bit : memory.hi) &&
      (!tells || memory.store64(at + PID_CONTROL, lo | 1, hi));
    if (!stored) return this.#block(FAULT.IR_PID_UNREADABLE, rid, index, fpd);
    this.outIndex = index;
    this.posted = !tells;
    // The notification: fixed, edge, to one processor by its id.
    if (tells) this.#send(this.#extended ? pid.ndst(hi) : (hi >>> 8) & 0xff, 0, 0, msiData(pid.nv(lo), 0, 0));
    return true;
  }

  #deliver(index: number, address: number): void {
    const e = this.outEntry;
    const w0 = e[0]!;
    const dst = this.#extended ? irte.dst(e[1]!) : (e[1]! >>> 8) & 0xff;
    this.outIndex = index;
    this.#send(dst, irte.dm(w0), irte.rh(w0), msiData(irte.vector(w0), irte.dlm(w0), irte.tm(w0)), address & 3);
  }

  #send(dst: number, dm: number, rh: number, data: number, low = 0): void {
    this.outDestination = dst;
    const upper = dst - (dst & 0xff);
    this.outAddress = msiAddress(dst, dm, rh) + low + upper * 0x1_0000_0000;
    this.outData = data;
    const { tell } = this.#core.deps;
    if (tell !== null) {
      tell({ what: 'irq', device: this.#core.name, line: 'remap', address: this.outAddress, data: this.outData });
    }
  }

  #block(reason: number, rid: number, index: number, fpd: boolean): boolean {
    // Every reason an entry's own FPD is known for is a qualified one.
    if (!fpd) this.#records.record(0, index << 16, rid & 0xffff, reason);
    return false;
  }

  reset(): void {
    this.#on = this.#compatibility = this.#extended = false;
    this.#base = this.#size = 0;
    this.invalidateAll();
  }

  save(): RemapperState {
    return {
      on: this.#on,
      compatibility: this.#compatibility,
      base: this.#base,
      size: this.#size,
      extended: this.#extended,
    };
  }

  /** The entry cache is not part of the state: it refills. */
  load(s: RemapperState): void {
    this.#on = s.on;
    this.#compatibility = s.compatibility;
    this.#base = s.base;
    this.#size = s.size;
    this.#extended = s.extended;
    this.invalidateAll();
  }
}
