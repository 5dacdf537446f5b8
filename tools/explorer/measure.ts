import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { packageFolder } from '../package-folder.ts';
import { ExplorerPage } from './driver.ts';

/**
 * Measures the explorer in headless Chromium: what opening takes, what memory the page keeps, how long the state at a random
 * event takes, frames per second while the timeline is dragged, and the size of the page. Exit status 1: something misses its
 * limit. `--short` leaves the largest recording out.
 */
const LIMIT = { open90: 2000, open500: 8000, memory: 300, state: 150, frames: 30, page: 400 * 1024 } as const;
/** Milliseconds of a tick of /proc/PID/stat on Linux. */
const TICK = 10;
const RECORDING = 'smmuv3-strict-heavy';
const SHARE_OF_90K = 90_000;

let missed = 0;

function row(what: string, value: number, unit: string, limit: number, atLeast = false): void {
  const ok = atLeast ? value >= limit : value <= limit;
  if (!ok) missed++;
  const text = `${what.padEnd(58)} ${value.toFixed(value < 10 ? 1 : 0).padStart(7)} ${unit.padEnd(8)}`;
  process.stdout.write(`${text} (${atLeast ? 'at least' : 'at most'} ${limit}) ${ok ? 'ok' : 'MISSED'}\n`);
}

/** A recording of at least `events` events: one repeated, with a machine reset between, and cut after the last whole event. */
function repeated(path: string, events: number, into: string): string {
  const [header, ...lines] = gunzipSync(readFileSync(path)).toString().trimEnd().split('\n') as [string, ...string[]];
  const out: string[] = [header.replace(/"commands":\{[^}]*\},?/, '').replace(',}', '}')];
  let i = 0;
  while (i < events) {
    for (const line of lines) {
      if (i === events) break;
      out.push(line.replace(/"i":\d+/, `"i":${i++}`));
    }
    if (i < events) out.push(`{"i":${i++},"t":"reset"}`);
  }
  const file = join(into, `repeated-${events}.ndjson.gz`);
  writeFileSync(file, gzipSync(`${out.join('\n')}\n`));
  return file;
}

/** CPU time of the page's processes so far, in ms: on a machine with other work it says more than the clock. */
async function cpuTime(page: ExplorerPage): Promise<number> {
  const renderers = (await page.browser.processes()).filter((p) => p.type === 'renderer');
  return renderers.reduce((sum, { id }) => {
    const fields = readFileSync(`/proc/${id}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ');
    return sum + (Number(fields[11]) + Number(fields[12])) * TICK;
  }, 0);
}

/** Memory of the page's process that nobody shares, in MiB. */
async function memory(page: ExplorerPage): Promise<number> {
  const renderers = (await page.browser.processes()).filter((p) => p.type === 'renderer');
  const kib = renderers.map(({ id }) => {
    const text = readFileSync(`/proc/${id}/smaps_rollup`, 'utf8');
    return [...text.matchAll(/^Private_\w+:\s+(\d+) kB$/gm)].reduce((sum, m) => sum + Number(m[1]), 0);
  });
  return Math.max(...kib) / 1024;
}

async function measureRun(file: string, name: string, openLimit: number, memoryLimit: number): Promise<void> {
  const page = await ExplorerPage.start([file], { height: 860 });
  try {
    // The first load of a fresh browser compiles and starts what later ones have; both are shown.
    const times: number[] = [];
    const cpu: number[] = [];
    for (let n = 0; n < 2; n++) {
      const [start, used] = [performance.now(), await cpuTime(page)];
      await page.go();
      await page.until('document.querySelector(".timeline canvas")', 'the timeline');
      times.push(performance.now() - start);
      cpu.push((await cpuTime(page)) - used);
    }
    row(`${name}: opened, until the timeline shows`, Math.min(...times), 'ms', openLimit);
    row(`${name}: CPU time of the page for that`, Math.min(...cpu), 'ms', openLimit);
    row(`${name}: the slowest of 8 states right after`, Math.max(...(await states(page, 8, 0))), 'ms', LIMIT.state);
    await page.still();
    await page.browser.evaluate('(async () => { while (!(await explorer.client.ask("ready", null))); })()');
    const settled = await states(page, 40, 150);
    settled.sort((a, b) => a - b);
    row(`${name}: state at a random event, median of 40`, settled[20]!, 'ms', LIMIT.state);
    row(`${name}: the slowest of them`, settled.at(-1)!, 'ms', LIMIT.state);
    row(`${name}: memory of the page's process`, await memory(page), 'MiB', memoryLimit);
    row(`${name}: frames while dragging`, await frames(page), 'a second', LIMIT.frames, true);
  } finally {
    await page.close();
  }
}

/** Milliseconds that the states at `count` random events take, with a pause of `pause` ms after each. */
function states(page: ExplorerPage, count: number, pause: number): Promise<number[]> {
  return page.browser.evaluate<number[]>(
    `(async () => { const times = []; for (let n = 0; n < ${count}; n++) {` +
      'const event = Math.floor(Math.random() * explorer.run.events); const start = performance.now();' +
      'await explorer.client.ask("state", { event, opened: [] }); times.push(performance.now() - start);' +
      `if (${pause} > 0) await new Promise((r) => setTimeout(r, ${pause})); } return times; })()`,
  );
}

/** Frames a second while the pointer drags the timeline, half zoomed in. */
async function frames(page: ExplorerPage): Promise<number> {
  await page.focus('canvas');
  await page.press('+');
  const box = await page.browser.evaluate<{ x: number; y: number; width: number }>(
    '(() => { const b = document.querySelector("canvas").getBoundingClientRect(); return { x: b.left, y: b.top + 80, width: b.width }; })()',
  );
  await page.browser.evaluate(
    'globalThis.drawn = 0; { const g = CanvasRenderingContext2D.prototype; const set = g.setTransform;' +
      'g.setTransform = function (...a) { globalThis.drawn++; return set.apply(this, a); }; }',
  );
  const middle = box.x + box.width / 2;
  await page.mouse('mousePressed', middle, box.y, { button: 'left', clickCount: 1 });
  const start = performance.now();
  for (let n = 0; performance.now() - start < 3000; n++)
    await page.mouse('mouseMoved', middle + 300 * Math.sin(n / 25), box.y, { button: 'left', buttons: 1 });
  const took = performance.now() - start;
  const drawn = await page.browser.evaluate<number>('globalThis.drawn');
  await page.mouse('mouseReleased', middle, box.y, { button: 'left', clickCount: 1 });
  return (drawn * 1000) / took;
}

const folder = mkdtempSync(join(tmpdir(), 'viommu-explorer-'));
try {
  const built = join(packageFolder(), 'dist/explorer');
  const bytes = ['explorer.js', 'index.html', 'style.css']
    .map((f) => gzipSync(readFileSync(join(built, f)), { level: 9 }).length)
    .reduce((a, b) => a + b);
  row('the page, gzipped', bytes, 'bytes', LIMIT.page);
  const path = join(packageFolder(), 'guest-fixtures/recordings', `${RECORDING}.ndjson.gz`);
  await measureRun(repeated(path, SHARE_OF_90K, folder), '90,000 events', LIMIT.open90, LIMIT.memory);
  if (!process.argv.includes('--short'))
    await measureRun(repeated(path, 500_000, folder), '500,000 events', LIMIT.open500, Number.POSITIVE_INFINITY);
  const load = execFileSync('uptime', { encoding: 'utf8' })
    .trim()
    .replace(/^.*load/, 'load');
  process.stdout.write(`${load}\n`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = missed > 0 ? 1 : 0;
