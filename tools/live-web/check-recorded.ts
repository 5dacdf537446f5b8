import { join } from 'node:path';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { openTrace } from '../../src/trace/node.ts';
import { ExplorerPage } from '../explorer/driver.ts';
import { TraceSession } from '../explorer/model/session.ts';
import { type Pictures, picture } from '../explorer/picture.ts';
import type { Checks } from '../live/checks.ts';
import { packageFolder } from '../package-folder.ts';
import { serve } from './server.ts';

/** How many moments the timeline has, by row. */
async function counts(page: ExplorerPage): Promise<number> {
  const texts = await page.texts('.row-names .count');
  return texts.reduce((sum, t) => sum + Number(t.replaceAll(',', '')), 0);
}

const selected = async (page: ExplorerPage) =>
  Number(new URLSearchParams((await page.hash()).slice(1)).get('moment') ?? -1);

/** Ends when the page says that it stands still. */
async function standing(page: ExplorerPage): Promise<void> {
  await page.until('/paused|ended/.test(document.querySelector(".rates").textContent)', 'the machine standing still');
  await page.still();
}

/**
 * A recording played as if its machine ran: what is shown at every stop is what the recording says up to there, and at the end
 * all of it.
 * @param name of the recording.
 */
export async function checkRecorded(c: Checks, name: string, pictures: Pictures): Promise<void> {
  process.stdout.write(`${name}, as if it ran\n`);
  const path = join(packageFolder(), 'guest-fixtures/recordings', `${name}.ndjson.gz`);
  const s = await TraceSession.open(await openTrace(path), { make: makeReplayMachine });
  const page = await ExplorerPage.of((asked) => serve(0, asked), { width: 1280, height: 800 });
  try {
    await page.browser.send('Page.navigate', { url: `${page.address}?recording=${name}&rate=150` });
    await page.until('document.querySelectorAll(".row-names .count").length > 1', 'the first moments');
    const early = await counts(page);
    await new Promise((r) => setTimeout(r, 1200));
    c.check('it grows while it runs', (await counts(page)) > early, `${early}, then ${await counts(page)}`);
    await page.until(
      '/[1-9][\\d,]* commands/.test(document.querySelector(".rates").textContent)',
      'commands per second',
    );
    await page.until(
      '/[1-9][\\d,]* translations/.test(document.querySelector(".rates").textContent)',
      'translations per second',
    );
    c.check('translations and commands per second are told', true, await page.text('.rates'));
    await page.click('.controls button', 'Pause');
    await standing(page);
    const paused = await counts(page);
    await new Promise((r) => setTimeout(r, 800));
    c.check('paused, it stands still', (await counts(page)) === paused, paused);
    for (const [button, lane] of [
      ['Step command', 'commands'],
      ['Step access', 'accesses'],
    ] as const) {
      const before = await counts(page);
      await page.click('.controls button', button);
      await page.until(`document.querySelector(".rates").textContent.includes("paused")`);
      await page.still();
      const after = await counts(page);
      const number = s.moments.lanes.find(lane);
      const fresh = Array.from({ length: after - before }, (_, k) => before + k);
      const hits = fresh.filter((n) => s.moments.lane.at(n) === number).map((n) => s.moments.event.at(n));
      const last = s.moments.event.at(after - 1);
      c.check(
        `${button} ends with the next of ${lane}`,
        hits.length > 0 && hits.every((e) => e === last),
        fresh.length,
      );
      const at = await selected(page);
      c.check('and selects it', s.moments.lane.at(at) === number && s.moments.event.at(at) === last, at);
      c.check('its moment is told', (await page.text('.details h2')) === s.moments.get(at).name);
    }
    await page.click('.tabs button', 'state');
    await page.until('document.querySelector(".registers tbody tr")', 'registers');
    await page.still();
    const event = s.moments.event.at(await selected(page));
    const values = await page.texts('.registers tbody td.mono');
    const is = s.state(event).registers.filter((r) => r.value !== '0x0');
    c.check('registers are decoded as they are there', values.join() === is.map((r) => r.value).join(), values.length);
    await picture(page, pictures, `live-${name}`);
    await page.look({ width: 390, height: 844 });
    await page.still();
    const width = await page.browser.evaluate<number>('document.documentElement.scrollWidth');
    c.check('a phone shows it without scrolling sideways', width <= 390, width);
    await picture(page, pictures, `live-${name}-phone`, { width: 390, height: 844 });
    await page.look({ width: 1280, height: 800 });
    await page.browser.send('Page.navigate', { url: 'about:blank' });
    await page.browser.send('Page.navigate', { url: `${page.address}?recording=${name}&rate=200000` });
    await page.until('document.querySelector(".rates")?.textContent.includes("ended")', 'the end');
    const end = Date.now() + 20_000;
    while ((await counts(page)) < s.moments.length && Date.now() < end) await new Promise((r) => setTimeout(r, 100));
    c.check('at the end all of it is there', (await counts(page)) === s.moments.length, s.moments.length);
    c.check('the browser complains of nothing', page.browser.said.length === 0, page.browser.said.join(' '));
  } finally {
    await page.close();
  }
}
