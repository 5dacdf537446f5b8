import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { ViommuError } from '../../src/core/errors.ts';
import { Random } from '../oracle/random.ts';
import { begin, judge, type Observed, observe } from './accel-compare.ts';
import type { AccelKind } from './accel-script.ts';
import { ourSide, theirSide } from './accel-sides.ts';
import { smmuv3Accel } from './accel-smmuv3.ts';
import { vtdAccel } from './accel-vtd.ts';

/**
 * Runs the same register and queue scripts on QEMU's accelerated vIOMMUs, over our /dev/iommu, and on ours, and compares
 * after every step: registers, what the function reads, what it is attached to, and the invalidations.
 * usage: accel [--scripts N] [--steps N] [--seed N] [--only smmuv3|vtd] [--record FOLDER]
 */
const option = (name: string, otherwise: string): string => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? otherwise : (process.argv[at + 1] ?? otherwise);
};
const scripts = Number(option('scripts', '500'));
const steps = Number(option('steps', '30'));
const first = Number(option('seed', '1'));
const only = option('only', '');
const folder = option('record', '');

/** Scripts that one QEMU runs. */
const EACH = 100;
const NOTHING: Observed = { registers: '', probes: '', attached: '', invalidations: [] };

async function run(kind: AccelKind): Promise<number> {
  const rows = new Map<string, number>();
  const record: { seed: number; steps: number; observed: Observed[] }[] = [];
  let unnamed = 0;
  let done = 0;
  let [attachments, invalidations] = [new Set<string>(), 0];
  let [ours, theirs] = [ourSide(kind), await theirSide(kind)];
  try {
    for (let n = 0; n < scripts; n++) {
      const seed = first + n;
      if (n > 0 && n % EACH === 0) {
        await theirs.close();
        [ours, theirs] = [ourSide(kind), await theirSide(kind)];
      }
      for (const side of [ours, theirs]) await begin(side, kind);
      const seen: Observed[] = [];
      let before = NOTHING;
      for (const step of kind.script(new Random(seed * 7919), steps)) {
        const a = await observe(ours, kind, step);
        const b = await observe(theirs, kind, step);
        const row = judge(kind, step, a, b, before);
        if (row === null) {
          if (unnamed++ < 5) {
            process.stdout.write(`${kind.name}, script ${seed}, after "${step.name}":\n`);
            process.stdout.write(`  ours ${JSON.stringify(a)}\n  QEMU ${JSON.stringify(b)}\n`);
          }
        } else if (row !== '') rows.set(row, (rows.get(row) ?? 0) + 1);
        before = a;
        seen.push(b);
        attachments.add(b.attached);
        invalidations += b.invalidations.length;
        done++;
      }
      record.push({ seed, steps, observed: seen });
    }
  } finally {
    await theirs.close();
  }
  const named = [...rows].map(([row, count]) => `${row} ${count}`).join(', ');
  process.stdout.write(
    `${kind.name}: ${scripts} scripts, ${done} steps, ${attachments.size} attachments, ${invalidations} invalidations; ` +
      `known differences: ${named === '' ? 'none' : named}; unnamed: ${unnamed}\n`,
  );
  // Scripts that never reach the host would agree about nothing.
  if (attachments.size < 3 || invalidations === 0) {
    process.stdout.write(`${kind.name}: the scripts do not reach the host\n`);
    unnamed++;
  }
  if (folder !== '') {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `${kind.name}.json.gz`), gzipSync(JSON.stringify(record)));
  }
  return unnamed;
}

try {
  let unnamed = 0;
  for (const kind of [smmuv3Accel, vtdAccel]) if (only === '' || only === kind.name) unnamed += await run(kind);
  process.exitCode = unnamed === 0 ? 0 : 1;
} catch (e) {
  if (!(e instanceof ViommuError)) throw e;
  process.stderr.write(`conformance:accel: ${e.message}\n`);
  process.exitCode = 2;
}
