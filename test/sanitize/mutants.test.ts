import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { mutants } from './mutate.ts';
import { before, planted, recording } from './spoil.ts';

/** VIOMMU_MUTANTS=N: N faults of each kind in every recording, VIOMMU_SEED=S others; else a few in some. */
const EACH = Number(process.env.VIOMMU_MUTANTS ?? 0);
const SEED = Number(process.env.VIOMMU_SEED ?? 1);
const ALL = readdirSync('guest-fixtures/recordings').flatMap((f) =>
  f.endsWith('.ndjson.gz') ? [f.slice(0, -'.ndjson.gz'.length)] : [],
);
const SOME = [
  'smmuv3-boot',
  'smmuv3-guest-two-level',
  'smmuv3-live',
  'vtd-boot',
  'vtd-v86-caching',
  'vtd-v86-scalable',
];

test.each(EACH > 0 ? ALL : SOME)(
  '%s: a planted fault is found under its own name or changes nothing, and what is no fault is not found',
  async (name) => {
    const r = await recording(name);
    const known = before(r);
    const wrong: string[] = [];
    let some = 0;
    for (const m of mutants(r, SEED, EACH > 0 ? EACH : 2)) {
      const rules = planted(r, m.events, known);
      if (rules.length > 0) some++;
      for (const rule of rules) if (!m.names.includes(rule)) wrong.push(`${m.what}: ${rule}`);
    }
    expect(wrong).toEqual([]);
    // Of a guest without tables, or one that invalidates by registers, no command shows anything.
    if (SOME.includes(name)) expect(some).toBeGreaterThan(0);
  },
  3_600_000,
);
