import {
  AtsCapability,
  type AtsOptions,
  PasidCapability,
  type PasidOptions,
  PriCapability,
  type PriOptions,
} from '../../src/lib/pci/ats.ts';
import type { ConfigSpace } from '../../src/lib/pci/config-space.ts';
import { MemoryRequest } from '../../src/lib/pci/memory-request.ts';
import type { FormOf } from '../../src/lib/saved/state-form.ts';
import type { Clock } from '../../src/ports/clock.ts';
import { ACCESS, AT, ATS, DMA, NO_PASID } from '../../src/ports/dma.ts';
import type { Upstream } from '../../src/ports/pci.ts';
import { HEADER, STATUS } from '../../src/spec/pcie/header.ts';
import { rangeShift } from '../../src/spec/pcie/messages.ts';
import { Atc, type AtcState } from './atc.ts';
import { GROUPS, PageGroups } from './page-groups.ts';

/** Which of ATS, PRI and PASID a function has. */
export interface RequesterOptions {
  /** null: the function has no ATS. */
  readonly ats: AtsOptions | null;
  /** null: it cannot ask for pages. */
  readonly pri: PriOptions | null;
  /** null: it has no PASIDs. */
  readonly pasid: PasidOptions | null;
  /** Entries of the ATC: a power of two from 4 on, 0: nothing is kept (default 64). */
  readonly atc?: number;
  /** Never sends an untranslated request while ATS is enabled, not even where the completion says U. */
  readonly translatedOnly?: boolean;
}

/** Outcomes beside the DMA values: the page is not there, and the function could ask for it. */
export const PAGE_FAULT = 16;

/** No translation to be had by ATS here: the request goes untranslated. */
const GO_UNTRANSLATED = 17;

const PAGE = 4096;

/** Saved state of `Requester`. Page requests that wait are their owners' to wait for again (`awaitResponse`). */
export interface RequesterState {
  readonly atc: AtcState;
  readonly nextGroup: number;
}

/** A write that arrives some time after it left. */
export interface LateWrite {
  /** The machine's clock. */
  readonly clock: Clock;
  /** Nanoseconds it is on its way. */
  readonly flight: number;
  /** NO_PASID or a PASID. */
  readonly pasid: number;
  /** Address, low word. */
  readonly lo: number;
  /** Address, high word. */
  readonly hi: number;
  /** Inside one page. */
  readonly bytes: Uint8Array;
}

/**
 * The memory side of a function: requests with or without PASID, translated by its own ATC when ATS is on; invalidations
 * answered; page requests asked and matched with their responses.
 */
export class Requester {
  /** Translations it holds. */
  readonly atc: Atc;
  /** The function's ATS capability; null: it has none. */
  readonly ats: AtsCapability | null;
  /** PRI capability; null: none. */
  readonly pri: PriCapability | null;
  /** PASID capability; null: none. */
  readonly pasid: PasidCapability | null;
  /** The way up; null while the function is not plugged in. */
  upstream: Upstream | null = null;
  /** Address of the last PAGE_FAULT or failed request, and how many bytes before it were moved. */
  faultLo = 0;
  /** High word of `faultLo`'s address. */
  faultHi = 0;
  /** Bytes the last request moved. */
  done = 0;
  /** Why the last request was not sent at all (then it is a DMA.ABORT): its PASID is none of the function's; null: it was. */
  refusal: string | null = null;
  /** Accesses that found their translation in the ATC, and translation requests, so far. */
  hits = 0;
  /** Translation requests so far. */
  requests = 0;
  /** Translated requests on the wire, and the invalidations that wait for them: they may have used what those drop. */
  #busy = 0;
  #held: (() => void)[] = [];
  /** Counts resets: what left before one never arrives. */
  #epoch = 0;
  readonly #translatedOnly: boolean;
  readonly #config: ConfigSpace;
  readonly #groups: PageGroups | null;
  /** Used again by the next request; null while one is under way, because a write may come back to the same function. */
  #idle: MemoryRequest | null = new MemoryRequest();

