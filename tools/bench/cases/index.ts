import { makeReplayMachine } from '../../../src/machine/replay.ts';
import type { BenchCase } from '../case.ts';
import { BUS } from './bus.ts';
import { SMMUV3_GUEST } from './guest-smmuv3.ts';
import { VTD_GUEST } from './guest-vtd.ts';
import { SMMUV3_HARDWARE } from './hardware-smmuv3.ts';
import { VTD_HARDWARE } from './hardware-vtd.ts';
import { HOST } from './host.ts';
import { replayCase } from './replay.ts';
import { SCALE } from './scale.ts';
import { START } from './start.ts';

/** Everything `npm run bench` measures, in this order. */
export const CASES: readonly BenchCase[] = [
  ...SMMUV3_GUEST,
  ...VTD_GUEST,
  ...BUS,
  ...SMMUV3_HARDWARE,
  ...VTD_HARDWARE,
  ...HOST,
  replayCase('smmuv3-strict-heavy', makeReplayMachine),
  replayCase('vtd-legacy-strict-heavy', makeReplayMachine),
  ...SCALE,
  ...START,
];
