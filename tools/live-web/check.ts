import { livePictures } from '../explorer/picture.ts';
import { Checks } from '../live/checks.ts';
import { checkRecorded } from './check-recorded.ts';

/**
 * Drives the live page on recordings, in headless Chromium: an SMMUv3 of a program without an operating system, and a VT-d.
 * Linux in v86 is driven by `npm run test:live`. `--pictures FOLDER` keeps pictures, `--docs` those of the documentation.
 */
const pictures = livePictures(process.argv);
const checks = new Checks();
for (const name of ['smmuv3-guest-faults', 'vtd-boot']) await checkRecorded(checks, name, pictures);
process.exitCode = checks.finish();
