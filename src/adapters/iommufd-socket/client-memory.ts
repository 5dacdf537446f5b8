import type { PhysicalBytes } from '../../host/kernel/kernel.ts';
import type { ServerLimits } from './limits.ts';
import { PinCounts } from './pin-counts.ts';
import { type ClientPages, FIRST_CLIENT_ADDRESS } from './reachable-memory.ts';
import type { Request } from './request.ts';
import type { Session } from './session.ts';

const PAGE = 4096;
/** Client memory appears at made-up host-physical addresses in windows of this size, above everything the kernel owns. */
const WINDOW = 2n ** 30n;
const WINDOW_BYTES = Number(WINDOW);
const FIRST = FIRST_CLIENT_ADDRESS;

/** A process's private memory by its number, or something shared by its device and inode. */
export type MemoryOwner = { readonly pid: number } | { readonly file: string };

const NOWHERE_YET = { pid: 0, handle: -1, holder: 0, mapped: Number.NaN } as const;

/** What lies in one window: a gigabyte of a process's private memory, or of something shared. */
interface Window {
  readonly session: Session;
  readonly key: string;
  readonly owner: MemoryOwner;
  /** Address or file offset of the window's first byte. */
  readonly base: bigint;
  /** How often each of its pages is pinned. */
  readonly pins: PinCounts;
  /** Of something shared: a process that maps it, and how its client finds the file; -1: unknown. */
  pid: number;
  handle: number;
  /** Which process holds that file. */
  holder: number;
  /** Where `pid` maps it: what is added to an offset; NaN: not known. */
  mapped: number;
}

/** Where shared memory can be found besides its own identity. */
export interface SharedHints {
  readonly pid?: number;
  readonly handle?: number;
  readonly holder?: number;
  /** Where `pid` maps the byte. */
  readonly va?: bigint;
}

/**
 * Gives the pages of all clients host-physical addresses by what they are: private pages by session, process and address,
 * shared ones by session, inode and offset. Within a session two mappings of one page are the same page; what another session
 * says about its memory has no part in it. The addresses keep the alignment of large pages.
 */
export class ClientMemory implements PhysicalBytes, ClientPages {
  /** The request that is worked on. Bytes are read from its client, and only if they are its session's. */
  request: Request | null = null;
  readonly #windows: (Window | null)[] = [];
  readonly #free: number[] = [];
  readonly #byKey = new Map<string, number>();
  readonly #bySession = new Map<Session, Set<number>>();
  readonly #limits: ServerLimits;
  #pinned = 0;

  constructor(limits: ServerLimits) {
    this.#limits = limits;
  }

  /** Host-physical address of a byte, to be pinned at once; -1: no window is left for the session, or for anybody. */
  address(session: Session, owner: MemoryOwner, at: bigint, hints: SharedHints = {}): number {
    const n = at / WINDOW;
    const key = `${session.number} ${'pid' in owner ? owner.pid : owner.file} ${n}`;
    let i = this.#byKey.get(key);
    if (i === undefined) {
      if (!this.#roomFor(session)) return -1;
      i = this.#free.pop() ?? this.#windows.length;
      this.#of(session).add(i);
      this.#windows[i] = { session, key, owner, base: n * WINDOW, pins: new PinCounts(), ...NOWHERE_YET };
      this.#byKey.set(key, i);
    }
    const w = this.#windows[i]!;
    if (hints.pid !== undefined) w.pid = hints.pid;
    if (hints.handle !== undefined) w.handle = hints.handle;
    if (hints.holder !== undefined) w.holder = hints.holder;
    if (hints.va !== undefined) w.mapped = Number(hints.va - at);
    return FIRST + i * WINDOW_BYTES + Number(at % WINDOW);
  }

  /** Bytes up to the end of the window. */
  room(at: bigint): bigint {
    return WINDOW - (at % WINDOW);
  }

  #of(session: Session): Set<number> {
    let mine = this.#bySession.get(session);
    if (mine === undefined) {
      mine = new Set();
      this.#bySession.set(session, mine);
    }
    return mine;
  }

  /** A window more: those in which nothing is pinned make room first. */
  #roomFor(session: Session): boolean {
    const { windowsPerSession, windows } = this.#limits;
    const full = () => (this.#bySession.get(session)?.size ?? 0) >= windowsPerSession || this.windows >= windows;
    if (full()) this.sweep(session);
    return !full();
  }

  /** Windows in which nothing is pinned are forgotten: a session is over, or has finished a request. */
  sweep(session: Session): void {
    const mine = this.#bySession.get(session);
    if (mine === undefined) return;
    for (const i of mine) {
      const w = this.#windows[i]!;
      if (!w.pins.empty) continue;
      this.#byKey.delete(w.key);
      this.#windows[i] = null;
      this.#free.push(i);
      mine.delete(i);
    }
    if (mine.size === 0) this.#bySession.delete(session);
    if (this.windows > 0) return;
    this.#windows.length = 0;
    this.#free.length = 0;
  }
  /** Windows in use. */
  get windows(): number {
    return this.#byKey.size;
  }

