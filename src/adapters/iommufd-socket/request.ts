import type { ServerLimits } from './limits.ts';
import { Answers, type Question, spaceOf } from './questions.ts';
import type { Session } from './session.ts';

/** What the client is to write before its call returns. */
export type PendingWrite =
  | { readonly to: 'process'; readonly pid: number; readonly address: bigint; readonly bytes: Uint8Array }
  | { readonly to: 'file'; readonly handle: number; readonly offset: bigint; readonly bytes: Uint8Array };

/** The caller of one ioctl. */
export interface RequestParts {
  readonly session: Session;
  readonly pid: number;
  /** The argument, and the bytes at it that came along. */
  readonly argument: bigint;
  readonly fetched: Uint8Array;
  /** How many of them the client knows it can write. */
  readonly writable: number;
  /** CAP_SYS_RESOURCE. */
  readonly privileged: boolean;
  readonly limits: ServerLimits;
}

/** No structure that a verb answers in place is longer. */
const ANSWER_BYTES = 96;

/** A range of the caller's memory that a verb will read or write piece by piece. */
interface Extent {
  readonly address: bigint;
  readonly length: number;
}

/**
 * One request of a client while it is worked on. A verb runs with what the client has told so far. If it needs more, it is
 * told EFAULT, which makes it take back what it did; then the client is asked, and the verb runs again from the start. So
 * nobody ever waits for a client but the client itself.
 */
export class Request {
  readonly session: Session;
  readonly pid: number;
  readonly privileged: boolean;
  readonly answers = new Answers();
  /** What the last run needed and did not have; null: the run counts. */
  missing: Question | null = null;
  readonly writes: PendingWrite[] = [];
  /** It has been answered. */
  over = false;
  readonly #parts: RequestParts;
  readonly #extents: Extent[] = [];
  #spares = 0;

  constructor(parts: RequestParts) {
    this.#parts = parts;
    this.session = parts.session;
    this.pid = parts.pid;
    this.privileged = parts.privileged;
    this.answers.put(spaceOf('process', parts.pid), parts.argument, parts.fetched.length, parts.fetched);
  }

  /** A run begins: what an earlier one was about to write is forgotten. */
  begin(): void {
    this.missing = null;
    this.writes.length = 0;
    this.#spares = 0;
    this.#extents.length = 0;
  }

  get limits(): ServerLimits {
    return this.#parts.limits;
  }

  /**
   * Whether it is known what of the argument can be written. Not every verb takes back what it did when its answer cannot be
   * copied, so none is run before that. @returns false: the client has to be asked.
   */
  mayAnswer(): boolean {
    if (this.#parts.writable >= ANSWER_BYTES || this.answers.maps.has(this.pid)) return true;
    return this.need({ what: 'maps', pid: this.pid });
  }

  /** The first thing that is missing decides what is asked. @returns false, for the caller's convenience. */
  need(q: Question): false {
    this.missing ??= q;
    return false;
  }

  /** Copies there will come piece by piece: the first asks for all of it. */
  expect(address: bigint, length: number): void {
    this.#extents.push({ address, length });
  }

  /** Reads memory of a process of the session. @returns false: EFAULT, or not known yet. */
  readProcess(pid: number, address: bigint, into: Uint8Array): boolean {
    const known = this.answers.read(spaceOf('process', pid), address, into);
    if (known >= 0) return this.#written(pid, address, into, known);
    const { missing } = this.answers;
    const end = address + BigInt(into.length);
    let length = Number(end - missing);
    for (const e of this.#extents) {
      const last = e.address + BigInt(e.length);
      if (pid === this.pid && e.address <= missing && missing < last) length = Math.max(length, Number(last - missing));
    }
    const room = this.#parts.limits.bytesPerRequest - this.answers.bytes;
    if (Number(end - missing) > room) return false;
    return this.need({ what: 'bytes', pid, address: missing, length: Math.min(length, room) });
  }

  /** What this run has written already is what it reads. */
  #written(pid: number, address: bigint, into: Uint8Array, known: number): boolean {
    if (known < into.length) return false;
    for (const w of this.writes) {
      if (w.to !== 'process' || w.pid !== pid) continue;
      const from = Number(w.address - address);
      const first = Math.max(0, from);
      const last = Math.min(into.length, from + w.bytes.length);
      if (first < last) into.set(w.bytes.subarray(first - from, last - from), first);
    }
    return true;
  }

  /** Writes memory of a process, when the request is over. @returns false: EFAULT, or not known yet. */
  writeProcess(pid: number, address: bigint, from: Uint8Array): boolean {
    if (!this.#mayWrite(pid, address, from.length)) return false;
    this.writes.push({ to: 'process', pid, address, bytes: from.slice() });
    return true;
  }

  #mayWrite(pid: number, address: bigint, length: number): boolean {
    if (length === 0) return true;
    const { argument, writable } = this.#parts;
    const inside = pid === this.pid && address >= argument && address + BigInt(length) <= argument + BigInt(writable);
    if (inside) return true;
    const maps = this.answers.maps.get(pid);
    return maps === undefined ? this.need({ what: 'maps', pid }) : maps.writable(address, length);
  }

  /**
   * Makes sure that copies to or from [address, address + length) of the caller will not be held up, for a verb that cannot
   * take back what it does. Bytes that are not there will be EFAULT as always. @returns false: not known yet, or too much.
   */
  ready(address: bigint, length: number, write: boolean): boolean {
    if (length > this.#parts.limits.bytesPerRequest) return false;
    if (this.answers.read(spaceOf('process', this.pid), address, new Uint8Array(length)) < 0) {
      this.expect(address, length);
      return this.readProcess(this.pid, address, new Uint8Array(length)) || this.missing === null;
    }
    this.#mayWrite(this.pid, address, write ? length : 0);
    return this.missing === null;
  }

  /** Bytes of a file that a process mapped. */
  readFile(handle: number, offset: bigint, into: Uint8Array): boolean {
    const known = this.answers.read(spaceOf('file', handle), offset, into);
    if (known >= 0) return known === into.length;
    if (into.length > this.#parts.limits.bytesPerRequest - this.answers.bytes) return false;
    return this.need({ what: 'file bytes', handle, offset, length: into.length });
  }
  writeFile(handle: number, offset: bigint, from: Uint8Array): boolean {
    this.writes.push({ to: 'file', handle, offset, bytes: from.slice() });
    return true;
  }

  /** The next of the descriptors that the client has made for files to come; null: it has to make one. */
  takeSpare(): Answers['spares'][number] | null {
    const spare = this.answers.spares[this.#spares];
    if (spare === undefined) {
      this.need({ what: 'descriptor' });
      return null;
    }
    this.#spares++;
    return spare;
  }
  /** Descriptors that were made and not used. */
  get unused(): readonly { readonly fd: number }[] {
    return this.answers.spares.slice(this.#spares);
  }
}
