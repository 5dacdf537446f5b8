import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
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
