import { wordList } from '../../src/core/bits.ts';
import { RingFinder } from '../../src/lib/queue/ring-finder.ts';
import { isRefusal } from '../../src/lib/uapi/refusals.ts';
import { INV, INV_NAME, INV_TYPES, type InvType, invType } from '../../src/spec/vtd/invalidation.ts';
import { GCMD, IQEI, PAGE, TTM } from '../../src/spec/vtd/registers.ts';
import type { VtdCommands } from './commands.ts';
import type { VtdCore } from './core.ts';
import { VtdLegality } from './legality.ts';
import type { VtdRecords } from './records.ts';
import { basePointer, type VtdRegisters } from './registers.ts';
import type { Waits } from './waits.ts';

/** Units of work of a descriptor, beside what it finds to do. */
const DESCRIPTOR_WORK = 4;
/** `#execute`: the host refused a legal descriptor. None of the IQEI codes names that. */
const HOST_REFUSED = -1;

/** The invalidation queue as plain data. */
export interface QueueState {
  /** QIES. */
  readonly enabled: boolean;
  /** Descriptors of 256 bits. */
  readonly wide: boolean;
  /** Bytes. */
  readonly base: number;
  /** Entries; head and tail count them too. */
  readonly size: number;
  readonly head: number;
  readonly tail: number;
  /** Type of the descriptor executed last. */
  readonly last: number;
  /** Words of the waits that are outstanding, four each. */
  readonly waits: readonly number[];
  /** Descriptors executed, by type. */
  readonly counts: readonly number[];
}

/** The invalidation queue (VT-d §6.5.2): fetches descriptors, judges them, and has each executed before the next is fetched. */
export class VtdQueue {
  readonly #core: VtdCore;
  readonly #regs: VtdRegisters;
  readonly #records: VtdRecords;
  readonly #commands: VtdCommands;
  readonly #waits: Waits;
  /** Descriptors executed, by type. */
  readonly #counts = new Float64Array(INV_TYPES);
  readonly #w = new Int32Array(8);
  readonly #legality: VtdLegality;
  readonly #ring: RingFinder;
  #enabled = false;
  #wide = false;
  #base = 0;
  /** Entries. */
  #size = 0;
  #head = 0;
  #tail = 0;
  #lastType = 0;
  #running = false;
  readonly #held: () => boolean;
  /** The descriptor at the head was begun and goes on: its words are in `#w`. */
  #begun = false;
  /** The guest has switched the queue off, which comes into force when it has caught up. */
  #offAsked = false;

