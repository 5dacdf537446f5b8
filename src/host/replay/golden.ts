import { type GoldenSeedText, malformed } from './golden-text.ts';
import { GoldenSeed } from './seed.ts';

/** An answer that is not the recorded kernel's. */
export interface GoldenFailure {
  /** The file. */
  readonly file: string;
  /** Number of the sequence in the file. */
  readonly seed: number;
  /** Line in the file, from 1. */
  readonly line: number;
  /** The operation as recorded, up to the bar. */
  readonly asked: string;
  /** The kernel's answer. */
  readonly want: string;
  /** This host's answer. */
  readonly got: string;
}

/** How a file of recorded answers went. */
export interface GoldenResult {
  /** Sequences that went as recorded. */
  readonly passed: number;
  /** The first difference of every other one. */
  readonly failed: readonly GoldenFailure[];
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
      if (op.open && got.startsWith(op.answer)) malformed('the last line is cut off', file, op.line);
      const inputs = [...op.inputs].map(([k, v]) => `${k}=${v}`);
      const asked = [String(op.index), op.op, ...inputs, ...op.rest].join(' ');
      return { file, seed: s.seed, line: op.line, asked, want: op.answer, got };
    }
    return null;
  } finally {
    run.close();
  }
}
