import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { ViommuError } from '../../src/core/errors.ts';

/** Events an import may make: what is kept in memory is bounded by it. */
export const MOST_EVENTS = 2_000_000;

/** The lines of a text file, `-` for the standard input. @throws ViommuError `E_MISSING`: it cannot be read. */
export async function* logLines(path: string): AsyncGenerator<string> {
  const input = path === '-' ? process.stdin : createReadStream(path);
  // An error of the file reaches the readline interface's reader only if it comes while it waits.
  const failed = new Promise<Error>((done) => input.once('error', done));
  const opened = new Promise<null>((done) => input.once('readable', () => done(null)).once('end', () => done(null)));
  const first = await Promise.race([failed, opened]);
  if (first !== null) throw unreadable(path, first);
  try {
    yield* createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY });
  } catch (e) {
    throw unreadable(path, e as Error);
  }
}

function unreadable(path: string, e: NodeJS.ErrnoException): ViommuError {
  const why = e.code === 'ENOENT' ? 'no such file' : e.code === 'EISDIR' ? 'it is a folder' : e.message;
  return new ViommuError('E_MISSING', 'caller', `${path}: cannot be read: ${why}`, {}, e);
}

/** @throws ViommuError `E_TRACE_FORMAT` when a log has more events than are read. */
export function checkCount(path: string, count: number): void {
  if (count > MOST_EVENTS)
    throw new ViommuError(
      'E_TRACE_FORMAT',
      'trace',
      `${path}: more than ${MOST_EVENTS} events, the most that is imported`,
    );
}
