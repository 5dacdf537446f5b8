import { ViommuError } from '../../../src/core/errors.ts';
import { type OpenTrace, readTrace } from '../../../src/trace/index.ts';
import type { Source } from './protocol.ts';

/** Characters a recording may unpack to. A file of a megabyte can hold a thousand times its size. */
const MOST_TEXT = 2 ** 28;
const GZIP = [0x1f, 0x8b] as const;

/** A recording that is being read, and how much of its file has been. */
export interface ReadSource {
  readonly trace: OpenTrace;
  /** From 0 to 1. */
  part(): number;
}

function wrong(name: string, what: string): ViommuError {
  return new ViommuError('E_TRACE_FORMAT', 'trace', `${name}: ${what}`);
}

async function* chunks(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  try {
    for (let next = await reader.read(); next.done !== true; next = await reader.read()) yield next.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Text of a recording, unpacked if it begins like a gzip file. @param heard hears of the bytes that were read. */
async function* text(
  name: string,
  bytes: ReadableStream<Uint8Array>,
  heard: (n: number) => void,
): AsyncGenerator<string> {
  const counted = bytes.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, to) {
        heard(chunk.length);
        to.enqueue(chunk);
      },
    }),
  );
  const [look, whole] = counted.tee();
  const reader = look.getReader();
  const head = (await reader.read()).value ?? new Uint8Array(0);
  // What nobody reads of this branch would be kept for it.
  reader.cancel().catch(() => {});
  const packed = head[0] === GZIP[0] && head[1] === GZIP[1];
  const plain = packed
    ? whole.pipeThrough(new DecompressionStream('gzip') as unknown as TransformStream<Uint8Array, Uint8Array>)
    : whole;
  const decoder = new TextDecoder();
  let length = 0;
  try {
    for await (const chunk of chunks(plain)) {
      const piece = decoder.decode(chunk, { stream: true });
      length += piece.length;
      if (length > MOST_TEXT) {
        const what = packed ? 'it unpacks to' : 'it has';
        throw wrong(name, `${what} more than ${MOST_TEXT} characters, the most that is read`);
      }
      yield piece;
    }
  } catch (e) {
    if (e instanceof ViommuError) throw e;
    throw wrong(name, packed ? 'it is a damaged or incomplete gzip file' : `it cannot be read (${String(e)})`);
  }
}

/** Opens a recording where it is: a file the user chose, or an address of the page's own server. @throws ViommuError. */
export async function readSource(source: Source): Promise<ReadSource> {
  let read = 0;
  let size = 0;
  const heard = (n: number) => {
    read += n;
  };
  const part = () => (size === 0 ? 0 : Math.min(1, read / size));
  if ('file' in source) {
    size = source.file.size;
    return { trace: await readTrace(source.file.name, text(source.file.name, source.file.stream(), heard)), part };
  }
  const answer = await fetch(source.url);
  if (!answer.ok || answer.body === null) throw wrong(source.name, `the server answers ${answer.status}`);
  size = Number(answer.headers.get('content-length') ?? 0);
  return { trace: await readTrace(source.name, text(source.name, answer.body, heard)), part };
}
