import { randomBytes } from 'node:crypto';
import type { KernelFile } from '../../host/ioctl/caller.ts';
import type { DeviceNodes } from '../../host/ioctl/device-nodes.ts';
import { IommufdNode } from '../../host/ioctl/iommufd-node.ts';
import { MAP_SHARED } from '../../host/iommufd/mmap.ts';
import type { HostKernel } from '../../host/kernel/kernel.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { Afterwards } from './afterwards.ts';
import { Attendant } from './attendant.ts';
import { ClientMemory } from './client-memory.ts';
import type { Connection } from './connection.ts';
import { FRAME, type Frame, IOCTL_FLAG, IOCTL_HEAD, SECRET_BYTES } from './frames.ts';
import { MAX_READ, type ServerLimits, type ServerUsage } from './limits.ts';
import { OpenFile } from './open-files.ts';
import { ProcessMemory } from './process-memory.ts';
import { SessionQuota } from './quota.ts';
import type { ReachableMemory } from './reachable-memory.ts';
import { ReachedFiles } from './reached-files.ts';
import { Request } from './request.ts';
import { RequestRun, returned } from './request-run.ts';
import { type Session, Sessions } from './session.ts';
import type { ServedSysfs } from './sysfs.ts';
import { transfer } from './transfer.ts';

const NOBODY = '\0'.repeat(SECRET_BYTES);

/** What the server serves. */
export interface KernelServerParts {
  readonly kernel: HostKernel;
  readonly nodes: DeviceNodes;
  readonly limits: ServerLimits;
  /** The memory its functions reach; null: they reach none, and nobody has to attend. */
  readonly reach: ReachableMemory | null;
  readonly sysfs: ServedSysfs;
  /** Runs what is put off. */
  readonly afterwards: Afterwards;
}

/**
 * The emulated kernel behind the socket: who has what open, and what each frame does. Everything is done at once; what needs a
 * client's memory goes on when that client has answered (`RequestRun`).
 */
export class KernelServer {
  readonly #parts: KernelServerParts;
  readonly #memory: ClientMemory;
  readonly #sessions = new Sessions();
  readonly #byToken = new Map<string, Connection>();
  /** Tokens of descriptors that clients are about to make, and whose they are. */
  readonly #expected = new Map<string, Session>();
  readonly #quota: SessionQuota;
  /** Files of clients that functions reach. */
  readonly #files = new ReachedFiles();
  #swept = 0;

  constructor(parts: KernelServerParts) {
    this.#parts = parts;
    this.#memory = new ClientMemory(parts.limits);
    this.#quota = new SessionQuota(parts.limits);
    parts.kernel.physical = this.#memory;
    if (parts.reach !== null) parts.reach.clients = this.#memory;
    parts.kernel.memory.failures = this.#quota;
  }

