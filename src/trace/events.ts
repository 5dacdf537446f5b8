import { fromWords } from '../core/bits.ts';
import { ACCESS } from '../ports/dma.ts';
import { Fields, type Place, type Raw } from './fields.ts';
import type { TraceHeader } from './header.ts';

/** What is not said in an `xlat` event. */
export const NOT_SAID = -2;

/**
 * One event of a recording, checked and compact: 64-bit values as lo/hi words, guest-physical addresses as numbers.
 * `i` is the event's number.
 */
export type TraceEvent =
  | PageEvent
  | StoreEvent
  | { readonly t: 'drop'; readonly i: number; readonly gpa: number }
  | {
      readonly t: 'w' | 'r';
      readonly i: number;
      readonly off: number;
      readonly size: number;
      readonly lo: number;
      readonly hi: number;
    }
  | XlatEvent
  | FaultEvent
  | FrcdEvent
  | { readonly t: 'dst'; readonly i: number; readonly gpa: number; readonly bytes: Uint8Array }
  | { readonly t: 'irq'; readonly i: number; readonly line: string }
  | { readonly t: 'msi'; readonly i: number; readonly address: number; readonly data: number }
  | RemapEvent
  | PageRequestEvent
  /** The IOMMU executed a command of this name; only where the log a recording was made from has no more of it. */
  | { readonly t: 'cmd'; readonly i: number; readonly name: string }
  | { readonly t: 'note'; readonly i: number; readonly raw: string }
  | { readonly t: 'reset'; readonly i: number };

/** The guest stored `size` bytes. */
export interface StoreEvent {
  readonly t: 'st';
  /** Number of the event. */
  readonly i: number;
  /** Guest-physical address (bytes). */
  readonly gpa: number;
  /** Bytes: 1, 2, 4 or 8. */
  readonly size: number;
  /** Low word of the value. */
  lo: number;
  /** High word of the value. */
  hi: number;
  /** Where the guest's program was, as lo/hi words, if the recording has it. */
  readonly pc?: readonly [number, number];
}

/** A 4 KiB snapshot; `data` null is a page of zeros. */
export interface PageEvent {
  readonly t: 'page';
  /** Number of the event. */
  readonly i: number;
  /** Guest-physical address of the page (bytes). */
  readonly gpa: number;
  /** Why the recorder looked at it (`FORMAT.md`, "page"). */
  readonly kind: string;
  /** 4096 bytes; null: zeros. */
  readonly data: Uint8Array | null;
}

/** A function asked for a page; what the IOMMU made of it follows as `dst` and `irq`. */
export interface PageRequestEvent {
  readonly t: 'prq';
  /** Number of the event. */
  readonly i: number;
  /** Requester id. */
  readonly sid: number;
  /** Address of the page, low word. */
  readonly lo: number;
  /** Address of the page, high word. */
  readonly hi: number;
  /** ACCESS bits wanted. */
  readonly access: number;
  /** Page request group, 0 … 511. */
  readonly group: number;
  /** The last request of its group. */
  readonly last: boolean;
}

/** One DMA access that was translated. */
export interface XlatEvent {
  readonly t: 'xlat';
  /** Number of the event. */
  readonly i: number;
  /** Requester id (StreamID). */
  readonly sid: number;
  /** Address of the request, low word. */
  readonly lo: number;
  /** Address of the request, high word. */
  readonly hi: number;
  /** ACCESS bits to replay it with. */
  readonly access: number;
  /** Guest-physical. */
  readonly out: number;
  /** ACCESS bits of the guest's table entry, or NOT_SAID (bypass, disabled, pass-through). */
  readonly perm: number;
  /** log2 of the guest's mapping size, or NOT_SAID (a TLB hit). */
  readonly shift: number;
  /** ASID or domain id, or NOT_SAID. */
  readonly tag: number;
}

/** One DMA access that was refused. */
export interface FaultEvent {
  readonly t: 'fault';
  /** Number of the event. */
  readonly i: number;
  /** Requester id (StreamID). */
  readonly sid: number;
  /** Address of the request, low word. */
  readonly lo: number;
  /** Address of the request, high word. */
  readonly hi: number;
  /** ACCESS bits of the request. */
  readonly access: number;
  /** SMMUv3 event number or VT-d fault reason; NOT_SAID for a silent abort. */
  readonly reason: number;
  /** The name the recording gives it. */
  readonly name: string;
  /** SMMUv3: an event record follows. */
  readonly recorded: boolean;
}

