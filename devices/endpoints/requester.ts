import {
  AtsCapability,
  type AtsOptions,
  PasidCapability,
  type PasidOptions,
  PriCapability,
  type PriOptions,
} from '../../src/lib/pci/ats.ts';
import type { ConfigSpace } from '../../src/lib/pci/config-space.ts';
import type { Clock } from '../../src/ports/clock.ts';
import { ACCESS, AT, ATS, DMA, NO_PASID } from '../../src/ports/dma.ts';
import type { Upstream } from '../../src/ports/pci.ts';
import { HEADER, STATUS } from '../../src/spec/pcie/header.ts';
import { PRG, rangeShift } from '../../src/spec/pcie/messages.ts';
import { Atc, type AtcState } from './atc.ts';

export interface RequesterOptions {
  /** null: the function has no ATS. */
  readonly ats: AtsOptions | null;
  readonly pri: PriOptions | null;
  readonly pasid: PasidOptions | null;
  /** Entries of the ATC. */
  readonly atc?: number;
  /** Never sends an untranslated request while ATS is enabled, not even where the completion says U. */
  readonly translatedOnly?: boolean;
}

/** Outcomes beside the DMA values: the page is not there, and the function could ask for it. */
export const PAGE_FAULT = 16;

/** No translation to be had by ATS here: the request goes untranslated. */
const GO_UNTRANSLATED = 17;

/** Page request groups are named by 9 bits. */
const GROUPS = 512;

interface Waiting {
  readonly pasid: number;
  readonly done: (code: number) => void;
}

export interface RequesterState {
  readonly atc: AtcState;
  readonly nextGroup: number;
}

/**
 * The memory side of a function: requests with or without PASID, translated by its own ATC when ATS is on; invalidations
 * answered; page requests asked and matched with their responses.
 */
export class Requester {
  readonly atc: Atc;
  readonly ats: AtsCapability | null;
  readonly pri: PriCapability | null;
  readonly pasid: PasidCapability | null;
  upstream: Upstream | null = null;
  /** Address of the last PAGE_FAULT or failed request, and how many bytes before it were moved. */
  faultLo = 0;
  faultHi = 0;
  done = 0;
  /** Group of the last page request. */
  group = -1;
  /** ATC hits and translation requests so far. */
  hits = 0;
  requests = 0;
  /** Invalidations that must wait: translated requests on the wire that used what they drop. */
  #busy = 0;
  #held: (() => void)[] = [];
  /** Counts resets: what left before one never arrives. */
  #epoch = 0;
  readonly #translatedOnly: boolean;
  readonly #config: ConfigSpace;
  readonly #waiting = new Map<number, Waiting>();
  #nextGroup = 0;

  constructor(config: ConfigSpace, options: RequesterOptions) {
    this.atc = new Atc(options.ats === null ? 0 : (options.atc ?? 64));
    this.#translatedOnly = options.translatedOnly === true;
    this.#config = config;
    // A re-enabled function must not find translations from before.
    this.ats = options.ats === null ? null : new AtsCapability(config, options.ats, () => this.atc.clear());
    this.pri = options.pri === null ? null : new PriCapability(config, options.pri, () => this.#forget());
    this.pasid = options.pasid === null ? null : new PasidCapability(config, options.pasid);
  }

  /** Everything in flight is given up: reset, FLR or unplugging. */
  reset(): void {
    this.#epoch++;
    this.atc.clear();
    this.#forget();
    const held = this.#held;
    this.#held = [];
    this.#busy = 0;
    for (const complete of held) complete();
  }

  #forget(): void {
    this.#waiting.clear();
  }

  read(pasid: number, lo: number, hi: number, into: Uint8Array, start: number, count: number, more = 0): number {
    const outcome = this.#access(pasid, lo, hi, ACCESS.READ | more, into, start, count);
    // Reads have completions to be refused by; of a write's end a function never hears.
    if (outcome === DMA.ABORT) {
      const status = this.#config.get(HEADER.STATUS, 2);
      this.#config.set(HEADER.STATUS, 2, status | STATUS.RECEIVED_TARGET_ABORT);
    }
    return outcome;
  }

