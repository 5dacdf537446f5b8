import { fromWords } from '../../core/bits.ts';
import { EVENT, PRI1 } from '../../spec/smmuv3/events.ts';
import { CR0, PAGE0, PAGE1_BASE } from '../../spec/smmuv3/registers.ts';
import { AtsOrder } from '../ats-order.ts';
import { Caches } from '../caches.ts';
import { ConfigCaches } from '../config.ts';
import type { Course } from '../course.ts';
import { DeviceTlbs, HOLDS_NOTHING, heldUnder } from '../device-tlbs.ts';
import { type AccessSeen, type RefusalSeen, type SeenEvent, UNSAID } from '../events.ts';
import type { TrackedMemory } from '../memory.ts';
import { PageRequestRules } from '../requests.ts';
import { TagsInUse } from '../tags.ts';
import { Translations } from '../translations.ts';
import type { TranslationTree } from '../tree.ts';
import { Trees } from '../trees.ts';
import { Usage } from '../usage.ts';
import type { IommuWatch } from '../watch.ts';
import { SMMU_STAGE, Smmuv3Invalidations, TABLE_POINTER } from './commands.ts';
import { Smmuv3CommandQueue } from './queue.ts';
import { PAGE1_AT, Smmuv3RegisterRules } from './registers.ts';
import { Smmuv3Shared } from './shared.ts';
import { type StreamConfig, WatchedStreams } from './streams.ts';

const WORDS = [
  { a: 'VMID', b: 'ASID' },
  { a: 'VMID', b: '' },
  { a: 'EL2', b: 'ASID' },
  {
    a: 'VMID',
    b: 'ASID',
    together:
      'what is cached of both stages goes with the input address, the ASID or the VMID, by no intermediate address',
  },
] as const;
const OAS = [32, 36, 40, 42, 44, 48, 52, 52] as const;

/** Follows a guest that drives an SMMUv3. */
export class Smmuv3Watch implements IommuWatch {
  readonly #memory: TrackedMemory;
  readonly #caches: Caches;
  readonly #config: ConfigCaches;
  readonly #devices: DeviceTlbs;
  readonly #usage: Usage;
  readonly #requests: PageRequestRules;
  readonly #ats: AtsOrder;
  readonly #translations: Translations;
  readonly #trees: Trees;
  readonly #streams: WatchedStreams;
  readonly #shared: Smmuv3Shared;
  readonly #run: Smmuv3Invalidations;
  readonly #queue: Smmuv3CommandQueue;
  /** The stream table that was in use before SMMUEN was cleared; -1: none. */
  #before = -1;
  /** Registers as the guest wrote them: both pages. */
  readonly #regs = new Int32Array(0x2000 / 4);
  readonly #rules: Smmuv3RegisterRules;

