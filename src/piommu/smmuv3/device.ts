import { TWO32, toBigint } from '../../core/bits.ts';
import { Iotlb, type IotlbData } from '../../lib/cache/iotlb.ts';
import { type Smmuv3Features, smmuv3Features } from '../../lib/check/smmuv3-features.ts';
import { VmsaWalker } from '../../lib/walk/vmsa.ts';
import { VMSA_ARCHITECTURE } from '../../lib/walk/vmsa-choices.ts';
import { PERM_ALL, permGranted, permNeeded } from '../../lib/walk/vmsa-regime.ts';
import { AT, type AtsPort, DMA, type TranslatePort } from '../../ports/dma.ts';
import { HW_ERROR, type HwPort } from '../../ports/hw.ts';
import type { Memory } from '../../ports/memory.ts';
import type { Tell } from '../../ports/tell.ts';
import { COMMAND_WORDS } from '../../spec/smmuv3/commands.ts';
import { EVENT } from '../../spec/smmuv3/events.ts';
import { CONFIG, EATS } from '../../spec/smmuv3/ste.ts';
import { AtsRequests } from './ats.ts';
import { CommandRunner } from './commands.ts';
import { type AtcData, AtcInvalidations } from './device-tlb.ts';
import { Recorder } from './faults.ts';
import type { PhysicalSmmuv3Options, StreamTableLocation } from './options.ts';
import { PageRequests, type PageRequestsData } from './page-requests.ts';
import { Stalls, type StallsData } from './stalls.ts';
import { Structures, type StructuresData } from './tables.ts';
import { RESOLVED, Resolver, STAGES } from './translation.ts';

/** What the host programs in CR0 and CR2 of the physical SMMU. */
export interface Smmuv3Controls {
  /** Translation is on (CR0.SMMUEN). */
  readonly smmuen?: boolean;
  /** Page requests are queued (CR0.PRIQEN). */
  readonly priqen?: boolean;
  /** Translated transactions are checked against the STE. */
  readonly atschk?: boolean;
  /** C_BAD_STREAMID is recorded. */
  readonly recinvsid?: boolean;
  /** Configuration faults of translation requests are recorded (needs IDR0.ATSRECERR). */
  readonly recCfgAts?: boolean;
}

/** Saved state of `PhysicalSmmuv3`; its caches are in it. */
export interface PhysicalSmmuv3Data {
  readonly table: StreamTableLocation | null;
  readonly controls: Required<Smmuv3Controls>;
  /** @internal */
  readonly iotlb: IotlbData;
  /** @internal */
  readonly structures: StructuresData;
  /** @internal */
  readonly atc: AtcData;
  /** @internal */
  readonly stalls: StallsData;
  /** @internal */
  readonly pages: PageRequestsData;
}

/**
 * The emulated physical SMMUv3: stream table in host memory, CDs and stage-1 tables behind stage 2, caches that only the
 * right invalidation empties, ATS, PRI and stalls. The host drives it through `HwPort`, the bus through `TranslatePort`
 * and `AtsPort`; it tells the host through `HwEvents`.
 */
export class PhysicalSmmuv3 implements TranslatePort, AtsPort, HwPort {
  /** What its identification registers say. */
  readonly features: Smmuv3Features;
  readonly #memory: Memory;
  readonly #name: string;
  readonly #tlb: Iotlb;
  readonly #structures: Structures;
  readonly #resolver: Resolver;
  readonly #recorder: Recorder;
  readonly #atc: AtcInvalidations;
  readonly #stalls: Stalls;
  readonly #pages: PageRequests;
  readonly #commands: CommandRunner;
  readonly #ats: AtsRequests;
  readonly #reach: ((rid: number, address: number) => boolean) | undefined;
  #table: StreamTableLocation | null = null;
  #controls: Required<Smmuv3Controls>;
  #tell: Tell | null = null;
  /** Every translation takes the long way: somebody listens, or the SMMU is off. */
  #careful = false;