  /** Adds the capabilities to `config`. */
  constructor(config: ConfigSpace, options: RequesterOptions) {
    this.atc = new Atc(options.ats === null ? 0 : (options.atc ?? 64));
    this.#translatedOnly = options.translatedOnly === true;
    this.#config = config;
    // A re-enabled function must not find translations from before.
    this.ats = options.ats === null ? null : new AtsCapability(config, options.ats, () => this.atc.clear());
    this.pri = options.pri === null ? null : new PriCapability(config, options.pri, () => this.#groups?.clear());
    this.#groups = this.pri === null ? null : new PageGroups(this.pri);
    this.pasid = options.pasid === null ? null : new PasidCapability(config, options.pasid);
  }

  /** Everything in flight is given up: reset, FLR or unplugging. */
  reset(): void {
    this.#epoch++;
    this.atc.clear();
    this.#groups?.clear();
    this.#busy = 0;
    this.#complete();
  }

  /**
   * Reads `count` bytes into `into` from `start` on. @param pasid NO_PASID or 0 … 2^20-1. @param more ACCESS bits beside
   * READ. @returns a DMA value, PAGE_FAULT; `done`, `faultLo` and `faultHi` tell how far it came.
   */
  read(pasid: number, lo: number, hi: number, into: Uint8Array, start: number, count: number, more = 0): number {
    const r = this.#request(pasid, lo, hi, ACCESS.READ | more);
    r.bytes = into;
    r.start = start;
    r.left = count;
    const outcome = this.#move(r);
    // Reads have completions to be refused by; of a write's end a function never hears.
    if (outcome === DMA.ABORT) {
      const status = this.#config.get(HEADER.STATUS, 2);
      this.#config.set(HEADER.STATUS, 2, status | STATUS.RECEIVED_TARGET_ABORT);
    }
    return outcome;
  }

  /** Writes `count` bytes of `from` from `start` on; see `read`. */
  write(pasid: number, lo: number, hi: number, from: Uint8Array, start: number, count: number, more = 0): number {
    const r = this.#request(pasid, lo, hi, ACCESS.WRITE | more);
    r.bytes = from;
    r.start = start;
    r.left = count;
    return this.#move(r);
  }

  /** Whether requests of the function can carry a PASID: one within the width of its capability. */
  #may(pasid: number): boolean {
    if (pasid === NO_PASID) {
      this.refusal = null;
      return true;
    }
    const limit = this.pasid?.limit ?? 0;
    const may = pasid >= 0 && pasid < limit;
    if (may) this.refusal = null;
    else if (limit === 0) this.refusal = `PASID ${pasid}: the function has no PASID capability`;
    else this.refusal = `PASID ${pasid}: the function's PASIDs are 0 to ${limit - 1}, by the width of its capability`;
    return may;
  }

