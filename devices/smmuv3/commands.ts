import { NO_PASID } from '../../src/ports/dma.ts';
import type { UpcallHandlers } from '../../src/ports/upcalls.ts';
import { PRG } from '../../src/spec/pcie/messages.ts';
import {
  ATC_GLOBAL,
  ATC_SIZE_ALL,
  cmdGroup,
  cmdIpa,
  cmdNum,
  cmdOp,
  cmdRange,
  cmdResp,
  cmdScale,
  cmdSsid,
  cmdStag,
  cmdTg,
  cmdVmid,
  OP,
  type Opcode,
  RANGE_ALL,
  RESUME_AB,
  RESUME_AC,
  SSV,
  SYNC_CS,
  syncCs,
  syncMsiAddress,
} from '../../src/spec/smmuv3/commands.ts';
import { CERROR, CR0 } from '../../src/spec/smmuv3/registers.ts';
import { UNCHANGED } from './attachments.ts';
import type { CommandBatch } from './batch.ts';
import type { Smmuv3Core } from './core.ts';
import type { Smmuv3Domain, Smmuv3Domains } from './domains.ts';
import { named, Smmuv3Legality } from './legality.ts';
import { PRG_BY_RESP, type Smmuv3PageRequests } from './page-requests.ts';
import { AGAIN, type CommandSink, DONE, REFUSED, WAIT } from './queue.ts';
import { RefusedCommand } from './refused-command.ts';
import type { Smmuv3Stalls } from './stalls.ts';
import type { Smmuv3Streams } from './streams.ts';

/** Units of work of one look at a stream's entry. */
const STREAM_WORK = 32;
/** log2 of the page a range invalidation counts in, by TG. */
const RANGE_GRANULE = [12, 12, 14, 16] as const;

/** What commands act on. */
export interface Smmuv3CommandTargets {
  readonly core: Smmuv3Core;
  readonly streams: Smmuv3Streams;
  readonly domains: Smmuv3Domains;
  readonly batch: CommandBatch;
  readonly stalls: Smmuv3Stalls;
  readonly pageRequests: Smmuv3PageRequests;
  /** Whose outstanding invalidations a CMD_SYNC waits for. */
  readonly handlers: UpcallHandlers;
}

/** What each guest command means for the host. One small function per command; none allocates unless a stream changes. */
export class Smmuv3Commands implements CommandSink {
  readonly #c: Smmuv3CommandTargets;
  readonly #core: Smmuv3Core;
  readonly #legality: Smmuv3Legality;
  /** Range forms without a range are legal here, and hardware with ranges does not take them. */
  readonly #emptyRanges: boolean;
  /** A device did not answer an ATS invalidation: the next CMD_SYNC reports it (IHI 0070 §3.9.1.4). */
  timedOut = false;
  refusal = false;
  readonly #behind = new RefusedCommand();
  /** A CFGI_STE_RANGE that goes on, and the words that name it. */
  readonly #range = { begun: false, failed: DONE as number, w1: 0, w2: 0 };

  constructor(targets: Smmuv3CommandTargets) {
    this.#c = targets;
    this.#core = targets.core;
    this.#emptyRanges = targets.core.deviations.emptyRangeAccepted || !targets.core.features.ril;
    this.#legality = new Smmuv3Legality(targets.core.features, targets.core.deviations);
  }

  get refusedAt(): number {
    return this.#c.batch.refusedAt;
  }

  flush(): number {
    return this.#c.batch.flush() ? DONE : REFUSED;
  }

  restart(): void {
    this.#range.begun = false;
  }

  /** Reset, or a state is loaded: nothing of before is in force, and no command waits to be done again. */
  reset(): void {
    this.timedOut = false;
    this.#range.begun = false;
    this.#behind.clear();
  }

