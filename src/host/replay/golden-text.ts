import { ViommuError } from '../../core/errors.ts';

/** One operation of a recording: what was asked and what the kernel answered. */
export interface GoldenOp {
  /** Line in the file, from 1. */
  readonly line: number;
  /** Its place in the sequence. */
  readonly index: number;
  /** What is called. */
  readonly op: string;
  /** Inputs by name. */
  readonly inputs: ReadonlyMap<string, string>;
  /** Everything behind the bar, as recorded. */
  readonly answer: string;
  /** The file ends behind this line without a line feed: the answer may be cut. */
  readonly open: boolean;
  /** IOVA ranges and hexadecimal bytes that follow the key=value inputs. */
  readonly rest: readonly string[];
}

/** One sequence of calls. */
export interface GoldenSeedText {
  /** Its number. */
  readonly seed: number;
  /** Line in the file, from 1. */
  readonly line: number;
  /** Its calls in order. */
  readonly ops: readonly GoldenOp[];
}

const KEY = /^[a-z_]+=/;

/** @throws ViommuError `E_TRACE_FORMAT` with file and line. */
export function malformed(what: string, file: string, line: number): never {
  throw new ViommuError('E_TRACE_FORMAT', 'trace', what, { file, line: String(line) });
}

/**
 * Reads a recording of iommufd operations (`# seed N`, then `INDEX OP key=value … | r=RESULT key=value …`).
 * @throws ViommuError `E_TRACE_FORMAT` with file and line.
 */
export function parseGolden(text: string, file: string): GoldenSeedText[] {
  const seeds: { seed: number; line: number; ops: GoldenOp[] }[] = [];
  const lines = text.split('\n');
  // A file ends with a line feed; without it the last line may be cut.
  const complete = lines.at(-1) === '';
  if (complete) lines.pop();
  for (const [i, raw] of lines.entries()) {
    const line = i + 1;
    const head = /^# seed (\d+)$/.exec(raw);
    if (head !== null) {
      seeds.push({ seed: Number(head[1]), line, ops: [] });
      continue;
    }
    if (raw === '' || raw.startsWith('#')) continue;
    const current = seeds.at(-1);
    if (current === undefined) malformed('an operation before the first "# seed N"', file, line);
    const m = /^(\d+) ([A-Z_]+)((?: [^ |]+)*) \| (r=-?\d+(?: [^ ]+)*) ?$/.exec(raw);
    const open = !complete && line === lines.length;
    if (m === null)
      malformed(open ? 'the last line is cut off' : 'not "INDEX OP key=value … | r=RESULT …"', file, line);
    const words = m[3]!.split(' ').filter((w) => w !== '');
    const inputs = new Map(words.filter((w) => KEY.test(w)).map((w) => splitKey(w)));
    const rest = words.filter((w) => !KEY.test(w));
    current.ops.push({ line, index: Number(m[1]), op: m[2]!, inputs, rest, open, answer: m[4]! });
  }
  if (seeds.length === 0) malformed('no "# seed N" in the file', file, 1);
  return seeds;
}

function splitKey(word: string): [string, string] {
  const at = word.indexOf('=');
  return [word.slice(0, at), word.slice(at + 1)];
}
