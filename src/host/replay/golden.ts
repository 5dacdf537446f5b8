import { ViommuError } from '../../core/errors.ts';
import { GoldenSeed } from './seed.ts';

/** One operation of a recording: what was asked and what the kernel answered. */
export interface GoldenOp {
  /** Line in the file, from 1. */
  readonly line: number;
  readonly index: number;
  readonly op: string;
  readonly inputs: ReadonlyMap<string, string>;
  /** Everything behind the bar, as recorded. */
  readonly answer: string;
  /** The file ends behind this line without a line feed: the answer may be cut. */
  readonly open: boolean;
  /** IOVA ranges and hexadecimal bytes that follow the key=value inputs. */
  readonly rest: readonly string[];
}

export interface GoldenSeedText {
  readonly seed: number;
  readonly line: number;
  readonly ops: readonly GoldenOp[];
}

export interface GoldenFailure {
  readonly file: string;
  readonly seed: number;
  /** Line in the file, from 1. */
  readonly line: number;
  /** The operation as recorded, up to the bar. */
  readonly asked: string;
  readonly want: string;
  readonly got: string;
}

export interface GoldenResult {
  readonly passed: number;
  readonly failed: readonly GoldenFailure[];
}

const KEY = /^[a-z_]+=/;

function bad(what: string, file: string, line: number): never {
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
    if (current === undefined) bad('an operation before the first "# seed N"', file, line);
    const m = /^(\d+) ([A-Z_]+)((?: [^ |]+)*) \| (r=-?\d+(?: [^ ]+)*) ?$/.exec(raw);
    const open = !complete && line === lines.length;
    if (m === null) bad(open ? 'the last line is cut off' : 'not "INDEX OP key=value … | r=RESULT …"', file, line);
    const words = m[3]!.split(' ').filter((w) => w !== '');
    const inputs = new Map(words.filter((w) => KEY.test(w)).map((w) => splitKey(w)));
    const rest = words.filter((w) => !KEY.test(w));
    current.ops.push({ line, index: Number(m[1]), op: m[2]!, inputs, rest, open, answer: m[4]! });
  }
  if (seeds.length === 0) bad('no "# seed N" in the file', file, 1);
  return seeds;
}

function splitKey(word: string): [string, string] {
  const at = word.indexOf('=');
  return [word.slice(0, at), word.slice(at + 1)];
}

/**
 * Replays recordings on a fresh iommufd with the mock driver per seed. Every id, errno, IOVA and event byte must be equal.
 * @throws ViommuError `E_TRACE_FORMAT` a line asks for something unknown.
 */
export function replayGolden(seeds: readonly GoldenSeedText[], file: string): GoldenResult {
  let passed = 0;
  const failed: GoldenFailure[] = [];
  for (const s of seeds) {
    const failure = replaySeed(s, file);
    if (failure === null) passed++;
    else failed.push(failure);
  }
  return { passed, failed };
}

function replaySeed(s: GoldenSeedText, file: string): GoldenFailure | null {
  const run = new GoldenSeed();
  try {
    for (const op of s.ops) {
      const got = run.run(op, file);
      if (got === op.answer) continue;
      if (op.open && got.startsWith(op.answer)) bad('the last line is cut off', file, op.line);
      const inputs = [...op.inputs].map(([k, v]) => `${k}=${v}`);
      const asked = [String(op.index), op.op, ...inputs, ...op.rest].join(' ');
      return { file, seed: s.seed, line: op.line, asked, want: op.answer, got };
    }
    return null;
  } finally {
    run.close();
  }
}
