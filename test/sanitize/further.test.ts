import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { further } from './further.ts';
import { before, planted, recording } from './spoil.ts';

/** VIOMMU_MUTANTS=N: N faults of each kind in every recording, VIOMMU_SEED=S others; else a few in some. */
const EACH = Number(process.env.VIOMMU_MUTANTS ?? 0);
const SEED = Number(process.env.VIOMMU_SEED ?? 1);
const ALL = readdirSync('guest-fixtures/recordings').flatMap((f) =>
  f.endsWith('.ndjson.gz') ? [f.slice(0, -'.ndjson.gz'.length)] : [],
);
/** Recordings, and what is found in each wherever it is planted. */
const SURE: Readonly<Record<string, readonly string[]>> = {
  'smmuv3-boot': [
    'CMDQ_BASE moved: base-changed-while-enabled',
    'STRTAB_BASE_CFG changed: base-changed-while-enabled',
    'CMDQ_PROD too far: queue-overrun',
    'CMDQ_BASE misaligned: table-not-aligned',
    'STRTAB_BASE misaligned: table-not-aligned',
    'strtab: pointer beyond: beyond-output-size',
  ],
  'smmuv3-guest-queue-wrap': ['GERRORN never written: error-not-acknowledged'],
  'vtd-boot': [
    'IQA moved: base-changed-while-enabled',
    'GSTS not polled: handshake-not-awaited',
    'root: pointer beyond: beyond-output-size',
    'ctx: pointer beyond: beyond-output-size',
  ],
  'vtd-v86-registers': ['CCMD never written: config-change-not-invalidated'],
};

test.each(EACH > 0 ? ALL : Object.keys(SURE))(
  '%s: a further fault is found under its own name or changes nothing',
  async (name) => {
    const r = await recording(name);
    const known = before(r);
    const wrong: string[] = [];
    const seen = new Set<string>();
    for (const m of further(r, SEED, EACH > 0 ? EACH : 2)) {
      const rules = planted(r, m.events, known);
      for (const rule of rules) seen.add(`${m.kind}: ${rule}`);
      for (const rule of rules) if (!m.names.includes(rule)) wrong.push(`${m.what}: ${rule}`);
    }
    expect(wrong).toEqual([]);
    expect([...seen]).toEqual(expect.arrayContaining([...(SURE[name] ?? [])]));
  },
  3_600_000,
);
