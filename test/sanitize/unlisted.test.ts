import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { mutants } from './mutate.ts';
import { before, planted, recording } from './spoil.ts';
import { unlisted } from './unlisted.ts';

/** VIOMMU_MUTANTS=N: N faults of each kind in every recording, VIOMMU_SEED=S others; else a few in some. */
const EACH = Number(process.env.VIOMMU_MUTANTS ?? 0);
const SEED = Number(process.env.VIOMMU_SEED ?? 1);
const ALL = readdirSync('guest-fixtures/recordings').flatMap((f) =>
  f.endsWith('.ndjson.gz') ? [f.slice(0, -'.ndjson.gz'.length)] : [],
);
/** Recordings, and what is found in each wherever it is planted. */
const SURE: Readonly<Record<string, readonly string[]>> = {
  'smmuv3-guest-range': [
    'CFGI_STE of the next stream: config-change-not-invalidated',
    'cleared before the last access: use-after-unmap',
    'given another output, not cleared: break-before-make',
  ],
  'vtd-boot': ['cleared before the last access: use-after-unmap'],
  'vtd-v86-scalable': ['context cache to IOTLB: config-change-not-invalidated'],
};

test.each(EACH > 0 ? ALL : Object.keys(SURE))(
  '%s: a fault of no driver seen is found under its own name or changes nothing',
  async (name) => {
    const r = await recording(name);
    const known = before(r);
    const wrong: string[] = [];
    const seen = new Set<string>();
    for (const m of unlisted(r, SEED, EACH > 0 ? EACH : 3)) {
      const rules = planted(r, m.events, known);
      for (const rule of rules) seen.add(`${m.kind}: ${rule}`);
      if (rules.length > 1) wrong.push(`${m.what}: ${rules.join(' and ')}`);
      for (const rule of rules) if (!m.names.includes(rule)) wrong.push(`${m.what}: ${rule}`);
    }
    expect(wrong).toEqual([]);
    expect([...seen]).toEqual(expect.arrayContaining([...(SURE[name] ?? [])]));
  },
  3_600_000,
);

test('where stores are told late, an invalidation of the range beside it does not stand for the one that was withheld', async () => {
  const r = await recording('vtd-v86-coherent');
  const withheld = [...mutants(r, 27182, 1)].filter((m) => m.what === 'withhold PIOTLB at 6459');

  expect(withheld.map((m) => planted(r, m.events, before(r)))).toEqual([['missing-invalidation']]);
});
