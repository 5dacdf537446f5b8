import { hiWord, loWord } from '../core/bits.ts';
import { hex } from '../core/errors.ts';
import { ACCESS } from '../ports/dma.ts';
import type { Said } from '../ports/tell.ts';
import { COMMAND_NAMES, cmdOp, EVENT_NAMES, evType, PAGE0, PAGE1, PAGE1_BASE } from '../spec/smmuv3/index.ts';
import { INV_NAME, invType, PAGE } from '../spec/vtd/index.ts';
import type {
  FaultEvent,
  IommuKind,
  ReplayTarget,
  StoreEvent,
  TraceEvent,
  TraceHeader,
  XlatEvent,
} from '../trace/index.ts';
import { type KnownWalk, KnownWalks, NO_MEMORY } from './known-walks.ts';
import { LANE, type Lane, type ToldArgs, type ToldHex, type ToldMoment, type ToldValue } from './moment.ts';
import { registerName } from './registers.ts';
import type { GuestWalk } from './walk.ts';
import { smmuv3GuestWalk } from './walk-smmuv3.ts';
import { vtdGuestWalk } from './walk-vtd.ts';

/** A moment whose number is given once everything of its event is known. */
interface Draft extends Omit<ToldMoment, 'n' | 'cause'> {
  n: number;
  args: ToldArgs;
  /** A moment of the same event; or the number of one that has gone out, -1 for none. */
  cause: Draft | number;
}

const EVENT_BYTES = 32;
/** Registers that only move a queue's index: accesses go where they went before. */
const INDICES: { readonly [kind in IommuKind]: readonly number[] } = {
  smmuv3: [PAGE0.CMDQ_PROD.at, PAGE1_BASE + PAGE1.EVENTQ_CONS.at, PAGE1_BASE + PAGE1.PRIQ_CONS.at],
  vtd: [PAGE.IQT.at],
};
const NAME_OF_STORE = ['', ...Array.from({ length: 8 }, (_, n) => `store of ${n + 1} bytes`)];
const ACCESS_TEXT = Array.from({ length: 4 }, (_, bits) => accessText(bits));

/** A guest-physical address (bytes). */
function address(n: number): ToldHex {
  return { lo: loWord(n), hi: hiWord(n) };
}

/** A value of 32 bits. */
function word(n: number): ToldHex {
  return { lo: n | 0, hi: 0 };
}

const LOW = 0xffff_ffffn;

/** Values of 64 bits as words; what is longer, as text. */
function wide(v: bigint): ToldValue {
  return v >= 0n && v >> 64n === 0n ? { lo: Number(v & LOW) | 0, hi: Number(v >> 32n) | 0 } : hex(v);
}

/** Arguments of an operation as they are told. */
function plain(args: Readonly<Record<string, number | bigint | string>>): { [name: string]: ToldValue } {
  const told: { [name: string]: ToldValue } = {};
  for (const key in args) {
    const v = args[key]!;
    told[key] = typeof v === 'bigint' ? wide(v) : v;
  }
  return told;
}

function accessText(access: number): string {
  return `${access & ACCESS.READ ? 'r' : ''}${access & ACCESS.WRITE ? 'w' : ''}`;
}

/** Names of a command that reached the physical IOMMU's queue. */
function hardwareCommand(kind: IommuKind, words: readonly number[]): string {
  const w0 = words[0] ?? 0;
  if (kind === 'smmuv3') return COMMAND_NAMES[cmdOp(w0)] ?? 'command';
  return INV_NAME[invType(w0)] ?? 'descriptor';
}

/**
 * `History` before its values are written out. Follows a replay and tells it as moments, each with the moment that caused it: a register write leads to commands, a command
 * to host operations, those to commands of the physical IOMMU; an access is made possible by the guest's last store to an
 * entry on its way, and leads to a fault, its record, its interrupt. Commands travel to the host in batches: what a batch
 * does stands with the last command that went before it.
 *
 * Call `before(e)` with each event before it is replayed, `tell` with everything the machine says, `after()` when the event
 * is done: `on` then gets the moments of the event, in order.
 */