  /** @param held whether descriptors wait for a switch of tables that is under way. */
  constructor(core: VtdCore, records: VtdRecords, commands: VtdCommands, waits: Waits, held: () => boolean) {
    this.#held = held;
    this.#core = core;
    this.#regs = core.registers;
    this.#records = records;
    this.#commands = commands;
    this.#waits = waits;
    this.#legality = new VtdLegality(core);
    this.#ring = new RingFinder(core.deps.memory);
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Base the queue was enabled with (bytes); what QEMU's IQA shows. */
  get base(): number {
    return this.#base;
  }

  /** Descriptors executed so far, under the names recordings use. */
  counts(): Record<string, number> {
    const out: Record<string, number> = {};
    for (const [type, name] of INV_NAME.entries()) if (this.#counts[type]! > 0) out[name] = this.#counts[type]!;
    return out;
  }

  reset(): void {
    this.#begun = this.#offAsked = false;
    this.#enabled = this.#wide = false;
    this.#base = this.#size = this.#head = this.#tail = this.#lastType = 0;
    this.#waits.clear();
  }

  /** GCMD was written. @param on QIE. */
  command(on: boolean): void {
    this.#offAsked = false;
    if (on === this.#enabled) return;
    if (on) this.#enable();
    else this.#disable();
  }

  /** QIE 0→1: base and size are latched; a tail written before is honoured (Windows relies on it). */
  #enable(): void {
    const { deviations, deps } = this.#core;
    const lo = this.#regs.get(PAGE.IQA.at);
    this.#wide = this.#width();
    this.#base = basePointer(lo, this.#regs.get(PAGE.IQA.at + 4), deps.properties, deviations);
    this.#size = 1 << ((lo & 7) + (this.#wide ? 7 : 8));
    this.#enabled = true;
    // QIES shows that the queue is on before its first descriptor is fetched.
    this.#regs.setStatus(GCMD.QIE, true);
    if (this.#takeTail() && this.#tail !== 0) this.#run();
  }

  /** Whether descriptors are 256 bits wide: IQA.DW, with scalable mode. Without it QEMU ignores the bit. */
  #width(): boolean {
    const { features, deviations } = this.#core;
    const counts = features.scalable || !deviations.queueWidthUnchecked;
    return counts && (this.#regs.get(PAGE.IQA.at) & 0x800) !== 0;
  }

  /**
   * QIE 1→0. QEMU executes all descriptors within the write of IQT, and drops a request to switch off that finds some of them left
   * (behind an error). Here the budget can have left them, or answers that are missing: then the request is kept until the queue
   * has caught up with the tail.
   */
  #disable(): void {
    const { deviations } = this.#core;
    if (deviations.queueOffNeedsWait) {
      if (this.#head !== this.#tail) this.#offAsked = !this.#records.queueHalted;
      if (this.#head !== this.#tail || this.#lastType !== INV.WAIT) return;
    }
    this.#enabled = this.#begun = false;
    this.#waits.clear();
    this.#head = 0;
    this.#publish();
    this.#regs.setStatus(GCMD.QIE, false);
  }

  /** The queue has stopped fetching: for a request to switch it off that waits, QEMU's rule is asked again. */
  #offIfAsked(): void {
    if (!this.#offAsked || (this.#head !== this.#tail && !this.#records.queueHalted)) return;
    this.#offAsked = false;
    if (!this.#records.queueHalted) this.#disable();
  }

  /** IQA was written while the queue is on: QEMU follows DW at once. */
  baseWritten(): void {
    if (this.#core.deviations.queueWidthUnchecked) this.#wide = this.#width();
  }

  #takeTail(): boolean {
    const value = this.#regs.get(PAGE.IQT.at);
    if (this.#wide && (value & 0x10) !== 0) {
      this.#records.queueError(IQEI.TAIL_UNALIGNED);
      return false;
    }
    this.#tail = (value & 0x7_fff0) >>> (this.#wide ? 5 : 4);
    return true;
  }

  /** IQT was written. Behind a request to switch off it is the next queue's. */
  tailWritten(): void {
    if (!this.#offAsked && this.#takeTail() && this.#enabled && !this.#records.queueHalted) this.#run();
  }

  /** IQE or ITE was cleared by the guest: the fetch goes on where it stopped (§6.5.2). */
  resume(): void {
    if (this.#core.deviations.resumeNeedsTail || !this.#enabled || this.#records.queueHalted) return;
    if (this.#takeTail() && this.#head !== this.#tail) this.#run();
  }

  /** Device-TLB completions are in: an occasion, unless the queue is what they were sent from. */
  drained(): void {
    if (!this.#running) this.#core.work.begin();
    const error = this.#waits.settle();
    if (error !== 0) this.#records.queueError(error);
    if (this.#enabled && !this.#records.queueHalted && this.#head !== this.#tail) this.#run();
  }

  /** The budget of an earlier access was spent in the middle of the queue: the rest of it. */
  goOn(): void {
    if (this.#enabled && !this.#records.queueHalted && this.#head !== this.#tail) this.#run();
  }

  /**
   * Fetches until head meets tail, an error, a fence, or the end of the budget. At most one lap: the tail cannot move
   * meanwhile.
   */
  #run(): void {
    if (this.#running || this.#held()) return;
    this.#running = true;
    if (this.#mayFetch()) {
      const { work } = this.#core;
      while (this.#head !== this.#tail && this.#waits.open) {
        if (work.over) {
          work.pause();
          break;
        }
        const error = this.#begun || this.#fetch() ? this.#execute() : IQEI.FETCH;
        if (this.#begun) {
          work.pause();
          break;
        }
        if (error !== 0) {
          // IQEI 0 is "no information": the descriptor was fetched and is legal, so that 1 to 7 would be untrue (§11.4.9.9).
          this.#records.queueError(error === HOST_REFUSED ? IQEI.NONE : error);
          break;
        }
        this.#head = this.#head + 1 === this.#size ? 0 : this.#head + 1;
        this.#publish();
        if (this.#records.queueHalted) break;
      }
    }
    this.#running = false;
    this.#offIfAsked();
  }

  #mayFetch(): boolean {
    const error = this.#setupError();
    if (error !== 0) this.#records.queueError(error);
    return error === 0;
  }

  /** IQEI of a queue that cannot be fetched from as it is set up; 0: it can. */
  #setupError(): number {
    const { features, deviations, root } = this.#core;
    if (this.#tail >= this.#size) return IQEI.TAIL_BEYOND;
    if (deviations.queueWidthUnchecked) return 0;
    const scalable = root.mode === TTM.SCALABLE || root.mode === TTM.ABORT;
    if (this.#wide ? !features.scalable : scalable) return IQEI.WIDTH;
    return root.mode === TTM.RESERVED || (scalable && !features.scalable) ? IQEI.TTM : 0;
  }

  #publish(): void {
    this.#regs.set(PAGE.IQH.at, this.#head << (this.#wide ? 5 : 4));
  }

  #fetch(): boolean {
    const { memory } = this.#core.deps;
    const words = this.#wide ? 8 : 4;
    const w = this.#w;
    const ring = this.#ring;
    if (ring.find(this.#base, this.#size * words)) {
      const from = ring.words;
      const i = ring.first + this.#head * words;
      for (let k = 0; k < words; k++) w[k] = from[i + k]!;
      return true;
    }
    const at = this.#base + this.#head * words * 4;
    if (memory.locate(at)) {
      const from = memory.words;
      const i = memory.index;
      for (let k = 0; k < words; k++) w[k] = from[i + k]!;
      return true;
    }
    this.#lastType = 0;
    for (let k = 0; k < words; k++) {
      if (!memory.load32(at + 4 * k)) return false;
      this.#w[k] = memory.lo;
    }
    return true;
  }

  /** @returns 0, or what stops the queue here: an IQEI code or HOST_REFUSED. The descriptor is executed again then. */
  #execute(): number {
    const core = this.#core;
    const { work } = core;
    const w = this.#w;
    const type = invType(w[0]!);
    work.operation(this.#begun);
    work.spend(DESCRIPTOR_WORK);
    this.#lastType = type;
    let error = this.#legality.judge(w, this.#wide);
    if (error === 0) {
      const r = this.#commands.execute(type as InvType, w);
      this.#begun = work.unfinished;
      if (this.#begun) return 0;
      if (r > 0) error = r;
      else if (isRefusal(r)) error = HOST_REFUSED;
      if (error === HOST_REFUSED) core.refusals.note('invalidation', r);
    }
    if (error === 0) this.#counts[type]!++;
    const { tell } = core.deps;
    if (tell !== null) {
      const name = INV_NAME[type] ?? `type ${type}`;
      const words = wordList(w, 0, this.#wide ? 8 : 4);
      tell({ what: 'command', device: core.name, name, words, error });
    }
    return error;
  }

  save(): QueueState {
    return {
      enabled: this.#enabled,
      wide: this.#wide,
      base: this.#base,
      size: this.#size,
      head: this.#head,
      tail: this.#tail,
      last: this.#lastType,
      waits: this.#waits.save(),
      counts: Array.from(this.#counts),
    };
  }

  load(s: QueueState): void {
    this.#enabled = s.enabled;
    this.#wide = s.wide;
    this.#base = s.base;
    this.#size = s.size;
    this.#head = s.head;
    this.#tail = s.tail;
    this.#begun = this.#offAsked = false;
    this.#lastType = s.last;
    this.#waits.load(s.waits);
    this.#counts.set(s.counts);
  }
}
