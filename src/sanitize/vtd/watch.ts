import { fromWords } from '../../core/bits.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import { GCMD, ICS_IWC, PAGE } from '../../spec/vtd/registers.ts';
import { PGTT } from '../../spec/vtd/tables.ts';
import { AtsOrder } from '../ats-order.ts';
import { Caches } from '../caches.ts';
import { ConfigCaches } from '../config.ts';
import type { Course } from '../course.ts';
import { DeviceTlbs, HOLDS_NOTHING, heldUnder } from '../device-tlbs.ts';
import { type AccessSeen, type MessageSeen, type RefusalSeen, type SeenEvent, UNSAID } from '../events.ts';
import type { TrackedMemory } from '../memory.ts';
import { changedWhileEnabled } from '../register-rules.ts';
import { PageRequestRules } from '../requests.ts';
import { TagsInUse } from '../tags.ts';
import { Translations } from '../translations.ts';
import type { TranslationTree } from '../tree.ts';
import { Trees } from '../trees.ts';
import { Usage } from '../usage.ts';
import type { IommuWatch } from '../watch.ts';
import { IRT_POINTER, ROOT_POINTER, VTD_STAGE, VtdInvalidations } from './commands.ts';
import { type ContextConfig, Contexts } from './contexts.ts';
import { InterruptTable } from './interrupts.ts';
import { VtdDescriptorQueue } from './queue.ts';
import { VtdRegisterRules } from './registers.ts';
import { VtdShared } from './shared.ts';

const WORDS = [
  { a: 'domain', b: '' },
  { a: 'domain', b: 'PASID' },
  {
    a: 'domain',
    b: 'PASID',
    together: 'what is cached of both stages goes with the domain, the PASID or the input address',
  },
] as const;
/** Page numbers of a four-level first stage, both halves of the canonical space. */
const CANONICAL = 2 ** 36;

/** Follows a guest that drives a VT-d unit. */
export class VtdWatch implements IommuWatch {
  readonly #caches: Caches;
  readonly #config: ConfigCaches;
  readonly #devices: DeviceTlbs;
  readonly #usage: Usage;
  readonly #requests: PageRequestRules;
  readonly #ats: AtsOrder;
  readonly #translations: Translations;
  readonly #trees: Trees;
  readonly #shared: VtdShared;
  readonly #contexts: Contexts;
  readonly #interrupts: InterruptTable;
  readonly #run: VtdInvalidations;
  readonly #queue: VtdDescriptorQueue;
  readonly #regs = new Int32Array(0x1000 / 4);
  readonly #rules: VtdRegisterRules;
  /** GSTS as it follows from GCMD. */
  #status = 0;
  /** SRTP invalidates everything (CAP.ESRTPS). */
  #rootFlushes = false;
  #irFlushes = false;
  /** Addresses of the root and interrupt tables that were in use, -1: none was; and that are set now. */
  #rootUsed = -1;
  #rootSet = -1;
  #irUsed = -1;
  #irSet = -1;
  /** Where IVA is; the IOTLB register follows. */
  #iro: number = PAGE.IVA.at;
  /** Sequence numbers of invalidations by register that are under way; -1: none. */
  #ccmd = -1;
  #iotlb = -1;

