import { AskedRequests } from '../../src/lib/limits/asked-requests.ts';
import { ringEmpty, ringFull, ringMask, ringNext, ringSlot } from '../../src/lib/queue/ring.ts';
import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isAnswerRefused } from '../../src/lib/uapi/refusals.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { FAILURE_STEP, type FailureSource } from '../../src/ports/failures.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { HostUpcalls } from '../../src/ports/upcalls.ts';
import { PRG } from '../../src/spec/pcie/messages.ts';
import { PRI_BYTES, PRI1 } from '../../src/spec/smmuv3/events.ts';
import { CR0, GERROR, PAGE0, PAGE1 } from '../../src/spec/smmuv3/registers.ts';
import { stePpar } from '../../src/spec/smmuv3/ste.ts';
import type { Smmuv3Core } from './core.ts';
import { QUEUE_LOG2_MAX } from './identity.ts';
import type { Smmuv3Interrupts } from './interrupts.ts';
import type { Smmuv3Registers } from './registers.ts';
import type { Smmuv3Stream } from './stream.ts';
import type { Smmuv3Tables } from './tables.ts';

const OVERFLOW = 1 << 31;
/** What CMD_PRI_RESP.Resp 0, 1, 2 (IHI 0070 §4.5.2) answers the function. */
export const PRG_BY_RESP = [PRG.FAILURE, PRG.INVALID, PRG.SUCCESS] as const;

/** The page request queue's producer side (IHI 0070 §8). */
export class Smmuv3PageRequests {
  readonly #regs: Smmuv3Registers;
  readonly #memory: Memory;
  readonly #source: FailureSource | null;
  readonly #interrupts: Smmuv3Interrupts;
  readonly #upcalls: HostUpcalls | null;
  readonly #refusals: Smmuv3Core['refusals'];
  readonly #tables: Smmuv3Tables;
  /** Requests in the guest's queue that it has not answered. */
  readonly #asked: AskedRequests;
  /** IDR3.PPS: automatic answers repeat the PASID whatever the entry says. */
  readonly #pps: boolean;

  constructor(core: Smmuv3Core, tables: Smmuv3Tables) {
    this.#tables = tables;
    this.#asked = new AskedRequests(core.quotas.pageRequests);
    this.#pps = core.features.pps;
    this.#regs = core.registers;
    this.#memory = core.deps.memory;
    this.#source = core.deps.failures ?? null;
    this.#interrupts = core.interrupts;
    this.#upcalls = core.deps.upcalls;
    this.#refusals = core.refusals;
  }