export class ToldHistory {
  readonly #kind: IommuKind;
  readonly #names: ReadonlyMap<number, string>;
  readonly #target: ReplayTarget | null;
  readonly #on: (moment: ToldMoment) => void;
  readonly #walks: KnownWalks;
  /** Names of register accesses by offset. */
  readonly #written = new Map<number, string>();
  readonly #read = new Map<number, string>();
  readonly #drafts: Draft[] = [];
  #event = 0;
  #next = 0;
  /** What the guest or a function did that the event began with. */
  #origin: Draft | null = null;
  #command: Draft | null = null;
  #host: Draft | null = null;
  #fault: Draft | null = null;
  #record: Draft | null = null;
  /** VT-d: what the host did since the last command; the command they belong to is told after them. */
  #orphans: Draft[] = [];
  /** An access whose answer is not known yet. */
  #access: { readonly draft: Draft; readonly e: XlatEvent | FaultEvent } | null = null;
  #hit: 'hit' | 'miss' | '' = '';
  /** This class itself reads registers of the machine, which is not part of the run. */
  #deaf = false;

  /**
   * @param header of the recording. @param target the machine it is replayed on; tables are read from it. Null: nothing is
   *   replayed (a recording without guest memory), and what is told is what was recorded.
   * @param on called with each moment, in order; must not call the machine.
   */
  constructor(header: TraceHeader, target: ReplayTarget | null, on: (moment: ToldMoment) => void) {
    this.#kind = header.iommu;
    this.#names = new Map(header.devices.map((d) => [d.sid, d.name]));
    this.#target = target;
    this.#walks = new KnownWalks(header.iommu, target);
    this.#on = on;
  }

  /** The name of a function, or its requester id. @param stream StreamID or requester id. */
  nameOf(stream: number): string {
    return this.#names.get(stream) ?? `stream ${hex(stream)}`;
  }

