import { writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { DMA } from '../../src/ports/dma.ts';
import type { Checks } from '../live/checks.ts';
import { Chromium } from './chromium.ts';
import { serve } from './server.ts';

/** The page in a real headless Chromium: the guest boots and works there, and what the page shows is what happened. */
export async function inChromium(c: Checks, unit = 'device-iotlb=on', command = 'iotlb'): Promise<void> {
  process.stdout.write(`Linux 6.1 in v86 in headless Chromium, ${unit}\n`);
  const asked: string[] = [];
  const server = await serve(0, (path) => asked.push(path));
  const { port } = server.address() as AddressInfo;
  let browser: Chromium | null = null;
  try {
    browser = await Chromium.open(`http://127.0.0.1:${port}/?unit=${encodeURIComponent(unit)}`);
    const page = browser;
    for (let i = 0; i < 300 && !(await page.evaluate<boolean>('typeof live === "object"')); i++) {
      await new Promise((r) => setTimeout(r, 100));
    }
    const ask = (words: string, answer: string) =>
      page.evaluate<string>(`live.ask(${JSON.stringify(words)}, ${JSON.stringify(answer)})`);
    const up = await page.evaluate<string>('live.expect("^@@ up", 300000)');
    c.check('the driver probed the IOMMU and the disk came up in a DMA domain', /up DMA/.test(up), up);
    for (const bs of ['4k 4096', '64k 65536']) {
      const verify = await ask(`verify ${bs}`, '^@@ verify');
      c.check(`data written and read in blocks of ${bs.split(' ')[0]} is the same`, verify.endsWith('ok'), verify);
    }
    c.check('a stray DMA write is refused', (await page.evaluate<number>('live.stray()')) === DMA.ABORT);
    const fault = await page.evaluate<string>('live.expect("DMAR: .DMA Write", 30000)');
    c.check('the driver decodes the fault', /00:10\.0.*dead0000/.test(fault), fault.trim());
    const type = await ask('type DMA-FQ', '^@@ type');
    c.check('domain type switched to DMA-FQ', type.endsWith('DMA-FQ'), type);
    await new Promise((r) => setTimeout(r, 1000));
    const text = (id: string) => page.evaluate<string>(`document.getElementById(${JSON.stringify(id)}).textContent`);
    c.check('the page shows the console', (await text('console')).includes(up));
    const story = await text('story');
    c.check(`the page shows ${command} commands`, story.includes(command));
    c.check('and host operations', /→ (SHADOW_MAP|SHADOW_UNMAP|SHADOW_CLEAR|HWPT_INVALIDATE)\(/.test(story));
    const graph = await text('graph');
    c.check('the graph has the function, its HWPT and an IOAS', /nvme.*HWPT \d+.*IOAS \d+/.test(graph), graph);
    c.check('nothing went wrong in the page', (await page.evaluate<string>('live.error')) === '');
    c.check(
      'nor in the browser',
      browser.said.filter((s) => !s.includes('favicon')).length === 0,
      browser.said.join(' '),
    );
    const own = asked.filter(
      (a) => a.includes('binary-parser') || a.includes('node_modules') || a.includes('iommufd-socket'),
    );
    c.check('the page loads no parser that compiles code', own.length === 0, own.join(' '));
    const at = process.argv.indexOf('--picture');
    if (at > 0) writeFileSync(process.argv[at + 1]!, await browser.picture());
  } finally {
    await browser?.close();
    server.close();
    server.closeAllConnections();
  }
}
