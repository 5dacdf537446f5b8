import { FSTS, GCMD, PAGE, PRS } from '../../spec/vtd/registers.ts';
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

/** Commands of GCMD, one bit each (VT-d §11.4.4.1), and the bit of GSTS that says that it took effect. */
const COMMANDS = ['TE', 'SRTP', 'QIE', 'IRE', 'SIRTP', 'CFI', 'WBF'] as const;
const LEVELS = GCMD.TE | GCMD.QIE | GCMD.IRE | GCMD.CFI;

/** The rules about registers, errors and interrupts of a VT-d unit. */
export class VtdRegisterRules {
  readonly #course: Course;
  readonly #get: (at: number) => number;
  readonly #accesses = new Accesses();
  readonly #gcmd: Handshake;
  readonly #ccmd: Handshake;
  readonly #iotlb: Handshake;
  readonly #queueError: Reported;
  readonly #completion: Reported;
  readonly #timeout: Reported;
  readonly #overflow: Reported;
  readonly #requests: Reported;
  readonly #faults: Serviced;
  readonly #waits: Serviced;
  readonly #pageRequests: Serviced;
  /** What GCMD asked for last, and the status it is to lead to. */
  #asked = 0;
  /** A fault was recorded and its register not cleared. */
  #fault = -1;
  /** Where IVA is. */
  iro: number = PAGE.IVA.at;
  /** Where fault recording registers are. */
  fro = 0x220;

  /** @param get a register as the guest wrote it. */
  constructor(course: Course, get: (at: number) => number) {
    this.#course = course;
    this.#get = get;
    this.#gcmd = new Handshake(course, 'GCMD');
    this.#ccmd = new Handshake(course, 'CCMD');
    this.#iotlb = new Handshake(course, 'the IOTLB register');
    const refused = (what: string) => new Reported(course, 'command-refused', 'error-not-acknowledged', what);
    this.#queueError = refused('a descriptor stopped the invalidation queue (FSTS.IQE)');
    this.#completion = refused('an invalidation completed in error (FSTS.ICE)');
    this.#timeout = refused('an invalidation of a device TLB timed out (FSTS.ITE)');
    const lost = (what: string) => new Reported(course, 'record-lost', 'overflow-not-acknowledged', what);
    this.#overflow = lost('faults were lost (FSTS.PFO)');
    this.#requests = lost('page requests were lost (PRS.PRO)');
    this.#faults = new Serviced(course, 'fault');
    this.#waits = new Serviced(course, 'invalidation wait');
    this.#pageRequests = new Serviced(course, 'page request');
  }

  /** The guest's register reads are told. */
  get reads(): boolean {
    return this.#accesses.reads;
  }

