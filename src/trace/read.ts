import { EventParser, type TraceEvent } from './events.ts';
import { Place, type Raw } from './fields.ts';
import { parseHeader, type TraceHeader } from './header.ts';

/** A line of a recording is at most a page in base64 and some words; anything longer is not one. */
const LONGEST_LINE = 1 << 20;

/** A recording being read: the header at once, the events as batches in order. */
export interface OpenTrace {
  /** Name of the recording in messages. */
  readonly file: string;
  /** Which machine it is of. */
  readonly header: TraceHeader;
  /** Can be iterated once. @throws ViommuError `E_TRACE_FORMAT` where the recording stops being one. */
  readonly batches: AsyncIterable<readonly TraceEvent[]>;
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

/**
 * Reads a `viommu-trace` version 1 recording: lines of JSON. Nothing of it is kept in memory but the lines at hand.
 * @param name what errors call the recording. @param text its text in order, in pieces of any size. Recordings are kept
 *   gzip'ed: in a browser `DecompressionStream('gzip')` and `TextDecoderStream` make the pieces of a fetched one; for files
 *   `openTrace` of `viommu/trace/node` does both.
 * @throws ViommuError `E_TRACE_FORMAT` when its header is not one.
 */
export function readTrace(name: string, text: AsyncIterable<string>): Promise<OpenTrace> {
  return readText(new Place(name), text);
}

/** The same for a reader of its own, whose errors point into the recording too. */
export async function readText(place: Place, text: AsyncIterable<string>): Promise<OpenTrace> {
  const groups = lines(text, place);
  const head = await groups.next();
  const [line, ...first] = head.done === true ? [] : head.value;
  if (line === undefined) throw place.error('expected a header line, found an empty file');
  place.line = 1;
  const header = parseHeader(decode(line, place), place);
  return { file: place.file, header, batches: parse(groups, first, header, place) };
}