  constructor(course: Course, memory: TrackedMemory, ramPages: number) {
    this.#caches = new Caches(course);
    this.#config = new ConfigCaches(course);
    const words = (stage: number) => WORDS[stage] ?? WORDS[0];
    this.#devices = new DeviceTlbs(course, {
      afterSync: false,
      holds: (rid, tree) => held(this.#contexts.get(rid), tree),
    });
    this.#usage = new Usage(course, ramPages);
    this.#requests = new PageRequestRules(course);
    this.#ats = new AtsOrder(course, (rid) => this.#contexts.get(rid)?.ats === true);
    this.#translations = new Translations(course, this.#caches, this.#devices, this.#usage, {
      bbml: null,
      cachesAbsence: 0,
      orphaned: (tree) => this.#config.open && tree.streams.size > 0 && !this.#contexts.leadsTo(tree),
      words,
    });
    const tags = new TagsInUse(course, this.#caches, words, (tree) => this.#contexts.leadsTo(tree));
    this.#trees = new Trees(course, memory, this.#translations, tags);
    tags.trees = this.#trees;
    this.#shared = new VtdShared({
      course,
      memory,
      caches: this.#caches,
      config: this.#config,
      trees: this.#trees,
      devices: this.#devices,
      requests: this.#requests,
    });
    this.#shared.forbidden = (rid) => this.#ats.forbidden(rid);
    this.#contexts = new Contexts(this.#shared);
    this.#interrupts = new InterruptTable(this.#shared);
    this.#run = new VtdInvalidations(this.#caches, this.#config, this.#devices, this.#requests);
    this.#queue = new VtdDescriptorQueue(this.#shared, this.#run);
    this.#rules = new VtdRegisterRules(course, (offset) => this.#regs[offset >>> 2]!);
  }

  event(e: SeenEvent): void {
    switch (e.t) {
      case 'w':
        this.#write(e.off, e.size, e.lo, e.hi);
        return;
      case 'r':
        this.#read(e.off, e.size, e.lo, e.hi);
        return;
      case 'xlat':
        this.#xlat(e);
        return;
      case 'fault':
        this.#fault(e);
        return;
      case 'ats':
        this.#ats.function(e.sid, e.on);
        this.#devices.left.switched(e.sid);
        return;
      case 'dst':
        if (e.bytes.length >= 16) this.#written(e.gpa, e.bytes);
        if (e.bytes.length === 4)
          this.#queue.status(e.gpa, new DataView(e.bytes.buffer, e.bytes.byteOffset).getInt32(0, true));
        return;
      case 'frcd':
        this.#rules.recorded();
        return;
      case 'msi':
        this.#rules.message(e.address, e.data);
        if (e.data === this.#regs[PAGE.IEDATA.at >>> 2]) this.#queue.signalled();
        return;
      case 'remap':
        this.#remap(e);
        return;
      case 'reset':
        this.#reset();
        return;
    }
  }

  #reset(): void {
    this.#regs.fill(0);
    this.#rules.reset();
    this.#status = 0;
    this.#contexts.detach();
    this.#interrupts.detach();
    this.#config.forget(() => true);
    this.#trees.clear();
    this.#caches.clear();
    this.#devices.clear();
    this.#requests.reset();
    this.#rootUsed = -1;
    this.#rootSet = -1;
    this.#irUsed = -1;
    this.#irSet = -1;
    this.#ccmd = -1;
    this.#iotlb = -1;
  }

  #write(offset: number, size: number, lo: number, hi: number): void {
    const at = offset >>> 2;
    if (at >= this.#regs.length) return;
    this.#rules.write(offset, size, lo, hi, this.#status);
    this.#regs[at] = lo;
    if (size === 8) this.#regs[at + 1] = hi;
    const high = size === 8 ? hi : lo;
    const last = size === 8 ? offset + 4 : offset;
    if (offset === PAGE.GCMD.at) this.#command(lo);
    else if (offset === PAGE.IQT.at && (this.#status & GCMD.QIE) !== 0) this.#queue.submit(lo);
    else if (last === PAGE.CCMD.at + 4 && high < 0) this.#contextCommand();
    else if (last === this.#iro + 12 && high < 0) this.#iotlbCommand();
  }

  #command(now: number): void {
    const translated = (this.#status & GCMD.TE) !== 0;
    const on = now & ~this.#status;
    const levels = GCMD.TE | GCMD.QIE | GCMD.IRE | GCMD.CFI;
    this.#status = (this.#status & ~levels) | (now & levels);
    if ((on & GCMD.QIE) !== 0) {
      this.#queue.start(this.#regs[PAGE.IQA.at >>> 2]!, this.#regs[(PAGE.IQA.at >>> 2) + 1]!);
      this.#queue.submit(this.#regs[PAGE.IQT.at >>> 2]!);
    }
    if ((now & GCMD.SRTP) !== 0) this.#root(translated);
    if ((now & GCMD.SIRTP) !== 0) this.#interruptTable();
    if ((this.#status & GCMD.TE) !== 0) this.#rootUsed = this.#rootSet;
    if ((this.#status & GCMD.IRE) !== 0) this.#irUsed = this.#irSet;
  }

  #interruptTable(): void {
    const lo = this.#regs[PAGE.IRTA.at >>> 2]!;
    const hi = this.#regs[(PAGE.IRTA.at >>> 2) + 1]!;
    this.#interrupts.attach(lo, hi);
    this.#irSet = fromWords(lo & ~0xfff, hi & 0xf_ffff);
    if (this.#irFlushes) this.#config.forget((c) => c.kind === 'IRTE');
    else if (this.#irUsed >= 0 && this.#irUsed !== this.#irSet) this.#config.moved(IRT_POINTER);
    this.#irUsed = -1;
  }

  /** @param translated TE was on before. */
  #root(translated: boolean): void {
    const lo = this.#regs[PAGE.RTADDR.at >>> 2]!;
    const scalable = ((lo >>> 10) & 3) === 1;
    const address = fromWords(lo & ~0xfff, this.#regs[(PAGE.RTADDR.at >>> 2) + 1]! & 0xf_ffff);
    // VT-d §11.4.5: the mode changes under translation only where SRTP invalidates by itself.
    if (!this.#rootFlushes && translated && scalable !== this.#shared.scalable)
      changedWhileEnabled(this.#shared.course, 'RTADDR.TTM', 'GSTS.TES');
    this.#shared.scalable = scalable;
    this.#run.scalable = scalable;
    if (this.#rootFlushes) {
      this.#config.forget((c) => c.kind !== 'IRTE' && c.kind !== IRT_POINTER);
      this.#caches.clear();
    } else if (this.#rootUsed >= 0 && this.#rootUsed !== address) this.#config.moved(ROOT_POINTER);
    this.#rootUsed = -1;
    this.#rootSet = address;
    this.#contexts.attach(address, scalable);
  }

  /** VT-d §11.4.6.1: invalidation of the context cache by register, when the queue is off. */
  #contextCommand(): void {
    if ((this.#status & GCMD.QIE) !== 0) return;
    const lo = this.#regs[PAGE.CCMD.at >>> 2]!;
    const hi = this.#regs[(PAGE.CCMD.at >>> 2) + 1]!;
    if (this.#ccmd >= 0) this.#shared.course.overtaken(this.#ccmd);
    this.#ccmd = this.#queue.byRegister();
    this.#run.context(this.#ccmd, (hi >>> 29) & 3, lo & 0xffff, lo >>> 16, hi & 3);
    if (!this.#rules.reads) this.#queue.registerDone(this.#ccmd);
  }

  /** VT-d §11.4.6.3: invalidation of the IOTLB by register. */
  #iotlbCommand(): void {
    if ((this.#status & GCMD.QIE) !== 0) return;
    const iva = this.#regs[this.#iro >>> 2]!;
    const page = (this.#regs[(this.#iro >>> 2) + 1]! >>> 0) * 0x10_0000 + (iva >>> 12);
    const hi = this.#regs[(this.#iro >>> 2) + 3]!;
    // It must wait for the context cache as well (VT-d §11.4.6.1).
    for (const before of [this.#ccmd, this.#iotlb]) if (before >= 0) this.#shared.course.overtaken(before);
    this.#iotlb = this.#queue.byRegister();
    this.#run.iotlb(this.#iotlb, (hi >>> 28) & 3, hi & 0xffff, page, iva & 0x3f, (iva & 0x40) !== 0);
    if (!this.#rules.reads) this.#queue.registerDone(this.#iotlb);
  }

  #read(offset: number, size: number, lo: number, hi: number): void {
    const high = size === 8 ? hi : lo;
    const last = size === 8 ? offset + 4 : offset;
    this.#rules.read(offset, size, lo, hi, this.#status);
    if (offset === PAGE.IQH.at) this.#queue.head(lo);
    else if (offset === PAGE.ICS.at && (lo & ICS_IWC) !== 0) this.#queue.signalled();
    else if (last === PAGE.CCMD.at + 4 && this.#ccmd >= 0) {
      this.#queue.registerRead(this.#ccmd);
      if (high < 0) return;
      this.#queue.registerDone(this.#ccmd);
      this.#ccmd = -1;
    } else if (last === this.#iro + 12 && this.#iotlb >= 0) {
      this.#queue.registerRead(this.#iotlb);
      if (high < 0) return;
      this.#queue.registerDone(this.#iotlb);
      this.#iotlb = -1;
    } else if (offset === PAGE.CAP.at) {
      const cachingMode = (lo & 0x80) !== 0;
      this.#shared.outBits = Math.min(52, ((lo >>> 16) & 0x3f) + 1);
      this.#shared.cachingMode = cachingMode;
      const cachesAbsence = cachingMode ? 1 << VTD_STAGE.SECOND : 0;
      this.#translations.rules = { ...this.#translations.rules, cachesAbsence };
    } else if (offset === PAGE.ECAP.at) {
      this.#iro = ((lo >>> 8) & 0x3ff) * 16;
      this.#rules.iro = this.#iro;
    }
    if (last === PAGE.CAP.at + 4) {
      this.#rootFlushes = high < 0;
      this.#irFlushes = (high & 0x4000_0000) !== 0;
    }
  }

  #remap(e: MessageSeen): void {
    if (e.irte === null) return;
    const { index } = e.irte;
    this.#config.used((c) => (c.kind === 'IRTE' && c.pasid === index) || c.kind === IRT_POINTER);
  }

  #xlat(e: AccessSeen): void {
    this.#config.used((c) => c.stream === e.sid || c.kind === ROOT_POINTER);
    const context = this.#contexts.get(e.sid);
    if ((this.#status & GCMD.TE) === 0) this.#usage.unprotected(e.sid);
    if (context === undefined || (this.#status & GCMD.TE) === 0) return;
    if (context.passThrough) this.#usage.passed(e.sid);
    const page = (e.hi >>> 0) * 0x10_0000 + (e.lo >>> 12);
    const out = Math.floor(e.out / 4096);
    const told = e.perm === UNSAID;
    const access = told ? e.access : e.perm;
    if (context.second !== null) this.#translations.access(context.second, e.sid, page, out, access, told);
    const pasid = context.pasids?.get(context.ridPasid);
    if (pasid === undefined) return;
    if (pasid.pgtt === PGTT.PASS_THROUGH) this.#usage.passed(e.sid);
    if (pasid.pgtt === PGTT.SECOND && pasid.second !== null)
      this.#translations.access(pasid.second, e.sid, page, out, access, told);
    else if (pasid.pgtt === PGTT.FIRST && pasid.first !== null)
      this.#translations.access(pasid.first, e.sid, page % CANONICAL, out, access, told);
    else if (pasid.first !== null && pasid.second !== null) {
      pasid.first.walk(page % CANONICAL);
      const middle = pasid.first.out;
      this.#translations.access(pasid.first, e.sid, page % CANONICAL, middle, access, told);
      const over = { tree: pasid.first, page: page % CANONICAL };
      this.#translations.access(pasid.second, e.sid, middle, out, access, told, over);
    }
  }

  #fault(e: RefusalSeen): void {
    this.#config.used((c) => c.stream === e.sid || c.kind === ROOT_POINTER);
    if (e.reason === FAULT.TRANSLATION_BLOCKED || e.reason === FAULT.SM_DTE) this.#ats.refused(e.sid);
    const context = this.#contexts.get(e.sid);
    const pasid = context?.pasids?.get(context.ridPasid);
    const tree = context?.second ?? pasid?.first ?? pasid?.second;
    const page = (e.hi >>> 0) * 0x10_0000 + (e.lo >>> 12);
    if (tree !== null && tree !== undefined) this.#translations.refused(tree, e.sid, page % CANONICAL);
  }

  /** The unit wrote into memory: a page request, if it is in their queue (VT-d §7.4.1). */
  #written(gpa: number, bytes: Uint8Array): void {
    const word = (n: number) => new DataView(bytes.buffer, bytes.byteOffset).getInt32(4 * n, true);
    const lo = this.#regs[PAGE.PQA.at >>> 2]!;
    const base = fromWords(lo & ~0xfff, this.#regs[(PAGE.PQA.at >>> 2) + 1]! & 0xf_ffff);
    if (base === 0 || gpa < base || gpa >= base + 2 ** ((lo & 7) + 12)) return;
    const w0 = word(0);
    const w2 = word(2);
    const pasid = (w0 & 0x100) !== 0 ? word(1) & 0xf_ffff : -1;
    const page = (word(3) >>> 0) * 0x10_0000 + (w2 >>> 12);
    if ((w2 & 7) === 4 && pasid >= 0) return;
    this.#requests.queued(w0 >>> 16, pasid, (w2 >>> 3) & 0x1ff, (w2 & 4) !== 0, page);
  }

  finish(): void {
    this.#requests.finish();
    this.#ats.finish([...this.#contexts.all()].some(([, c]) => c.ats));
    this.#translations.finish([...this.#trees.all()]);
    this.#config.finish();
    this.#queue.finish();
    this.#shared.course.awaited(Number.POSITIVE_INFINITY);
    this.#rules.finish();
  }
}

/** See `DeviceTlbRules.holds`: of a second stage what no first stage stands over. */
function held(context: ContextConfig | undefined, tree: TranslationTree): readonly number[] {
  if (context?.ats !== true) return HOLDS_NOTHING;
  if (tree.pasid >= 0 || context.pasids === null) return heldUnder(tree.pasid, context.ridPasid);
  return [...context.pasids.alone(tree)].flatMap((pasid) => heldUnder(pasid, context.ridPasid));
}
