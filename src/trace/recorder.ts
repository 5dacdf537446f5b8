import { toBigint } from '../core/bits.ts';
import { toBase64 } from '../lib/base64.ts';
import { ACCESS, AT, ATS, type AtsPort, DMA, NO_PASID, type TranslatePort } from '../ports/dma.ts';
import type { Backing } from '../ports/memory.ts';
import type { MmioDevice } from '../ports/mmio.ts';
import type { Said, Tell } from '../ports/tell.ts';
import { FollowedPages, type TableFollower } from './followed-pages.ts';
import type { IommuKind } from './header.ts';

const PAGE = 4096;

/** One event as the format has it (guest-fixtures/recordings/FORMAT.md): its members by their names. */
export type RecordedEvent = Readonly<Record<string, string | number | boolean | object>>;
type Event = RecordedEvent;

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

function long(lo: number, hi: number): string {
  return hex(toBigint(lo, hi));
}

/** What a recording's header needs beyond what the recorder knows. */
export interface RecordingOf {
  /** QEMU's words for the machine: the replay reads the IOMMU's properties from them. */
  readonly cmdline: string;
  /** The guest's kernel as it names itself. */
  readonly guestKernel: string;
  /** What the guest did. */
  readonly scenario: string;
  /** The register window in guest-physical space (bytes). */
  readonly mmio: { readonly base: number; readonly size: number };
  /** Guest RAM in guest-physical space (bytes). */
  readonly ram: readonly { readonly gpa: number; readonly size: number }[];
  /** The functions behind the vIOMMU. */
  readonly devices: readonly {
    readonly name: string;
    readonly sid: number;
    /** It translates by ATS, and asks for pages. */
    readonly ats?: boolean;
    readonly pri?: boolean;
  }[];
}

/**
 * Makes a viommu-trace of a machine that runs: guest memory through the backings it watches, register accesses and DMA
 * through the wrappers it puts around a device and a translation port, the rest from `tell`. A page is followed from the
 * moment a table is in it (`follow` says so) or the IOMMU looks at it: its stores are told by an emulator that sees them
 * (`stored`), or found by comparing it before every event, so that nobody has to trap the guest's stores.
 */
export class TraceRecorder {
  readonly #iommu: IommuKind;
  readonly #events: string[] = [];
  readonly #pages = new FollowedPages((e) => this.#put(e));
  readonly #commands = new Map<string, number>();
  #after: Event[] = [];
  #depth = 0;
  #reason = 0;
  #recorded = false;

  readonly #keep: boolean;
  #count = 0;
  readonly #hear: ((event: RecordedEvent) => void)[] = [];

  /** @param keep false: nothing is kept for `text`, events are only heard. */
  constructor(iommu: IommuKind, keep = true) {
    this.#iommu = iommu;
    this.#keep = keep;
  }

  /** Which IOMMU it is of. */
  get iommu(): IommuKind {
    return this.#iommu;
  }

  /** From now on `follower` says which pages hold tables; null: those the IOMMU looks at are taken for such. */
  follow(follower: TableFollower | null): void {
    this.#pages.follower = follower;
  }

  /** Events recorded so far. */
  get events(): number {
    return this.#count;
  }

  /** From now on `hear` is given every event as it is recorded, as the format has it. */
  listen(hear: (event: RecordedEvent) => void): void {
    this.#hear.push(hear);
  }

  /**
   * The guest stores 1 to 8 bytes within an aligned word of 8: told when it happens, by an emulator or a test that sees all
   * of them. Of watched memory those to followed pages are recorded; of other memory all of them.
   */
  stored(gpa: number, size: number, lo: number, hi: number): void {
    this.#pages.stored(gpa, size, lo, hi);
  }

  /** Goes into the machine as its `tell` hook (or is called by it). */
  readonly tell: Tell = (said: Said) => {
    switch (said.what) {
      case 'command':
        this.#commands.set(said.name, (this.#commands.get(said.name) ?? 0) + 1);
        return;
      case 'record':
        this.#reason = said.words.length === 8 ? said.words[0]! & 0xff : this.#reason;
        this.#recorded = true;
        this.#after.push({ t: 'dst', gpa: hex(said.address), data: base64(Int32Array.from(said.words)) });
        break;
      case 'frcd':
        this.#frcd(said.recorded, said.words);
        return;
      case 'irq':
        if (said.line === 'remap') return;
        this.#after.push(
          said.address === undefined
            ? { t: 'irq', line: said.line }
            : { t: 'irq', addr: hex(said.address), data: hex((said.data ?? 0) >>> 0) },
        );
        break;
    }
    if (this.#depth === 0) this.#flushAfter();
  };

