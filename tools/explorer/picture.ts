import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageFolder } from '../package-folder.ts';
import type { ExplorerPage, Look } from './driver.ts';
import { readPng, smallPng } from './small-png.ts';

/** Where pictures go, and which of them are wanted. */
export interface Pictures {
  /** Null: nowhere. */
  readonly folder: string | null;
  /** Names as `VIEW-THEME`; null: all. */
  readonly only: readonly string[] | null;
}

/** Pictures that the page of the documentation shows. */
export const SHOWN = [
  'smmuv3-faults-run-light',
  'smmuv3-faults-moment-dark',
  'smmuv3-faults-changes-dark',
  'smmuv3-faults-compare-light',
  'vtd-faults-legacy-questions-light',
  'vtd-v86-nested-state-light',
  'empty-dark',
] as const;

/** Those of a machine that runs: recordings played, and Linux in v86. */
const SHOWN_LIVE = [
  'live-smmuv3-guest-faults-dark',
  'live-smmuv3-guest-faults-phone-light',
  'live-vtd-boot-phone-dark',
  'live-v86-stray-iotlb-light',
] as const;

/** What was asked for of the pictures of the live page: `--pictures FOLDER` all of them, `--docs` those of the documentation. */
export function livePictures(args: readonly string[]): Pictures {
  const at = args.indexOf('--pictures');
  const docs = args.includes('--docs');
  const folder = docs ? join(packageFolder(), 'docs/explorer') : at < 0 ? null : (args[at + 1] ?? '.');
  if (folder !== null) mkdirSync(folder, { recursive: true });
  return { folder, only: docs ? SHOWN_LIVE : null };
}

/** Keeps pictures of what the page shows now, in both themes. @param size of the window, if it is not the usual one. */
export async function picture(
  page: ExplorerPage,
  { folder, only }: Pictures,
  name: string,
  size: Omit<Look, 'theme'> = {},
): Promise<void> {
  if (folder === null) return;
  for (const theme of ['dark', 'light'] as const) {
    await page.look({ ...size, theme });
    await page.still();
    if (only !== null && !only.includes(`${name}-${theme}`)) continue;
    const png = smallPng(readPng(await page.browser.picture()));
    writeFileSync(join(folder, `${name}-${theme}.png`), png);
  }
}
