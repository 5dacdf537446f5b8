import { toBigint } from '../core/bits.ts';
import { hex } from '../core/errors.ts';
import { ACCESS } from '../ports/dma.ts';
import type { Said } from '../ports/tell.ts';
import { COMMAND_NAMES, cmdOp, EVENT_NAMES, evType, PAGE0, PAGE1, PAGE1_BASE } from '../spec/smmuv3/index.ts';
import { INV_NAME, invType, PAGE } from '../spec/vtd/index.ts';
import type { FaultEvent, IommuKind, ReplayTarget, TraceEvent, TraceHeader, XlatEvent } from '../trace/index.ts';
import { LANE, type Lane, type Moment, type MomentArgs } from './moment.ts';
import { registerName } from './registers.ts';
import type { GuestWalk } from './walk.ts';
import { smmuv3GuestWalk } from './walk-smmuv3.ts';
import { vtdGuestWalk } from './walk-vtd.ts';

/** A moment whose number is given once everything of its event is known. */
interface Draft extends Omit<Moment, 'n' | 'cause'> {
  n: number;
  args: MomentArgs;
  /** A moment of the same event; or the number of one that has gone out, -1 for none. */
  cause: Draft | number;
}

const EVENT_BYTES = 32;
/** Stores are remembered by aligned 8 bytes: the size of most entries of tables, and the unit of the smallest. */
const UNIT = 8;
const PAGE_BYTES = 4096;
/** Registers that only move a queue's index: accesses go where they went before. */
const INDICES: { readonly [kind in IommuKind]: readonly number[] } = {
  smmuv3: [PAGE0.CMDQ_PROD.at, PAGE1_BASE + PAGE1.EVENTQ_CONS.at, PAGE1_BASE + PAGE1.PRIQ_CONS.at],
  vtd: [PAGE.IQT.at],
};
/** Walks that are remembered at most; a guest decides how many there are. */
const MOST_WALKS = 4096;

/** A walk that was made, as long as it holds: until somebody stores to an entry on it, or writes a register that may matter. */
interface KnownWalk {
  readonly steps: GuestWalk['steps'];
  readonly end: string;
  /** The last store to any of its entries. */
  readonly cause: number;
  /** Register writes that may matter, so far. */
  readonly writes: number;
}

function hexWords(lo: number, hi: number): string {
  return hex(toBigint(lo, hi));
}