  /** Empties what hardware and shadows hold for this guest. */
  forgetAll(): void {
    while (this.#nsnh(0) === AGAIN) this.#core.work.begin();
    this.#c.batch.flush();
  }

  execute(cons: number, w0: number, w1: number, w2: number, w3: number): number {
    this.refusal = false;
    const op = cmdOp(w0);
    if (!this.#legality.legal(op, w0, w2)) return CERROR.ILL;
    this.#behind.next(cons, w0, w1, w2, w3);
    // A range that was in hand in this slot is gone when the guest puts something else there.
    if (op !== OP.CFGI_STE_RANGE || this.#range.w1 !== w1 || this.#range.w2 !== w2) this.#range.begun = false;
    this.#range.w1 = w1;
    this.#range.w2 = w2;
    const outcome = this.#execute(op, cons, w0, w1, w2, w3);
    this.refusal = outcome === CERROR.ILL;
    return outcome;
  }

  refused(cons: number, w0: number, w1: number, w2: number, w3: number): void {
    if (cmdOp(w0) !== OP.SYNC) this.#behind.set(cons, w0, w1, w2, w3);
  }

  #execute(op: Opcode, cons: number, w0: number, w1: number, w2: number, w3: number): number {
    // No default: the compiler asks for every command of the table.
    switch (op) {
      case OP.CFGI_STE:
        return this.#cfgiSte(cons, this.#sid(w1));
      case OP.CFGI_STE_RANGE:
        return this.#cfgiRange(cons, w1 >>> 0, cmdRange(w2));
      case OP.CFGI_CD:
      case OP.CFGI_CD_ALL:
        return this.#cfgiCd(cons, w0, w1, w2, w3);
      case OP.TLBI_NH_ALL:
      case OP.TLBI_NH_ASID:
        return this.#tlbi(cons, w0, w1, w2, w3);
      case OP.TLBI_NH_VA:
      case OP.TLBI_NH_VAA:
        return this.#tlbi(cons, w0, w1, this.#emptyRanges ? named(w0, w2) : w2, w3);
      case OP.TLBI_S12_VMALL:
        return this.#s12(cons, cmdVmid(w1));
      case OP.TLBI_S2_IPA:
        return this.#s2Ipa(w0, cmdVmid(w1), w2, w3);
      case OP.TLBI_NSNH_ALL:
        return this.#nsnh(cons);
      case OP.ATC_INV:
        return this.#atc(cons, w0, w1, w2, w3);
      case OP.PRI_RESP:
        return this.#priResp(w0, w1, w2);
      case OP.RESUME:
        return this.#resume(w0, w1, w2);
      case OP.STALL_TERM:
        return this.#stallTerm(w1);
      case OP.SYNC:
        return this.#sync(cons, w0, w1, w2, w3);
      case OP.PREFETCH_CONFIG:
      case OP.PREFETCH_ADDR:
        return DONE; // a hint: configuration and translations are fetched on first use
      case OP.TLBI_EL2_ALL:
      case OP.TLBI_EL2_ASID:
      case OP.TLBI_EL2_VA:
      case OP.TLBI_EL2_VAA:
      case OP.TLBI_EL3_ALL:
      case OP.TLBI_EL3_VA:
        return DONE; // no stream translates for EL2 or EL3, so nothing of theirs is cached
      case OP.CFGI_VMS_PIDM:
        return DONE; // no MPAM: never legal
    }
  }

  /** Functions have ATS invalidations that they have not answered. */
  get #unanswered(): boolean {
    return (this.#core.deps.upcalls?.outstanding(this.#c.handlers) ?? 0) > 0;
  }

  /** What changes configuration is ordered behind the invalidations before it. */
  #before(): boolean {
    return this.#c.batch.empty || this.#c.batch.flush();
  }

  #cfgiSte(cons: number, sid: number): number {
    this.#core.work.spend(STREAM_WORK);
    return this.#refresh(cons, sid);
  }

  /**
   * One StreamID's entry again. One that says what it said makes the hardware look at its CDs again, in order with the
   * invalidations before it; another one has to wait for them.
   */
  #refresh(cons: number, sid: number): number {
    const { streams, batch } = this.#c;
    const s = streams.bySid(sid);
    if (s === undefined) return DONE;
    if (!streams.says(s)) {
      if (!this.#before()) return REFUSED;
      const r = streams.invalidate(sid);
      if (r !== UNCHANGED) return r < 0 ? CERROR.ILL : DONE;
    }
    return batch.add(s.vdeviceIn!.viommuId, cons, OP.CFGI_CD_ALL, sid, 0, 0) ? DONE : REFUSED;
  }

