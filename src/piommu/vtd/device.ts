import { wordList } from '../../core/bits.ts';
import type { ITagsData } from '../../lib/ats/itags.ts';
import { Iotlb, type IotlbData } from '../../lib/cache/iotlb.ts';
import { type CachedTranslation, cachedTranslations } from '../../lib/cache/listing.ts';
import { VtdFeatures } from '../../lib/check/vtd-features.ts';
import type { AtsPort, TranslatePort } from '../../ports/dma.ts';
import { HW_ERROR, type HwPort } from '../../ports/hw.ts';
import type { Memory } from '../../ports/memory.ts';
import type { Tell } from '../../ports/tell.ts';
import { TTM } from '../../spec/vtd/registers.ts';
import { SILENCE } from '../silence.ts';
import { VtdHwAts } from './ats.ts';
import { VtdHwCommands } from './commands.ts';
import { VtdHwDeviceTlb } from './device-tlb.ts';
import { VtdHwFaults } from './faults.ts';
import type { PhysicalVtdOptions } from './options.ts';
import { VtdHwPageRequests } from './page-requests.ts';
import { VtdHwRegisters, type VtdHwRegistersData } from './registers.ts';
import { VtdHwResolver } from './resolver.ts';
import { VtdHwTables, type VtdHwTablesData } from './tables.ts';
import { VtdHwTranslation } from './translation.ts';

/** Nanoseconds a device-TLB invalidation may take, unless the options say otherwise. */
const INVALIDATE_TIMEOUT = 60e9;
const HAW = 48;

/** Saved state of `PhysicalVtd`; its caches are in it. */
export interface PhysicalVtdData {
  /** @internal */
  readonly registers: VtdHwRegistersData;
  /** @internal */
  readonly iotlb: IotlbData;
  /** @internal */
  readonly tables: VtdHwTablesData;
  /** @internal */
  readonly deviceTlb: ITagsData;
}

/**
 * The emulated physical VT-d unit: registers, root, context and PASID tables in host memory, nested walks, caches that only
 * the right invalidation empties, ATS and PRI. A kernel driver drives it through `HwPort`, the bus through `TranslatePort`
 * and `AtsPort`; it tells the host through `HwEvents`. Until the driver has set GCMD.TE, requests without PASID pass.
 */
export class PhysicalVtd implements TranslatePort, AtsPort, HwPort {
  /** Shown in `tell`. */
  readonly name: string;
  /** What its identification registers say. */
  readonly features: VtdFeatures;
  readonly #memory: Memory;
  readonly #registers: VtdHwRegisters;
  readonly #iotlb: Iotlb;
  readonly #tables: VtdHwTables;
  readonly #translation: VtdHwTranslation;
  readonly #faults: VtdHwFaults;
  readonly #deviceTlb: VtdHwDeviceTlb;
  readonly #pages: VtdHwPageRequests;
  readonly #commands: VtdHwCommands;
  readonly #ats: VtdHwAts;
  #tell: Tell | null = null;

  done = 0;
  error: number = HW_ERROR.NONE;
  pending = 0;

  constructor(o: PhysicalVtdOptions) {
    this.name = o.name ?? 'vtd';
    const { memory } = o;
    const features = new VtdFeatures(o.cap, o.ecap, o.haw ?? HAW, o);
    const events = o.events ?? SILENCE;
    const endpoints = o.endpoints ?? null;
    const caches = o.caches ?? {};
    const walkEntries = caches.walks ?? (caches.iotlb === 0 ? 0 : 4096);
    const iotlb = new Iotlb({ entries: caches.iotlb ?? 65536, walkEntries });
    const registers = new VtdHwRegisters(o, () => this.#forget());
    const tables = new VtdHwTables({ memory, features, registers, iotlb, caches });
    const resolver = new VtdHwResolver({
      memory,
      features,
      tables,
      iotlb,
      events,
      cachesWalks: walkEntries > 0,
      walk: o.walk,
    });
    const faults = new VtdHwFaults({ name: this.name, events, registers });
    const deviceTlb = new VtdHwDeviceTlb({
      endpoints,
      clock: o.clock ?? null,
      timeout: o.invalidateTimeout ?? INVALIDATE_TIMEOUT,
      completed: (token, error, rid) => events.completed(token, error, Math.max(0, rid)),
      unexpected: (rid) => events.unexpectedCompletion?.(rid),
    });
    const parts = { features, registers, tables, resolver, faults, iotlb };
    const pages = new VtdHwPageRequests({ ...parts, events, endpoints });
    const ignoreInvalidations = o.ignoreInvalidations ?? false;
    this.features = features;
    this.#memory = memory;
    this.#registers = registers;
    this.#iotlb = iotlb;
    this.#tables = tables;
    this.#faults = faults;
    this.#deviceTlb = deviceTlb;
    this.#pages = pages;
    this.#commands = new VtdHwCommands({ features, registers, tables, iotlb, deviceTlb, pages, ignoreInvalidations });
    this.#ats = new VtdHwAts(parts);
    this.#translation = new VtdHwTranslation({ ...parts, name: this.name });
  }

  /** Hears everything that happens; null: nobody does. */
  set tell(tell: Tell | null) {
    this.#tell = tell;
    this.#faults.tell = tell;
    this.#translation.tell = tell;
    this.#deviceTlb.tags.tell = tell;
  }

  #forget(): void {
    this.#tables.dropContexts();
    this.#tables.dropPasids();
    this.#iotlb.invalidateAll();
  }

