import { ViommuError } from '../../core/errors.ts';
import { type CachedTranslation, cachedTranslations } from '../../lib/cache/listing.ts';
import type { Clock } from '../../ports/clock.ts';
import type { AtsPort, EndpointPort, TranslatePort } from '../../ports/dma.ts';
import { HW_ERROR, type HwEvents, type HwPort, type HwRegisters } from '../../ports/hw.ts';
import type { Memory } from '../../ports/memory.ts';
import type { Tell } from '../../ports/tell.ts';
import { GCMD, PAGE, TTM } from '../../spec/vtd/registers.ts';
import { VtdAts } from './ats.ts';
import { VtdInvalidation } from './commands.ts';
import { DeviceTlb, type DeviceTlbData } from './device-tlb.ts';
import { VtdTranslation } from './translation.ts';

/** What a physical VT-d unit is made of. */
export interface PhysicalVtdOptions {
  /** Host-physical memory: tables, queues, what DMA reaches. */
  readonly memory: Memory;
  /** CAP and ECAP; they decide what is reserved and what exists. */
  readonly cap: bigint;
  /** Extended capability register. */
  readonly ecap: bigint;
  /** Host address width in bits (48). */
  readonly haw?: number;
  /** TM is defined in second-stage leaves (false). */
  readonly transient?: boolean;
  /** Cached translations, context entries, PASID entries: powers of two (65536, 256, 1024); 0 keeps none. */
  readonly iotlbEntries?: number;
  /** Cached context entries: a power of two (256); 0 keeps none. */
  readonly contextEntries?: number;
  /** Cached PASID entries: a power of two (1024); 0 keeps none. */
  readonly pasidEntries?: number;
  /** Cached last-level tables of either stage: a power of two, 0 keeps none (4096, or 0 without cached translations). */
  readonly walkEntries?: number;
  /** Needed when functions may answer invalidations later. */
  readonly clock?: Clock | null;
  /** Nanoseconds until an unanswered device-TLB invalidation is given up (60 s). */
  readonly invalidateTimeout?: number;
  /** Broken hardware for tests: context, IOTLB, PASID-IOTLB and PASID-cache descriptors do nothing. */
  readonly ignoreInvalidations?: boolean;
  /** Shown in `tell`. */
  readonly name?: string;
  /** The host kernel's interrupt handlers. */
  readonly events?: HwEvents | null;
  /** Where messages to functions go. */
  readonly endpoints?: EndpointPort | null;
  /** Hears everything that happens. */
  readonly tell?: Tell | null;
}

/** Saved state of `PhysicalVtd`; its caches are in it. */
export interface PhysicalVtdData {
  readonly root: number;
  readonly ttm: number;
  readonly enabled: boolean;
  readonly rtaddr: string;
  readonly nextToken: number;
  /** @internal */
  readonly iotlb: ReturnType<VtdTranslation['iotlb']['save']>;
  readonly contexts: readonly unknown[];
  readonly pasids: readonly unknown[];
  /** @internal */
  readonly deviceTlb: DeviceTlbData;
}

/**
 * A physical VT-d unit: translates what the bus brings by tables in host memory, caches what it read, executes
 * invalidation descriptors, speaks ATS and PRI. The host owns tables and registers; it gets faults and page requests.
 */
export class PhysicalVtd implements TranslatePort, AtsPort, HwPort, HwRegisters {
  done = 0;
  error: number = HW_ERROR.NONE;
  pending = 0;
  /** Shown in `tell`. */
  readonly name: string;
  readonly #memory: Memory;
  readonly #t: VtdTranslation;
  readonly #deviceTlb: DeviceTlb;
  readonly #invalidation: VtdInvalidation;
  readonly #ats: VtdAts;
  readonly #cap: bigint;
  readonly #ecap: bigint;
  #rtaddr = 0n;
  #nextToken = 1;
  #tell: Tell | null;

