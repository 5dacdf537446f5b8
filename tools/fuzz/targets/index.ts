import type { FuzzTarget } from '../target.ts';
import { cachesTarget } from './caches.ts';
import { costTarget, dmaTarget, failuresTarget, queuesTarget, registersTarget } from './machine.ts';
import { pairTarget } from './pair.ts';
import { qemuTarget } from './qemu.ts';
import { tablesTarget } from './tables.ts';
import { tracesTarget } from './traces.ts';
import { socketsTarget, uapiTarget } from './uapi.ts';

/** Everything that can be fuzzed. */
export const TARGETS: readonly FuzzTarget[] = [
  registersTarget,
  queuesTarget,
  tablesTarget,
  dmaTarget,
  cachesTarget,
  pairTarget,
  failuresTarget,
  uapiTarget,
  socketsTarget,
  tracesTarget,
  qemuTarget,
  costTarget,
];
