import { makeReplayMachine } from '../../src/machine/replay.ts';
import type { BenchCase } from './case.ts';
import { replayCase } from './replay.ts';

/** Everything `npm run bench` measures, in this order. */
export const CASES: readonly BenchCase[] = [
  replayCase('smmuv3-strict-heavy', makeReplayMachine),
  replayCase('vtd-legacy-strict-heavy', makeReplayMachine),
];
