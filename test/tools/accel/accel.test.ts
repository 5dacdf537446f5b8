import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { begin, judge, KNOWN, type Observed, observe } from '../../../tools/conformance/accel-compare.ts';
import { ourSide } from '../../../tools/conformance/accel-sides.ts';
import { smmuv3Accel } from '../../../tools/conformance/accel-smmuv3.ts';
import { vtdAccel } from '../../../tools/conformance/accel-vtd.ts';
import { Random } from '../../../tools/oracle/random.ts';

/** What QEMU 11.1.3 did with each script (`npm run conformance:accel -- --scripts 16 --record test/tools/accel`). */
interface Recorded {
  readonly seed: number;
  readonly steps: number;
  readonly observed: readonly Observed[];
}

const NOTHING: Observed = { registers: '', probes: '', attached: '', invalidations: [] };

describe.each([smmuv3Accel, vtdAccel])("QEMU's accelerated $name, as it was recorded", (kind) => {
  const text = gunzipSync(readFileSync(`test/tools/accel/${kind.name}.json.gz`)).toString();
  const recorded = JSON.parse(text) as readonly Recorded[];

  test('ours asks the host for the same, and its function reads the same, in every script', async () => {
    const side = ourSide(kind);
    const rows = new Map<string, number>();
    const attached = new Set<string>();
    let invalidations = 0;
    for (const { seed, steps, observed } of recorded) {
      await begin(side, kind);
      let before = NOTHING;
      for (const [i, step] of kind.script(new Random(seed * 7919), steps).entries()) {
        const ours = await observe(side, kind, step);
        const row = judge(kind, step, ours, observed[i]!, before);
        expect({ seed, i, step: step.name, row, ours }).toEqual({
          seed,
          i,
          step: step.name,
          row: expect.any(String),
          ours: row === null ? observed[i] : ours,
        });
        if (row !== '' && row !== null) rows.set(row, (rows.get(row) ?? 0) + 1);
        attached.add(ours.attached);
        invalidations += ours.invalidations.length;
        before = ours;
      }
    }
    // They reach the host, and each named difference is one that is met.
    expect(attached.size).toBeGreaterThan(3);
    expect(invalidations).toBeGreaterThan(50);
    expect([...rows.keys()].sort()).toEqual(KNOWN[kind.name].map((k) => k.row).sort());
  });
});

test('every named difference has its row in the document', () => {
  const page = readFileSync('docs/accel-differences.md', 'utf8');
  const rows = [...page.matchAll(/^\| `([\w-]+)` \|/gm)].map(([, row]) => row!);
  for (const known of [...KNOWN.smmuv3, ...KNOWN.vtd]) expect(rows).toContain(known.row);
});