  #request(pasid: number, lo: number, hi: number, access: number): MemoryRequest {
    const r = this.#idle ?? new MemoryRequest();
    this.#idle = null;
    r.write = (access & ACCESS.WRITE) !== 0;
    r.pasid = pasid;
    r.lo = lo;
    r.hi = hi;
    r.access = access;
    return r;
  }

  #move(r: MemoryRequest): number {
    const up = this.upstream;
    this.done = 0;
    this.faultLo = r.lo;
    this.faultHi = r.hi;
    let result: number = DMA.ABORT;
    if (this.#may(r.pasid) && up !== null)
      result = this.ats?.enabled === true ? this.#pages(up, r) : this.#untranslated(up, r, r.left);
    this.#idle = r;
    return result;
  }

  /** One request per page: what is behind the first page may have been invalidated meanwhile. */
  #pages(up: Upstream, r: MemoryRequest): number {
    while (r.left > 0) {
      const n = Math.min(r.left, PAGE - (r.lo & (PAGE - 1)));
      const found = this.#translate(up, r.pasid, r.lo, r.hi, r.access);
      if (found === GO_UNTRANSLATED) {
        const result = this.#untranslated(up, r, n);
        if (result !== DMA.OK) return result;
      } else {
        const result = found === DMA.OK ? this.#translated(up, r, n) : found;
        if (result !== DMA.OK) {
          this.faultLo = r.lo;
          this.faultHi = r.hi;
          return result;
        }
        this.done += n;
      }
      r.advance(n);
    }
    return DMA.OK;
  }

  /** Sends the next `n` bytes to where `atc.out` says. */
  #translated(up: Upstream, r: MemoryRequest, n: number): number {
    const lo = this.atc.out | 0;
    const hi = (this.atc.out / 0x1_0000_0000) | 0;
    return r.write
      ? up.write(NO_PASID, lo, hi, r.access, AT.TRANSLATED, r.bytes, r.start, n)
      : up.read(NO_PASID, lo, hi, r.access, AT.TRANSLATED, r.bytes, r.start, n);
  }

  /** Sends the next `n` bytes as they are. */
  #untranslated(up: Upstream, r: MemoryRequest, n: number): number {
    const result = r.write
      ? up.write(r.pasid, r.lo, r.hi, r.access, AT.UNTRANSLATED, r.bytes, r.start, n)
      : up.read(r.pasid, r.lo, r.hi, r.access, AT.UNTRANSLATED, r.bytes, r.start, n);
    this.done += up.done;
    if (result === DMA.OK || result === DMA.RAZ_WI) return DMA.OK;
    const at = (r.lo >>> 0) + up.done;
    this.faultLo = at | 0;
    this.faultHi = at >= 0x1_0000_0000 ? (r.hi + 1) | 0 : r.hi;
    return result;
  }

  /**
   * Looks the address up in the ATC and asks the IOMMU when it is not there with enough permission.
   * @returns OK: `atc.out` is valid; PAGE_FAULT: no (or too weak a) mapping; ABORT: refused; or GO_UNTRANSLATED.
   */
  #translate(up: Upstream, pasid: number, lo: number, hi: number, access: number): number {
    if (this.atc.lookup(pasid, lo, hi) && (access & ~this.atc.perm & 7) === 0) {
      this.hits++;
      return DMA.OK;
    }
    this.requests++;
    const status = up.translationRequest(pasid, lo, hi, access);
    if (status === ATS.UR) return this.#translatedOnly ? DMA.ABORT : GO_UNTRANSLATED;
    if (status !== ATS.SUCCESS) return DMA.ABORT;
    if ((access & ~up.atsPerm & 7) !== 0) return PAGE_FAULT;
    if (up.atsUntranslated) return this.#translatedOnly ? DMA.ABORT : GO_UNTRANSLATED;
    const out = (up.atsHi >>> 0) * 0x1_0000_0000 + (up.atsLo >>> 0);
    const perm = up.atsPerm & ~ACCESS.PRIV;
    this.atc.insert(pasid, lo, hi, out, up.atsShift, perm, false);
    if (!this.atc.lookup(pasid, lo, hi)) {
      // An ATC of no entries keeps nothing: the completion serves this one access.
      this.atc.out = out - (out % PAGE) + (lo & (PAGE - 1));
      this.atc.perm = perm;
    }
    return DMA.OK;
  }

  /**
   * A write that arrives later. A translated one carries the translation of the moment it left, so invalidations complete
   * only behind it.
   * @param done gets the outcome (a DMA value or PAGE_FAULT); not called when the function is reset meanwhile.
   */
  writeLater(w: LateWrite, done: (outcome: number) => void): void {
    const { pasid, lo, hi, bytes } = w;
    const epoch = this.#epoch;
    const arrive = (send: () => number) =>
      w.clock.after(w.flight, () => {
        if (epoch === this.#epoch) done(send());
      });
    const up = this.upstream;
    let outcome: number = this.#may(pasid) ? GO_UNTRANSLATED : DMA.ABORT;
    if (outcome === GO_UNTRANSLATED && up !== null && this.ats?.enabled === true)
      outcome = this.#translate(up, pasid, lo, hi, ACCESS.WRITE);
    if (outcome === GO_UNTRANSLATED) {
      arrive(() => {
        const r = this.#request(pasid, lo, hi, ACCESS.WRITE);
        r.bytes = bytes;
        r.start = 0;
        r.left = bytes.length;
        this.done = 0;
        const result = up === null ? DMA.ABORT : this.#untranslated(up, r, r.left);
        this.#idle = r;
        return result;
      });
      return;
    }
    if (outcome !== DMA.OK) {
      this.faultLo = lo;
      this.faultHi = hi;
      arrive(() => outcome);
      return;
    }
    const ol = this.atc.out | 0;
    const oh = (this.atc.out / 0x1_0000_0000) | 0;
    this.#busy++;
    arrive(() => {
      const result = up!.write(NO_PASID, ol, oh, ACCESS.WRITE, AT.TRANSLATED, bytes, 0, bytes.length);
      if (--this.#busy === 0) this.#complete();
      return result;
    });
  }

  /** The invalidations that had to wait are done. */
  #complete(): void {
    const held = this.#held;
    this.#held = [];
    for (const complete of held) complete();
  }

  /** An invalidation request for the function. @returns false: unsupported request. */
  invalidate(pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean {
    if (this.ats === null || !this.ats.enabled) return false;
    this.atc.invalidate(pasid, lo, hi, rangeShift(lo, hi), global && this.ats.globalInvalidate);
    if (this.#busy === 0) this.#answer(itag);
    else this.#answerLater(itag);
    return true;
  }

  #answer(itag: number): void {
    this.upstream?.invalidateCompletion(1 << itag, 1);
  }

  #answerLater(itag: number): void {
    this.#held.push(() => this.#answer(itag));
  }

  /** Group of the last page request; -1: there was none. */
  get group(): number {
    return this.#groups?.group ?? -1;
  }

  /** Page requests without an answer. */
  get outstanding(): number {
    return this.#groups?.outstanding ?? 0;
  }

  /** Asks for one page; see `PageGroups.ask`. @returns false: the function cannot or may not ask, or has no such PASID. */
  pageRequest(pasid: number, lo: number, hi: number, access: number, done: (code: number) => void): boolean {
    const { upstream } = this;
    return upstream !== null && this.#may(pasid) && this.#groups?.ask(upstream, pasid, lo, hi, access, done) === true;
  }

  /** After loading a saved state: whoever asked waits again. */
  awaitResponse(pasid: number, group: number, done: (code: number) => void): void {
    this.#groups?.await(pasid, group, done);
  }

  /** After loading a saved state: the request of a group that waits goes out once more, to an IOMMU that never saw it. */
  askAgain(pasid: number, lo: number, hi: number, access: number, group: number): void {
    this.upstream?.pageRequest(pasid, lo & -4096, hi, access, group, true);
  }

  /** The answer to a page request group. */
  pageResponse(pasid: number, group: number, code: number): void {
    this.#groups?.respond(pasid, group, code);
  }

  /** @internal What each field of a saved state may hold. */
  form(): FormOf<RequesterState> {
    return { members: { atc: this.atc.form(), nextGroup: { from: 0, to: this.#groups === null ? 0 : GROUPS - 1 } } };
  }

  /** ATC and the next group's number. */
  save(): RequesterState {
    return { atc: this.atc.save(), nextGroup: this.#groups?.next ?? 0 };
  }

  /** Goes back to a saved state. @param cold without the translations it had cached. */
  load(state: RequesterState, cold = false): void {
    if (cold) this.atc.clear();
    else this.atc.load(state.atc);
    if (this.#groups !== null) this.#groups.next = state.nextGroup;
  }
}
