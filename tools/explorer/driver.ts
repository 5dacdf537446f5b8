import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Chromium } from '../live-web/chromium.ts';
import { serveExplorer } from './server.ts';

/** How long something on the page may take before it is missed (milliseconds). */
const PATIENCE = 60_000;
const LOOK_EVERY = 40;

/** How a page is looked at. */
export interface Look {
  readonly theme?: 'light' | 'dark';
  readonly width?: number;
  readonly height?: number;
}

/** The explorer in a headless Chromium, with some recordings served to it. */
export class ExplorerPage {
  /** Addresses that the page asked its server for. */
  readonly asked: string[] = [];
  readonly browser: Chromium;
  #server: Server | null = null;

  private constructor(browser: Chromium) {
    this.browser = browser;
  }

  /** @param paths of the recordings; empty: nothing is served. @throws ViommuError `E_MISSING` no Chromium, no page. */
  static async start(paths: readonly string[], look: Look = {}): Promise<ExplorerPage> {
    const page = new ExplorerPage(await Chromium.open('about:blank'));
    await page.look(look);
    if (paths.length > 0) page.#server = await serveExplorer(paths, { port: 0, asked: (p) => page.asked.push(p) });
    return page;
  }

  /** Any page of ours that shows the explorer. @param serve begins to serve it, and tells of what is asked for. */
  static async of(serve: (asked: (path: string) => void) => Promise<Server>, look: Look = {}): Promise<ExplorerPage> {
    const page = new ExplorerPage(await Chromium.open('about:blank'));
    await page.look(look);
    page.#server = await serve((p) => page.asked.push(p));
    return page;
  }

  /** Where the page is. */
  get address(): string {
    const at = this.#server?.address() as AddressInfo | undefined;
    return at === undefined ? 'about:blank' : `http://127.0.0.1:${at.port}/`;
  }

  async look({ theme = 'light', width = 1280, height = 800 }: Look): Promise<void> {
    await this.browser.send('Emulation.setDeviceMetricsOverride', {
      width,
      height,
      deviceScaleFactor: 1,
      mobile: false,
    });
    const features = [{ name: 'prefers-color-scheme', value: theme }];
    await this.browser.send('Emulation.setEmulatedMedia', { features });
  }

  /** Loads the page anew. @param hash the place in it. */
  async go(hash = '', address = this.address): Promise<void> {
    // A page that differs in its hash only would not be loaded again.
    await this.browser.send('Page.navigate', { url: 'about:blank' });
    await this.browser.send('Page.navigate', { url: `${address}${hash}` });
  }

  /** Waits until an expression in the page is true. @throws Error when it is not in time. */
  async until(expression: string, what = expression): Promise<void> {
    const end = Date.now() + PATIENCE;
    while (!(await this.browser.evaluate<boolean>(`!!(${expression})`))) {
      if (Date.now() > end) throw new Error(`not seen on the page: ${what}`);
      await new Promise((r) => setTimeout(r, LOOK_EVERY));
    }
  }

  /** Waits until the recording is open and what is shown of it stands still. */
  async ready(): Promise<void> {
    await this.until('document.querySelector(".timeline canvas")', 'the timeline');
    await this.still();
  }

  /** Waits until nothing is asked of the worker any more. */
  async still(): Promise<void> {
    const frame = 'new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(() => r(true))))';
    await this.browser.evaluate(frame);
    await this.until(
      '!document.querySelector("[aria-busy=true], .panel .waiting") && (globalThis.explorer === undefined || explorer.client.waiting === 0)',
      'an end of waiting',
    );
    await this.browser.evaluate(frame);
  }

  text(selector: string): Promise<string> {
    return this.browser.evaluate<string>(`document.querySelector(${JSON.stringify(selector)})?.textContent ?? ''`);
  }

  texts(selector: string): Promise<string[]> {
    return this.browser.evaluate<string[]>(
      `[...document.querySelectorAll(${JSON.stringify(selector)})].map((e) => e.textContent)`,
    );
  }

  async click(selector: string, text = ''): Promise<void> {
    const found = await this.browser.evaluate<boolean>(
      `(() => { const e = [...document.querySelectorAll(${JSON.stringify(selector)})]` +
        `.find((x) => x.textContent.includes(${JSON.stringify(text)})); e?.click(); return e !== undefined; })()`,
    );
    if (!found) throw new Error(`nothing to click: ${selector} ${text}`);
    await this.still();
  }

  focus(selector: string): Promise<unknown> {
    return this.browser.evaluate(`document.querySelector(${JSON.stringify(selector)}).focus()`);
  }

  /** A key as the keyboard sends it, to whatever has the focus. */
  async press(key: string): Promise<void> {
    const text = key.length === 1 ? { text: key } : {};
    await this.browser.send('Input.dispatchKeyEvent', { type: 'keyDown', key, ...text });
    await this.browser.send('Input.dispatchKeyEvent', { type: 'keyUp', key });
    await this.still();
  }

  async type(text: string): Promise<void> {
    await this.browser.send('Input.insertText', { text });
    await this.still();
  }

  mouse(type: string, x: number, y: number, more: object = {}): Promise<unknown> {
    return this.browser.send('Input.dispatchMouseEvent', { type, x, y, button: 'none', ...more });
  }

  /** A click at a place of the window. */
  async point(x: number, y: number): Promise<void> {
    await this.mouse('mousePressed', x, y, { button: 'left', clickCount: 1 });
    await this.mouse('mouseReleased', x, y, { button: 'left', clickCount: 1 });
    await this.still();
  }

  hash(): Promise<string> {
    return this.browser.evaluate<string>('location.hash');
  }

  async close(): Promise<void> {
    await this.browser.close();
    this.#server?.close();
    this.#server?.closeAllConnections();
  }
}