  #frcd(recorded: boolean, w: readonly number[]): void {
    this.#reason = w[3]! & 0xff;
    if (recorded)
      this.#after.push({ t: 'fault', frr: 0, hi: long(w[2]!, w[3]! & 0x7fff_ffff), lo: long(w[0]!, w[1]!) });
  }

  /** @param gpa where the backing begins for the guest. */
  watch(gpa: number, inner: Backing): Backing {
    const region = this.#pages.addRegion(gpa, inner);
    return {
      words: () => inner.words(),
      fetch: (offset) => {
        inner.fetch?.(offset);
        if (this.#depth > 0) this.#pages.look(region, offset);
      },
      wrote: (offset, bytes) => {
        inner.wrote?.(offset, bytes);
        if (this.#depth > 0) this.#pages.wrote(region, offset, bytes);
      },
    };
  }

  /**
   * The guest's register accesses.
   * @param reads false where the guest's loads cannot be told from somebody's looking (they are not trapped).
   */
  device(inner: MmioDevice, reads = true): MmioDevice {
    const { name, bytes } = inner;
    const looks = {
      read: (offset: number, size: number) => inner.read(offset, size),
      read64: (offset: number, out: Int32Array) => inner.read64(offset, out),
    };
    return {
      name,
      bytes,
      read: (offset, size) => {
        this.#begin();
        const value = inner.read(offset, size);
        this.#end({ t: 'r', off: hex(offset), size, val: hex(value >>> 0) });
        return value;
      },
      read64: (offset, out) => {
        this.#begin();
        inner.read64(offset, out);
        this.#end({ t: 'r', off: hex(offset), size: 8, val: long(out[0]!, out[1]!) });
      },
      write: (offset, size, lo, hi) => {
        this.#begin();
        inner.write(offset, size, lo, hi);
        const value = size === 8 ? long(lo, hi) : hex((lo & (size === 4 ? -1 : (1 << (8 * size)) - 1)) >>> 0);
        this.#end({ t: 'w', off: hex(offset), size, val: value });
      },
      ...(reads ? {} : looks),
    };
  }

  /**
   * DMA on its way through the IOMMU.
   * @param guestRid what the guest calls a hardware requester id. @param gpaOf undoes the host's stage 2; -1: not the guest's.
   */
  translate(inner: TranslatePort, guestRid: (rid: number) => number, gpaOf: (hpa: number) => number): TranslatePort {
    const recorder = this;
    return {
      get out() {
        return inner.out;
      },
      get outShift() {
        return inner.outShift;
      },
      get outPerm() {
        return inner.outPerm;
      },
      get guestShift() {
        return inner.guestShift;
      },
      get tag() {
        return inner.tag;
      },
      translate(rid, pasid, lo, hi, access, at) {
        // A translated request carries no address of the guest's; what gave the function its translation is recorded.
        if (at === AT.TRANSLATED) return inner.translate(rid, pasid, lo, hi, access, at);
        recorder.#begin();
        recorder.#recorded = false;
        recorder.#reason = 0;
        const status = inner.translate(rid, pasid, lo, hi, access, at);
        // A message is the interrupt remapper's affair, and tells of itself.
        const silent = status === DMA.INTERRUPT;
        recorder.#end(silent ? null : recorder.#dma(inner, status, guestRid(rid), lo, hi, access, gpaOf));
        return status;
      },
    };
  }

  /** Translation requests, which a recording has like untranslated DMA; everything else passes through. */
  ats(inner: AtsPort, guestRid: (rid: number) => number, gpaOf: (hpa: number) => number): AtsPort {
    const recorder = this;
    return {
      get atsOut() {
        return inner.atsOut;
      },
      get atsShift() {
        return inner.atsShift;
      },
      get atsPerm() {
        return inner.atsPerm;
      },
      get atsUntranslated() {
        return inner.atsUntranslated;
      },
      get atsNoSnoop() {
        return inner.atsNoSnoop;
      },
      translationRequest(rid, pasid, lo, hi, access) {
        recorder.#begin();
        const status = inner.translationRequest(rid, pasid, lo, hi, access);
        recorder.#end(status === ATS.SUCCESS ? recorder.#granted(inner, guestRid(rid), lo, hi, gpaOf) : null);
        return status;
      },
      invalidateCompletion: (rid, itags, count) => inner.invalidateCompletion(rid, itags, count),
      pageRequest(rid, pasid, lo, hi, access, group, last) {
        recorder.#begin();
        inner.pageRequest(rid, pasid, lo, hi, access, group, last);
        // With a PASID it is nothing a recording can hold.
        const told = pasid === NO_PASID;
        recorder.#end(
          told ? { t: 'prq', sid: guestRid(rid), iova: long(lo, hi), perm: perms(access), group, last } : null,
        );
      },
    };
  }

  #granted(p: AtsPort, sid: number, lo: number, hi: number, gpaOf: (hpa: number) => number): Event | null {
    const perm = perms(p.atsPerm);
    const gpa = gpaOf(p.atsOut - (p.atsOut % PAGE) + (lo & (PAGE - 1)));
    if (perm === '' || p.atsUntranslated || gpa < 0) return null;
    return { t: 'xlat', sid, iova: long(lo, hi), perm: perm === 'w' ? 'w' : 'r', out: hex(gpa), mode: 'untold' };
  }

  #dma(
    p: TranslatePort,
    status: number,
    sid: number,
    lo: number,
    hi: number,
    access: number,
    gpaOf: (hpa: number) => number,
  ): Event | null {
    const iova = long(lo, hi);
    const write = (access & ACCESS.WRITE) !== 0;
    if (status !== DMA.OK) {
      // A refusal that has no reason of the unit's (FPD, or what refused it is behind the unit) is nothing a recording can hold.
      if (this.#iommu === 'vtd')
        return this.#reason === 0 ? null : { t: 'fault', sid, reason: this.#reason, iova, write };
      return this.#recorded
        ? { t: 'fault', sid, type: 'fault', code: this.#reason, iova, write, recorded: true }
        : { t: 'fault', sid, type: 'abort', iova, write };
    }
    const perm = perms(p.outPerm);
    const out = hex(Math.max(0, gpaOf(p.out)));
    // What VT-d hardware says of sizes and domains is the host's, which the guest does not know.
    if (p.guestShift === 0 || this.#iommu === 'vtd')
      return { t: 'xlat', sid, iova, perm: write ? 'w' : 'r', out, mode: 'untold' };
    return { t: 'xlat', sid, iova, perm, out, tlb: 'miss', pageSize: hex(2 ** p.guestShift), asid: p.tag };
  }

  /** Machine reset. */
  reset(): void {
    this.#put({ t: 'reset' });
  }

  /** Records what the guest stored since the last event. `text` does it as well. */
  catchUp(): void {
    if (this.#depth === 0) this.#pages.before();
  }

  /** What the guest stored before the event. */
  #begin(): void {
    if (this.#depth++ === 0) this.#pages.before();
  }

  /** What the IOMMU looked at for the first time, then the event, then what it did. */
  #end(e: Event | null): void {
    if (--this.#depth > 0) return;
    this.#pages.looked();
    if (e !== null) this.#put(e);
    this.#flushAfter();
    this.#pages.ask();
  }

  #flushAfter(): void {
    for (const a of this.#after) this.#put(a);
    this.#after = [];
  }

  #put(e: Event): void {
    const numbered = { i: this.#count++, ...e };
    if (this.#keep) this.#events.push(JSON.stringify(numbered));
    for (const hear of this.#hear) hear(numbered);
  }

  /** The recording as the format has it: lines, not compressed. */
  text(of: RecordingOf): string {
    this.catchUp();
    const header = {
      t: 'header',
      format: 'viommu-trace',
      version: 1,
      iommu: this.#iommu,
      source: {
        cmdline: of.cmdline,
        guestKernel: of.guestKernel,
        scenario: of.scenario,
        xlatDropped: 0,
        commands: Object.fromEntries(this.#commands),
      },
      mmio: { base: hex(of.mmio.base), size: hex(of.mmio.size) },
      ram: of.ram.map((r) => ({ gpa: hex(r.gpa), size: hex(r.size) })),
      devices: of.devices,
    };
    return `${[JSON.stringify(header), ...this.#events].join('\n')}\n`;
  }
}

function perms(access: number): string {
  return `${access & ACCESS.READ ? 'r' : ''}${access & ACCESS.WRITE ? 'w' : ''}`;
}

function base64(words: Int32Array): string {
  return toBase64(new Uint8Array(words.buffer, words.byteOffset, words.byteLength));
}
