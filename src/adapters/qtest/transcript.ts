import { ViommuError } from '../../core/errors.ts';

/** One request of a transcript with the reply it must get. */
export interface Exchange {
  /** Line of the request, from 1. */
  readonly line: number;
  /** What was sent. */
  readonly request: string;
  /** What came back. */
  readonly reply: string;
  /** What was changed in memory may still be cached: another answer is just as legal. */
  readonly stale: boolean;
}

/** A recorded conversation with a qtest server. */
export interface Transcript {
  /** Its file's name. */
  readonly file: string;
  /** What it shows. */
  readonly title: string;
  /** Machine and device arguments. */
  readonly args: readonly string[];
  /** Its lines in order. */
  readonly exchanges: readonly Exchange[];
}

/**
 * Reads a `*.qt` transcript: `ARGS …`, `> request`, `< reply`, `# comment`.
 * @throws ViommuError `E_TRACE_FORMAT` with file and line.
 */
export function parseTranscript(file: string, text: string): Transcript {
  const bad = (what: string, line: number) => new ViommuError('E_TRACE_FORMAT', 'trace', `${file}:${line}: ${what}`);
  const exchanges: Exchange[] = [];
  let args: string[] | null = null;
  let title = '';
  let open: { readonly line: number; readonly request: string } | null = null;
  let stale = false;
  text.split('\n').forEach((raw, i) => {
    const line = i + 1;
    const row = raw.replace(/\r$/, '');
    if (row.startsWith('> ')) {
      if (open !== null) throw bad(`no reply to the request of line ${open.line}`, line);
      open = { line, request: row.slice(2) };
      if (/^(writeq|writel|memset)\b/.test(open.request)) stale = false;
    } else if (row.startsWith('< ')) {
      if (row.startsWith('< IRQ')) return;
      if (open === null) throw bad('a reply without a request', line);
      exchanges.push({ ...open, reply: row.slice(2), stale });
      open = null;
    } else if (row.startsWith('# STALE-DEPENDENT')) stale = true;
    else if (row.startsWith('#')) title ||= row.slice(1).trim();
    else if (row.startsWith('ARGS')) args = row.slice(4).trim().split(/\s+/);
    else if (row.trim() !== '') throw bad(`neither request, reply nor comment: ${row}`, line);
  });
  const left = open as { readonly line: number } | null;
  if (left !== null) throw bad('the last request has no reply', left.line);
  if (args === null) throw bad('no ARGS line', 1);
  return { file, title, args, exchanges };
}

/** A reply that is not the recorded one. */
export interface TranscriptDifference {
  /** Its file's name. */
  readonly file: string;
  /** Line in the file, from 1. */
  readonly line: number;
  /** What was sent. */
  readonly request: string;
  /** What the transcript has. */
  readonly expected: string;
  /** What came back. */
  readonly got: string;
}

/** How a transcript went. */
export interface TranscriptOutcome {
  /** Exchanges done. */
  readonly exchanges: number;
  /** Replies that differ. */
  readonly differences: readonly TranscriptDifference[];
  /** Differences in cache-dependent places. */
  readonly tolerated: readonly TranscriptDifference[];
}

/** Sends every request and compares every reply as text. */
export function runTranscript(transcript: Transcript, execute: (request: string) => string): TranscriptOutcome {
  const differences: TranscriptDifference[] = [];
  const tolerated: TranscriptDifference[] = [];
  for (const x of transcript.exchanges) {
    const got = execute(x.request);
    if (got === x.reply) continue;
    const at = { file: transcript.file, line: x.line, request: x.request, expected: x.reply, got };
    (x.stale ? tolerated : differences).push(at);
  }
  return { exchanges: transcript.exchanges.length, differences, tolerated };
}

/** One line of a report. */
export function tellDifference(d: TranscriptDifference): string {
  return `${d.file}:${d.line}: ${d.request}: expected ${d.expected}, got ${d.got}`;
}
