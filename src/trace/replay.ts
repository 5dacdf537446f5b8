import { toBigint } from '../core/bits.ts';
import { ViommuError } from '../core/errors.ts';
import { ACCESS, DMA } from '../ports/dma.ts';
import {
  type FaultEvent,
  type FrcdEvent,
  NOT_SAID,
  type RemapEvent,
  type TraceEvent,
  type XlatEvent,
} from './events.ts';
import type { TraceHeader } from './header.ts';
import { type Heard, type HeardRecord, msiName } from './heard.ts';
import { type Difference, type ReplayResult, Score } from './result.ts';
import type { ReplayTarget } from './target.ts';

/** Where the message of a remappable interrupt request goes: format bit set, SHV clear, index in its two places (VT-d §5.1.2). */
function remappable(index: number): number {
  return (0xfee0_0010 | ((index & 0x7fff) << 5) | ((index >>> 15) << 2)) >>> 0;
}

const DMA_NAME = new Map<number, string>(Object.entries(DMA).map(([name, value]) => [value, name]));

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function long(lo: number, hi: number): string {
  return `0x${toBigint(lo, hi).toString(16)}`;
}

function perms(perm: number): string {
  return `${perm & ACCESS.READ ? 'r' : ''}${perm & ACCESS.WRITE ? 'w' : ''}` || 'none';
}

function words(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const out: number[] = [];
  for (let at = 0; at + 4 <= bytes.length; at += 4) out.push(view.getInt32(at, true));
  return out;
}

function recordText(gpa: number, record: readonly number[]): string {
  return `${hex(gpa)}: ${record.map((w) => (w >>> 0).toString(16).padStart(8, '0')).join(' ')}`;
}

/**
 * Replays one recording on a machine, event by event: stores and register writes go in, everything QEMU answered is
 * compared with what the machine answers. The machine's own doings reach it through `heard`, whose `tell` the machine
 * was made with. Interrupts and records may stand later in a recording than their cause: each is matched with the
 * oldest one of the same identity that is still open; what is left open at a reset or at the end is a difference.
 */
export class Replay {
  readonly #header: TraceHeader;
  readonly #target: ReplayTarget;
  readonly #heard: Heard;
  readonly #score: Score;
  readonly #irte = new Int32Array(4);
  #events = 0;

  /** @param keep how many differences the result lists. @param differs hears of every one when it is found. */
  constructor(
    header: TraceHeader,
    target: ReplayTarget,
    heard: Heard,
    keep = 10,
    differs: ((difference: Difference) => void) | null = null,
  ) {
    this.#header = header;
    this.#target = target;
    this.#heard = heard;
    this.#score = new Score(keep);
    this.#score.also = differs;
  }

  /** Events taken so far. */
  get events(): number {
    return this.#events;
  }

  /** Differences found so far. */
  get differing(): number {
    return this.#score.differing;
  }

  /** The first of them. */
  get differences(): readonly Difference[] {
    return this.#score.first();
  }

  /** @throws ViommuError `E_TRACE_FORMAT` when the event cannot be applied to this machine at all. */
  apply(e: TraceEvent): void {
    this.#events++;
    this.#heard.i = e.i;
    const t = this.#target;
    switch (e.t) {
      case 'st':
        if (!t.store(e.gpa, e.size, e.lo, e.hi)) throw this.#noRam(e.i, e.gpa);
        return;
      case 'xlat':
        this.#xlat(e);
        return;
      case 'r':
        this.#read(e.i, e.off, e.size, e.lo, e.hi);
        return;
      case 'w':
        t.write(e.off, e.size, e.lo, e.hi);
        return;
      case 'irq':
        this.#irq(e.i, e.line);
        return;
      case 'msi':
        this.#irq(e.i, msiName(e.address, e.data));
        return;
      case 'prq':
        t.pageRequest?.(e.sid, e.lo, e.hi, e.access, e.group, e.last);
        return;
      case 'dst':
        this.#record(e.i, e.gpa, e.bytes);
        return;
      case 'fault':
        this.#fault(e);
        return;
      case 'frcd':
        this.#frcd(e);
        return;
      case 'remap':
        this.#remap(e);
        return;
      case 'page':
        if (!t.page(e.gpa, e.data)) throw this.#noRam(e.i, e.gpa);
        return;
      case 'drop':
        t.drop(e.gpa);
        return;
      case 'reset':
        this.#leftovers();
        t.reset();
        return;
      case 'cmd':
      case 'note':
        return;
    }
  }

