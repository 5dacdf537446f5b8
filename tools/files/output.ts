import { createWriteStream, rmSync, statSync } from 'node:fs';
import { rename, rm, stat } from 'node:fs/promises';
import { pipeline, type Writable } from 'node:stream';
import { createGzip } from 'node:zlib';
import { ViommuError } from '../../src/core/errors.ts';
import { beforeLeaving } from '../cli/leaving.ts';

/** Pieces are gathered to about this many bytes before they are written. */
const CHUNK = 2 ** 16;

/** A file or the standard output, written in chunks. A file is there once it is `finished`, and is what it was before until then. */
export interface Output {
  readonly write: (piece: string | Uint8Array) => void;
  /** Until what was written has been taken. @throws ViommuError `EIO`: it cannot be written. */
  drained(): Promise<void>;
  /** Until everything is written, and a file has its name. @throws ViommuError `EIO`. */
  finished(): Promise<void>;
  /** Nothing of it is kept. */
  discard(): Promise<void>;
}

/** @throws ViommuError `EINVAL`: input and output are one file, which writing would destroy. */
export async function refuseSameFile(input: string, output: string | null): Promise<void> {
  if (input === '-' || output === null) return;
  const [from, to] = await Promise.all([input, output].map((path) => stat(path).catch(() => null)));
  if (from === null || to === null || from === undefined || to === undefined) return;
  if (from.dev === to.dev && from.ino === to.ino)
    throw new ViommuError('EINVAL', 'caller', `${output}: is the input itself: say another file`);
}

/**
 * @param path null: the standard output. @param pack gzip.
 * The file is written beside its place under a name of its own.
 */
export function openOutput(path: string | null, pack = false): Output {
  // What is there and no plain file (a pipe, /dev/null) is written to as it is: it must not be replaced.
  const direct = path === null || statSync(path, { throwIfNoEntry: false })?.isFile() === false;
  const temporary = direct ? null : `${path}.${process.pid}.part`;
  const over = temporary === null ? null : beforeLeaving(() => rmSync(temporary, { force: true }));
  const sink: Writable = path === null ? process.stdout : createWriteStream(temporary ?? path);
  const gzip = pack ? createGzip() : null;
  const stream: Writable = gzip ?? sink;
  let failed: Error | null = null;
  const broken = (e: Error | null | undefined): void => {
    failed ??= e ?? null;
  };
  if (gzip === null) sink.on('error', broken);
  else pipeline(gzip, sink, broken);
  let pieces: Uint8Array[] = [];
  let bytes = 0;

  const check = (): void => {
    if (failed !== null)
      throw new ViommuError(
        'EIO',
        'caller',
        `${path ?? 'standard output'}: cannot be written: ${failed.message}`,
        {},
        failed,
      );
  };
  const flush = async (): Promise<void> => {
    check();
    const all = Buffer.concat(pieces);
    pieces = [];
    bytes = 0;
    // Also called when the stream breaks.
    await new Promise<void>((done) => stream.write(all, () => done()));
    check();
  };
  const close = (): Promise<void> =>
    new Promise((done) => {
      sink.once('close', done).once('error', () => done());
      stream.end();
    });
  return {
    write(piece) {
      const data = typeof piece === 'string' ? Buffer.from(piece) : piece;
      pieces.push(data);
      bytes += data.length;
    },
    async drained() {
      if (bytes >= CHUNK) await flush();
      else check();
    },
    async finished() {
      await flush();
      if (path === null) return;
      await close();
      check();
      if (temporary === null) return;
      await rename(temporary, path).catch((e: Error) => {
        failed = e;
      });
      check();
      over?.();
    },
    async discard() {
      if (temporary === null) return;
      sink.destroy();
      await rm(temporary, { force: true });
      over?.();
    },
  };
}
