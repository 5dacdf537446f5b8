import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { createGunzip } from 'node:zlib';
import { ViommuError } from '../core/errors.ts';
import { EventParser, type TraceEvent } from './events.ts';
import { Place, type Raw } from './fields.ts';
import { parseHeader, type TraceHeader } from './header.ts';

/** A line of a recording is at most a page in base64 and some words; anything longer is not one. */
const LONGEST_LINE = 1 << 20;

/** A recording being read: the header at once, the events as batches in order. */
export interface OpenTrace {
  readonly file: string;
  readonly header: TraceHeader;
  /** Can be iterated once. @throws ViommuError `E_TRACE_FORMAT` where the recording stops being one. */
  readonly batches: AsyncIterable<readonly TraceEvent[]>;
}

async function* inflate(path: string, place: Place): AsyncGenerator<string> {
  const gunzip = createGunzip();
  const file = createReadStream(path);
  file.on('error', (e) => gunzip.destroy(e));
  const text = file.pipe(gunzip);
  text.setEncoding('utf8');
  try {
    for await (const chunk of text) yield chunk as string;
  } catch (e) {
    const why = e instanceof Error ? e.message : String(e);
    throw place.error(`expected more compressed data, found a damaged or truncated gzip file (${why})`, e);
  } finally {
    file.destroy();
  }
}

async function* lines(chunks: AsyncIterable<string>, place: Place): AsyncGenerator<string[]> {
  let rest = '';
  for await (const chunk of chunks) {
    const whole = (rest + chunk).split('\n');
    rest = whole.pop() ?? '';
    if (rest.length > LONGEST_LINE) throw place.error(`a line of more than ${LONGEST_LINE} characters`);
    if (whole.length > 0) yield whole;
  }
  if (rest.trim() !== '') yield [rest];
}

function decode(line: string, place: Place): Raw {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (e) {
    const found = line.length > 40 ? `${line.slice(0, 37)}…` : line;
    throw place.error(`line ${place.line}: expected a JSON object, found ${JSON.stringify(found)}`, e);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw place.error(`line ${place.line}: expected a JSON object`);
  return value as Raw;
}

async function* parse(
  groups: AsyncGenerator<string[]>,
  first: readonly string[],
  header: TraceHeader,
  place: Place,
): AsyncGenerator<TraceEvent[]> {
  const parser = new EventParser(place, header);
  let group: readonly string[] | undefined = first;
  place.event = 0;
  while (group !== undefined) {
    const batch: TraceEvent[] = [];
    for (const line of group) {
      place.line++;
      batch.push(parser.parse(decode(line, place)));
      place.event++;
    }
    if (batch.length > 0) yield batch;
    const next: IteratorResult<string[]> = await groups.next();
    group = next.done === true ? undefined : next.value;
  }
  if (place.event === 0) throw place.error('expected events, found the end of the recording');
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
 * @throws ViommuError `E_MISSING` when there is no such file, `E_TRACE_FORMAT` when its header is not one.
 */
export async function openTrace(path: string): Promise<OpenTrace> {
  await checkFile(path);
  const place = new Place(basename(path));
  const groups = lines(inflate(path, place), place);
  const head = await groups.next();
  const [line, ...first] = head.done === true ? [] : head.value;
  if (line === undefined) throw place.error('expected a header line, found an empty file');
  place.line = 1;
  const header = parseHeader(decode(line, place), place);
  return { file: place.file, header, batches: parse(groups, first, header, place) };
}

/** A whole recording in memory (benchmarks, tests). */
export async function loadTrace(path: string): Promise<{ header: TraceHeader; events: TraceEvent[] }> {
  const trace = await openTrace(path);
  const events: TraceEvent[] = [];
  for await (const batch of trace.batches) for (const e of batch) events.push(e);
  return { header: trace.header, events };
}