  /** A request message arrived. @param raw 4 words as the hardware wrote them; the guest's StreamID replaces the physical. */
  receive(s: Smmuv3Stream, raw: Int32Array): void {
    const flags = raw[1]!;
    const last = (flags & PRI1.LAST) !== 0;
    const on = CR0.SMMUEN | CR0.PRIQEN;
    const ready = (this.#regs.get(PAGE0.CR0.at) & on) === on && !this.#interrupts.active(GERROR.PRIQ_ABT_ERR);
    if (!ready) {
      // Every request that nobody can take is refused, also inside a group; a stop marker is never answered (IHI 0070 §8.2).
      if (!stopMarker(flags)) this.#answer(s, raw, PRG.FAILURE, false);
      return;
    }
    const log2 = Math.min(this.#regs.get(PAGE0.PRIQ_BASE.at) & 31, QUEUE_LOG2_MAX);
    const prod = this.#regs.get(PAGE1.PRIQ_PROD.at);
    const cons = this.#regs.get(PAGE1.PRIQ_CONS.at);
    const overflowing = ((prod ^ cons) & OVERFLOW) !== 0;
    const full = ringFull(prod, cons, log2) || this.#source?.failures?.fails(FAILURE_STEP.QUEUE) === true;
    if (overflowing || full) {
      if (!overflowing) this.#regs.set(PAGE1.PRIQ_PROD.at, prod ^ OVERFLOW);
      if (last && !stopMarker(flags)) this.#overflowed(s, raw);
      if (last && this.#interruptPerLast()) this.#interrupts.pageRequestQueue();
      return;
    }
    const base = this.#regs.address(PAGE0.PRIQ_BASE.at, 5);
    const at = base - (base % (PRI_BYTES * 2 ** log2)) + ringSlot(prod, log2) * PRI_BYTES;
    if (!this.#memory.store64(at, s.sid, flags) || !this.#memory.store64(at + 8, raw[2]!, raw[3]!)) {
      this.#interrupts.raise(GERROR.PRIQ_ABT_ERR);
      if (!stopMarker(flags)) this.#answer(s, raw, PRG.FAILURE, false);
      return;
    }
    this.#regs.set(PAGE1.PRIQ_PROD.at, (prod & ~ringMask(log2)) | ringNext(prod, log2));
    if (!stopMarker(flags)) this.#waits(s, flags, raw[2]! & 0x1ff);
    if (this.#interruptPerLast() ? last : ringEmpty(prod, cons, log2)) this.#interrupts.pageRequestQueue();
  }

  /** The request waits for the guest now. When too many do, the oldest is answered for it. */
  #waits(s: Smmuv3Stream, flags: number, group: number): void {
    const pasid = (flags & PRI1.SSV) !== 0 ? flags & 0xf_ffff : NO_PASID;
    const from = { devId: s.vfio.devId, index: s.index };
    const oldest = this.#asked.add({ rid: s.sid, pasid, group, host: pasid, from });
    if (oldest?.from === undefined) return;
    const { devId, index } = oldest.from;
    this.#respond(devId, oldest.pasid, oldest.group, PRG.INVALID, index);
  }

  /**
   * CMD_PRI_RESP. @param pasid NO_PASID: the answer is for the group, whatever PASID was asked for.
   * @returns 0, or -errno: the host refuses, and the request still waits.
   */
  answered(s: Smmuv3Stream, pasid: number, group: number, code: number): VerbOutcome {
    const answered = this.#respond(s.vfio.devId, pasid, group, code, s.index);
    if (isAnswerRefused(answered)) return answered;
    if (this.#asked.take(s.sid, pasid, group) === undefined && pasid === NO_PASID) this.#asked.takeGroup(s.sid, group);
    return 0;
  }

  /** Nothing of a stream, or of none, will be answered any more: its device is gone, or the SMMU was reset. */
  forget(sid?: number): void {
    this.#asked.forget(sid);
  }

  /** PRIQ_IRQ_CFG2.LO. */
  #interruptPerLast(): boolean {
    return this.#regs.get(PAGE0.PRIQ_IRQ_CFG2.at) < 0;
  }

  /** The last request of a group that found no room: it may be made again, unless the stream has no valid entry. */
  #overflowed(s: Smmuv3Stream, raw: Int32Array): void {
    const unset = s.state === 'unset' || s.state === 'policy';
    if (unset && this.#tables.lookup(s.sid) !== 0) {
      this.#answer(s, raw, PRG.FAILURE, false);
      return;
    }
    const ste = unset ? this.#tables.ste : s.ste;
    this.#answer(s, raw, PRG.SUCCESS, this.#pps || stePpar(ste, 0) !== 0);
  }

  /** An automatic answer. @param withPasid it repeats the PASID of a request that has one (IDR3.PPS, STE.PPAR). */
  #answer(s: Smmuv3Stream, raw: Int32Array, code: number, withPasid: boolean): void {
    const pasid = withPasid && (raw[1]! & PRI1.SSV) !== 0 ? raw[1]! & 0xf_ffff : NO_PASID;
    this.#respond(s.vfio.devId, pasid, raw[2]! & 0x1ff, code, s.index);
  }

  #respond(devId: number, pasid: number, group: number, code: number, index: number): VerbOutcome {
    const answered = this.#upcalls?.respond(devId, pasid, group, code, false, index) ?? 0;
    this.#refusals.note('page response', answered);
    return answered;
  }
}

/** Last=1, R=W=0, with a PASID. */
function stopMarker(flags: number): boolean {
  return (flags & (PRI1.LAST | PRI1.READ | PRI1.WRITE | PRI1.SSV)) === (PRI1.LAST | PRI1.SSV);
}
