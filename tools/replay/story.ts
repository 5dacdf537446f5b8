import type { Said } from '../../src/ports/tell.ts';
import type { TraceEvent } from '../../src/trace/index.ts';

type Host = Extract<Said, { what: 'host' }>;

/** Something the guest did, and what it made the host do, in the order it happened. */
interface Chapter {
  began: 'machine' | 'register' | 'command' | 'dma';
  /** Command names; or one text. */
  what: string[];
  /** The streams it names; none: it is about all of them. */
  readonly streams: Set<number>;
  readonly caused: Host[];
}

/** Verbs that are about one device, whoever it is. */
const OF_ONE_DEVICE = new Set(['BIND', 'ATTACH', 'GET_HW_INFO']);
/** Ids and small numbers read better in decimal. */
const SMALL = 1000;

function value(v: number | bigint | string): string {
  if (typeof v === 'string') return v;
  return v < SMALL ? String(v) : `0x${v.toString(16)}`;
}

function hostText(said: Host): string {
  const args = Object.entries(said.args)
    .filter(([key, v]) => !(key === 'pasid' && v === -1) && !((key === 'flags' || key === 'fault') && v === 0))
    .map(([key, v]) => `${key} ${value(v)}`);
  return `${said.verb} (${args.join(', ')})${said.result === 0 ? '' : ` = ${said.result}`}`;
}

/** Runs of one name as `name x count`. */
function counted(names: readonly string[]): string {
  const out: { name: string; count: number }[] = [];
  for (const name of names) {
    const last = out.at(-1);
    if (last?.name === name) last.count++;
    else out.push({ name, count: 1 });
  }
  return out.map((r) => (r.count === 1 ? r.name : `${r.name} x ${r.count}`)).join(', ');
}

/** What a story needs to know of an architecture. */
export interface StoryWords {
  /** The register at an offset of the window. */
  register(offset: number): string;
  /** The stream or requester a command is about, or -1. */
  stream(command: string, words: readonly number[]): number;
  /** Whether a device says that it executes a command before or after it did. */
  readonly commands: 'before' | 'after';
}

/** Whether a host operation is part of the story of `device`, which was attached to each of `ours`. */
function concerns(h: Host, device: number, ours: ReadonlySet<number>, began: Chapter['began']): boolean {
  if (h.verb === 'DESTROY') return ours.has(Number(h.args.id));
  if (!('dev' in h.args) || h.args.dev === device) return true;
  return began === 'machine' && !OF_ONE_DEVICE.has(h.verb);
}

/**
 * Listens to a replay and keeps what each of the guest's commands, register writes and DMA accesses made the host do.
 * Commands travel to the host in batches: what a batch causes stands with all commands that went before it.
 */
export class Story {
  readonly #words: StoryWords;
  readonly #chapters: Chapter[] = [];
  #open: Chapter = { began: 'machine', what: ['the machine is built'], streams: new Set(), caused: [] };

  constructor(words: StoryWords) {
    this.#words = words;
    this.#chapters.push(this.#open);
  }

  /** To be told of every event before it is replayed. */
  readonly event = (e: TraceEvent): void => {
    if (e.t === 'xlat' || e.t === 'fault') this.#begin('dma', 'a DMA access', e.sid);
    else if (e.t === 'w') this.#begin('register', `${this.#words.register(e.off)} is written`, -1);
  };

  readonly tell = (said: Said): void => {
    if (said.what === 'host') this.#open.caused.push(said);
    else if (said.what === 'command') this.#command(said.name, this.#words.stream(said.name, said.words));
  };

  #command(name: string, stream: number): void {
    const after = this.#words.commands === 'after';
    if (after && this.#open.began !== 'command') {
      this.#open.began = 'command';
      this.#open.what = [];
    }
    const open = this.#open;
    if (open.began !== 'command' || (open.caused.length > 0 && !after)) this.#begin('command', name, stream);
    else {
      open.what.push(name);
      if (stream >= 0) open.streams.add(stream);
      if (after && open.caused.length > 0) this.#begin('register', 'the end of the queue is reached', -1);
    }
  }

  #begin(began: Chapter['began'], what: string, stream: number): void {
    if (this.#open.caused.length === 0) this.#chapters.pop();
    this.#open = { began, what: [what], streams: new Set(stream < 0 ? [] : [stream]), caused: [] };
    this.#chapters.push(this.#open);
  }

  /** The host's id of the device that is stream `sid`, from the vDEVICE or the attach that named both; -1: unknown. */
  #device(sid: number, name: string): number {
    for (const c of this.#chapters)
      for (const h of c.caused) {
        if (h.verb === 'VDEVICE_ALLOC' && Number(h.args.virtId) === sid) return Number(h.args.dev);
        if (h.verb === 'BIND' && h.args.device === name) return Number(h.args.dev);
      }
    return -1;
  }

  /**
   * The life of one stream: everything that names it, and what else had an effect the first time it happened. Operations
   * on other devices are left out.
   * @param name the device's, where no vDEVICE names the stream. @param limit lines at most.
   */
  lines(sid: number, name: string, limit: number): string[] {
    const device = this.#device(sid, name);
    const ours = new Set(
      this.#chapters
        .flatMap((c) => c.caused)
        .filter((h) => h.args.dev === device)
        .map((h) => Number(h.args.pt)),
    );
    const lines: string[] = [];
    const known = new Set<string>();
    for (const c of this.#chapters) {
      const named = c.streams.has(sid);
      if (c.streams.size > 0 && !named) continue;
      const caused = c.caused.filter((h) => concerns(h, device, ours, c.began));
      const what = counted(c.what);
      const shape = `${what.replace(/ x \d+/g, '')}: ${caused.map((h) => h.verb).join()}`;
      if (caused.length === 0 || known.has(shape)) continue;
      known.add(shape);
      lines.push(
        `  ${what}${named ? ` (stream 0x${sid.toString(16)})` : ''}`,
        ...caused.map((h) => `      ${hostText(h)}`),
      );
      if (lines.length >= limit) return [...lines.slice(0, limit), '  …'];
    }
    return lines;
  }
}