  /** What clients take now. */
  get usage(): ServerUsage {
    return { sessions: this.#sessions.size, windows: this.#memory.windows, pinned: this.#memory.pinned };
  }

  /** Handles a complete frame. */
  frame(c: Connection, { type, payload }: Frame): void {
    switch (type) {
      case FRAME.REPLY: {
        const goOn = c.takeContinuation();
        if (goOn === null || payload.length < 4) c.destroy();
        else goOn(payload.readInt32LE(0), payload.subarray(4));
        return;
      }
      case FRAME.OPEN:
        this.#open(c, payload);
        return;
      case FRAME.HELLO:
        this.#hello(c, payload);
        return;
      case FRAME.JOIN:
        this.#join(c, payload);
        return;
      case FRAME.ADOPT:
        this.#adopt(c, payload);
        return;
      case FRAME.PROCESS:
        this.#process(c, payload);
        return;
      case FRAME.FAIL_NTH:
        this.#failNth(c, payload);
        return;
      case FRAME.ATTEND:
        this.#attend(c, payload);
        return;
      case FRAME.PROVE:
        this.#prove(c);
        return;
      case FRAME.SYSFS:
        c.answer(returned(0, Buffer.from(this.#parts.sysfs.folder)));
        return;
      case FRAME.GROUP:
        this.#group(c, payload);
        return;
      case FRAME.CLOSE:
        this.#close(c);
        c.answer(returned(0));
        return;
      default:
        if (c.open === null) c.destroy();
        else this.#onFile(c, c.open.file, type, payload);
    }
  }

  /** A connection is over, whoever ended it. */
  gone(c: Connection): void {
    this.#close(c);
    if (c.attendant !== null) {
      const { attendants } = c.session!;
      if (attendants.get(c.attendant.pid) === c.attendant) attendants.delete(c.attendant.pid);
      c.attendant.close();
    }
    this.#byToken.delete(c.token);
    if (c.session !== null) this.#leave(c, c.session);
  }

  #close(c: Connection): void {
    const { open } = c;
    c.open = null;
    c.unlisten?.();
    c.unlisten = null;
    open?.leave();
  }

  #leave(c: Connection, session: Session): void {
    c.session = null;
    this.#sessions.leave(session);
    for (const [token, s] of this.#expected)
      if (s === session && session.connections === 0) this.#expected.delete(token);
    if (session.connections === 0) this.#memory.sweep(session);
  }

  /** Puts a connection into a session and gives it a name. @returns false: the session has too many, and it is told so. */
  #enter(c: Connection, session: Session): boolean {
    if (session.connections >= this.#parts.limits.connectionsPerSession) {
      c.answer(returned(-E.MFILE));
      return false;
    }
    session.connections++;
    if (c.session !== null) this.#leave(c, c.session);
    c.session = session;
    this.#byToken.delete(c.token);
    c.token = randomBytes(SECRET_BYTES).toString('latin1');
    this.#byToken.set(c.token, c);
    return true;
  }

  /** The session a client names, or a new one. */
  #sessionOf(payload: Buffer): Session {
    const secret = payload.toString('latin1', 0, SECRET_BYTES);
    return (secret === NOBODY ? null : this.#sessions.find(secret)) ?? this.#sessions.open();
  }

  #named(c: Connection): Buffer {
    return Buffer.from((c.session?.secret ?? NOBODY) + c.token, 'latin1');
  }

  #open(c: Connection, payload: Buffer): void {
    if (payload.length <= SECRET_BYTES) {
      c.destroy();
      return;
    }
    if (!this.#enter(c, this.#sessionOf(payload))) return;
    const path = payload.toString('latin1', SECRET_BYTES);
    // Which process opens does not matter: every ioctl names its own.
    const memory = new ProcessMemory(this.#memory, c.session!, 0);
    const file = this.#parts.nodes.open(path, { memory, privileged: false });
    if (typeof file === 'number') {
      c.answer(returned(file, this.#named(c)));
      return;
    }
    this.#lead(c, new OpenFile(file));
    c.answer(returned(0, this.#named(c)));
  }

  #lead(c: Connection, to: OpenFile): void {
    this.#close(c);
    to.join();
    c.listenTo(to);
    this.#remember(c);
  }

  /** Objects made through an iommufd count for every session that has it open. */
  #remember(c: Connection): void {
    if (c.open?.file instanceof IommufdNode) c.session?.iommufds.add(c.open.file.file.context);
  }

  /** A client has dialled for a descriptor that one of its ioctls is about to open. */
  #hello(c: Connection, payload: Buffer): void {
    const session = this.#sessions.find(payload.toString('latin1', 0, SECRET_BYTES));
    const token = payload.toString('latin1', SECRET_BYTES);
    if (session === null || this.#expected.get(token) !== session) {
      c.destroy();
      return;
    }
    this.#expected.delete(token);
    if (!this.#enter(c, session)) return;
    this.#byToken.delete(c.token);
    c.token = token;
    this.#byToken.set(token, c);
    c.answer(returned(0));
  }

  /** A process that forked, or hands a descriptor over: one more connection to the same open file. */
  #join(c: Connection, payload: Buffer): void {
    const session = this.#sessions.find(payload.toString('latin1', 0, SECRET_BYTES));
    const other = this.#byToken.get(payload.toString('latin1', SECRET_BYTES));
    if (session === null || other?.session !== session || other.open === null) {
      c.destroy();
      return;
    }
    if (!this.#enter(c, session)) return;
    this.#lead(c, other.open);
    c.answer(returned(0, this.#named(c)));
  }

  /** A process will attend to its devices on this connection. */
  #attend(c: Connection, payload: Buffer): void {
    const session = this.#sessions.find(payload.toString('latin1', 0, SECRET_BYTES));
    if (session === null || payload.length !== SECRET_BYTES + 12) {
      c.destroy();
      return;
    }
    if (!this.#enter(c, session)) return;
    const pid = payload.readUInt32LE(SECRET_BYTES);
    c.attendant = new Attendant(c, pid, Number(payload.readBigUInt64LE(SECRET_BYTES + 4)), this.#parts.afterwards);
    c.answer(returned(this.#parts.reach === null ? -E.NODEV : 0, c.attendant.secret));
  }

  /** It has written what it was given. From now on it is the one that attends in its process. */
  #prove(c: Connection): void {
    const { attendant, session } = c;
    if (attendant === null || session === null || this.#parts.reach === null) {
      c.destroy();
      return;
    }
    const before = session.attendants.get(attendant.pid);
    // What it has shown no longer counts: the process, or another of its number, attends here now.
    if (before !== attendant) before?.close();
    const proved = attendant.prove(this.#files);
    session.attendants.set(attendant.pid, attendant);
    c.answer(returned(proved ? 0 : -E.PERM));
  }

  /** A process has been handed this connection: it is a part of its session from now on. */
  #adopt(c: Connection, payload: Buffer): void {
    if (payload.length !== SECRET_BYTES || c.open === null) {
      c.destroy();
      return;
    }
    if (!this.#enter(c, this.#sessionOf(payload))) return;
    this.#remember(c);
    c.answer(returned(0, this.#named(c)));
  }

  /** What a process of the session has pinned and locked. */
  #process(c: Connection, payload: Buffer): void {
    if (payload.length !== 4 || c.session === null) {
      c.destroy();
      return;
    }
    const account = c.session.account(payload.readUInt32LE(0));
    const data = Buffer.alloc(16);
    data.writeBigUInt64LE(BigInt(account.pinned), 0);
    data.writeBigUInt64LE(BigInt(account.locked), 8);
    c.answer(returned(0, data));
  }

  /** /proc/self/fail-nth of a client: which of the next internal steps of its ioctls fails. */
  #failNth(c: Connection, payload: Buffer): void {
    if (payload.length !== 8 || c.session === null) {
      c.destroy();
      return;
    }
    if (payload.readUInt32LE(0) !== 0) c.session.failNth = payload.readUInt32LE(4);
    const data = Buffer.alloc(4);
    data.writeUInt32LE(c.session.failNth, 0);
    c.answer(returned(0, data));
  }

  #group(c: Connection, payload: Buffer): void {
    const n = this.#parts.nodes.groupOf(payload.toString('latin1'));
    c.answer(returned(n < 0 ? -E.NOENT : n));
  }

  #onFile(c: Connection, file: KernelFile, type: number, payload: Buffer): void {
    if (type === FRAME.IOCTL) {
      this.#ioctl(c, file, payload);
      return;
    }
    if (type === FRAME.PREAD || type === FRAME.PWRITE) {
      if (!transfer(c, file, type, payload, this.#parts.afterwards)) c.destroy();
      return;
    }
    const answer = fileRequest(file, type, payload, this.#parts.kernel);
    if (answer === null) c.destroy();
    else c.answer(answer);
  }

  #ioctl(c: Connection, file: KernelFile, payload: Buffer): void {
    const { session } = c;
    if (session === null || payload.length < IOCTL_HEAD) {
      c.destroy();
      return;
    }
    const pid = payload.readUInt32LE(0);
    const flags = payload.readUInt32LE(20);
    session.told(pid, payload.readUInt32LE(16), (flags & IOCTL_FLAG.IPC_LOCK) !== 0, payload.readBigUInt64LE(24));
    const fetched = new Uint8Array(payload.subarray(IOCTL_HEAD));
    const request = new Request({
      session,
      pid,
      argument: payload.readBigUInt64LE(8),
      fetched,
      writable: Math.min(payload.readUInt32LE(32), fetched.length),
      privileged: (flags & IOCTL_FLAG.SYS_RESOURCE) !== 0,
      limits: this.#parts.limits,
    });
    new RequestRun({
      connection: c,
      file,
      number: payload.readUInt32LE(4),
      argument: payload.readBigUInt64LE(8),
      request,
      memory: this.#memory,
      quota: this.#quota,
      byToken: this.#byToken,
      expected: this.#expected,
      done: () => this.#sweepSometimes(session),
    }).go();
  }

  /** Windows over memory that was only looked at are forgotten before they become many. */
  #sweepSometimes(session: Session): void {
    if (this.#memory.windows < 2 * this.#swept + 256) return;
    this.#memory.sweep(session);
    this.#swept = this.#memory.windows;
  }
}

/** Requests on a file that need no client memory. @returns the answer; null: not on such a file. */
function fileRequest(file: KernelFile, type: number, payload: Buffer, kernel: HostKernel): Buffer | null {
  switch (type) {
    case FRAME.READ: {
      if (payload.length !== 4) return null;
      const into = new Uint8Array(Math.min(payload.readUInt32LE(0), MAX_READ));
      const r = file.read?.(into) ?? -E.INVAL;
      return returned(r, into.subarray(0, Math.max(r, 0)));
    }
    case FRAME.WRITE:
      return returned(file.write?.(payload) ?? -E.INVAL);
    case FRAME.POLL:
      return returned(file.poll?.() ?? 0);
    case FRAME.MMAP:
      if (payload.length !== 24) return null;
      return file instanceof IommufdNode ? mmap(file, payload, kernel) : returned(-E.NODEV);
    case FRAME.MUNMAP:
      if (!(file instanceof IommufdNode) || payload.length !== 8) return null;
      file.munmap(payload.readBigUInt64LE(0));
      return returned(0);
    default:
      return null;
  }
}

function mmap(file: IommufdNode, payload: Buffer, kernel: HostKernel): Buffer {
  const length = Number(payload.readBigUInt64LE(0));
  const shared = (payload.readUInt32LE(20) & MAP_SHARED) !== 0;
  const r = file.mmap(payload.readBigUInt64LE(8), length, shared, payload.readUInt32LE(16));
  if (r !== 0) return returned(r);
  const word = Buffer.alloc(4);
  kernel.memory.space.readBytes(file.file.context.mmaps.mapped, word);
  return returned(0, word);
}