  /**
   * Goes on after a failure of its own, so that one bad stream does not keep the others from being seen. Not when a command
   * before it was refused: that one is the guest's to acknowledge first, and this one has then not begun.
   */
  #cfgiRange(cons: number, sid: number, range: number): number {
    const span = range === RANGE_ALL ? 0x1_0000_0000 : 2 ** (range + 1);
    const first = sid - (sid % span);
    const { work } = this.#core;
    const { list } = this.#c.streams;
    const hand = this.#range;
    if (!hand.begun) work.operation();
    if (!hand.begun) hand.failed = DONE;
    hand.begun = true;
    for (let i = 0; i < list.length; i++) {
      const s = list[i]!;
      if (s.round === work.round || s.sid < first || s.sid >= first + span) continue;
      if (work.over) return AGAIN;
      s.round = work.round;
      work.spend(STREAM_WORK);
      let outcome = this.#refresh(cons, s.sid);
      if (outcome !== DONE) hand.failed = outcome;
      // The host refused to look at the CDs of a stream before it: this one has not been seen yet.
      if (outcome === REFUSED && this.refusedAt === cons) outcome = this.#refresh(cons, s.sid);
      if (outcome !== DONE) hand.failed = outcome;
      if (outcome === REFUSED && this.refusedAt !== cons) break;
    }
    hand.begun = false;
    return hand.failed;
  }

  /** Without stage 1, QEMU refuses it for functions that are there; its host bridge, StreamID 0, counts as one. */
  #cfgiCd(cons: number, w0: number, w1: number, w2: number, w3: number): number {
    const sid = this.#sid(w1);
    const there = sid === 0 || this.#c.streams.bySid(sid) !== undefined;
    if (!this.#core.features.s1p && there) return CERROR.ILL;
    return this.#stream(cons, w0, sid, w2, w3);
  }

  /** The StreamID that a command about configuration names. */
  #sid(w1: number): number {
    return this.#core.deviations.sidFolds ? w1 & 0xffff : w1 >>> 0;
  }

  /** Forwards a command that names a stream; a StreamID without a device is nothing. */
  #stream(cons: number, w0: number, w1: number, w2: number, w3: number): number {
    const s = this.#c.streams.bySid(w1 >>> 0);
    if (s === undefined || s.vdeviceIn === null) return DONE;
    return this.#c.batch.add(s.vdeviceIn.viommuId, cons, w0, w1, w2, w3) ? DONE : REFUSED;
  }

  #atc(cons: number, w0: number, w1: number, w2: number, w3: number): number {
    if (!this.#core.features.ats || !this.#core.registers.enabled(CR0.SMMUEN)) return DONE;
    // The last answer that is missing lets the queue go on.
    if (this.#unanswered && !this.#core.quotas.invalidations.room()) {
      return this.#before() ? WAIT : REFUSED;
    }
    return this.#stream(cons, w0, w1, w2, w3);
  }

  /** Stage-1 invalidations go to every vIOMMU of their VMID. */
  #tlbi(cons: number, w0: number, w1: number, w2: number, w3: number): number {
    const domains = this.#c.domains.of(this.#core.features.s2p ? cmdVmid(w1) : 0);
    return domains === undefined ? DONE : this.#each(domains, cons, w0, w1, w2, w3);
  }

  /** The host is called for each vIOMMU: all but the first are charged beside the command itself. */
  #each(domains: readonly Smmuv3Domain[], cons: number, w0: number, w1: number, w2: number, w3: number): number {
    this.#core.work.spend(Math.max(domains.length - 1, 0));
    for (let i = 0; i < domains.length; i++) {
      const id = domains[i]!.viommuId;
      if (id > 0 && !this.#c.batch.add(id, cons, w0, w1, w2, w3)) return REFUSED;
    }
    return DONE;
  }

  /** Both stages of a VMID: shadows forget all, stage 1 goes as NH_ALL. */
  #s12(cons: number, vmid: number): number {
    const domains = this.#c.domains.of(vmid);
    if (domains === undefined) return DONE;
    if (!this.#before()) return REFUSED;
    const failed = this.#dropAll(domains);
    if (failed === null) return AGAIN;
    const r = this.#each(domains, cons, OP.TLBI_NH_ALL, vmid, 0, 0);
    return failed ? CERROR.ILL : r;
  }

  /** Empties shadows, as far as the budget goes. @returns whether the host refused one; null: there is more. */
  #dropAll(domains: readonly Smmuv3Domain[]): boolean | null {
    const { work } = this.#core;
    let failed = false;
    for (let i = 0; i < domains.length; i++) {
      const { shadow } = domains[i]!;
      if (shadow === null || shadow.size === 0) continue;
      if (work.over) return null;
      if (shadow.dropSome(work) < 0) failed = true;
      else if (shadow.size > 0) return null;
    }
    return failed;
  }

  /** Stage 2 only matters where the guest owns one. */
  #s2Ipa(w0: number, vmid: number, w2: number, w3: number): number {
    const domains = this.#c.domains.of(vmid);
    if (domains === undefined) return DONE;
    const { work } = this.#core;
    work.operation();
    const from = cmdIpa(w2, w3);
    let bytes = 4096;
    if (this.#core.features.ril && cmdTg(w2) !== 0) {
      bytes = (cmdNum(w0) + 1) * 2 ** (cmdScale(w0) + RANGE_GRANULE[cmdTg(w2) as 0 | 1 | 2 | 3]);
    }
    let failed = false;
    for (let i = 0; i < domains.length; i++) {
      const { shadow } = domains[i]!;
      if (shadow === null) continue;
      if (!this.#before()) return REFUSED;
      if (shadow.drop(from, from + bytes, work) < 0) failed = true;
      if (work.unfinished) return AGAIN;
    }
    return failed ? CERROR.ILL : DONE;
  }

  #nsnh(cons: number): number {
    if (!this.#before()) return REFUSED;
    const { all } = this.#c.domains;
    const failed = this.#dropAll(all);
    if (failed === null) return AGAIN;
    const r = this.#each(all, cons, OP.TLBI_NSNH_ALL, 0, 0, 0);
    return failed && r === DONE ? CERROR.ILL : r;
  }

  #priResp(w0: number, w1: number, w2: number): number {
    const s = this.#c.streams.bySid(w1 >>> 0);
    if (s === undefined || !this.#core.features.pri || !this.#core.registers.enabled(CR0.SMMUEN)) return DONE;
    if (!this.#before()) return REFUSED;
    const pasid = (w0 & SSV) !== 0 ? cmdSsid(w0) : NO_PASID;
    const code = PRG_BY_RESP[cmdResp(w2) as 0 | 1 | 2] ?? PRG.FAILURE;
    return this.#c.pageRequests.answered(s, pasid, cmdGroup(w2), code) < 0 ? CERROR.ILL : DONE;
  }

  #resume(w0: number, w1: number, w2: number): number {
    const s = this.#c.streams.bySid(w1 >>> 0);
    if (s === undefined || this.#core.features.stallModel === 1) return DONE;
    if (!this.#before()) return REFUSED;
    // Abort and terminate are the same where TERM_MODEL=1; retry looks at the tables again.
    const code = (w0 & RESUME_AC) !== 0 ? PRG.SUCCESS : (w0 & RESUME_AB) !== 0 ? PRG.FAILURE : PRG.INVALID;
    return this.#c.stalls.answer(s, cmdStag(w2), code) < 0 ? CERROR.ILL : DONE;
  }

  #stallTerm(w1: number): number {
    const s = this.#c.streams.bySid(w1 >>> 0);
    if (s !== undefined) this.#c.stalls.terminate(s);
    return DONE;
  }

  /**
   * The guest went on behind a command that the host refused, as Linux does. Nothing that it may have named is used behind a
   * CMD_SYNC: streams whose entries were refused have nothing, and all that is cached goes.
   */
  #forgetSkipped(cons: number): number {
    const { streams, batch } = this.#c;
    const { features } = this.#core;
    const dropped = streams.dropRefused();
    const r = this.#nsnh(cons);
    if (r !== DONE || dropped < 0) return r !== DONE ? r : CERROR.ILL;
    for (const { sid, vdeviceIn } of streams.list) {
      if (vdeviceIn === null) continue;
      const { viommuId } = vdeviceIn;
      if (!batch.add(viommuId, cons, OP.CFGI_CD_ALL, sid, 0, 0)) return CERROR.ILL;
      if (!features.ats) continue;
      if (!batch.add(viommuId, cons, OP.ATC_INV, sid, ATC_SIZE_ALL, 0)) return CERROR.ILL;
      // A request without PASID need not reach entries with one.
      if (features.ssidSize === 0) continue;
      if (!batch.add(viommuId, cons, OP.ATC_INV | SSV | ATC_GLOBAL, sid, ATC_SIZE_ALL, 0)) return CERROR.ILL;
    }
    if (!batch.flush()) return CERROR.ILL;
    this.#behind.clear();
    return DONE;
  }

  /** Completes once everything before it has, completions from endpoints included. Not while the host's SMMU refuses to forget. */
  #sync(cons: number, w0: number, w1: number, w2: number, w3: number): number {
    if (!this.#before()) return REFUSED;
    if (this.#unanswered) return WAIT;
    if (this.#behind.skipped) {
      const forgotten = this.#forgetSkipped(cons);
      if (forgotten !== DONE) return forgotten;
    }
    // What the SMMU has refused to forget may still be in use.
    if (this.#core.confirm.ask() < 0) return CERROR.ILL;
    // Both may have told functions to forget, and those answer later.
    if (this.#unanswered) return WAIT;
    if (this.timedOut) {
      this.timedOut = false;
      return CERROR.ATC_INV_SYNC;
    }
    const cs = syncCs(w0);
    if (cs === SYNC_CS.IRQ || cs === 3) this.#core.interrupts.sync(syncMsiAddress(w2, w3), w1);
    return DONE;
  }
}