  /** The way of an access of `stream` through the guest's tables as they are now. @param lo, hi words of the address. */
  walk(stream: number, lo: number, hi: number): GuestWalk {
    if (this.#target === null) return NO_MEMORY;
    this.#deaf = true;
    try {
      return (this.#kind === 'smmuv3' ? smmuv3GuestWalk : vtdGuestWalk)(this.#target, stream, lo, hi);
    } finally {
      this.#deaf = false;
    }
  }

  /** See `History.lastStore`. */
  lastStore(gpa: number, bytes: number): number {
    return this.#walks.lastStore(gpa, bytes);
  }

  /** An event is about to be replayed. */
  before(e: TraceEvent): void {
    this.#event = e.i;
    this.#origin = this.#command = this.#host = this.#fault = this.#record = null;
    this.#access = null;
    this.#hit = '';
    switch (e.t) {
      case 'st':
        this.#store(e);
        return;
      case 'page':
        this.#add(LANE.MEMORY, -1, 'page', { address: address(e.gpa), why: e.kind });
        this.#walks.paged(e.gpa, this.#next);
        return;
      case 'w':
        if (!INDICES[this.#kind].includes(e.off)) this.#walks.turned();
        this.#origin = this.#register(this.#written, 'write', e.off, e.size, e.lo, e.hi);
        return;
      case 'r':
        this.#register(this.#read, 'read', e.off, e.size, e.lo, e.hi);
        return;
      case 'xlat':
      case 'fault': {
        const draft = this.#add(LANE.ACCESSES, e.sid, accessText(e.access) === 'w' ? 'write' : 'read', {});
        this.#access = { draft, e };
        this.#origin = draft;
        return;
      }
      case 'prq':
        this.#origin = this.#add(LANE.PAGE_REQUESTS, e.sid, 'page request', {
          iova: { lo: e.lo, hi: e.hi },
          access: accessText(e.access),
          group: e.group,
          last: e.last ? 1 : 0,
        });
        return;
      case 'remap':
        this.#origin = this.#add(LANE.INTERRUPTS, -1, 'message of a function', {
          address: address(e.address),
          data: word(e.data),
          toAddress: address(e.outAddress),
          toData: word(e.outData),
        });
        return;
      case 'irq':
      case 'msi':
      case 'dst':
      case 'frcd':
        if (this.#target === null) this.#asRecorded(e);
        return;
      case 'reset':
        this.#walks.turned();
        this.#origin = this.#add(LANE.NOTES, -1, 'machine reset', {});
        return;
      case 'cmd':
        this.#add(LANE.COMMANDS, -1, e.name, {});
        return;
      case 'note':
        if (e.raw !== '') this.#add(LANE.NOTES, -1, e.raw, {});
        return;
    }
  }

  /** Goes beside the replay's own listener: hears everything the machine does. */
  readonly tell = (said: Said): void => {
    if (this.#deaf) return;
    switch (said.what) {
      case 'command':
        this.#commandDone(said.name, said.words, said.error);
        return;
      case 'host':
        this.#hostDone(said.verb, said.args, said.result);
        return;
      case 'hw.command': {
        const d = this.#add(LANE.HARDWARE, -1, hardwareCommand(this.#kind, said.words), {
          words: said.words,
        });
        d.cause = this.#host ?? this.#command ?? this.#origin ?? -1;
        return;
      }
      case 'translate':
        this.#hit = said.hit ? 'hit' : 'miss';
        return;
      case 'frcd':
        this.#faulted(`reason ${hex(said.words[3]! & 0xff)}`, said.words[2]! & 0xffff, {
          recorded: said.recorded ? 1 : 0,
          words: said.words,
        });
        return;
      case 'record':
        this.#recorded(said.address, said.words);
        return;
      case 'irq': {
        const message =
          said.address === undefined ? {} : { address: address(said.address), data: word(said.data ?? 0) };
        const d = this.#add(LANE.INTERRUPTS, -1, said.line === '' ? 'message' : said.line, message);
        d.cause = this.#record ?? this.#fault ?? this.#command ?? this.#origin ?? -1;
        return;
      }
      case 'ats': {
        const d = this.#add(LANE.PAGE_REQUESTS, said.rid, said.message, plain(said.args));
        d.cause = this.#host ?? this.#command ?? this.#origin ?? -1;
        return;
      }
    }
  };

  /** The event has been replayed: its moments are complete and go out. */
  after(): void {
    if (this.#access !== null) this.#answer(this.#access.draft, this.#access.e);
    const drafts = this.#drafts;
    for (const d of drafts) d.n = this.#next++;
    for (const d of drafts) this.#on(finished(d));
    drafts.length = 0;
    if (this.#orphans.length > 0) this.#orphans = [];
  }

  /** What the machine would tell, from the recording. */
  #asRecorded(e: Extract<TraceEvent, { t: 'irq' | 'msi' | 'dst' | 'frcd' }>): void {
    if (e.t === 'irq') this.#add(LANE.INTERRUPTS, -1, e.line, {});
    else if (e.t === 'msi')
      this.#add(LANE.INTERRUPTS, -1, 'message', { address: address(e.address), data: word(e.data) });
    else if (e.t === 'frcd')
      this.#add(LANE.FAULTS, e.words[2] & 0xffff, `reason ${hex(e.words[3] & 0xff)}`, {
        recorded: 1,
        words: e.words,
      });
    else this.#add(LANE.MEMORY, -1, 'status written', { address: address(e.gpa), bytes: e.bytes.length });
  }

  #add(lane: Lane, stream: number, name: string, args: ToldArgs): Draft {
    const draft: Draft = { n: -1, event: this.#event, lane, stream, name, args, cause: -1 };
    this.#drafts.push(draft);
    return draft;
  }

  #store({ gpa, size, lo, hi, pc }: StoreEvent): void {
    const at = address(gpa);
    const value = { lo, hi };
    const args = pc === undefined ? { address: at, value } : { address: at, value, pc: { lo: pc[0], hi: pc[1] } };
    this.#add(LANE.MEMORY, -1, NAME_OF_STORE[size]!, args);
    // The only moment of its event: it gets the next number.
    this.#walks.stored(gpa, size, this.#next);
  }

  #register(names: Map<number, string>, verb: string, off: number, size: number, lo: number, hi: number): Draft {
    let name = names.get(off);
    if (name === undefined) {
      name = `${verb} ${registerName(this.#kind, off)}`;
      names.set(off, name);
    }
    return this.#add(LANE.REGISTERS, -1, name, { value: { lo, hi }, size });
  }

  #commandDone(name: string, words: readonly number[], error: number): void {
    const args = error === 0 ? { words: words } : { words: words, error };
    const draft = this.#add(LANE.COMMANDS, -1, name, args);
    draft.cause = this.#origin ?? -1;
    this.#command = draft;
    this.#host = null;
    if (this.#kind !== 'vtd' || this.#orphans.length === 0) return;
    // The device says that a descriptor is done after the host did its part: the descriptor goes before what it caused.
    this.#drafts.pop();
    this.#drafts.splice(this.#drafts.indexOf(this.#orphans[0]!), 0, draft);
    for (const o of this.#orphans) o.cause = draft;
    this.#orphans = [];
  }

  #hostDone(verb: string, args: Readonly<Record<string, number | bigint | string>>, result: number): void {
    const told = plain(args);
    told.result = result;
    const draft = this.#add(LANE.HOST, -1, verb, told);
    if (this.#kind === 'vtd' && this.#origin?.lane === LANE.REGISTERS) this.#orphans.push(draft);
    draft.cause = (this.#kind === 'vtd' ? null : this.#command) ?? this.#origin ?? -1;
    this.#host = draft;
  }

  #faulted(name: string, stream: number, args: ToldArgs): void {
    const draft = this.#add(LANE.FAULTS, stream, name, args);
    draft.cause = this.#command ?? this.#origin ?? -1;
    this.#fault = draft;
  }

  #recorded(at: number, words: readonly number[]): void {
    if (this.#kind === 'smmuv3' && words.length * 4 === EVENT_BYTES) {
      const name = EVENT_NAMES.get(evType(words)) ?? `event ${hex(evType(words))}`;
      this.#faulted(name, words[1]! >>> 0, { at: address(at), words: words });
      this.#record = this.#fault;
      return;
    }
    const draft = this.#add(LANE.MEMORY, -1, 'status written', { address: address(at), words: words });
    draft.cause = this.#command ?? this.#origin ?? -1;
  }

  #refusal(e: FaultEvent): string {
    return (this.#kind === 'smmuv3' ? EVENT_NAMES.get(e.reason) : undefined) ?? e.name;
  }

  /** What became of an access, and the store that made it so. */
  #answer(draft: Draft, e: XlatEvent | FaultEvent): void {
    const { end, cause } = this.#walkOf(e);
    const args: { [name: string]: ToldValue } = { device: this.nameOf(e.sid), iova: { lo: e.lo, hi: e.hi } };
    if (e.t === 'xlat') {
      args.out = address(e.out);
      args.perm = ACCESS_TEXT[Math.max(e.perm, 0)]!;
    } else args.refused = this.#refusal(e);
    if (this.#hit !== '') args.tlb = this.#hit;
    if (end !== '') args.tables = end;
    draft.args = args;
    draft.cause = cause;
  }

  #walkOf(e: XlatEvent | FaultEvent): KnownWalk {
    this.#deaf = true;
    try {
      return this.#walks.of(e);
    } finally {
      this.#deaf = false;
    }
  }
}

/** A draft of an event that is over is a moment: nobody has it any more but the one who is told. */
function finished(d: Draft): ToldMoment {
  if (typeof d.cause !== 'number') d.cause = d.cause.n;
  return d as Draft & { cause: number };
}
