import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { createGunzip } from 'node:zlib';
import { ViommuError } from '../core/errors.ts';
import type { TraceEvent } from './events.ts';
import { Place } from './fields.ts';
import type { TraceHeader } from './header.ts';
import { type OpenTrace, readText } from './read.ts';

/** Characters a recording may unpack to: over a million events. A file of a megabyte can hold a thousand times its size. */
const MOST_TEXT = 2 ** 28;

async function* inflate(path: string, place: Place, most: number): AsyncGenerator<string> {
  const gunzip = createGunzip();
  const file = createReadStream(path);
  file.on('error', (e) => gunzip.destroy(e));
  const text = file.pipe(gunzip);
  text.setEncoding('utf8');
  let length = 0;
  try {
    for await (const chunk of text) {
      length += (chunk as string).length;
      if (length > most) throw place.error(`it unpacks to more than ${most} characters, the most that is read`);
      yield chunk as string;
    }
  } catch (e) {
    if (e instanceof ViommuError) throw e;
    const why = e instanceof Error ? e.message : String(e);
    throw place.error(`expected more compressed data, found a damaged or truncated gzip file (${why})`, e);
  } finally {
    file.destroy();
  }
}

async function checkFile(path: string): Promise<void> {
  let magic = Buffer.alloc(2);
  try {
    const file = await open(path, 'r');
    try {
      const { bytesRead } = await file.read(magic, 0, 2, 0);
      magic = magic.subarray(0, bytesRead);
    } finally {
      await file.close();
    }
  } catch (e) {
    const code = e instanceof Error && 'code' in e ? String(e.code) : 'error';
    const why = code === 'ENOENT' ? 'no such file' : code === 'EISDIR' ? 'it is a folder' : code;
    throw new ViommuError('E_MISSING', 'caller', `${path}: cannot be read: ${why}`, {}, e);
  }
  if (magic.length < 2 || magic[0] !== 0x1f || magic[1] !== 0x8b)
    throw new ViommuError('E_TRACE_FORMAT', 'trace', `${basename(path)}: expected a gzip file, found something else`);
}

/**
 * Opens a `viommu-trace` version 1 file (gzip'ed lines of JSON). Nothing of it is kept in memory but the lines at hand.
 * @param most characters it may unpack to (2^28).
 * @throws ViommuError `E_MISSING` when there is no such file, `E_TRACE_FORMAT` when its header is not one; reading on
 *   throws it where the recording stops being one, or unpacks to more than `most`.
 */
export async function openTrace(path: string, most = MOST_TEXT): Promise<OpenTrace> {
  await checkFile(path);
  const place = new Place(basename(path));
  return await readText(place, inflate(path, place, most));
}

/** A whole recording in memory (benchmarks, tests). */
export async function loadTrace(path: string): Promise<{ header: TraceHeader; events: TraceEvent[] }> {
  const trace = await openTrace(path);
  const events: TraceEvent[] = [];
  for await (const batch of trace.batches) for (const e of batch) events.push(e);
  return { header: trace.header, events };
}
