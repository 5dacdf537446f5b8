import { toBigint, wordList } from '../../core/bits.ts';
import type { ITagsData } from '../../lib/ats/itags.ts';
import { Iotlb, type IotlbData } from '../../lib/cache/iotlb.ts';
import { type Smmuv3Features, smmuv3Features } from '../../lib/check/smmuv3-features.ts';
import { VmsaWalker } from '../../lib/walk/vmsa.ts';
import { VMSA_ARCHITECTURE } from '../../lib/walk/vmsa-choices.ts';
import type { AtsPort, TranslatePort } from '../../ports/dma.ts';
import { HW_ERROR, type HwPort } from '../../ports/hw.ts';
import type { Memory } from '../../ports/memory.ts';
import type { Tell } from '../../ports/tell.ts';
import { COMMAND_WORDS } from '../../spec/smmuv3/commands.ts';
import { CR0 } from '../../spec/smmuv3/registers.ts';
import { SILENCE } from '../silence.ts';
import { Smmuv3HwAts } from './ats.ts';
import { Smmuv3HwCommands } from './commands.ts';
import { Smmuv3HwDeviceTlb } from './device-tlb.ts';
import { Smmuv3HwFaults } from './faults.ts';
import type { PhysicalSmmuv3Options } from './options.ts';
import { Smmuv3HwPageRequests, type Smmuv3HwPageRequestsData } from './page-requests.ts';
import { Smmuv3HwRegisters } from './registers.ts';
import { Smmuv3HwResolver } from './resolver.ts';
import { Smmuv3HwStalls, type Smmuv3HwStallsData } from './stalls.ts';
import { Smmuv3HwTables, type Smmuv3HwTablesData } from './tables.ts';
import { Smmuv3HwTranslation } from './translation.ts';

/** Nanoseconds an ATS invalidation may take, unless the options say otherwise. */
const INVALIDATE_TIMEOUT = 60e9;
/** Stalled transactions at once when IDR5.STALL_MAX does not say. */
const STALLS = 64;

/** Saved state of `PhysicalSmmuv3`; its caches are in it. */
export interface PhysicalSmmuv3Data {
  /** @internal */
  readonly registers: readonly number[];
  /** @internal */
  readonly iotlb: IotlbData;
  /** @internal */
  readonly tables: Smmuv3HwTablesData;
  /** @internal */
  readonly deviceTlb: ITagsData;
  /** @internal */
  readonly stalls: Smmuv3HwStallsData;
  /** @internal */
  readonly pages: Smmuv3HwPageRequestsData;
}

/**
 * The emulated physical SMMUv3: registers, stream table in host memory, CDs and stage-1 tables behind stage 2, caches that
 * only the right invalidation empties, ATS, PRI and stalls. A kernel driver drives it through `HwPort`, the bus through
 * `TranslatePort` and `AtsPort`; it tells the host through `HwEvents`. Until the driver has set CR0.SMMUEN, transactions
 * pass or abort as GBPA says.
 */
export class PhysicalSmmuv3 implements TranslatePort, AtsPort, HwPort {
  /** Shown in `tell`. */
  readonly name: string;
  /** What its identification registers say. */
  readonly features: Smmuv3Features;
  readonly #memory: Memory;
  readonly #registers: Smmuv3HwRegisters;
  readonly #tlb: Iotlb;
  readonly #tables: Smmuv3HwTables;
  readonly #translation: Smmuv3HwTranslation;
  readonly #faults: Smmuv3HwFaults;
  readonly #deviceTlb: Smmuv3HwDeviceTlb;
  readonly #stalls: Smmuv3HwStalls;
  readonly #pages: Smmuv3HwPageRequests;
  readonly #commands: Smmuv3HwCommands;
  readonly #ats: Smmuv3HwAts;
  #tell: Tell | null = null;

  done = 0;
  error: number = HW_ERROR.NONE;
  pending = 0;