  constructor(course: Course, memory: TrackedMemory, ramPages: number) {
    this.#memory = memory;
    this.#caches = new Caches(course);
    this.#config = new ConfigCaches(course);
    this.#devices = new DeviceTlbs(course, {
      afterSync: true,
      holds: (sid, tree, both) => held(this.#streams.get(sid), tree, both),
    });
    this.#usage = new Usage(course, ramPages);
    this.#requests = new PageRequestRules(course);
    this.#ats = new AtsOrder(course, (sid) => this.#streams.get(sid)?.ats === true);
    this.#translations = new Translations(course, this.#caches, this.#devices, this.#usage, {
      bbml: 0,
      cachesAbsence: 0,
      orphaned: (tree) => this.#config.open && tree.streams.size > 0 && !this.#streams.leadsTo(tree),
      words: (stage) => WORDS[stage] ?? WORDS[0],
    });
    const tags = new TagsInUse(
      course,
      this.#caches,
      (stage) => WORDS[stage] ?? WORDS[0],
      (tree) => this.#streams.leadsTo(tree),
    );
    this.#trees = new Trees(course, memory, this.#translations, tags);
    tags.trees = this.#trees;
    this.#shared = new Smmuv3Shared({
      course,
      memory,
      caches: this.#caches,
      config: this.#config,
      trees: this.#trees,
      devices: this.#devices,
      requests: this.#requests,
    });
    this.#shared.forbidden = (sid) => this.#ats.forbidden(sid);
    this.#streams = new WatchedStreams(this.#shared);
    this.#run = new Smmuv3Invalidations(this.#caches, this.#config, this.#devices, this.#requests);
    this.#queue = new Smmuv3CommandQueue(this.#shared, this.#run);
    this.#rules = new Smmuv3RegisterRules(course, (at) => this.#get(at));
  }

  event(e: SeenEvent): void {
    switch (e.t) {
      case 'w':
        this.#write(e.off, e.size, e.lo, e.hi);
        return;
      case 'r':
        this.#read(e.off, e.lo);
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
        this.#written(e.gpa, e.bytes);
        return;
      case 'irq':
        this.#rules.irq(e.line);
        if (e.line === 'cmd_sync') this.#queue.signalled();
        return;
      case 'reset':
        this.#reset();
        return;
    }
  }

  #reset(): void {
    this.#regs.fill(0);
    this.#rules.reset();
    this.#streams.detach();
    this.#config.forget(() => true);
    this.#trees.clear();
    this.#caches.clear();
    this.#devices.clear();
    this.#requests.reset();
    this.#queue.restart(0, 0);
    this.#before = -1;
  }

  /** Offsets of both pages in one row; QEMU takes page 1 for an alias of page 0. */
  #at(offset: number): number {
    return offset >= PAGE1_BASE ? PAGE1_AT + (offset - PAGE1_BASE) : offset;
  }

  #get(offset: number): number {
    return this.#regs[offset >>> 2]!;
  }

  #get64(offset: number): number {
    return fromWords(this.#get(offset), this.#get(offset + 4) & 0xf_ffff);
  }

  #write(offset: number, size: number, lo: number, hi: number): void {
    const at = this.#at(offset);
    if (at >= 0x2000) return;
    const old = this.#get(at);
    const effective = this.#rules.write(at, size, lo);
    this.#queue.stopped = this.#rules.stopped;
    if (!effective) return;
    this.#regs[at >>> 2] = lo;
    if (size === 8) this.#regs[(at >>> 2) + 1] = hi;
    switch (at) {
      case PAGE0.CR0.at:
        this.#cr0(old, lo);
        return;
      case PAGE0.CMDQ_PROD.at:
        if ((this.#get(PAGE0.CR0.at) & CR0.CMDQEN) !== 0) this.#queue.submit(lo);
        return;
    }
  }

  #cr0(old: number, now: number): void {
    if ((now & ~old & CR0.CMDQEN) !== 0) {
      const base = this.#get64(PAGE0.CMDQ_BASE.at);
      this.#queue.setup(base - (base % 32), Math.min(19, base % 32));
      const cons = this.#get(PAGE0.CMDQ_CONS.at);
      this.#queue.restart(cons, cons);
      this.#queue.submit(this.#get(PAGE0.CMDQ_PROD.at));
    }
    if (((now ^ old) & CR0.SMMUEN) === 0) return;
    const base = this.#get64(PAGE0.STRTAB_BASE.at);
    if ((now & CR0.SMMUEN) === 0) {
      this.#streams.detach();
      this.#requests.reset();
      this.#before = base;
      this.#run.allConfiguration = false;
      return;
    }
    const cfg = this.#get(PAGE0.STRTAB_BASE_CFG.at);
    // What was cached stays cached while the SMMU is off.
    if (this.#before >= 0 && this.#before !== base && !this.#run.allConfiguration) this.#config.moved(TABLE_POINTER);
    const split = (cfg >>> 6) & 0x1f;
    const two = ((cfg >>> 16) & 3) === 1;
    const sane = split === 8 || split === 10 ? split : 6;
    this.#streams.attach(base - (base % 64), Math.min(32, cfg & 0x3f), two ? sane : -1);
  }

  #read(offset: number, lo: number): void {
    const at = this.#at(offset);
    this.#queue.reads = true;
    this.#rules.read(at, lo);
    this.#queue.stopped = this.#rules.stopped;
    switch (at) {
      case PAGE0.IDR0.at:
        this.#run.vmids = (lo & 1) !== 0;
        this.#streams.vmids = this.#run.vmids;
        return;
      case PAGE0.IDR3.at:
        this.#translations.rules = { ...this.#translations.rules, bbml: (lo >>> 11) & 3 };
        return;
      case PAGE0.IDR5.at:
        this.#shared.oas = OAS[(lo & 7) as 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7];
        return;
      case PAGE0.CMDQ_CONS.at:
        this.#queue.consumed(lo);
        return;
    }
  }

  #xlat(e: AccessSeen): void {
    this.#config.used((c) => c.stream === e.sid || c.kind === TABLE_POINTER);
    const config = this.#streams.get(e.sid);
    if ((this.#get(PAGE0.CR0.at) & CR0.SMMUEN) === 0) this.#usage.unprotected(e.sid);
    if (config?.kind === 'bypass') this.#usage.passed(e.sid);
    if (config === undefined || config.kind !== 'translate') return;
    const page = (e.hi >>> 0) * 0x10_0000 + (e.lo >>> 12);
    const out = Math.floor(e.out / 4096);
    const told = e.perm === UNSAID;
    const access = told ? e.access : e.perm;
    const stage1 = config.plain < 0 ? null : config.table?.tree(config.plain);
    if (stage1 === undefined) return;
    if (config.stage2 === null) {
      if (stage1 !== null) this.#translations.access(stage1, e.sid, page, out, access, told);
      return;
    }
    let middle = page;
    if (stage1 !== null) {
      stage1.walk(page);
      middle = stage1.out;
      if (!this.#translations.access(stage1, e.sid, page, middle, access, told)) return;
    }
    const over = stage1 === null ? null : { tree: stage1, page };
    this.#translations.access(config.stage2, e.sid, middle, out, access, told, over);
  }

  #fault(e: RefusalSeen): void {
    this.#config.used((c) => c.stream === e.sid || c.kind === TABLE_POINTER);
    if (e.reason === EVENT.F_BAD_ATS_TREQ || e.reason === EVENT.F_TRANSL_FORBIDDEN) this.#ats.refused(e.sid);
    if (e.reason !== EVENT.F_TRANSLATION) return;
    const config = this.#streams.get(e.sid);
    const tree = config?.plain === undefined || config.plain < 0 ? config?.stage2 : config.table?.tree(config.plain);
    const page = (e.hi >>> 0) * 0x10_0000 + (e.lo >>> 12);
    if (tree !== null && tree !== undefined) this.#translations.refused(tree, e.sid, page);
  }

  /** The SMMU wrote into memory: a record of the event queue or a page request. */
  #written(gpa: number, bytes: Uint8Array): void {
    const word = (n: number) => new DataView(bytes.buffer, bytes.byteOffset).getInt32(4 * n, true);
    const inside = (at: number, log2: number) => {
      const base = this.#get64(at) - (this.#get64(at) % 32);
      return gpa >= base && gpa < base + 2 ** ((this.#get(at) & 31) + log2);
    };
    if (bytes.length === 32 && inside(PAGE0.EVENTQ_BASE.at, 5)) {
      if (word(2) < 0) this.#requests.stalled(word(1) >>> 0, word(2) & 0xffff);
    } else if (bytes.length === 16 && inside(PAGE0.PRIQ_BASE.at, 4)) {
      const w1 = word(1);
      // A stop marker is never answered (IHI 0070 §8).
      const stop = (w1 & PRI1.SSV) !== 0 && (w1 & (PRI1.READ | PRI1.WRITE)) === 0 && (w1 & PRI1.LAST) !== 0;
      if (stop) return;
      const page = (word(3) >>> 0) * 0x10_0000 + (word(2) >>> 12);
      const ssid = (w1 & PRI1.SSV) !== 0 ? w1 & 0xf_ffff : -1;
      this.#requests.queued(word(0) >>> 0, ssid, word(2) & 0x1ff, (w1 & PRI1.LAST) !== 0, page);
    }
  }

  finish(): void {
    this.#requests.finish();
    this.#ats.finish([...this.#streams.all()].some(([, c]) => c.ats));
    this.#translations.finish([...this.#trees.all()]);
    this.#config.finish();
    this.#queue.finish();
    this.#rules.finish();
    void this.#memory;
  }
}

/** See `DeviceTlbRules.holds`: of a stage 2 alone what goes around stage 1, of split-stage ATS nothing (IHI 0070 §3.9.2). */
function held(config: StreamConfig | undefined, tree: TranslationTree, both: boolean): readonly number[] {
  if (config?.ats !== true) return HOLDS_NOTHING;
  const second = tree.tag.stage === SMMU_STAGE.S2;
  if ((second || both) && config.split) return HOLDS_NOTHING;
  if (!second) return heldUnder(tree.pasid, config.plain);
  return config.table === null || config.plain === -1 ? heldUnder(-1, -1) : HOLDS_NOTHING;
}
