import { CR0, GBPA, GERROR, IRQ_CTRL, PAGE0, PAGE1 } from '../../spec/smmuv3/registers.ts';
import type { Course } from '../course.ts';
import {
  Accesses,
  changedWhileEnabled,
  Handshake,
  misaligned,
  Reported,
  reservedBits,
  Serviced,
} from '../register-rules.ts';

/** Where page 1 begins in `Smmuv3Watch`'s row of registers. */
export const PAGE1_AT = 0x1000;
const EVENTQ_PROD = PAGE1_AT + PAGE1.EVENTQ_PROD.at;
const EVENTQ_CONS = PAGE1_AT + PAGE1.EVENTQ_CONS.at;
const PRIQ_PROD = PAGE1_AT + PAGE1.PRIQ_PROD.at;
const PRIQ_CONS = PAGE1_AT + PAGE1.PRIQ_CONS.at;
const OVERFLOW = 1 << 31;

/** Registers that belong to what a bit of CR0 or IRQ_CTRL enables (IHI 0070 §6.3): offset, register, enable. */
// biome-ignore format: table
const BASES: readonly (readonly [at: number, bytes: number, name: string, control: number, bit: number, enable: string])[] = [
  [PAGE0.STRTAB_BASE.at, 8, 'STRTAB_BASE', PAGE0.CR0.at, CR0.SMMUEN, 'CR0.SMMUEN'],
  [PAGE0.STRTAB_BASE_CFG.at, 4, 'STRTAB_BASE_CFG', PAGE0.CR0.at, CR0.SMMUEN, 'CR0.SMMUEN'],
  [PAGE0.CR2.at, 4, 'CR2', PAGE0.CR0.at, CR0.SMMUEN, 'CR0.SMMUEN'],
  [PAGE0.CMDQ_BASE.at, 8, 'CMDQ_BASE', PAGE0.CR0.at, CR0.CMDQEN, 'CR0.CMDQEN'],
  [PAGE0.CMDQ_CONS.at, 4, 'CMDQ_CONS', PAGE0.CR0.at, CR0.CMDQEN, 'CR0.CMDQEN'],
  [PAGE0.EVENTQ_BASE.at, 8, 'EVENTQ_BASE', PAGE0.CR0.at, CR0.EVENTQEN, 'CR0.EVENTQEN'],
  [EVENTQ_PROD, 4, 'EVENTQ_PROD', PAGE0.CR0.at, CR0.EVENTQEN, 'CR0.EVENTQEN'],
  [PAGE0.PRIQ_BASE.at, 8, 'PRIQ_BASE', PAGE0.CR0.at, CR0.PRIQEN, 'CR0.PRIQEN'],
  [PRIQ_PROD, 4, 'PRIQ_PROD', PAGE0.CR0.at, CR0.PRIQEN, 'CR0.PRIQEN'],
  [PAGE0.GERROR_IRQ_CFG0.at, 16, 'GERROR_IRQ_CFG', PAGE0.IRQ_CTRL.at, IRQ_CTRL.GERROR_IRQEN, 'IRQ_CTRL.GERROR_IRQEN'],
  [PAGE0.EVENTQ_IRQ_CFG0.at, 16, 'EVENTQ_IRQ_CFG', PAGE0.IRQ_CTRL.at, IRQ_CTRL.EVENTQ_IRQEN, 'IRQ_CTRL.EVENTQ_IRQEN'],
  [PAGE0.PRIQ_IRQ_CFG0.at, 16, 'PRIQ_IRQ_CFG', PAGE0.IRQ_CTRL.at, IRQ_CTRL.PRIQ_IRQEN, 'IRQ_CTRL.PRIQ_IRQEN'],
];

/** Bits that are defined in 32-bit registers (IHI 0070 §6.3). */
const DEFINED = new Map<number, readonly [name: string, mask: number]>([
  [PAGE0.CR0.at, ['CR0', 0x5df]],
  [PAGE0.CR1.at, ['CR1', 0xfff]],
  [PAGE0.CR2.at, ['CR2', 0xf]],
  [PAGE0.IRQ_CTRL.at, ['IRQ_CTRL', 0x7]],
  [PAGE0.GERRORN.at, ['GERRORN', 0x7fd]],
  [PAGE0.STRTAB_BASE_CFG.at, ['STRTAB_BASE_CFG', 0x3_07ff]],
  [PAGE0.CMDQ_PROD.at, ['CMDQ_PROD', 0xf_ffff]],
  [EVENTQ_CONS, ['EVENTQ_CONS', 0x800f_ffff | 0]],
  [PRIQ_CONS, ['PRIQ_CONS', 0x800f_ffff | 0]],
]);

const CERROR = ['no error', 'CERROR_ILL', 'CERROR_ABT', 'CERROR_ATC_INV_SYNC'] as const;

