import { makeReplayMachine } from '../../src/machine/replay.ts';
import type { BenchCase } from './case.ts';
import { ENDPOINT_CASES } from './endpoints.ts';
import { IOMMUFD_CASES } from './iommufd.ts';
import { replayCase } from './replay.ts';
import { SMMUV3_CASES } from './smmuv3.ts';
import { SMMUV3_CHAIN_CASES } from './smmuv3-host.ts';
import { VTD_CASES } from './vtd.ts';
import { VTD_GUEST_CASES } from './vtd-guest.ts';
import { VTD_HOST_CASES } from './vtd-host.ts';

/** Everything `npm run bench` measures, in this order. */
export const CASES: readonly BenchCase[] = [
  replayCase('smmuv3-strict-heavy', makeReplayMachine),
  replayCase('vtd-legacy-strict-heavy', makeReplayMachine),
  ...SMMUV3_CASES,
  ...SMMUV3_CHAIN_CASES,
  ...VTD_CASES,
  ...VTD_HOST_CASES,
  ...VTD_GUEST_CASES,
  ...IOMMUFD_CASES,
  ...ENDPOINT_CASES,
];