  /** Before the write takes effect. @param status GSTS as it follows from GCMD so far. */
  write(offset: number, size: number, lo: number, hi: number, status: number): void {
    this.#accesses.add(this.#course.event);
    const high = size === 8 ? hi : lo;
    const last = size === 8 ? offset + 4 : offset;
    if (offset === PAGE.GCMD.at) this.#command(lo, status);
    else if (offset === PAGE.IQA.at) {
      if ((status & GCMD.QIE) !== 0) changedWhileEnabled(this.#course, 'IQA', 'GSTS.QIES');
      reservedBits(this.#course, 'IQA', lo & 0x7f8);
    } else if (offset === PAGE.IQT.at) {
      this.#gcmd.mustBeDone('descriptors were submitted');
      reservedBits(this.#course, 'IQT', lo & ~0x7_fff0);
    } else if (offset === PAGE.RTADDR.at) reservedBits(this.#course, 'RTADDR', lo & 0x3ff);
    else if (offset === PAGE.IRTA.at) reservedBits(this.#course, 'IRTA', lo & 0x7f0);
    else if (offset === PAGE.PQA.at) this.#pageRequestQueue(lo);
    else if (offset === PAGE.FSTS.at) this.#acknowledge(lo);
    else if (offset === PAGE.ICS.at) this.#waits.serve();
    else if (offset === PAGE.PRS.at && (lo & PRS.PRO) !== 0) this.#requests.acknowledged();
    else if (offset === PAGE.PQH.at) this.#pageRequests.serve();
    else if (last >= this.fro + 12 && (last & 0xf) === 0xc && high < 0) {
      this.#fault = -1;
      this.#faults.serve();
    }
    if (last === PAGE.CCMD.at + 4 && high < 0) {
      this.#gcmd.mustBeDone('CCMD was written');
      this.#ccmd.mustBeDone('CCMD was written again');
      this.#ccmd.begin();
    } else if (last === this.iro + 12 && high < 0) {
      this.#gcmd.mustBeDone('the IOTLB register was written');
      // What the context cache says tags what the IOTLB is given (VT-d §11.4.6.1).
      this.#ccmd.mustBeDone('the IOTLB register was written');
      this.#iotlb.mustBeDone('the IOTLB register was written again');
      this.#iotlb.begin();
    }
    if (!this.#accesses.reads) for (const h of [this.#gcmd, this.#ccmd, this.#iotlb]) h.done();
  }

  /** VT-d §11.4.4.1: one change at a time, each awaited; the other levels repeat what GSTS says. */
  #command(now: number, status: number): void {
    this.#gcmd.mustBeDone('GCMD was written again');
    reservedBits(this.#course, 'GCMD', now & 0x7f_ffff);
    const oneShots = now & (GCMD.SRTP | GCMD.SIRTP | GCMD.WBF);
    const changed = ((now ^ status) & LEVELS) | oneShots;
    const names = COMMANDS.filter((c) => (changed & GCMD[c]) !== 0);
    if (names.length > 1) {
      this.#course.findings.add('one-bit-at-a-time', {
        kind: names.join(),
        events: [this.#course.event],
        message: `${names.join(', ')} were changed in one write of GCMD: write one, wait for GSTS, then the next`,
      });
    }
    this.#asked = changed;
    if (changed !== 0) this.#gcmd.begin();
  }

  /** VT-d §11.4.11.3: the queue is aligned to its size. */
  #pageRequestQueue(lo: number): void {
    const base = (this.#get(PAGE.PQA.at + 4) & 0xf_ffff) * 2 ** 32 + ((lo & ~0xfff) >>> 0);
    misaligned(this.#course, 'page request queue', base, 2 ** ((lo & 7) + 12));
    reservedBits(this.#course, 'PQA', lo & 0xff8);
  }

  #acknowledge(lo: number): void {
    this.#faults.serve();
    if ((lo & FSTS.IQE) !== 0) this.#queueError.acknowledged();
    if ((lo & FSTS.ICE) !== 0) this.#completion.acknowledged();
    if ((lo & FSTS.ITE) !== 0) this.#timeout.acknowledged();
    if ((lo & FSTS.PFO) !== 0) this.#overflow.acknowledged();
  }

  /** @param status GSTS as it follows from GCMD. */
  read(offset: number, size: number, lo: number, hi: number, status: number): void {
    this.#accesses.add(this.#course.event);
    this.#accesses.reads = true;
    const high = size === 8 ? hi : lo;
    const last = size === 8 ? offset + 4 : offset;
    if (offset === PAGE.GSTS.at) {
      const set = (this.#asked & GCMD.SRTP) === 0 || (lo & GCMD.SRTP) !== 0;
      const ir = (this.#asked & GCMD.SIRTP) === 0 || (lo & GCMD.SIRTP) !== 0;
      const flushed = (this.#asked & GCMD.WBF) === 0 || (lo & GCMD.WBF) === 0;
      if (((lo ^ status) & LEVELS & this.#asked) === 0 && set && ir && flushed) this.#gcmd.done();
    } else if (offset === PAGE.FSTS.at) {
      this.#faults.serve();
      if ((lo & FSTS.IQE) !== 0) this.#queueError.seen();
      if ((lo & FSTS.ICE) !== 0) this.#completion.seen();
      if ((lo & FSTS.ITE) !== 0) this.#timeout.seen();
      if ((lo & FSTS.PFO) !== 0) this.#overflow.seen();
    } else if (offset === PAGE.ICS.at) this.#waits.serve();
    else if (offset === PAGE.PRS.at && (lo & PRS.PRO) !== 0) this.#requests.seen();
    if (last === PAGE.CCMD.at + 4 && high >= 0) this.#ccmd.done();
    else if (last === this.iro + 12 && high >= 0) this.#iotlb.done();
  }

  /** A message arrived: one of the unit's own, if it is what a control register was given. */
  message(address: number, data: number): void {
    const is = (at: number) => this.#get(at + 4) === data && this.#get(at + 8) >>> 0 === address;
    if (is(PAGE.FECTL.at)) this.#faults.arrive();
    else if (is(PAGE.IECTL.at)) this.#waits.arrive();
    else if (is(PAGE.PECTL.at)) this.#pageRequests.arrive();
  }

  /** A fault recording register was filled. */
  recorded(): void {
    if (this.#fault < 0) this.#fault = this.#course.event;
  }

  finish(): void {
    const { since, reads } = this.#accesses;
    for (const r of [this.#queueError, this.#completion, this.#timeout, this.#overflow, this.#requests])
      r.finish(since);
    for (const s of [this.#faults, this.#waits, this.#pageRequests]) s.finish(since);
    if (this.#fault >= 0 && since(this.#fault) >= 64) {
      this.#course.findings.add('error-not-acknowledged', {
        kind: 'fault record',
        events: [this.#fault],
        message: 'a fault was recorded and its register never cleared (FRCD.F): further faults find it taken',
      });
    }
    if (!reads)
      for (const rule of ['handshake-not-awaited', 'command-refused'] as const)
        this.#course.findings.cannotJudge(rule, 'register reads were not recorded');
  }

  reset(): void {
    for (const h of [this.#gcmd, this.#ccmd, this.#iotlb]) h.done();
    for (const r of [this.#queueError, this.#completion, this.#timeout, this.#overflow, this.#requests]) r.event = -1;
    this.#fault = -1;
    this.#asked = 0;
  }
}