  /** Pages that are pinned by anybody. */
  get pinned(): number {
    return this.#pinned;
  }

  /** Pins pages of one window. @returns false: more than the session, or all of them, may have. */
  pin(hpa: number, bytes: number): boolean {
    const w = this.#window(hpa);
    const pages = Math.ceil((bytes + (hpa % PAGE)) / PAGE);
    if (w === null || w.session.pinned + pages > this.#limits.pinnedPerSession) return false;
    if (this.#pinned + pages > this.#limits.pinned) return false;
    this.#count(w, hpa, bytes, 1);
    return true;
  }
  unpin(hpa: number, bytes: number): void {
    // A run of pins can go on in the next window.
    for (let at = hpa; at < hpa + bytes; ) {
      const n = Math.min(hpa + bytes - at, WINDOW_BYTES - ((at - FIRST) % WINDOW_BYTES));
      const w = this.#window(at);
      if (w !== null) this.#count(w, at, n, -1);
      at += n;
    }
  }
  #count(w: Window, hpa: number, bytes: number, by: 1 | -1): void {
    const first = Math.floor(((hpa - FIRST) % WINDOW_BYTES) / PAGE);
    const pages = Math.ceil((bytes + (hpa % PAGE)) / PAGE);
    w.pins.add(first, first + pages - 1, by);
    w.session.pinned += by * pages;
    this.#pinned += by * pages;
  }
  /** How often a page is pinned. */
  pins(hpa: number): number {
    return this.#window(hpa)?.pins.of(Math.floor(((hpa - FIRST) % WINDOW_BYTES) / PAGE)) ?? 0;
  }

  #window(hpa: number): Window | null {
    return this.#windows[Math.floor((hpa - FIRST) / WINDOW_BYTES)] ?? null;
  }

  readNow(hpa: number, into: Uint8Array, start: number, count: number): boolean {
    return this.#reach(hpa, into, start, count, false);
  }
  writeNow(hpa: number, from: Uint8Array, start: number, count: number): boolean {
    return this.#reach(hpa, from, start, count, true);
  }

  /** What devices read and write: in the process itself, if it has shown that it is this session's. */
  #reach(hpa: number, bytes: Uint8Array, start: number, count: number, write: boolean): boolean {
    const w = this.#window(hpa);
    if (w === null) return false;
    const at = Number(w.base) + ((hpa - FIRST) % WINDOW_BYTES);
    const { attendants } = w.session;
    if (!('pid' in w.owner) && w.handle >= 0) {
      const there = attendants.get(w.holder)?.reach;
      const { file } = w.owner;
      if (there == null) return false;
      return write
        ? there.writeFile(w.handle, file, at, bytes, start, count)
        : there.readFile(w.handle, file, at, bytes, start, count);
    }
    const there = attendants.get('pid' in w.owner ? w.owner.pid : w.pid)?.reach;
    const va = 'pid' in w.owner ? at : at + w.mapped;
    if (there == null || Number.isNaN(va)) return false;
    return write ? there.write(va, bytes, start, count) : there.read(va, bytes, start, count);
  }

  readBytes(hpa: number, into: Uint8Array): boolean {
    return this.#access(
      hpa,
      (r, pid, at) => r.readProcess(pid, at, into),
      (r, handle, at) => r.readFile(handle, at, into),
    );
  }
  writeBytes(hpa: number, from: Uint8Array): boolean {
    return this.#access(
      hpa,
      (r, pid, at) => r.writeProcess(pid, at, from),
      (r, handle, at) => r.writeFile(handle, at, from),
    );
  }

  #access(
    hpa: number,
    process: (r: Request, pid: number, at: bigint) => boolean,
    file: (r: Request, handle: number, at: bigint) => boolean,
  ): boolean {
    const w = this.#window(hpa);
    const r = this.request;
    // A session's memory is reached through its own connections only.
    if (w === null || r === null || w.session !== r.session) return false;
    const at = w.base + BigInt((hpa - FIRST) % WINDOW_BYTES);
    if ('pid' in w.owner) return process(r, w.owner.pid, at);
    // Whoever maps it serves; the process it was mapped for may be gone.
    for (const pid of new Set([r.pid, w.pid])) {
      if (pid === 0) continue;
      const maps = r.answers.maps.get(pid);
      if (maps === undefined) return r.need({ what: 'maps', pid });
      const va = maps.addressOf(w.owner.file, at);
      if (va >= 0n) return process(r, pid, va);
    }
    return w.handle >= 0 && file(r, w.handle, at);
  }
}
