import { createWriteStream } from 'node:fs';
import type { Writable } from 'node:stream';
import { ViommuError } from '../../src/core/errors.ts';

/** Pieces are gathered to about this many bytes before they are written. */
const CHUNK = 2 ** 16;

/** A file or the standard output, written in chunks. */
export interface Output {
  readonly write: (piece: string | Uint8Array) => void;
  /** Until what was written has been taken. @throws ViommuError `EIO`. */
  drained(): Promise<void>;
  /** Until everything is written; a file is closed. @throws ViommuError `EIO`. */
  finished(): Promise<void>;
}

/** @param path null: the standard output. */
export function openOutput(path: string | null): Output {
  const stream: Writable = path === null ? process.stdout : createWriteStream(path);
  const where = path ?? 'standard output';
  let failed: Error | null = null;
  stream.on('error', (e) => {
    failed = e;
  });
  let pieces: Uint8Array[] = [];
  let bytes = 0;

  const check = (): void => {
    if (failed !== null)
      throw new ViommuError('EIO', 'caller', `${where}: cannot be written: ${failed.message}`, {}, failed);
  };
  const flush = (): Promise<void> => {
    const all = Buffer.concat(pieces);
    pieces = [];
    bytes = 0;
    return new Promise((done) => stream.write(all, () => done()));
  };
  return {
    write(piece) {
      const data = typeof piece === 'string' ? Buffer.from(piece) : piece;
      pieces.push(data);
      bytes += data.length;
    },
    async drained() {
      check();
      if (bytes >= CHUNK) await flush();
      check();
    },
    async finished() {
      check();
      await flush();
      check();
      if (path !== null) await new Promise<void>((done) => stream.end(() => done()));
      check();
    },
  };
}