function wordsText(words: readonly number[]): string {
  return words.map((w) => (w >>> 0).toString(16).padStart(8, '0')).join(' ');
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
 * Follows a replay and tells it as moments, each with the moment that caused it: a register write leads to commands, a command
 * to host operations, those to commands of the physical IOMMU; an access is made possible by the guest's last store to an
 * entry on its way, and leads to a fault, its record, its interrupt. Commands travel to the host in batches: what a batch
 * does stands with the last command that went before it.
 *
 * Call `before(e)` with each event before it is replayed, `tell` with everything the machine says, `after()` when the event
 * is done: `on` then gets the moments of the event, in order.
 */
export class History {
  readonly #kind: IommuKind;
  readonly #names: ReadonlyMap<number, string>;
  readonly #target: ReplayTarget | null;
  readonly #on: (moment: Moment) => void;
  /** Last moment that stored to each unit of guest memory; of each page, that gave all of it. */
  readonly #stores = new Map<number, number>();
  readonly #pages = new Map<number, number>();
  #drafts: Draft[] = [];
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
  /** Walks of accesses, by stream and page. */
  readonly #walks = new Map<number, Map<number, KnownWalk>>();
  #walkCount = 0;
  /** Resets, and register writes that may lead accesses elsewhere, so far. */
  #writes = 0;
  /** This class itself reads registers of the machine, which is not part of the run. */
  #deaf = false;

  /**
   * @param header of the recording. @param target the machine it is replayed on; tables are read from it. Null: nothing is
   *   replayed (a recording without guest memory), and what is told is what was recorded.
   * @param on called with each moment, in order; must not call the machine.
   */
  constructor(header: TraceHeader, target: ReplayTarget | null, on: (moment: Moment) => void) {
    this.#kind = header.iommu;
    this.#names = new Map(header.devices.map((d) => [d.sid, d.name]));
    this.#target = target;
    this.#on = on;
  }

  /** The name of a function, or its requester id. @param stream StreamID or requester id. */
  nameOf(stream: number): string {
    return this.#names.get(stream) ?? `stream ${hex(stream)}`;
  }

  /** The way of an access of `stream` through the guest's tables as they are now. @param lo, hi words of the address. */
  walk(stream: number, lo: number, hi: number): GuestWalk {
    if (this.#target === null) return { steps: [], out: -1, perm: 0, end: 'guest memory was not recorded' };
    this.#deaf = true;
    try {
      return (this.#kind === 'smmuv3' ? smmuv3GuestWalk : vtdGuestWalk)(this.#target, stream, lo, hi);
    } finally {
      this.#deaf = false;
    }
  }

  /** Number of the last moment that stored to one of `bytes` bytes at `gpa`; -1: none is known. */
  lastStore(gpa: number, bytes: number): number {
    let last = -1;
    for (let at = Math.floor(gpa / UNIT); at * UNIT < gpa + bytes; at++)
      last = Math.max(last, this.#stores.get(at) ?? -1);
    for (let page = Math.floor(gpa / PAGE_BYTES); page * PAGE_BYTES < gpa + bytes; page++)
      last = Math.max(last, this.#pages.get(page) ?? -1);
    return last;
  }

  /** An event is about to be replayed. */
  before(e: TraceEvent): void {
    this.#event = e.i;
    this.#origin = this.#command = this.#host = this.#fault = this.#record = null;
    this.#access = null;
    this.#hit = '';
    switch (e.t) {
      case 'st':
        this.#store(
          e.gpa,
          e.size,
          `store of ${e.size} bytes`,
          { address: hex(e.gpa), value: hexWords(e.lo, e.hi) },
          e.pc,
        );
        return;
      case 'page':
        this.#add(LANE.MEMORY, -1, 'page', { address: hex(e.gpa), why: e.kind });
        this.#pages.set(e.gpa / PAGE_BYTES, this.#next);
        return;
      case 'w':
        if (!INDICES[this.#kind].includes(e.off)) this.#writes++;
        this.#origin = this.#add(LANE.REGISTERS, -1, `write ${registerName(this.#kind, e.off)}`, {
          value: hexWords(e.lo, e.hi),
          size: e.size,
        });
        return;
      case 'r':
        this.#add(LANE.REGISTERS, -1, `read ${registerName(this.#kind, e.off)}`, {
          value: hexWords(e.lo, e.hi),
          size: e.size,
        });
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
          iova: hexWords(e.lo, e.hi),
          access: accessText(e.access),
          group: e.group,
          last: e.last ? 1 : 0,
        });
        return;
      case 'remap':
        this.#origin = this.#add(LANE.INTERRUPTS, -1, 'message of a function', {
          address: hex(e.address),
          data: hex(e.data),
          toAddress: hex(e.outAddress),
          toData: hex(e.outData),
        });
        return;
      case 'irq':
      case 'msi':
      case 'dst':
      case 'frcd':
        if (this.#target === null) this.#asRecorded(e);
        return;
      case 'reset':
        this.#writes++;
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
          words: wordsText(said.words),
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
          words: wordsText(said.words),
        });
        return;
      case 'record':
        this.#recorded(said.address, said.words);
        return;
      case 'irq': {
        const message =
          said.address === undefined ? {} : { address: hex(said.address), data: hex((said.data ?? 0) >>> 0) };
        const d = this.#add(LANE.INTERRUPTS, -1, said.line === '' ? 'message' : said.line, message);
        d.cause = this.#record ?? this.#fault ?? this.#command ?? this.#origin ?? -1;
        return;
      }
      case 'ats': {
        const args = Object.entries(said.args).map(([key, v]) => [key, typeof v === 'bigint' ? hex(v) : v] as const);
        const d = this.#add(LANE.PAGE_REQUESTS, said.rid, said.message, Object.fromEntries(args));
        d.cause = this.#host ?? this.#command ?? this.#origin ?? -1;
        return;
      }
    }
  };

  /** The event has been replayed: its moments are complete and go out. */
  after(): void {
    if (this.#access !== null) this.#answer(this.#access.draft, this.#access.e);
    for (const d of this.#drafts) d.n = this.#next++;
    for (const { n, event, lane, stream, name, args, cause } of this.#drafts)
      this.#on({ n, event, lane, stream, name, args, cause: typeof cause === 'number' ? cause : cause.n });
    this.#drafts = [];
    this.#orphans = [];
  }

  /** What the machine would tell, from the recording. */
  #asRecorded(e: Extract<TraceEvent, { t: 'irq' | 'msi' | 'dst' | 'frcd' }>): void {
    if (e.t === 'irq') this.#add(LANE.INTERRUPTS, -1, e.line, {});
    else if (e.t === 'msi') this.#add(LANE.INTERRUPTS, -1, 'message', { address: hex(e.address), data: hex(e.data) });
    else if (e.t === 'frcd')
      this.#add(LANE.FAULTS, e.words[2] & 0xffff, `reason ${hex(e.words[3] & 0xff)}`, {
        recorded: 1,
        words: wordsText(e.words),
      });
    else this.#add(LANE.MEMORY, -1, 'status written', { address: hex(e.gpa), bytes: e.bytes.length });
  }

  #add(lane: Lane, stream: number, name: string, args: MomentArgs): Draft {
    const draft: Draft = { n: -1, event: this.#event, lane, stream, name, args, cause: -1 };
    this.#drafts.push(draft);
    return draft;
  }

  #store(gpa: number, bytes: number, name: string, args: MomentArgs, pc?: readonly [number, number]): void {
    this.#add(LANE.MEMORY, -1, name, pc === undefined ? args : { ...args, pc: hexWords(pc[0], pc[1]) });
    // The only moment of its event: it gets the next number.
    for (let at = Math.floor(gpa / UNIT); at * UNIT < gpa + bytes; at++) this.#stores.set(at, this.#next);
  }

  #commandDone(name: string, words: readonly number[], error: number): void {
    const args = error === 0 ? { words: wordsText(words) } : { words: wordsText(words), error };
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
    const plain = Object.entries(args).map(([key, v]) => [key, typeof v === 'bigint' ? hex(v) : v] as const);
    const draft = this.#add(LANE.HOST, -1, verb, { ...Object.fromEntries(plain), result });
    if (this.#kind === 'vtd' && this.#origin?.lane === LANE.REGISTERS) this.#orphans.push(draft);
    draft.cause = (this.#kind === 'vtd' ? null : this.#command) ?? this.#origin ?? -1;
    this.#host = draft;
  }

  #faulted(name: string, stream: number, args: MomentArgs): void {
    const draft = this.#add(LANE.FAULTS, stream, name, args);
    draft.cause = this.#command ?? this.#origin ?? -1;
    this.#fault = draft;
  }

  #recorded(address: number, words: readonly number[]): void {
    if (this.#kind === 'smmuv3' && words.length * 4 === EVENT_BYTES) {
      const name = EVENT_NAMES.get(evType(words)) ?? `event ${hex(evType(words))}`;
      this.#faulted(name, words[1]! >>> 0, { at: hex(address), words: wordsText(words) });
      this.#record = this.#fault;
      return;
    }
    const draft = this.#add(LANE.MEMORY, -1, 'status written', { address: hex(address), words: wordsText(words) });
    draft.cause = this.#command ?? this.#origin ?? -1;
  }

  #refusal(e: FaultEvent): string {
    return (this.#kind === 'smmuv3' ? EVENT_NAMES.get(e.reason) : undefined) ?? e.name;
  }

  /** The last store to any entry of a walk. */
  #lastOf(steps: GuestWalk['steps']): number {
    let last = -1;
    for (const step of steps) last = Math.max(last, this.lastStore(step.at, step.bytes));
    return last;
  }

  /** The walk of an access, remembered: most accesses go where one went before. */
  #walkOf(e: XlatEvent | FaultEvent): KnownWalk {
    let pages = this.#walks.get(e.sid);
    const page = (e.hi >>> 0) * 2 ** 20 + (e.lo >>> 12);
    const known = pages?.get(page);
    if (known !== undefined && known.writes === this.#writes && this.#lastOf(known.steps) === known.cause) return known;
    if (this.#walkCount++ >= MOST_WALKS) {
      this.#walks.clear();
      this.#walkCount = 0;
      pages = undefined;
    }
    if (pages === undefined) {
      pages = new Map();
      this.#walks.set(e.sid, pages);
    }
    const { steps, end } = this.walk(e.sid, e.lo, e.hi);
    const walk = { steps, end, cause: this.#lastOf(steps), writes: this.#writes };
    pages.set(page, walk);
    return walk;
  }

  /** What became of an access, and the store that made it so. */
  #answer(draft: Draft, e: XlatEvent | FaultEvent): void {
    const { end, cause } = this.#walkOf(e);
    draft.args = {
      device: this.nameOf(e.sid),
      iova: hexWords(e.lo, e.hi),
      ...(e.t === 'xlat' ? { out: hex(e.out), perm: accessText(Math.max(e.perm, 0)) } : { refused: this.#refusal(e) }),
      ...(this.#hit === '' ? {} : { tlb: this.#hit }),
      ...(end === '' ? {} : { tables: end }),
    };
    draft.cause = cause;
  }
}