  // TranslatePort

  translate(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    return this.#translation.translate(rid, pasid, lo, hi, access, at);
  }
  get out(): number {
    return this.#translation.out;
  }
  get outShift(): number {
    return this.#translation.outShift;
  }
  get outPerm(): number {
    return this.#translation.outPerm;
  }
  get guestShift(): number {
    return this.#translation.guestShift;
  }
  get tag(): number {
    return this.#translation.tag;
  }

  // AtsPort

  translationRequest(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    return this.#ats.request(rid, pasid, lo, hi, access);
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
    this.#deviceTlb.tags.completion(rid, itags, count);
  }

  /** Invalidation completions that nobody expected (FSTS.ICE). */
  get unexpectedCompletions(): number {
    return this.#deviceTlb.tags.unexpected;
  }

  pageRequest(rid: number, pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    this.#pages.request(rid, pasid, lo, hi, access, group, last);
  }

  // HwPort

  readRegister(offset: number): bigint {
    return this.#registers.readRegister(offset);
  }

  writeRegister(offset: number, value: bigint): void {
    this.#registers.writeRegister(offset, value);
  }

  writeEntry(table: number, entry: number, word: number, lo: number, hi: number): void {
    this.#memory.store64(table + entry + 8 * word, lo, hi);
  }

  /** Descriptors are 256 bits wide in scalable mode, 128 in legacy mode. */
  submit(words: Int32Array, start: number, count: number): void {
    if (!this.#registers.queueEnabled) {
      this.done = 0;
      this.error = HW_ERROR.ABORT;
      this.pending = 0;
      return;
    }
    const wide = this.#registers.ttm !== TTM.LEGACY;
    const step = wide ? 8 : 4;
    const { tags } = this.#deviceTlb;
    let error: number = HW_ERROR.NONE;
    let i = 0;
    tags.begin();
    for (; i < count; i++) {
      const at = start + i * step;
      if (this.#tell !== null) {
        this.#tell({ what: 'hw.command', iommu: this.name, words: wordList(words, at, step) });
      }
      error = this.#commands.run(words, at, wide) ? tags.takeError() : HW_ERROR.ILLEGAL;
      if (error !== HW_ERROR.NONE) break;
    }
    // What a request to a function causes may submit in between, so the fields are written last.
    this.pending = tags.close();
    this.done = i;
    this.error = error;
  }

  /** What is cached now, for listings; `id` is the PASID (0 for requests without one). */
  cached(): CachedTranslation[] {
    return cachedTranslations(this.#iotlb.save()).map((c) => ({ ...c, id: c.id >> 1 }));
  }

  /** Registers, caches and what is in flight. */
  save(): PhysicalVtdData {
    return {
      registers: this.#registers.save(),
      iotlb: this.#iotlb.save(),
      tables: this.#tables.save(),
      deviceTlb: this.#deviceTlb.tags.save(),
    };
  }

  /** Goes back to a saved state. @param data of a unit with the same options. */
  load(data: PhysicalVtdData): void {
    this.#registers.load(data.registers);
    this.#iotlb.load(data.iotlb);
    this.#tables.load(data.tables);
    this.#deviceTlb.tags.load(data.deviceTlb);
  }
}
