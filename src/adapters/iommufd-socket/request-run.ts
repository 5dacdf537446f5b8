import { randomBytes } from 'node:crypto';
import type { KernelFile } from '../../host/ioctl/caller.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { SocketCaller } from './caller.ts';
import type { ClientMemory } from './client-memory.ts';
import type { Connection } from './connection.ts';
import { ACTION, FRAME, frame, SECRET_BYTES } from './frames.ts';
import { MAX_COPY, MAX_MAPS } from './limits.ts';
import { ProcessMaps } from './process-maps.ts';
import { type Question, spaceOf } from './questions.ts';
import type { SessionQuota } from './quota.ts';
import type { PendingWrite, Request } from './request.ts';
import type { Session } from './session.ts';

/** What a run of a request needs. */
export interface RequestRunParts {
  readonly connection: Connection;
  readonly file: KernelFile;
  /** The ioctl's number and argument. */
  readonly number: number;
  readonly argument: bigint;
  readonly request: Request;
  readonly memory: ClientMemory;
  readonly quota: SessionQuota;
  readonly byToken: ReadonlyMap<string, Connection>;
  readonly expected: Map<string, Session>;
  /** The request has been answered. */
  readonly done: () => void;
}

/** A RET frame. */
export function returned(
  result: number,
  data: Uint8Array = new Uint8Array(0),
  actions: readonly Buffer[] = [],
): Buffer {
  const head = Buffer.alloc(12);
  head.writeBigInt64LE(BigInt(result), 0);
  head.writeUInt32LE(actions.length, 8);
  return frame(FRAME.RET, head, ...actions, data);
}

function action(type: number, ...content: readonly Uint8Array[]): Buffer {
  const bytes = Buffer.concat([Buffer.alloc(5), ...content]);
  bytes[0] = type;
  bytes.writeUInt32LE(bytes.length - 5, 1);
  return bytes;
}

function head(pid: number, address: bigint): Buffer {
  const b = Buffer.alloc(12);
  b.writeInt32LE(pid | 0, 0);
  b.writeBigUInt64LE(BigInt.asUintN(64, address), 4);
  return b;
}

function writeAction(w: PendingWrite): Buffer {
  return w.to === 'process'
    ? action(ACTION.WRITE, head(w.pid, w.address), w.bytes)
    : action(ACTION.WRITE_FILE, head(w.handle, w.offset), w.bytes);
}

function closeAction(fd: number): Buffer {
  const b = Buffer.alloc(4);
  b.writeInt32LE(fd, 0);
  return action(ACTION.CLOSE, b);
}

function word(value: number): Buffer {
  const b = Buffer.alloc(4);
  b.writeInt32LE(value | 0, 0);
  return b;
}

/** Runs an ioctl, asks its client for what it lacks, and runs it again, until it needs nothing more. */
export class RequestRun {
  readonly #p: RequestRunParts;
  /** The counter of failing steps as the request found it: every run begins there. */
  readonly #failNth: number;
  #questions = 0;

  constructor(parts: RequestRunParts) {
    this.#p = parts;
    this.#failNth = parts.request.session.failNth;
  }

  go(): void {
    const { request, memory, quota, file, number, argument } = this.#p;
    const { session } = request;
    request.begin();
    let result = -E.FAULT;
    // The answer lands at the argument: it must be known to be writable before anything is done.
    if (request.mayAnswer()) {
      session.failNth = this.#failNth;
      memory.request = request;
      quota.session = session;
      try {
        result = file.ioctl?.(number, argument, new SocketCaller(memory, request)) ?? -E.NOTTY;
      } finally {
        memory.request = null;
        quota.session = null;
      }
    }
    if (request.missing === null) this.#finish(result);
    else if (++this.#questions > request.limits.questionsPerRequest) this.#finish(-E.NOMEM);
    else this.#ask(request.missing);
  }

  #finish(result: number): void {
    const { request, connection, done } = this.#p;
    const spares = result < 0 ? request.answers.spares : request.unused;
    const closes = spares.filter((s) => s.fd >= 0).map((s) => s.fd);
    const attendant = request.session.attendants.get(request.pid);
    for (const handle of request.answers.eventFds.values())
      if (handle >= 0 && attendant?.holds(handle) !== true) closes.push(handle);
    request.over = true;
    connection.answer(returned(result, undefined, [...request.writes.map(writeAction), ...closes.map(closeAction)]));
    done();
  }