  constructor(o: PhysicalSmmuv3Options) {
    this.name = o.name ?? 'smmuv3';
    const { memory, clock } = o;
    const features = smmuv3Features(o.idr0, o.idr1, o.idr3, o.idr5);
    const events = o.events ?? SILENCE;
    const endpoints = o.endpoints ?? null;
    const caches = o.caches ?? {};
    const choices = o.walk ?? VMSA_ARCHITECTURE;
    const tlb = new Iotlb({ entries: caches.iotlb ?? 131072, walkEntries: caches.walks ?? 4096 });
    const walker = new VmsaWalker(memory);
    walker.tlb = tlb;
    walker.choose(choices);
    const registers = new Smmuv3HwRegisters(o, () => this.#programmed());
    const tables = new Smmuv3HwTables({ memory, features, walker, tlb, caches, choices });
    const resolver = new Smmuv3HwResolver({ tables, walker, tlb, events, features });
    const faults = new Smmuv3HwFaults({ name: this.name, events, walker, registers });
    const stalls = new Smmuv3HwStalls({
      limit: o.stalls ?? (o.idr5 >>> 16 || STALLS),
      quota: o.stallQuota ?? null,
      endpoints,
      send: (record) => faults.send(record),
      again: (of) => this.#translation.again(of),
    });
    const deviceTlb = new Smmuv3HwDeviceTlb({
      endpoints,
      clock,
      timeout: o.invalidateTimeout ?? INVALIDATE_TIMEOUT,
      depth: o.atcDepth ?? 32,
      completed: (token, error, rid) => events.completed(token, error, rid),
    });
    const pages = new Smmuv3HwPageRequests({ registers, events, endpoints, clock, latency: o.priLatency ?? 0 });
    const ignoreInvalidations = o.ignoreInvalidations ?? false;
    this.features = features;
    this.#memory = memory;
    this.#registers = registers;
    this.#tlb = tlb;
    this.#tables = tables;
    this.#faults = faults;
    this.#stalls = stalls;
    this.#deviceTlb = deviceTlb;
    this.#pages = pages;
    this.#commands = new Smmuv3HwCommands({
      features,
      registers,
      tables,
      tlb,
      deviceTlb,
      stalls,
      pages,
      ignoreInvalidations,
    });
    this.#ats = new Smmuv3HwAts({ features, registers, tables, resolver, faults });
    this.#translation = new Smmuv3HwTranslation({
      name: this.name,
      features,
      registers,
      tlb,
      tables,
      resolver,
      faults,
      stalls,
      reach: o.reach,
    });
    this.#programmed();
  }

  /** Hears everything that happens; null: nobody does. */
  set tell(tell: Tell | null) {
    this.#tell = tell;
    this.#faults.tell = tell;
    this.#translation.tell = tell;
    this.#deviceTlb.tags.tell = tell;
  }

  /** Registers have changed: everybody takes from them what is needed on the way of a transaction. */
  #programmed(): void {
    this.#tables.locate(this.#registers.streamTable());
    this.#tables.atschk = this.#registers.enabled(CR0.ATSCHK);
    this.#translation.programmed();
    this.#ats.programmed();
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
  /** Token of the transaction when `translate` answered STALLED. */
  get stallToken(): number {
    return this.#translation.stallToken;
  }

  // AtsPort

  translationRequest(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const status = this.#ats.request(rid, pasid, lo, hi, access);
    if (this.#tell !== null) {
      const args = { iova: toBigint(lo, hi), access, status, out: this.#ats.out, shift: this.#ats.shift };
      this.#tell({ what: 'ats', message: 'translation request', rid, pasid, args });
    }
    return status;
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
  readonly atsUntranslated = false;
  readonly atsNoSnoop = false;

  invalidateCompletion(rid: number, itags: number, count: number): void {
    this.#deviceTlb.tags.completion(rid, itags, count);
  }

  /** Invalidation completions that nobody expected. */
  get unexpectedCompletions(): number {
    return this.#deviceTlb.tags.unexpected;
  }

  pageRequest(rid: number, pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    const answerPasid = this.features.pps || this.#tables.cached(rid)?.ppar === true;
    if (this.#tell !== null) {
      const args = { iova: toBigint(lo, hi), access, group, last: last ? 1 : 0 };
      this.#tell({ what: 'ats', message: 'page request', rid, pasid, args });
    }
    this.#pages.request(rid, pasid, lo, hi, access, group, last, answerPasid);
  }

  // HwPort

  readRegister(offset: number): bigint {
    return this.#registers.readRegister(offset);
  }

  writeRegister(offset: number, value: bigint): void {
    this.#registers.writeRegister(offset, value);
  }

  writeEntry(table: number, entry: number, word: number, lo: number, hi: number): void {
    this.#memory.store64(table + entry + word * 8, lo, hi);
  }

  submit(words: Int32Array, start: number, count: number): void {
    if (!this.#registers.enabled(CR0.CMDQEN)) {
      this.done = 0;
      this.error = HW_ERROR.ABORT;
      this.pending = 0;
      return;
    }
    const { tags } = this.#deviceTlb;
    let ok = true;
    let i = 0;
    tags.begin();
    for (; i < count; i++) {
      const at = start + i * COMMAND_WORDS;
      if (this.#tell !== null) {
        this.#tell({ what: 'hw.command', iommu: this.name, words: wordList(words, at, COMMAND_WORDS) });
      }
      ok = this.#commands.run(words, at);
      if (!ok) break;
    }
    // What a request to a function causes may submit in between, so the fields are written last.
    this.pending = tags.close();
    this.done = i;
    this.error = ok ? tags.error : HW_ERROR.ILLEGAL;
  }

  /** Registers, caches and what is in flight. */
  save(): PhysicalSmmuv3Data {
    return {
      registers: this.#registers.save(),
      iotlb: this.#tlb.save(),
      tables: this.#tables.save(),
      deviceTlb: this.#deviceTlb.tags.save(),
      stalls: this.#stalls.save(),
      pages: this.#pages.save(),
    };
  }

  /** Goes back to a saved state. @param data of a unit with the same options. */
  load(data: PhysicalSmmuv3Data): void {
    this.#registers.load(data.registers);
    this.#tlb.load(data.iotlb);
    this.#tables.load(data.tables);
    this.#deviceTlb.tags.load(data.deviceTlb);
    this.#stalls.load(data.stalls);
    this.#pages.load(data.pages);
  }
}
