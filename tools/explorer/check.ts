import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { openTrace } from '../../src/trace/node.ts';
import { Checks } from '../live/checks.ts';
import { packageFolder } from '../package-folder.ts';
import { checkStates } from './check-edges.ts';
import { checkTwoFiles, checkViews } from './check-views.ts';
import { ExplorerPage } from './driver.ts';
import { TraceSession } from './model/session.ts';
import { type Pictures, SHOWN } from './picture.ts';

/**
 * Drives every view of the explorer in headless Chromium on real recordings and compares what it shows with what the same
 * recording says here. `--pictures FOLDER` keeps pictures of the views in both themes, `--docs` those of the documentation;
 * `--only NAME` takes one recording.
 */
const RECORDINGS = ['smmuv3-faults', 'vtd-faults-legacy', 'vtd-v86-nested'] as const;

/** One driver, its disk in two places: other streams, other tables, the same work. */
const TWO = ['vtd-v86-legacy', 'vtd-v86-root-port'] as const;

function option(name: string): string | null {
  const at = process.argv.indexOf(name);
  return at < 0 ? null : (process.argv[at + 1] ?? null);
}

const checks = new Checks();
const docs = process.argv.includes('--docs');
const folder = docs ? join(packageFolder(), 'docs/explorer') : option('--pictures');
const pictures: Pictures = { folder, only: docs ? SHOWN : null };
const only = option('--only');
const temporary = mkdtempSync(join(tmpdir(), 'viommu-explorer-'));
try {
  if (folder !== null) mkdirSync(folder, { recursive: true });
  for (const name of RECORDINGS) {
    if (only !== null && only !== name) continue;
    const path = join(packageFolder(), 'guest-fixtures/recordings', `${name}.ndjson.gz`);
    process.stdout.write(`${name}\n`);
    const session = await TraceSession.open(await openTrace(path), { make: makeReplayMachine });
    const page = await ExplorerPage.start([path]);
    try {
      await checkViews(checks, page, session, path, pictures);
      checks.check('the browser complains of nothing', page.browser.said.length === 0, page.browser.said.join(' '));
      const own = new Set(['/', '/explorer.js', '/style.css', '/recordings/0']);
      const foreign = page.asked.filter((a) => !own.has(a));
      checks.check('the page asks for its own files only', foreign.length === 0, foreign.join(' '));
    } finally {
      await page.close();
    }
  }
  if (only === null) {
    process.stdout.write('two recordings compared\n');
    await checkTwoFiles(
      checks,
      TWO.map((name) => join(packageFolder(), 'guest-fixtures/recordings', `${name}.ndjson.gz`)),
      pictures,
    );
    process.stdout.write('empty, loading and error states\n');
    const half = join(temporary, 'half.ndjson.gz');
    const whole = readFileSync(join(packageFolder(), 'guest-fixtures/recordings/smmuv3-boot.ndjson.gz'));
    writeFileSync(half, whole.subarray(0, whole.length / 2));
    await checkStates(checks, half, pictures);
  }
} finally {
  rmSync(temporary, { recursive: true, force: true });
}
process.exitCode = checks.finish();