/** VT-d: a fault recording register was filled. `hi` words without F. */
export interface FrcdEvent {
  readonly t: 'frcd';
  /** Number of the event. */
  readonly i: number;
  /** Fault recording register it went to. */
  readonly index: number;
  /** Words 0 to 3 of the record. */
  readonly words: readonly [number, number, number, number];
}

/** VT-d: a device's message went through the interrupt window. */
export interface RemapEvent {
  readonly t: 'remap';
  /** Number of the event. */
  readonly i: number;
  /** Address of the message as the function sent it. */
  readonly address: number;
  /** Data of the message as the function sent it. */
  readonly data: number;
  /** Address after remapping. */
  readonly outAddress: number;
  /** Data after remapping. */
  readonly outData: number;
  /** The entry that remapped it, or null (passed on unchanged). */
  readonly irte: { readonly index: number; readonly words: readonly [number, number, number, number] } | null;
}

const PERMS: { readonly [text: string]: number } = {
  r: ACCESS.READ,
  w: ACCESS.WRITE,
  rw: ACCESS.READ | ACCESS.WRITE,
  '': 0,
};

const LINES = ['evtq', 'priq', 'cmd_sync', 'gerror'];

/** Checks and compacts events, one JSON object each. Keys it does not know are ignored. */
export class EventParser {
  readonly #place: Place;
  readonly #header: TraceHeader;
  readonly #f: Fields;

  constructor(place: Place, header: TraceHeader) {
    this.#place = place;
    this.#header = header;
    this.#f = new Fields(place);
  }

  /** @throws ViommuError `E_TRACE_FORMAT` naming field, expectation and finding. */
  parse(raw: Raw): TraceEvent {
    const f = this.#f.of(raw);
    const i = this.#place.event;
    if (raw.i !== i) throw f.wrong('i', `the next event number, ${i} (events are missing, doubled or re-ordered)`);
    switch (raw.t) {
      case 'page':
        return this.#page(i, raw);
      case 'st':
        return this.#store(i);
      case 'drop':
        return { t: 'drop', i, gpa: f.address('gpa') };
      case 'w':
      case 'r':
        return this.#register(raw.t, i);
      case 'xlat':
        return this.#xlat(i);
      case 'fault':
        return f.has('frr') ? this.#frcd(i) : this.#fault(i);
      case 'prq':
        return this.#pageRequest(i);
      case 'dst':
        return this.#record(i);
      case 'irq':
        return this.#irq(i);
      case 'cmd':
        return { t: 'cmd', i, name: f.text('name') };
      case 'note':
        return { t: 'note', i, raw: f.has('raw') ? f.text('raw') : '' };
      case 'reset':
        return { t: 'reset', i };
      default:
        throw f.wrong('t', 'page, st, drop, w, r, xlat, fault, prq, dst, irq, cmd, note or reset');
    }
  }

  /** RAM only: the recorder follows tables, and tables are there. */
  #inRam(key: string, bytes: number): number {
    const gpa = this.#f.address(key);
    for (const r of this.#header.ram) if (gpa >= r.gpa && gpa + bytes <= r.gpa + r.size) return gpa;
    throw this.#f.wrong(key, `${bytes} bytes inside the RAM of the header`);
  }

