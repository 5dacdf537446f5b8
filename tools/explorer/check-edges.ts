import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Checks } from '../live/checks.ts';
import { packageFolder } from '../package-folder.ts';
import { ExplorerPage } from './driver.ts';
import { type Pictures, picture } from './picture.ts';

/** Gives the page a file as its chooser does. */
async function choose(page: ExplorerPage, path: string): Promise<void> {
  const { root } = (await page.browser.send('DOM.getDocument')) as { root: { nodeId: number } };
  const found = await page.browser.send('DOM.querySelector', { nodeId: root.nodeId, selector: 'input[type=file]' });
  await page.browser.send('DOM.setFileInputFiles', { files: [path], nodeId: found.nodeId });
}

/** The page from the disk, without anything, with a file that is no whole recording, and with a good one. @param half of it. */
export async function checkStates(c: Checks, half: string, pictures: Pictures): Promise<void> {
  const page = await ExplorerPage.start([]);
  try {
    const disk = pathToFileURL(join(packageFolder(), 'dist/explorer/index.html')).href;
    await page.go('', disk);
    await page.until('document.querySelector("main.middle")', 'the empty page');
    c.check('a page opened from the disk says what to do', (await page.text('main')).includes('Drop a recording here'));
    await picture(page, pictures, 'empty');
    await choose(page, half);
    await page.until('document.querySelector("[role=alert]")', 'the error');
    const why = await page.text('[role=alert]');
    c.check(
      'half a file is refused in a sentence',
      why === 'half.ndjson.gz: it is a damaged or incomplete gzip file',
      why,
    );
    await picture(page, pictures, 'error');
    await choose(page, join(packageFolder(), 'guest-fixtures/recordings/vtd-faults-legacy.ndjson.gz'));
    await page.until('document.querySelector("progress")', 'the progress');
    c.check('while it opens, it says how far it is', /events replayed/.test(await page.text('main')));
    await page.ready();
    c.check(
      'a whole one opens from the disk, without a server',
      (await page.text('.file-name')).startsWith('vtd-faults'),
    );
    c.check('the browser complains of nothing', page.browser.said.length === 0, page.browser.said.join(' '));
  } finally {
    await page.close();
  }
}