  /** The comparison so far, with what the machine did and the recording does not have. Call once, at the end. */
  finish(): ReplayResult {
    this.#leftovers();
    this.#compareCommands();
    const columns = this.#score.columns;
    return {
      header: this.#header,
      ok: this.#score.differing === 0,
      events: this.#events,
      columns,
      commands: this.#heard.commands,
      hostOps: this.#heard.hostOps,
      differences: this.#score.first(),
      differing: this.#score.differing,
    };
  }

  #noRam(i: number, gpa: number): ViommuError {
    return new ViommuError('E_TRACE_FORMAT', 'trace', `event ${i}: the machine has no RAM at ${hex(gpa)}`);
  }

  #read(i: number, off: number, size: number, lo: number, hi: number): void {
    const t = this.#target;
    t.read(off, size);
    const gotHi = size === 8 ? t.hi : 0;
    if ((t.lo | 0) === lo && (gotHi | 0) === hi) this.#score.match('reads');
    else
      this.#score.differ(i, 'reads', `read of ${size} bytes at register ${hex(off)}`, long(lo, hi), long(t.lo, gotHi));
  }

  #xlat(e: XlatEvent): void {
    const t = this.#target;
    this.#heard.reason = -1;
    const status = t.dma(e.sid, e.lo, e.hi, e.access);
    if (
      status === DMA.OK &&
      t.out === e.out &&
      (e.perm === NOT_SAID || t.perm === e.perm) &&
      (e.shift === NOT_SAID || t.guestShift === e.shift) &&
      (e.tag === NOT_SAID || t.tag === e.tag)
    )
      this.#score.match('translations');
    else this.#xlatDiffers(e, status);
  }

  #xlatDiffers(e: XlatEvent, status: number): void {
    const t = this.#target;
    const expected = [`out ${hex(e.out)}`];
    const got = [`out ${hex(t.out)}`];
    if (e.perm !== NOT_SAID) {
      expected.push(perms(e.perm));
      got.push(perms(t.perm));
    }
    if (e.shift !== NOT_SAID) {
      expected.push(`page size ${hex(2 ** e.shift)}`);
      got.push(`page size ${t.guestShift === 0 ? 'none' : hex(2 ** t.guestShift)}`);
    }
    if (e.tag !== NOT_SAID) {
      expected.push(`tag ${e.tag}`);
      got.push(`tag ${t.tag}`);
    }
    const text = status === DMA.OK ? got.join(', ') : this.#refusal(status);
    this.#score.differ(e.i, 'translations', this.#access(e), expected.join(', '), text);
  }

  #access(e: XlatEvent | FaultEvent): string {
    return `${e.access === ACCESS.WRITE ? 'write' : 'read'} by stream ${hex(e.sid)} at ${long(e.lo, e.hi)}`;
  }

  #refusal(status: number): string {
    const reason = this.#heard.reason;
    return `refused (${DMA_NAME.get(status) ?? status}${reason < 0 ? '' : `, reason ${hex(reason)}`})`;
  }

  #fault(e: FaultEvent): void {
    const t = this.#target;
    const before = this.#heard.records.length;
    this.#heard.reason = -1;
    const status = t.dma(e.sid, e.lo, e.hi, e.access);
    const reason = this.#heard.reason;
    const refused = status === DMA.ABORT || status === DMA.RAZ_WI;
    const unsaid = reason < 0 && this.#header.iommu === 'smmuv3' && !e.recorded;
    const reasonFits = e.reason === NOT_SAID || reason === e.reason || unsaid;
    const recorded = this.#heard.records.length > before;
    const recordFits = this.#header.iommu === 'vtd' || recorded === e.recorded;
    if (refused && reasonFits && recordFits) this.#score.match('faults');
    else {
      const got = status === DMA.OK ? `translated to ${hex(t.out)}` : this.#refusal(status);
      const record = recordFits ? '' : recorded ? ', with a record' : ', without a record';
      this.#score.differ(e.i, 'faults', this.#access(e), `${e.name}${e.recorded ? ', recorded' : ''}`, got + record);
    }
  }

  /**
   * A fault recording register as the guest would now read it. Reads have no side effect, so looking is not replaying.
   * Interrupt-remapping faults come from requests that are not recorded: they are made here (VT-d §5.1.2).
   */
  #frcd(e: FrcdEvent): void {
    const t = this.#target;
    const reason = e.words[3] & 0xff;
    if (reason >= 0x20 && reason <= 0x26) t.remap(e.words[2] & 0xffff, remappable(e.words[1] >>> 16), 0);
    t.read(0x08, 8);
    const fro = ((t.hi & 3) << 8) | (t.lo >>> 24);
    const at = (fro + e.index) * 16;
    t.read(at, 8);
    const lo0 = t.lo | 0;
    const lo1 = t.hi | 0;
    t.read(at + 8, 8);
    const filled = t.hi >>> 31 === 1;
    const got: readonly number[] = [lo0, lo1, t.lo | 0, t.hi & 0x7fff_ffff];
    if (filled && got.every((w, n) => w === e.words[n])) this.#score.match('faults');
    else {
      const text = filled ? recordText(at, got) : `${hex(at)}: not filled`;
      this.#score.differ(e.i, 'faults', `fault recording register ${e.index}`, recordText(at, e.words), text);
    }
  }

  #irq(i: number, name: string): void {
    const open = this.#heard.irqs;
    const at = open.findIndex((irq) => irq.name === name);
    if (at >= 0) {
      open.splice(at, 1);
      this.#score.match('interrupts');
    } else this.#score.differ(i, 'interrupts', 'interrupt', name, open[0]?.name ?? 'none');
  }

  #record(i: number, gpa: number, bytes: Uint8Array): void {
    const open = this.#heard.records;
    const expected = words(bytes);
    const at = open.findIndex((r) => r.gpa === gpa);
    const found = at < 0 ? undefined : open[at];
    if (found !== undefined) open.splice(at, 1);
    if (found !== undefined && same(found.words, expected) && this.#written(found)) this.#score.match('records');
    else {
      const got = found === undefined ? 'nothing written there' : recordText(found.gpa, found.words);
      this.#score.differ(i, 'records', 'record', recordText(gpa, expected), got);
    }
  }

  /** Whether the record is really in memory (unless a later one has already taken its place). */
  #written(record: HeardRecord): boolean {
    if (this.#heard.records.some((r) => r.gpa === record.gpa)) return true;
    const bytes = new Uint8Array(record.words.length * 4);
    return this.#target.load(record.gpa, bytes) && same(words(bytes), record.words);
  }

  #remap(e: RemapEvent): void {
    const t = this.#target;
    // The recording has no requester id: the entry's own source field makes the request pass its source check.
    const svt = e.irte === null ? 0 : (e.irte.words[2] >>> 18) & 3;
    const sid = e.irte === null || svt === 0 ? 0 : e.irte.words[2] & 0xffff;
    const passed = t.remap(sid, e.address, e.data);
    const outFits = passed && t.outAddress === e.outAddress && t.outData >>> 0 === e.outData;
    const got = passed ? msiName(t.outAddress, t.outData) : 'blocked';
    const entry = e.irte;
    const entryFits =
      entry === null || (t.irte(entry.index, this.#irte) && entry.words.every((w, n) => w === this.#irte[n]));
    if (outFits && entryFits) {
      this.#score.match('interrupts');
      return;
    }
    const what = `${msiName(e.address, e.data)} of stream ${hex(sid)}`;
    if (outFits && entry !== null) {
      const expected = `entry ${recordText(entry.index, entry.words)}`;
      this.#score.differ(e.i, 'interrupts', what, expected, `entry ${recordText(entry.index, [...this.#irte])}`);
    } else this.#score.differ(e.i, 'interrupts', what, msiName(e.outAddress, e.outData), got);
  }

  #leftovers(): void {
    for (const irq of this.#heard.irqs) this.#score.differ(irq.i, 'interrupts', 'interrupt', 'none', irq.name);
    for (const r of this.#heard.records)
      this.#score.differ(r.i, 'records', 'record', 'none', recordText(r.gpa, r.words));
    this.#heard.irqs = [];
    this.#heard.records = [];
  }

  #compareCommands(): void {
    const expected = this.#header.commands;
    if (expected === null) return;
    const got = this.#heard.commands;
    for (const name of new Set([...expected.keys(), ...got.keys()])) {
      const want = expected.get(name) ?? 0;
      const have = got.get(name) ?? 0;
      if (want !== have) this.#score.differ(this.#events, 'commands', name, `${want} in all`, `${have}`);
    }
  }
}

function same(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((w, n) => (w | 0) === (b[n]! | 0));
}