/** The rules about registers, errors and interrupts of an SMMUv3. */
export class Smmuv3RegisterRules {
  readonly #course: Course;
  readonly #accesses = new Accesses();
  readonly #get: (at: number) => number;
  readonly #cr0: Handshake;
  readonly #irqCtrl: Handshake;
  readonly #gbpa: Handshake;
  readonly #command: Reported;
  readonly #gerror: Reported;
  readonly #eventAbort: Reported;
  readonly #eventOverflow: Reported;
  readonly #priOverflow: Reported;
  readonly #lines: Readonly<Record<string, Serviced>>;
  /** GERROR as the guest knows it. */
  #errors = 0;
  /** CMDQ_CONS.ERR as last read. */
  #reason = 0;
  /** An error interrupt arrived and GERROR was not read since. */
  #unread = -1;

  /** @param get a register of the row, as the guest wrote it. */
  constructor(course: Course, get: (at: number) => number) {
    this.#course = course;
    this.#get = get;
    this.#cr0 = new Handshake(course, 'CR0');
    this.#irqCtrl = new Handshake(course, 'IRQ_CTRL');
    this.#gbpa = new Handshake(course, 'GBPA');
    const report = (
      rule: 'command-refused' | 'record-lost' | 'error-not-acknowledged',
      never: typeof rule | 'overflow-not-acknowledged',
      what: string,
    ) => new Reported(course, rule, never, what);
    this.#command = report('command-refused', 'error-not-acknowledged', 'a command stopped the queue');
    this.#gerror = report('error-not-acknowledged', 'error-not-acknowledged', 'GERROR reported an error');
    this.#eventAbort = report(
      'record-lost',
      'error-not-acknowledged',
      'an event record could not be written (GERROR.EVENTQ_ABT_ERR)',
    );
    this.#eventOverflow = report('record-lost', 'overflow-not-acknowledged', 'the event queue overflowed');
    this.#priOverflow = report('record-lost', 'overflow-not-acknowledged', 'the page request queue overflowed');
    this.#lines = {
      evtq: new Serviced(course, 'event queue'),
      priq: new Serviced(course, 'page request queue'),
      gerror: new Serviced(course, 'global error'),
    };
  }

  /** A command stopped the queue, as the guest knows. */
  get stopped(): boolean {
    return this.#command.event >= 0;
  }

  /**
   * Before the write takes effect: `get` says what was there. @param at in the row of both pages.
   * @returns whether it takes effect: a base of what is in use keeps its value (IHI 0070 §6.3.24 to §6.3.29).
   */
  write(at: number, size: number, lo: number): boolean {
    let effective = true;
    this.#accesses.add(this.#course.event);
    const old = this.#get(at);
    for (const [base, bytes, name, control, bit, enable] of BASES) {
      if (at < base || at >= base + bytes) continue;
      if ((this.#get(control) & bit) === 0) {
        // Cleared and not acknowledged: it may still be in use.
        const cleared = control === PAGE0.CR0.at ? this.#cr0 : this.#irqCtrl;
        if ((cleared.bits & bit) !== 0) cleared.mustBeDone(`${name} was written`);
      } else if (lo !== old || size === 8) {
        changedWhileEnabled(this.#course, name, enable);
        effective = false;
      }
    }
    const defined = DEFINED.get(at);
    if (defined !== undefined) reservedBits(this.#course, defined[0], lo & ~defined[1]);
    this.#handshakes(at, old, lo);
    if (at === PAGE0.GERRORN.at) this.#acknowledge(lo);
    else if (at === EVENTQ_CONS) {
      this.#lines.evtq!.serve();
      if (((lo ^ old) & OVERFLOW) !== 0) this.#eventOverflow.acknowledged();
    } else if (at === PRIQ_CONS) {
      this.#lines.priq!.serve();
      if (((lo ^ old) & OVERFLOW) !== 0) this.#priOverflow.acknowledged();
    }
    return effective;
  }

  #handshakes(at: number, old: number, lo: number): void {
    if (at === PAGE0.CR0.at) {
      this.#cr0.mustBeDone('CR0 was written again');
      this.#gbpa.mustBeDone('CR0 was written');
      if ((lo & ~old & CR0.SMMUEN) !== 0) this.#irqCtrl.mustBeDone('the SMMU was enabled');
      if (lo !== old) this.#cr0.begin(lo ^ old);
      this.#enabled(lo & ~old);
    } else if (at === PAGE0.IRQ_CTRL.at) {
      this.#irqCtrl.mustBeDone('IRQ_CTRL was written again');
      if (lo !== old) this.#irqCtrl.begin(lo ^ old);
    } else if (at === PAGE0.GBPA.at) {
      this.#gbpa.mustBeDone('GBPA was written again');
      if ((lo & GBPA.UPDATE) !== 0) this.#gbpa.begin();
    } else if (at === PAGE0.CMDQ_PROD.at) this.#cr0.mustBeDone('commands were submitted');
    if (!this.#accesses.reads) {
      this.#cr0.done();
      this.#irqCtrl.done();
      this.#gbpa.done();
    }
  }

  /** What is being enabled must be aligned (IHI 0070 §6.3.24, §6.3.26, §6.3.29). */
  #enabled(bits: number): void {
    const base = (at: number, low: number) => (this.#get(at + 4) & 0xf_ffff) * 2 ** 32 + ((this.#get(at) & ~low) >>> 0);
    const queue = (at: number, name: string, log2Bytes: number) => {
      const size = 2 ** Math.max(5, (this.#get(at) & 31) + log2Bytes);
      misaligned(this.#course, name, base(at, 31), size);
    };
    if ((bits & CR0.CMDQEN) !== 0) queue(PAGE0.CMDQ_BASE.at, 'command queue', 4);
    if ((bits & CR0.EVENTQEN) !== 0) queue(PAGE0.EVENTQ_BASE.at, 'event queue', 5);
    if ((bits & CR0.PRIQEN) !== 0) queue(PAGE0.PRIQ_BASE.at, 'page request queue', 4);
    if ((bits & CR0.SMMUEN) === 0) return;
    const cfg = this.#get(PAGE0.STRTAB_BASE_CFG.at);
    const log2 = cfg & 0x3f;
    const split = (cfg >>> 6) & 0x1f;
    const two = ((cfg >>> 16) & 3) === 1;
    const size = two ? Math.max(64, 8 * 2 ** Math.max(0, log2 - split)) : 64 * 2 ** log2;
    misaligned(this.#course, 'stream table', base(PAGE0.STRTAB_BASE.at, 63), size);
  }

  #acknowledge(lo: number): void {
    this.#lines.gerror!.serve();
    this.#unread = -1;
    const left = this.#errors ^ lo;
    if ((left & GERROR.CMDQ_ERR) === 0)
      this.#command.acknowledged(` (${CERROR[this.#reason] ?? `CERROR ${this.#reason}`})`);
    if ((left & GERROR.EVENTQ_ABT_ERR) === 0) this.#eventAbort.acknowledged();
    if (left === 0) this.#gerror.event = -1;
  }

  read(at: number, lo: number): void {
    this.#accesses.add(this.#course.event);
    this.#accesses.reads = true;
    if (at === PAGE0.CR0ACK.at) {
      // Bits that are not implemented read as zero whatever was asked for.
      if ((lo & ~this.#get(PAGE0.CR0.at)) === 0 && ((lo ^ this.#get(PAGE0.CR0.at)) & 0xf) === 0) this.#cr0.done();
    } else if (at === PAGE0.IRQ_CTRLACK.at) {
      if (((lo ^ this.#get(PAGE0.IRQ_CTRL.at)) & 7) === 0) this.#irqCtrl.done();
    } else if (at === PAGE0.GBPA.at) {
      if ((lo & GBPA.UPDATE) === 0) this.#gbpa.done();
    } else if (at === PAGE0.CMDQ_CONS.at) this.#reason = (lo >>> 24) & 0x7f;
    else if (at === PAGE0.GERROR.at) this.#errorsRead(lo);
    else if (at === EVENTQ_PROD) {
      if (((lo ^ this.#get(EVENTQ_CONS)) & OVERFLOW) !== 0) this.#eventOverflow.seen();
    } else if (at === PRIQ_PROD) {
      if (((lo ^ this.#get(PRIQ_CONS)) & OVERFLOW) !== 0) this.#priOverflow.seen();
    }
  }

  #errorsRead(lo: number): void {
    this.#lines.gerror!.serve();
    this.#unread = -1;
    this.#errors = lo;
    const active = lo ^ this.#get(PAGE0.GERRORN.at);
    if ((active & GERROR.CMDQ_ERR) !== 0) this.#command.seen();
    if ((active & GERROR.EVENTQ_ABT_ERR) !== 0) this.#eventAbort.seen();
    if ((active & ~(GERROR.CMDQ_ERR | GERROR.EVENTQ_ABT_ERR)) !== 0) this.#gerror.seen();
  }

  irq(line: string): void {
    this.#lines[line]?.arrive();
    if (line === 'gerror' && this.#unread < 0) this.#unread = this.#course.event;
  }

  finish(): void {
    const { since, reads } = this.#accesses;
    const reason = this.#reason === 0 ? '' : ` (${CERROR[this.#reason] ?? `CERROR ${this.#reason}`})`;
    this.#command.finish(since, reason);
    this.#eventAbort.finish(since);
    this.#eventOverflow.finish(since);
    this.#priOverflow.finish(since);
    // Whether it was read or only announced: nobody said that it was heard.
    if (this.#unread >= 0) {
      this.#gerror.event = this.#unread;
    }
    if (this.#gerror.event >= 0 && since(this.#gerror.event) >= 16) this.#gerror.finish(since);
    for (const line of Object.values(this.#lines)) line.finish(since);
    if (!reads)
      for (const rule of ['handshake-not-awaited', 'queue-overrun', 'command-overwritten', 'command-refused'] as const)
        this.#course.findings.cannotJudge(rule, 'register reads were not recorded');
  }

  reset(): void {
    for (const h of [this.#cr0, this.#irqCtrl, this.#gbpa]) h.done();
    for (const r of [this.#command, this.#gerror, this.#eventAbort, this.#eventOverflow, this.#priOverflow])
      r.event = -1;
    this.#errors = 0;
    this.#unread = -1;
  }
}