  #page(i: number, raw: Raw): PageEvent {
    const f = this.#f;
    const gpa = this.#inRam('gpa', 4096);
    if (gpa % 4096 !== 0) throw f.wrong('gpa', 'a multiple of 0x1000');
    const kind = f.has('kind') ? f.text('kind') : '';
    return { t: 'page', i, gpa, kind, data: raw.zero === true ? null : f.base64('data', 4096) };
  }

  #store(i: number): TraceEvent {
    const size = this.#f.int('size', 1, 8);
    const gpa = this.#inRam('gpa', size);
    this.#f.words('val');
    this.#fits('val', size);
    const { lo, hi } = this.#f;
    if (!this.#f.has('pc')) return { t: 'st', i, gpa, size, lo, hi };
    this.#f.words('pc');
    return { t: 'st', i, gpa, size, lo, hi, pc: [this.#f.lo, this.#f.hi] };
  }

  #fits(key: string, size: number): void {
    const { lo, hi } = this.#f;
    const over =
      size <= 4 ? hi !== 0 || (size < 4 && lo >>> (8 * size) !== 0) : size < 8 && hi >>> (8 * size - 32) !== 0;
    if (over) throw this.#f.wrong(key, `a value of ${size} bytes`);
  }

  #register(t: 'r' | 'w', i: number): TraceEvent {
    const f = this.#f;
    const size = f.int('size', 1, 8);
    if ((size & (size - 1)) !== 0) throw f.wrong('size', '1, 2, 4 or 8');
    const off = f.address('off');
    if (off + size > this.#header.mmio.size) throw f.wrong('off', 'an offset inside the register window');
    if (off % size !== 0) throw f.wrong('off', `a multiple of ${size}`);
    f.words('val');
    this.#fits('val', size);
    return { t, i, off, size, lo: f.lo, hi: f.hi };
  }

  #xlat(i: number): XlatEvent {
    const f = this.#f;
    const sid = f.int('sid', 0, 0xffff_ffff);
    const plain = f.has('mode');
    const perm = f.has('perm') || !plain ? PERMS[f.text('perm')] : 0;
    if (perm === undefined) throw f.wrong('perm', '"r", "w" or "rw"');
    const tlb = f.has('tlb') ? f.text('tlb') : '';
    if (tlb !== '' && tlb !== 'hit' && tlb !== 'miss') throw f.wrong('tlb', '"hit" or "miss"');
    const miss = tlb === 'miss' && !plain;
    const shift = miss && f.has('pageSize') ? f.shift('pageSize') : NOT_SAID;
    const key = this.#header.iommu === 'smmuv3' ? 'asid' : 'did';
    const tag = miss && f.has(key) ? f.int(key, -1, 0xffff) : NOT_SAID;
    const out = f.address('out');
    f.words('iova');
    const access = perm === ACCESS.WRITE ? ACCESS.WRITE : ACCESS.READ;
    return { t: 'xlat', i, sid, lo: f.lo, hi: f.hi, access, out, perm: plain ? NOT_SAID : perm, shift, tag };
  }

  #fault(i: number): FaultEvent {
    const f = this.#f;
    const sid = f.int('sid', 0, 0xffff_ffff);
    const access = f.flag('write') ? ACCESS.WRITE : ACCESS.READ;
    f.words('iova');
    const { lo, hi } = f;
    if (this.#header.iommu === 'vtd') {
      const reason = f.int('reason', 1, 255);
      return { t: 'fault', i, sid, lo, hi, access, reason, name: `reason 0x${reason.toString(16)}`, recorded: false };
    }
    const name = f.text('type');
    if (name === 'abort') return { t: 'fault', i, sid, lo, hi, access, reason: NOT_SAID, name, recorded: false };
    const recorded = f.has('recorded') && f.flag('recorded');
    return { t: 'fault', i, sid, lo, hi, access, reason: f.int('code', 1, 255), name, recorded };
  }

  #frcd(i: number): FrcdEvent {
    const f = this.#f;
    const index = f.int('frr', 0, 255);
    f.words('lo');
    const { lo, hi } = f;
    f.words('hi');
    return { t: 'frcd', i, index, words: [lo, hi, f.lo, f.hi & 0x7fff_ffff] };
  }

  #pageRequest(i: number): PageRequestEvent {
    const f = this.#f;
    const sid = f.int('sid', 0, 0xffff_ffff);
    const access = PERMS[f.text('perm')];
    if (access === undefined) throw f.wrong('perm', '"r", "w", "rw" or ""');
    const group = f.int('group', 0, 511);
    const last = f.flag('last');
    f.words('iova');
    return { t: 'prq', i, sid, lo: f.lo, hi: f.hi, access, group, last };
  }

  #record(i: number): TraceEvent {
    const bytes = this.#f.base64('data', 0);
    if (bytes.length === 0 || bytes.length > 4096) throw this.#f.wrong('data', '1 to 4096 bytes');
    return { t: 'dst', i, gpa: this.#f.address('gpa'), bytes };
  }

  #irq(i: number): TraceEvent {
    const f = this.#f;
    if (this.#header.iommu === 'smmuv3') {
      const line = f.text('line');
      if (!LINES.includes(line)) throw f.wrong('line', LINES.join(', '));
      return { t: 'irq', i, line };
    }
    f.words('addr');
    const address = fromWords(f.lo, f.hi);
    const data = f.word('data');
    if (!f.has('remap')) return { t: 'msi', i, address, data };
    f.words('outAddr');
    const outAddress = fromWords(f.lo, f.hi);
    const outData = f.word('outData');
    const irte = f.has('irte') ? this.#irte(f.object('irte')) : null;
    return { t: 'remap', i, address, data, outAddress, outData, irte };
  }

  #irte(raw: Raw): RemapEvent['irte'] {
    const f = new Fields(this.#place).of(raw);
    const index = f.int('index', 0, 0xffff);
    f.words('lo');
    const { lo, hi } = f;
    f.words('hi');
    return { index, words: [lo, hi, f.lo, f.hi] };
  }
}