  out = 0;
  outShift = 0;
  outPerm = 0;
  guestShift = 0;
  tag = -1;
  /** Token of the transaction when `translate` answered STALLED. */
  stallToken = 0;

  done = 0;
  error: number = HW_ERROR.NONE;
  pending = 0;

  constructor(o: PhysicalSmmuv3Options) {
    this.features = smmuv3Features(o.idr0, o.idr1, o.idr3, o.idr5);
    const f = this.features;
    const caches = o.caches ?? {};
    const endpoints = o.endpoints ?? null;
    this.#memory = o.memory;
    this.#name = o.name ?? 'smmuv3';
    this.#reach = o.reach;
    this.#tlb = new Iotlb({ entries: caches.iotlb ?? 131072, walkEntries: caches.walks ?? 4096 });
    const walker = new VmsaWalker(o.memory);
    walker.tlb = this.#tlb;
    const choices = o.walk ?? VMSA_ARCHITECTURE;
    walker.choose(choices);
    this.#structures = new Structures(o.memory, f, walker, this.#tlb, caches, choices);
    this.#resolver = new Resolver(this.#structures, walker, this.#tlb, o.events, f);
    this.#recorder = new Recorder(o.events, walker, this.#name);
    this.#atc = new AtcInvalidations(endpoints, o.clock, o.events, o.atcTimeout ?? 60e9, o.atcDepth ?? 32);
    this.#stalls = new Stalls(o.stalls ?? (o.idr5 >>> 16 || 64), endpoints, (r) => this.#recorder.send(r));
    this.#pages = new PageRequests(f.pri, o.events, endpoints, o.clock, o.priEntries ?? 512, o.priLatency ?? 0);
    const deaf = o.ignoreInvalidations ?? false;
    this.#commands = new CommandRunner(f, this.#structures, this.#tlb, this.#atc, this.#stalls, this.#pages, deaf);
    this.#ats = new AtsRequests(f, this.#structures, this.#resolver, this.#recorder);
    this.#controls = { smmuen: true, priqen: f.pri, atschk: f.ats, recinvsid: true, recCfgAts: false };
    this.control({});
  }

  /** Listens to everything; null while nobody does. */
  get tell(): Tell | null {
    return this.#tell;
  }

  set tell(tell: Tell | null) {
    this.#tell = tell;
    this.#recorder.tell = tell;
    this.#setCareful();
  }

