import { randomBytes } from 'node:crypto';
import type { IommufdContext } from '../../host/iommufd/context.ts';
import type { PinAccount } from '../../ports/iommufd.ts';
import type { Attendant } from './attendant.ts';
import { SECRET_BYTES } from './frames.ts';

const PAGE = 4096;
/** Processes of a session that are remembered although they hold nothing. */
const MANY = 1024;

/** What a process pays with: counts of its pages, and the limits it told with its last ioctl. */
export class ProcessAccount implements PinAccount {
  unlimited = false;
  limit = Number.POSITIVE_INFINITY;
  pinned = 0;
  locked = 0;
  readonly user: { locked: number };

  constructor(user: { locked: number }) {
    this.user = user;
  }
}

/**
 * A client: a program with its forks. Whoever knows the secret belongs to it. Memory, tokens and limits are those of a session;
 * one session never reaches another's.
 */
export class Session {
  /** For keys: never used again. */
  readonly number: number;
  readonly secret: string;
  connections = 0;
  /** Pages it has pinned in all. */
  pinned = 0;
  /** Counts down to the internal step that fails; 0: none does. */
  failNth = 0;
  /** Its iommufds, as long as somebody holds them. */
  readonly iommufds = new Set<IommufdContext>();
  /** Its processes that attend to devices, by their number. */
  readonly attendants = new Map<number, Attendant>();
  /** Objects and areas at most: what was made since they were counted, on top of what there was then. */
  #objects = 0;
  #areas = 0;
  readonly #accounts = new Map<number, ProcessAccount>();
  readonly #users: Map<number, { locked: number }>;

  constructor(number: number, users: Map<number, { locked: number }>) {
    this.number = number;
    this.secret = randomBytes(SECRET_BYTES).toString('latin1');
    this.#users = users;
  }

  /** The account of a process. @param uid its user, where it is told for the first time. */
  account(pid: number, uid = 0): ProcessAccount {
    let a = this.#accounts.get(pid);
    if (a === undefined) {
      let user = this.#users.get(uid);
      if (user === undefined) {
        user = { locked: 0 };
        this.#users.set(uid, user);
      }
      a = new ProcessAccount(user);
      this.#accounts.set(pid, a);
    }
    return a;
  }

  /** One object more. @returns false: the session has as many as it may. */
  takeObject(limit: number): boolean {
    if (this.#objects >= limit) this.#count();
    return this.#objects < limit && ++this.#objects > 0;
  }
  /** One mapped area more. */
  takeArea(limit: number): boolean {
    if (this.#areas >= limit) this.#count();
    return this.#areas < limit && ++this.#areas > 0;
  }

  #count(): void {
    this.#objects = 0;
    this.#areas = 0;
    for (const context of this.iommufds) {
      if (!context.alive) this.iommufds.delete(context);
      for (const o of context.objects.objects()) {
        this.#objects++;
        if (o.kind === 'ioas') this.#areas += o.areas.size;
      }
    }
  }

  /** What a process told about itself with an ioctl. @param memlock RLIMIT_MEMLOCK in bytes, 2^64-1: none. */
  told(pid: number, uid: number, unlimited: boolean, memlock: bigint): ProcessAccount {
    const a = this.account(pid, uid);
    a.unlimited = unlimited;
    a.limit = memlock === 0xffff_ffff_ffff_ffffn ? Number.POSITIVE_INFINITY : Math.floor(Number(memlock) / PAGE);
    return a;
  }

  /** Forgets processes that hold nothing, when there are many: a client that forks for ever does not grow. */
  sweep(): void {
    if (this.#accounts.size < MANY) return;
    for (const [pid, a] of this.#accounts) if (a.pinned === 0) this.#accounts.delete(pid);
  }
}

/** All sessions. A session without connections is gone; who comes back with its secret gets a new one. */
export class Sessions {
  readonly #bySecret = new Map<string, Session>();
  readonly #users = new Map<number, { locked: number }>();
  #next = 1;

  get size(): number {
    return this.#bySecret.size;
  }

  /** The session with this secret. */
  find(secret: string): Session | null {
    return this.#bySecret.get(secret) ?? null;
  }

  open(): Session {
    const s = new Session(this.#next++, this.#users);
    this.#bySecret.set(s.secret, s);
    return s;
  }

  /** A connection of the session is gone. */
  leave(s: Session): void {
    if (--s.connections === 0) this.#bySecret.delete(s.secret);
    else s.sweep();
  }
}
