import { DMA } from '../../src/ports/dma.ts';
import { ExplorerPage } from '../explorer/driver.ts';
import { livePictures, picture } from '../explorer/picture.ts';
import type { Checks } from '../live/checks.ts';
import { serve } from './server.ts';

/** The page in a real headless Chromium: the guest boots and works there, and what the page shows is what happened. */
export async function inChromium(c: Checks, unit = 'device-iotlb=on', command = 'iotlb'): Promise<void> {
  process.stdout.write(`Linux 6.1 in v86 in headless Chromium, ${unit}\n`);
  const pictures = livePictures(process.argv);
  const page = await ExplorerPage.of((asked) => serve(0, asked), { width: 1440, height: 900 });
  const value = <T>(expression: string) => page.browser.evaluate<T>(expression);
  try {
    await page.browser.send('Page.navigate', { url: `${page.address}?unit=${encodeURIComponent(unit)}` });
    await page.until('typeof live === "object"', 'the page');
    const ask = (words: string, answer: string) =>
      value<string>(`live.ask(${JSON.stringify(words)}, ${JSON.stringify(answer)})`);
    const up = await value<string>('live.expect("^@@ up", 300000)');
    c.check('the driver probed the IOMMU and the disk came up in a DMA domain', /up DMA/.test(up), up);
    await value('void (globalThis.working = live.ask("verify 64k 65536", "^@@ verify"))');
    await page.until('/[1-9][\\d,]* translations/.test(document.querySelector(".rates")?.textContent)', 'translations');
    c.check('translations per second are told', true, await page.text('.rates'));
    c.check('while data is written and read', (await value<string>('working')).endsWith('ok'));
    for (const bs of ['4k 4096', '64k 65536']) {
      const verify = await ask(`verify ${bs}`, '^@@ verify');
      c.check(`data written and read in blocks of ${bs.split(' ')[0]} is the same`, verify.endsWith('ok'), verify);
    }
    await page.until(`document.querySelector(".console").textContent.includes(${JSON.stringify(up)})`, 'the console');
    const rows = await page.texts('.row-name');
    c.check(
      'accesses have a row named by the address of the function',
      rows.includes('accesses 0x80 nvme 00:10.0'),
      rows.join(', '),
    );
    const outcome = await value<number>('live.live.stray()');
    c.check('a stray DMA write is refused', outcome === DMA.ABORT, outcome);
    await page.until('document.querySelector(".details h2")?.textContent === "write"', 'the stray access');
    await page.still();
    const details = await page.text('.details');
    c.check('it is shown, and why it stops', /0xdead0000/.test(details) && /It stops/.test(details));
    const effects = await value<string>(
      '(() => { const { run } = live.live.shown; const n = Number(new URLSearchParams(location.hash.slice(1)).get("moment"));' +
        'const chain = []; for (let k = n; k < run.moments; k++) { let at = k; while (at > n) at = run.cause[at]; if (at === n) chain.push(run.rows[run.row[k]].lane); } return chain.join(); })()',
    );
    c.check(
      'it leads to the fault record and the interrupt',
      /faults/.test(effects) && /interrupts/.test(effects),
      effects,
    );
    await picture(page, pictures, `live-v86-stray-${command}`, { width: 1440, height: 900 });
    await value('live.live.go()');
    const fault = await value<string>('live.expect("DMAR: .DMA Write", 30000)');
    c.check('the driver decodes the fault', /00:10\.0.*dead0000/.test(fault), fault.trim());
    const END =
      '(() => { const b = document.querySelector(".console pre"); return b.scrollHeight - b.scrollTop - b.clientHeight < 40; })()';
    await page.until(`document.querySelector(".console").textContent.includes("DMA Write") && ${END}`, 'the end');
    c.check('the console follows its end', true);
    const type = await ask('type DMA-FQ', '^@@ type');
    c.check('domain type switched to DMA-FQ', type.endsWith('DMA-FQ'), type);
    // The guest has to have something to do; its answer comes after the steps.
    await value('void (globalThis.working = live.ask("verify 4k 4096", "^@@ verify"))');
    for (const to of ['command', 'access'])
      c.check(`one ${to} further`, await value<boolean>(`live.live.step("${to}")`));
    await page.click('.tabs button', 'state');
    await page.until('document.querySelector(".registers tbody tr")', 'registers');
    await page.still();
    const registers = await page.text('.registers');
    c.check('registers are decoded', /GSTS.*TES/.test(registers), registers.slice(0, 80));
    const tree = await page.text('.tree');
    c.check("the guest's tables are beside", tree.includes('nvme 00:10.0'), tree.slice(0, 90));
    const graph = await page.text('.graph');
    c.check('the graph has the function, its HWPT and an IOAS', /IOAS \d+.*HWPT \d+.*nvme 00:10\.0/.test(graph), graph);
    await picture(page, pictures, `live-v86-state-${command}`, { width: 1440, height: 900 });
    await picture(page, pictures, `live-v86-phone-${command}`, { width: 390, height: 844 });
    await page.look({ width: 1440, height: 900 });
    const names = await value<string>('live.live.shown.run.names.join()');
    c.check(`the page shows ${command} commands`, names.includes(command));
    c.check('and host operations', /(SHADOW_MAP|SHADOW_UNMAP|SHADOW_CLEAR|HWPT_INVALIDATE)/.test(names));
    const differing = await value<number>('live.live.shown.run.differing');
    c.check('what is replayed beside the machine does as it does', differing === 0, differing);
    const wrong = await value<string>('live.error || live.live.shown.error');
    c.check('nothing went wrong in the page', wrong === '', wrong);
    const { said } = page.browser;
    c.check('nor in the browser', said.length === 0, said.join(' '));
  } finally {
    await page.close();
  }
}
