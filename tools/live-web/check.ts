import { mkdirSync } from 'node:fs';
import { Checks } from '../live/checks.ts';
import { checkRecorded } from './check-recorded.ts';

/**
 * Drives the live page on recordings, in headless Chromium: an SMMUv3 of a program without an operating system, and a VT-d.
 * Linux in v86 is driven by `npm run test:live`. `--pictures FOLDER` keeps pictures.
 */
const at = process.argv.indexOf('--pictures');
const folder = at < 0 ? null : (process.argv[at + 1] ?? '.');
if (folder !== null) mkdirSync(folder, { recursive: true });
const checks = new Checks();
for (const name of ['smmuv3-guest-faults', 'vtd-boot']) await checkRecorded(checks, name, { folder, only: null });
process.exitCode = checks.finish();
