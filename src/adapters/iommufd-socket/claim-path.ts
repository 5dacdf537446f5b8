import { randomBytes } from 'node:crypto';
import { type BigIntStats, chmodSync, closeSync, linkSync, lstatSync, openSync, renameSync, unlinkSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { ViommuError } from '../../core/errors.ts';

/** Bytes of a socket's path, the zero behind it included (struct sockaddr_un). */
const SUN_PATH = 108;

/** A path on which a server listens. */
export interface ClaimedPath {
  /** Takes the socket away, if it is still the one that was put there. */
  release(): void;
}

function statOf(path: string): BigIntStats | null {
  try {
    return lstatSync(path, { bigint: true });
  } catch {
    return null;
  }
}

/** One and the same socket: the number of an inode is given again, the moment of its birth is not. */
function same(a: BigIntStats | null, b: BigIntStats | null): boolean {
  return a !== null && b !== null && a.ino === b.ino && a.dev === b.dev && a.birthtimeNs === b.birthtimeNs;
}

/** A name nobody else uses. */
function scratchIn(folder: string): string {
  return join(folder, `.viommu-${randomBytes(6).toString('hex')}`);
}

function taken(path: string, why: string, cause?: unknown): ViommuError {
  return new ViommuError('EEXIST', 'caller', `${path} ${why}`, {}, cause);
}

/** Whether anybody listens on a socket. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const end = (live: boolean) => {
      socket.destroy();
      resolve(live);
    };
    socket.once('connect', () => end(true));
    // Nobody listens, or nobody is there; whatever else the system says is not a sign that it is ours to remove.
    socket.once('error', (e: NodeJS.ErrnoException) => end(e.code !== 'ECONNREFUSED' && e.code !== 'ENOENT'));
  });
}

/** Removes the socket that a server of this user left behind; anything else is refused. */
async function removeStale(path: string): Promise<void> {
  const there = statOf(path);
  if (there === null) return;
  if (!there.isSocket()) throw taken(path, 'is there already and is not a socket');
  if (Number(there.uid) !== process.getuid?.()) throw taken(path, 'is a socket of another user');
  if (await answers(path)) throw taken(path, 'is served by a running process');
  // Somebody may have removed it and put another one there meanwhile: only what was looked at is taken away.
  const aside = scratchIn(dirname(path));
  renameSync(path, aside);
  if (same(statOf(aside), there)) {
    unlinkSync(aside);
    return;
  }
  linkSync(aside, path);
  unlinkSync(aside);
  throw taken(path, 'is being taken by another process');
}

/** Connections that wait to be accepted: a client that does not wait is told EAGAIN behind them. The system may have fewer. */
const BACKLOG = 4096;

/** Listens on a socket that only its user can open. */
async function listenPrivately(server: Server, path: string): Promise<void> {
  const mask = isMainThread ? process.umask(0o177) : null;
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      // The socket is bound before listen() returns.
      server.listen({ path, backlog: BACKLOG }, () => {
        server.off('error', reject);
        resolve();
      });
      if (mask !== null) process.umask(mask);
    });
  } finally {
    if (mask !== null) process.umask(mask);
  }
  chmodSync(path, 0o600);
}

/**
 * Lets a server listen on a path that nobody else uses. The socket is private to its user from the start, and comes to its
 * name by a link, which fails if the name is taken: of two servers one is refused.
 * @throws ViommuError `EINVAL` a path of more than 107 bytes; `EEXIST` something is there that is not a stale socket of this
 *   user; else the system's error.
 */
export async function listenOn(server: Server, path: string): Promise<ClaimedPath> {
  const bytes = Buffer.byteLength(path);
  if (bytes === 0 || bytes >= SUN_PATH) {
    throw new ViommuError('EINVAL', 'caller', `the path of a socket has 1 to ${SUN_PATH - 1} bytes, this one ${bytes}`);
  }
  await removeStale(path);
  // The folder by a short name: what the kernel takes as a socket's address may not be longer than the path itself.
  const folder = openSync(dirname(path), 'r');
  try {
    const born = scratchIn(`/proc/self/fd/${folder}`);
    await listenPrivately(server, born);
    try {
      linkSync(born, path);
    } catch (e) {
      await new Promise<void>((resolve) => server.close(() => resolve()));
      throw e instanceof Error && 'code' in e && e.code === 'EEXIST'
        ? taken(path, 'is being taken by another process', e)
        : e;
    }
    unlinkSync(born);
  } finally {
    closeSync(folder);
  }
  const mine = statOf(path);
  return {
    release() {
      if (same(statOf(path), mine)) unlinkSync(path);
    },
  };
}