  write(pasid: number, lo: number, hi: number, from: Uint8Array, start: number, count: number, more = 0): number {
    return this.#access(pasid, lo, hi, ACCESS.WRITE | more, from, start, count);
  }

  /** @returns a DMA value or PAGE_FAULT; `done`, `faultLo` and `faultHi` tell how far it came. */
  #access(
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    bytes: Uint8Array,
    start: number,
    count: number,
  ): number {
    const up = this.upstream;
    this.done = 0;
    this.faultLo = lo;
    this.faultHi = hi;
    if (up === null) return DMA.ABORT;
    if (this.ats === null || !this.ats.enabled)
      return this.#untranslated(up, pasid, lo, hi, access, bytes, start, count);
    let left = count;
    while (left > 0) {
      const outcome = this.#translate(up, pasid, lo, hi, access);
      if (outcome === GO_UNTRANSLATED) {
        // Untranslated requests only: the rest of this page goes as it is.
        const n = Math.min(left, 4096 - (lo & 4095));
        const before = this.done;
        const result = this.#untranslated(up, pasid, lo, hi, access, bytes, start + before, n);
        this.done += before;
        if (result !== DMA.OK) return result;
        left -= n;
        const next = (lo >>> 0) + n;
        lo = next | 0;
        if (next >= 0x1_0000_0000) hi = (hi + 1) | 0;
        continue;
      }
      if (outcome !== DMA.OK) {
        this.faultLo = lo;
        this.faultHi = hi;
        return outcome;
      }
      // One request per page: what is behind the first page may have been invalidated meanwhile.
      const n = Math.min(left, 4096 - (lo & 4095));
      const out = this.atc.out;
      const ol = out | 0;
      const oh = (out / 0x1_0000_0000) | 0;
      const at = start + this.done;
      const result =
        (access & ACCESS.WRITE) !== 0
          ? up.write(NO_PASID, ol, oh, access, AT.TRANSLATED, bytes, at, n)
          : up.read(NO_PASID, ol, oh, access, AT.TRANSLATED, bytes, at, n);
      if (result !== DMA.OK) {
        this.faultLo = lo;
        this.faultHi = hi;
        return result;
      }
      this.done += n;
      left -= n;
      const next = (lo >>> 0) + n;
      lo = next | 0;
      if (next >= 0x1_0000_0000) hi = (hi + 1) | 0;
    }
    return DMA.OK;
  }

  #untranslated(
    up: Upstream,
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    bytes: Uint8Array,
    start: number,
    count: number,
  ): number {
    const result =
      (access & ACCESS.WRITE) !== 0
        ? up.write(pasid, lo, hi, access, AT.UNTRANSLATED, bytes, start, count)
        : up.read(pasid, lo, hi, access, AT.UNTRANSLATED, bytes, start, count);
    this.done = up.done;
    if (result !== DMA.OK && result !== DMA.RAZ_WI) {
      const at = (lo >>> 0) + up.done;
      this.faultLo = at | 0;
      this.faultHi = at >= 0x1_0000_0000 ? (hi + 1) | 0 : hi;
      return result;
    }
    return DMA.OK;
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
      this.atc.out = out - (out % 4096) + (lo & 4095);
      this.atc.perm = perm;
    }
    return DMA.OK;
  }

  /**
   * A write inside one page that arrives `flight` nanoseconds after it left. A translated one carries the translation of
   * the moment it left, so invalidations complete only behind it.
   * @param done gets the outcome (a DMA value or PAGE_FAULT); not called when the function is reset meanwhile.
   */
  writeLater(
    clock: Clock,
    flight: number,
    pasid: number,
    lo: number,
    hi: number,
    bytes: Uint8Array,
    done: (outcome: number) => void,
  ): void {
    const epoch = this.#epoch;
    const arrive = (send: () => number, landed: () => void) =>
      clock.after(flight, () => {
        if (epoch !== this.#epoch) return;
        const outcome = send();
        landed();
        done(outcome);
      });
    const up = this.upstream;
    let outcome: number = GO_UNTRANSLATED;
    if (up !== null && this.ats?.enabled === true) outcome = this.#translate(up, pasid, lo, hi, ACCESS.WRITE);
    if (outcome === GO_UNTRANSLATED) {
      arrive(
        () => (up === null ? DMA.ABORT : this.#untranslated(up, pasid, lo, hi, ACCESS.WRITE, bytes, 0, bytes.length)),
        () => {},
      );
      return;
    }
    if (outcome !== DMA.OK) {
      this.faultLo = lo;
      this.faultHi = hi;
      arrive(
        () => outcome,
        () => {},
      );
      return;
    }
    const out = this.atc.out;
    this.#busy++;
    arrive(
      () =>
        up!.write(NO_PASID, out | 0, (out / 0x1_0000_0000) | 0, ACCESS.WRITE, AT.TRANSLATED, bytes, 0, bytes.length),
      () => this.#landed(),
    );
  }

  #landed(): void {
    if (--this.#busy > 0) return;
    const held = this.#held;
    this.#held = [];
    for (const complete of held) complete();
  }

  /** @returns false: unsupported request. */
  invalidate(pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean {
    if (this.ats === null || !this.ats.enabled) return false;
    this.atc.invalidate(pasid, lo, hi, rangeShift(lo, hi), global && this.ats.globalInvalidate);
    const complete = () => this.upstream?.invalidateCompletion((2 ** itag) | 0, 1);
    if (this.#busy > 0) this.#held.push(complete);
    else complete();
    return true;
  }

  /**
   * Asks for one page.
   * @param access what is wanted. @param done gets the response code.
   * @returns false: the function may not ask (PRI off, allocation used up).
   */
  pageRequest(pasid: number, lo: number, hi: number, access: number, done: (code: number) => void): boolean {
    const pri = this.pri;
    if (pri === null || !pri.enabled || this.upstream === null) return false;
    if (this.#waiting.size >= Math.min(pri.allocation, GROUPS)) return false;
    while (this.#waiting.has(this.#nextGroup)) this.#nextGroup = (this.#nextGroup + 1) % GROUPS;
    const group = this.#nextGroup;
    this.#nextGroup = (group + 1) % GROUPS;
    this.#waiting.set(group, { pasid, done });
    this.group = group;
    this.upstream.pageRequest(pasid, lo & -4096, hi, access, group, true);
    return true;
  }

  /** After loading a saved state: whoever asked waits again. */
  awaitResponse(pasid: number, group: number, done: (code: number) => void): void {
    this.#waiting.set(group, { pasid, done });
  }

  /** Page requests without an answer. */
  get outstanding(): number {
    return this.#waiting.size;
  }

  pageResponse(pasid: number, group: number, code: number): void {
    const asked = this.#waiting.get(group);
    if (asked === undefined || (pasid !== NO_PASID && asked.pasid !== pasid)) {
      this.pri?.unexpectedIndex();
      return;
    }
    this.#waiting.delete(group);
    if (code !== PRG.SUCCESS && code !== PRG.INVALID) {
      this.pri?.responseFailure();
      const all = [...this.#waiting.values()];
      this.#waiting.clear();
      asked.done(PRG.FAILURE);
      for (const w of all) w.done(PRG.FAILURE);
      return;
    }
    asked.done(code);
  }

  save(): RequesterState {
    return { atc: this.atc.save(), nextGroup: this.#nextGroup };
  }

  load(state: RequesterState): void {
    this.atc.load(state.atc);
    this.#nextGroup = state.nextGroup;
  }
}