  constructor(o: PhysicalVtdOptions) {
    this.name = o.name ?? 'vtd';
    this.#memory = o.memory;
    this.#cap = o.cap;
    this.#ecap = o.ecap;
    this.#t = new VtdTranslation({
      name: this.name,
      memory: o.memory,
      cap: o.cap,
      ecap: o.ecap,
      haw: o.haw ?? 48,
      transient: o.transient ?? false,
      iotlbEntries: o.iotlbEntries ?? 65536,
      contextEntries: o.contextEntries ?? 256,
      pasidEntries: o.pasidEntries ?? 1024,
      walkEntries: o.walkEntries ?? (o.iotlbEntries === 0 ? 0 : 4096),
    });
    this.#deviceTlb = new DeviceTlb(o.clock ?? null, o.invalidateTimeout ?? 60e9);
    this.#invalidation = new VtdInvalidation(
      this.#t,
      this.#deviceTlb,
      o.ignoreInvalidations ?? false,
      (rid, pasid, group, code) => this.#ats.endpoints?.pageResponse(rid, pasid, group, code),
    );
    this.#ats = new VtdAts(this.#t, this.#invalidation);
    this.#tell = null;
    this.events = o.events ?? null;
    this.endpoints = o.endpoints ?? null;
    this.tell = o.tell ?? null;
  }

  /** The host kernel's side: its interrupt handlers. */
  set events(events: HwEvents | null) {
    this.#t.events = events;
    this.#deviceTlb.events = events;
  }

  /** The bus: messages to functions. */
  set endpoints(endpoints: EndpointPort | null) {
    this.#deviceTlb.endpoints = endpoints;
    this.#ats.endpoints = endpoints;
  }

  /** Hears everything that happens; null: nobody does. */
  set tell(tell: Tell | null) {
    this.#tell = tell;
    this.#t.tell = tell;
    this.#deviceTlb.tell = tell;
  }

  /** Invalidation completions nobody expected (FSTS.ICE). */
  get unexpectedCompletions(): number {
    return this.#deviceTlb.unexpected;
  }

  // TranslatePort

  translate(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    return this.#t.translate(rid, pasid, lo, hi, access, at);
  }
  get out(): number {
    return this.#t.out;
  }
  get outShift(): number {
    return this.#t.outShift;
  }
  get outPerm(): number {
    return this.#t.outPerm;
  }
  get guestShift(): number {
    return this.#t.guestShift;
  }
  get tag(): number {
    return this.#t.tag;
  }

  // AtsPort

  translationRequest(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    return this.#ats.translation(rid, pasid, lo, hi, access);
  }
  get atsOut(): number {
    return this.#ats.out;
  }
  get atsShift(): number {
    return this.#ats.shift;
  }
  get atsPerm(): number {
    return this.#ats.perm;
  }
  get atsUntranslated(): boolean {
    return this.#ats.untranslated;
  }
  get atsNoSnoop(): boolean {
    return this.#ats.noSnoop;
  }
  invalidateCompletion(rid: number, itags: number, count: number): void {
    this.#deviceTlb.completion(rid, itags, count);
  }
  pageRequest(rid: number, pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    this.#ats.pageRequest(rid, pasid, lo, hi, access, group, last);
  }

  // HwPort

  writeEntry(table: number, entry: number, word: number, lo: number, hi: number): void {
    this.#memory.store64(table + entry + 8 * word, lo, hi);
  }

  /** Descriptors are 256 bits wide in scalable mode, 128 in legacy mode. */
  submit(words: Int32Array, start: number, count: number): void {
    const wide = this.#t.ttm !== TTM.LEGACY;
    const step = wide ? 8 : 4;
    const token = this.#nextToken++;
    const deviceTlb = this.#deviceTlb;
    // Kept apart from the fields: what a completion causes may submit in between.
    let error: number = HW_ERROR.NONE;
    deviceTlb.begin(token);
    let i = 0;
    for (; i < count; i++) {
      const at = start + i * step;
      if (this.#tell !== null) {
        this.#tell({ what: 'hw.command', iommu: this.name, words: Array.from(words.subarray(at, at + step)) });
      }
      if (!this.#invalidation.run(words, at, wide)) error = HW_ERROR.ILLEGAL;
      else if (deviceTlb.failed()) error = HW_ERROR.ATC_TIMEOUT;
      if (error !== HW_ERROR.NONE) break;
    }
    this.pending = deviceTlb.close() ? token : 0;
    this.done = i;
    this.error = error;
  }

  // HwRegisters

  /** VER, CAP, ECAP, GSTS and RTADDR; anything else is 0. */
  readRegister(offset: number): bigint {
    switch (offset) {
      case PAGE.VER.at:
        return PAGE.VER.reset;
      case PAGE.CAP.at:
        return this.#cap;
      case PAGE.ECAP.at:
        return this.#ecap;
      case PAGE.GSTS.at:
        return BigInt(((this.#t.enabled ? GCMD.TE : 0) | (this.#t.root !== 0 ? GCMD.SRTP : 0) | GCMD.QIE) >>> 0);
      case PAGE.RTADDR.at:
        return this.#rtaddr;
      default:
        return 0n;
    }
  }

  /**
   * RTADDR, and GCMD's SRTP (latches RTADDR) and TE.
   * @throws ViommuError `EINVAL`: the host has no other register here.
   */
  writeRegister(offset: number, value: bigint): void {
    if (offset === PAGE.RTADDR.at) {
      this.#rtaddr = value;
      return;
    }
    if (offset !== PAGE.GCMD.at) throw new ViommuError('EINVAL', 'host', 'no such register', { offset });
    const t = this.#t;
    const command = Number(value);
    if ((command & GCMD.SRTP) !== 0) {
      t.root = Number(this.#rtaddr & 0xf_ffff_ffff_f000n);
      t.ttm = Number((this.#rtaddr >> 10n) & 3n);
    }
    const enabled = (command & GCMD.TE) !== 0;
    // Enhanced SRTP (CAP.ESRTPS) invalidates everything; otherwise the host does, except what TE itself implies.
    if (((command & GCMD.SRTP) !== 0 && this.#cap >> 63n !== 0n) || enabled !== t.enabled) {
      t.contexts.dropAll();
      t.pasids.dropAll();
      t.iotlb.invalidateAll();
    }
    t.enabled = enabled;
  }

  /** What is cached now, for people; `id` is the PASID (0 for requests without one). */
  cached(): CachedTranslation[] {
    return cachedTranslations(this.#t.iotlb.save()).map((c) => ({ ...c, id: c.id >> 1 }));
  }

  /** Registers, caches and what is in flight. */
  save(): PhysicalVtdData {
    const t = this.#t;
    return {
      root: t.root,
      ttm: t.ttm,
      enabled: t.enabled,
      rtaddr: `0x${this.#rtaddr.toString(16)}`,
      nextToken: this.#nextToken,
      iotlb: t.iotlb.save(),
      contexts: t.contexts.save(),
      pasids: t.pasids.save(),
      deviceTlb: this.#deviceTlb.save(),
    };
  }

  /** Goes back to a saved state. @param data of a unit with the same options. */
  load(data: PhysicalVtdData): void {
    const t = this.#t;
    t.root = data.root;
    t.ttm = data.ttm;
    t.enabled = data.enabled;
    this.#rtaddr = BigInt(data.rtaddr);
    this.#nextToken = data.nextToken;
    t.iotlb.load(data.iotlb);
    t.contexts.load(data.contexts);
    t.pasids.load(data.pasids);
    this.#deviceTlb.load(data.deviceTlb);
  }
}