  #ask(q: Question): void {
    const { connection } = this.#p;
    const { answers } = this.#p.request;
    const then = (act: (rc: number, data: Buffer) => void) => (rc: number, data: Buffer) => {
      act(rc, data);
      if (connection.alive) this.go();
    };
    switch (q.what) {
      case 'bytes': {
        const space = spaceOf('process', q.pid);
        this.#fetch(space, q.address, q.length, (at, n) => frame(FRAME.COPY_IN, head(q.pid, at), word(n)));
        return;
      }
      case 'file bytes': {
        const space = spaceOf('file', q.handle);
        this.#fetch(space, q.offset, q.length, (at, n) => frame(FRAME.COPY_FILE, head(q.handle, at), word(n)));
        return;
      }
      case 'maps':
        connection.ask(
          frame(FRAME.MAPS, word(q.pid)),
          MAX_MAPS,
          then((rc, data) => {
            answers.bytes += data.length;
            answers.maps.set(q.pid, new ProcessMaps(rc === 0 ? Buffer.from(data) : Buffer.alloc(0)));
          }),
        );
        return;
      case 'which':
        connection.ask(
          frame(FRAME.WHICH, word(q.fd)),
          SECRET_BYTES,
          then((rc, data) => answers.files.set(q.fd, this.#fileOf(rc, data))),
        );
        return;
      case 'eventfd':
        connection.ask(
          frame(FRAME.EVENTFD, word(q.fd)),
          4,
          then((rc, data) => {
            const handle = rc === 0 && data.length === 4 ? data.readInt32LE(0) : -1;
            answers.eventFds.set(q.fd, handle >= 0 ? handle : rc === -E.INVAL ? -E.INVAL : -E.BADF);
          }),
        );
        return;
      case 'file':
        connection.ask(
          frame(FRAME.FILE, word(q.fd)),
          28,
          then((rc, data) => {
            if (rc !== 0 || data.length < 28) answers.facts.set(q.fd, -E.BADF);
            else {
              const bytes = data.readBigUInt64LE(0);
              const identity = `${data.readUInt32LE(16)}:${data.readBigUInt64LE(8)}`;
              answers.facts.set(q.fd, {
                bytes,
                identity,
                memfd: data.readUInt32LE(20) === 1,
                handle: data.readInt32LE(24),
              });
            }
          }),
        );
        return;
      case 'descriptor':
        this.#askDescriptor(then);
    }
  }

  /** Bytes in pieces of a question each; a short answer is the end of what is there. */
  #fetch(space: string, from: bigint, length: number, question: (at: bigint, bytes: number) => Buffer): void {
    const { connection } = this.#p;
    const { answers } = this.#p.request;
    const step = (done: number): void => {
      const n = Math.min(MAX_COPY, length - done);
      const at = from + BigInt(done);
      connection.ask(question(at, n), n, (rc, data) => {
        const got = rc === 0 ? data.subarray(0, n) : data.subarray(0, 0);
        answers.put(space, at, n, new Uint8Array(got));
        if (!connection.alive) return;
        if (got.length === n && done + n < length) step(done + n);
        else this.go();
      });
    };
    step(0);
  }

  /** The open file behind a token; only connections of the asking session have one for it. */
  #fileOf(rc: number, data: Buffer) {
    if (rc !== 0) return rc === -E.BADF ? -E.BADF : -E.BADFD;
    const there = this.#p.byToken.get(data.toString('latin1'));
    if (there === undefined || there.session !== this.#p.request.session || there.open === null) return -E.BADFD;
    return there.open;
  }

  #askDescriptor(then: (act: (rc: number, data: Buffer) => void) => (rc: number, data: Buffer) => void): void {
    const { connection, expected, byToken } = this.#p;
    const { answers, session } = this.#p.request;
    const token = randomBytes(SECRET_BYTES).toString('latin1');
    expected.set(token, session);
    connection.ask(
      frame(FRAME.NEWFD, Buffer.from(token, 'latin1')),
      4,
      then((rc, data) => {
        expected.delete(token);
        const made = byToken.get(token);
        const fd = rc === 0 && data.length === 4 && made !== undefined ? data.readInt32LE(0) : Math.min(rc, -1);
        answers.spares.push({
          fd: fd >= 0 ? fd : -E.MFILE,
          open(file) {
            file.join();
            made?.open?.leave();
            if (made?.alive === true) made.listenTo(file);
            else file.leave();
          },
        });
      }),
    );
  }
}
