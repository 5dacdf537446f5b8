import fc from 'fast-check';
import { expect, test } from 'vitest';
import { compareVtdWalks } from '../../../tools/fuzz/walks/vtd.ts';
import type { OracleRegime } from '../../../tools/oracle/vtd-walk.ts';

/** Every outcome listed must have been met often enough to mean something. */
const PLANS: readonly [OracleRegime['kind'], number, readonly number[]][] = [
  ['second', 120, [0, 3, 4, 5, 6, 7, 0xc, 0xe, 0x78, 0x79, 0x7a, 0x7b, 0x7c, 0x84, 0x85, 0x86, 0x87]],
  ['first', 120, [0, 0x70, 0x71, 0x72, 0x73, 0x80, 0x81, 0x85, 0x87]],
  ['nested', 240, [0, 0x5b, 0x70, 0x71, 0x72, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x7b, 0x80, 0x81, 0x85, 0x86]],
  ['pass-through', 8, [0, 4, 0x83]],
];

test.each(PLANS)(
  '%s: random tables and requests end as the slow walker says (%i × 250 requests)',
  (kind, runs, reasons) => {
    const seen = new Map<number, number>();
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        expect(compareVtdWalks(seed, kind, 250, { seen })).toBe(null);
      }),
      { numRuns: runs },
    );
    for (const reason of reasons) expect([reason, (seen.get(reason) ?? 0) > 0]).toEqual([reason, true]);
  },
);