  #setCareful(): void {
    this.#careful = this.#tell !== null || !this.#controls.smmuen;
  }

  /** STRTAB_BASE and STRTAB_BASE_CFG. Cached configuration goes. */
  setStreamTable(table: StreamTableLocation): void {
    this.#table = table;
    this.#structures.locate(table);
  }

  /** CR0 and CR2. What is left out stays. A change of `atschk` needs a CFGI to be seen by cached streams. */
  control(c: Smmuv3Controls): void {
    const now = { ...this.#controls, ...c };
    this.#controls = now;
    this.#setCareful();
    this.#structures.atschk = now.atschk;
    this.#commands.enabled = now.smmuen;
    this.#ats.enabled = now.smmuen;
    this.#ats.record = now.recCfgAts && this.features.atsRecErr;
    this.#ats.recordStreamId = now.recinvsid;
  }

  translate(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    const route = this.#structures.route(rid, pasid);
    if (route === null || at !== AT.UNTRANSLATED || this.#careful) return this.#slow(rid, pasid, lo, hi, access, at);
    const tlb = this.#tlb;
    const need = permNeeded(access);
    const c = route.context;
    if (c === null) {
      if (hi >>> 20 === 0 && tlb.lookup(route.stream.context2!, lo, hi) && (need & ~tlb.perm) === 0) {
        return this.#hit(access, -1);
      }
    } else {
      const half = (hi & (1 << 23)) !== 0 ? c.regime.half1 : c.regime.half0;
      const high = half.tbi ? (hi << 8) >> 8 : hi;
      const top = high >> 23;
      if ((top === 0 || top === -1) && tlb.lookup(c.context!, lo, high) && (need & ~tlb.perm) === 0) {
        return this.#hit(access, c.regime.asid);
      }
    }
    this.#resolver.looked = true;
    return this.#slow(rid, pasid, lo, hi, access, at);
  }

  #hit(access: number, tag: number): number {
    const tlb = this.#tlb;
    this.out = tlb.outHi * TWO32 + (tlb.outLo >>> 0);
    this.outShift = tlb.shift;
    this.outPerm = permGranted(tlb.perm, access);
    this.guestShift = tlb.guestShift;
    this.tag = tag;
    return DMA.OK;
  }

  #slow(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    if (at === AT.TRANSLATED) return this.#translated(rid, pasid, lo, hi, access);
    if (!this.#controls.smmuen) return this.#identity(lo, hi, access);
    const r = this.#resolver;
    const code = r.resolve(rid, pasid, lo, hi, permNeeded(access), access, STAGES.ALL);
    if (code === RESOLVED.OK || code === RESOLVED.BYPASS) return this.#answer(rid, pasid, lo, hi, access);
    if (code === RESOLVED.ABORT) return DMA.ABORT;
    return this.#fault(code, rid, pasid, lo, hi, access);
  }

  #answer(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const r = this.#resolver;
    this.out = (r.outHi >>> 0) * TWO32 + (r.outLo >>> 0);
    this.outShift = r.outShift;
    this.outPerm = permGranted(r.perm, access);
    this.guestShift = r.guestShift;
    this.tag = r.tag;
    if (this.#tell !== null) {
      this.#tell({
        what: 'translate',
        iommu: this.#name,
        rid,
        pasid,
        iova: toBigint(lo, hi),
        access,
        out: this.out,
        shift: r.outShift,
        hit: r.hit,
      });
    }
    return DMA.OK;
  }

  #identity(lo: number, hi: number, access: number): number {
    this.out = (hi >>> 0) * TWO32 + (lo >>> 0);
    this.outShift = 12;
    this.outPerm = permGranted(PERM_ALL, access);
    this.guestShift = 0;
    this.tag = -1;
    return hi >>> 20 === 0 ? DMA.OK : DMA.ABORT;
  }

  /** Records a fault as far as it must be, and decides the transaction (IHI 0070 §3.12, §15.4 of the rules there). */
  #fault(code: number, rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const s = this.#structures.stream;
    const stage = this.#resolver.stage;
    if (stage === 0) {
      if (code !== EVENT.C_BAD_STREAMID || this.#controls.recinvsid) {
        this.#recorder.configuration(code, rid, pasid, this.#structures.fetch);
      }
      return DMA.ABORT;
    }
    const c = this.#structures.context;
    const maskable = code !== EVENT.F_WALK_EABT && s !== null;
    // Stage 1 bypassed has no CD to say otherwise: recorded, aborted.
    const stall = maskable && (stage === 2 ? s.s2Stall : c?.stall === true);
    const record = this.#recorder.translation(code, stage, rid, pasid, lo, hi, access);
    if (stall) {
      this.stallToken = this.#stalls.begin(rid, record);
      return DMA.STALLED;
    }
    if (!maskable || (stage === 2 ? s.s2Record : c?.record !== false)) this.#recorder.send(record);
    return maskable && stage === 1 && c?.abort === false ? DMA.RAZ_WI : DMA.ABORT;
  }

  /** A request that says it is translated already (IHI 0070 §3.9.1.3). */
  #translated(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    if (!this.#controls.smmuen || !this.features.ats) return this.#forbidden(rid, pasid, lo, hi, access);
    if (!this.#controls.atschk) return this.#identity(lo, hi, access);
    const code = this.#resolver.resolve(rid, pasid, lo, hi, 0, access, STAGES.NONE);
    const s = this.#structures.stream;
    if (s !== null && s.config < CONFIG.BYPASS) return DMA.ABORT;
    // F_TRANSL_FORBIDDEN comes before the substream faults.
    if (s !== null && (s.config === CONFIG.BYPASS || s.eats === EATS.ABORT || s.eats === EATS.DPT)) {
      return this.#forbidden(rid, pasid, lo, hi, access);
    }
    if (s === null || code === EVENT.C_BAD_SUBSTREAMID || code === EVENT.F_STREAM_DISABLED) {
      if (code !== EVENT.C_BAD_STREAMID || this.#controls.recinvsid) {
        this.#recorder.configuration(code, rid, pasid, this.#structures.fetch);
      }
      return DMA.ABORT;
    }
    if (s.eats !== EATS.SPLIT) {
      const address = (hi >>> 0) * TWO32 + (lo >>> 0);
      // What no stage 2 of the VM maps was never given out: a stale or an invented address.
      if (this.#reach?.(rid, address) === false) return this.#forbidden(rid, pasid, lo, hi, access);
      return this.#identity(lo, hi, access);
    }
    const outcome = this.#resolver.resolve(rid, pasid, lo, hi, permNeeded(access), access, STAGES.ONLY_2);
    if (outcome > 0) return this.#fault(outcome, rid, pasid, lo, hi, access);
    return outcome === RESOLVED.ABORT ? DMA.ABORT : this.#answer(rid, pasid, lo, hi, access);
  }

  #forbidden(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    this.#recorder.forbidden(rid, pasid, lo, hi, access);
    return DMA.ABORT;
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

  translationRequest(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const status = this.#ats.request(rid, pasid, lo, hi, access);
    if (this.#tell !== null) {
      const args = { iova: toBigint(lo, hi), access, status, out: this.#ats.out, shift: this.#ats.shift };
      this.#tell({ what: 'ats', message: 'translation request', rid, pasid, args });
    }
    return status;
  }

  invalidateCompletion(rid: number, itags: number, count: number): void {
    this.#atc.completion(rid, itags, count);
  }

  pageRequest(rid: number, pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    const { smmuen, priqen } = this.#controls;
    const answerPasid = this.features.pps || this.#structures.cached(rid)?.ppar === true;
    if (this.#tell !== null) {
      const args = { iova: toBigint(lo, hi), access, group, last: last ? 1 : 0 };
      this.#tell({ what: 'ats', message: 'page request', rid, pasid, args });
    }
    this.#pages.request(rid, pasid, lo, hi, access, group, last, answerPasid, smmuen && priqen);
  }

  writeEntry(table: number, entry: number, word: number, lo: number, hi: number): void {
    this.#memory.store64(table + entry + word * 8, lo, hi);
  }

  submit(words: Int32Array, start: number, count: number): void {
    const end = start + count * COMMAND_WORDS;
    let at = start;
    let ok = true;
    const outer = this.#atc.current;
    const outerError = this.#atc.currentError;
    this.#atc.begin();
    while (at < end) {
      if (this.#tell !== null) {
        this.#tell({
          what: 'hw.command',
          iommu: this.#name,
          words: Array.from(words.subarray(at, at + COMMAND_WORDS)),
        });
      }
      ok = this.#commands.run(words, at);
      if (!ok) break;
      at += COMMAND_WORDS;
    }
    // Requests to functions may have run other batches; the fields are written last.
    const pending = this.#atc.sync();
    this.pending = pending;
    this.error = ok ? this.#atc.error : HW_ERROR.ILLEGAL;
    this.done = (at - start) / COMMAND_WORDS;
    this.#atc.resume(outer, outerError);
  }

  /** Registers, caches and what is in flight. */
  save(): PhysicalSmmuv3Data {
    return {
      table: this.#table,
      controls: this.#controls,
      iotlb: this.#tlb.save(),
      structures: this.#structures.save(),
      atc: this.#atc.save(),
      stalls: this.#stalls.save(),
      pages: this.#pages.save(),
    };
  }

  /** Goes back to a saved state. @param data of a unit with the same options. */
  load(data: PhysicalSmmuv3Data): void {
    if (data.table !== null) this.setStreamTable(data.table);
    this.control(data.controls);
    this.#tlb.load(data.iotlb);
    this.#structures.load(data.structures);
    this.#atc.load(data.atc);
    this.#stalls.load(data.stalls);
    this.#pages.load(data.pages);
  }
}
