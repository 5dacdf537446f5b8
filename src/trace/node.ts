import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { ViommuError } from '../core/errors.ts';
import type { TraceEvent } from './events.ts';
import { Place } from './fields.ts';
import type { TraceHeader } from './header.ts';
import { type OpenTrace, readText } from './read.ts';

/** Characters a recording may unpack to: over a million events. A file of a megabyte can hold a thousand times its size. */
const MOST_TEXT = 2 ** 28;

/** What stands for the standard input in place of a path. */
const STANDARD_INPUT = '-';
const GZIP = [0x1f, 0x8b] as const;

/** The characters of a recording, unpacked if it begins like a gzip file. */
async function* characters(bytes: Readable, place: Place, most: number): AsyncGenerator<string> {
  const chunks: AsyncIterator<Buffer> = bytes[Symbol.asyncIterator]();
  const first = await firstBytes(chunks);
  const packed = first.length >= 2 && first[0] === GZIP[0] && first[1] === GZIP[1];
  const all = Readable.from(joined(first, chunks), { objectMode: false });
  const text = packed ? all.pipe(createGunzip()) : all;
  all.on('error', (e) => text.destroy(e));
  text.setEncoding('utf8');
  let length = 0;
  try {
    for await (const chunk of text) {
      length += (chunk as string).length;
      if (length > most) {
        const what = packed ? 'it unpacks to' : 'it has';
        throw place.error(`${what} more than ${most} characters, the most that is read`);
      }
      yield chunk as string;
    }
  } catch (e) {
    if (e instanceof ViommuError) throw e;
    const why = e instanceof Error ? e.message : String(e);
    const expected = packed
      ? `more compressed data, found a damaged or truncated gzip file (${why})`
      : `more of it (${why})`;
    throw place.error(`expected ${expected}`, e);
  } finally {
    all.destroy();
    bytes.destroy();
  }
}

/** At least two bytes, unless there are no more. */
async function firstBytes(chunks: AsyncIterator<Buffer>): Promise<Buffer> {
  let first = Buffer.alloc(0);
  while (first.length < 2) {
    const next = await chunks.next();
    if (next.done === true) break;
    first = Buffer.concat([first, next.value]);
  }
  return first;
}

async function* joined(first: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  yield first;
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) yield next.value;
}

async function checkFile(path: string): Promise<void> {
  try {
    const file = await open(path, 'r');
    try {
      await file.read(Buffer.alloc(1), 0, 1, 0);
    } finally {
      await file.close();
    }
  } catch (e) {
    const code = e instanceof Error && 'code' in e ? String(e.code) : 'error';
    const why = code === 'ENOENT' ? 'no such file' : code === 'EISDIR' ? 'it is a folder' : code;
    throw new ViommuError('E_MISSING', 'caller', `${path}: cannot be read: ${why}`, {}, e);
  }
}

/**
 * Opens a `viommu-trace` version 1 file: lines of JSON, plain or gzip'ed. Nothing of it is kept in memory but the lines at hand.
 * @param path of the file; `-`: the standard input. @param most characters it may have, unpacked (2^28).
 * @throws ViommuError `E_MISSING` when there is no such file, `E_TRACE_FORMAT` when its header is not one; reading on
 *   throws it where the recording stops being one, or has more than `most`.
 */
export async function openTrace(path: string, most = MOST_TEXT): Promise<OpenTrace> {
  if (path === STANDARD_INPUT) {
    const place = new Place('standard input');
    return await readText(place, characters(process.stdin, place, most));
  }
  await checkFile(path);
  const place = new Place(basename(path));
  return await readText(place, characters(createReadStream(path), place, most));
}

/** A whole recording in memory (benchmarks, tests). */
export async function loadTrace(path: string): Promise<{ header: TraceHeader; events: TraceEvent[] }> {
  const trace = await openTrace(path);
  const events: TraceEvent[] = [];
  for await (const batch of trace.batches) for (const e of batch) events.push(e);
  return { header: trace.header, events };
}
