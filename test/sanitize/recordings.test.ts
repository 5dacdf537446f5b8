import { readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { judge, recording } from './spoil.ts';

const NAMES = readdirSync('guest-fixtures/recordings')
  .filter((f) => f.endsWith('.ndjson.gz'))
  .map((f) => f.slice(0, -'.ndjson.gz'.length));

/** What remains on real guests, each with its explanation: recording to `rule: explanation`. */
const EXPLAINED: Readonly<Record<string, readonly string[]>> = {
  'smmuv3-guest-faults': [
    'beyond-output-size: the bare-metal guest maps 2^45 on purpose, to see F_ADDR_SIZE',
    'record-lost: it lets its event queue run full on purpose, and acknowledges',
  ],
  'smmuv3-guest-queue-wrap': [
    'command-refused: the bare-metal guest submits an illegal command on purpose, mends it and goes on',
  ],
  'smmuv3-guest-range': [
    'use-after-unmap: the bare-metal guest accesses what it has cleared before it invalidates, to see what is still cached',
  ],
  'vtd-xen-register-invalidation': [
    'one-bit-at-a-time: Xen makes the value for GCMD from GSTS with its one-shot bits left in (VT-d §11.4.4.1 wants them' +
      ' masked off): setting and clearing TE repeats SRTP in the same write. A fault of Xen',
  ],
};

describe('recorded guests', () => {
  test.each(NAMES)('%s: nothing of warning level or above is found but what is explained', async (name) => {
    const r = await recording(name);

    const found = judge(r.header, r.events).filter((f) => f.severity !== 'hint');

    expect(found.map((f) => f.rule)).toEqual((EXPLAINED[name] ?? []).map((text) => text.split(':')[0]));
  });
});
