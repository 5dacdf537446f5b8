import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { Server } from 'node:http';
import { type AddressInfo, createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { serve } from '../../../tools/live-web/server.ts';

/** The page is built by `npm run build:web`, which these tests do not need. */
const PAGE_THERE = existsSync('dist/live-web/index.html') ? 'HTTP/1.1 200 OK' : 'HTTP/1.1 500 Internal Server Error';

let server: Server;
let at = '';
beforeAll(async () => {
  server = await serve(0);
  at = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.close();
  server.closeAllConnections();
});
const folder = process.env.VIOMMU_LIVE_V86;
afterEach(() => {
  if (folder === undefined) delete process.env.VIOMMU_LIVE_V86;
  else process.env.VIOMMU_LIVE_V86 = folder;
});

test('the page comes with a policy that lets in WASM and the blob worker, and nothing else', async () => {
  const page = await fetch(at);
  if (!existsSync('dist/live-web/index.html')) {
    expect([page.status, await page.text()]).toEqual([500, 'the page is not built: npm run build:web makes it']);
    return;
  }
  expect([page.status, page.headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8']);
  expect(page.headers.get('content-security-policy')).toMatch(/script-src 'self' 'wasm-unsafe-eval'; worker-src blob:/);
  const text = await page.text();
  expect(text).toContain('live.js');
  // Recordings it can play as if their machines ran.
  expect(text).toContain('&quot;smmuv3-guest-faults&quot;');
});

test.each([
  '/package.json',
  '/dist/../package.json',
  '/dist/%2e%2e/package.json',
  '/page/../server.ts',
  '/v86/package.json',
  '/guest/',
  '/recordings/../package.json',
  '/recordings/none.ndjson.gz',
])('%s is not of the page', async (path) => {
  expect((await fetch(`${at}${path}`)).status).toBe(404);
});

/** One request as its bytes; the answer's status line. */
function raw(request: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createConnection((server.address() as AddressInfo).port, '127.0.0.1', () => socket.end(request));
    let text = '';
    socket.setEncoding('latin1');
    socket.on('data', (chunk) => (text += chunk));
    socket.on('close', () => resolve(text.split('\r\n')[0]!));
    socket.on('error', reject);
  });
}

test.each([
  ['GET // HTTP/1.1\r\nHost: 127.0.0.1', PAGE_THERE],
  ['GET http://elsewhere/x HTTP/1.1\r\nHost: localhost', 'HTTP/1.1 400 Bad Request'],
  ['GET / HTTP/1.1\r\nHost: elsewhere.example', 'HTTP/1.1 421 Misdirected Request'],
  ['POST / HTTP/1.1\r\nHost: localhost:1\r\nContent-Length: 0', 'HTTP/1.1 405 Method Not Allowed'],
  ['HEAD / HTTP/1.1\r\nHost: [::1]:8086', PAGE_THERE],
])('%j is answered: %s', async (request, status) => {
  expect(await raw(`${request}\r\nConnection: close\r\n\r\n`)).toBe(status);
  expect((await fetch(`${at}/recordings/smmuv3-boot.ndjson.gz`)).status).toBe(200);
});

test('a guest that was not built is named with the command that builds it', async () => {
  process.env.VIOMMU_LIVE_V86 = '/nowhere';
  const answer = await fetch(`${at}/guest/bzImage`);
  expect(answer.status).toBe(500);
  expect(await answer.text()).toBe('/nowhere/bzImage-6.1 is missing; run: npm run live:build -- 6.1');
});

test('a guest that was built of another configuration is not taken', async () => {
  const built = mkdtempSync(join(tmpdir(), 'viommu-'));
  process.env.VIOMMU_LIVE_V86 = built;
  writeFileSync(join(built, 'bzImage-6.1'), 'kernel');
  const get = async () => {
    const answer = await fetch(`${at}/guest/bzImage`);
    return [answer.status, await answer.text()];
  };
  const refusal = `${built}/bzImage-6.1 is not of this checkout's kernel.config; run: npm run live:build -- 6.1`;
  expect(await get()).toEqual([500, refusal]);
  writeFileSync(join(built, 'kernel-6.1.config'), 'CONFIG_SLOB=y');
  expect(await get()).toEqual([500, refusal]);
  copyFileSync('tools/live-v86/kernel.config', join(built, 'kernel-6.1.config'));
  expect(await get()).toEqual([200, 'kernel']);
  rmSync(built, { recursive: true });
});

test('a port that is in use is said to be, with the way out', async () => {
  const { port } = server.address() as AddressInfo;
  await expect(serve(port)).rejects.toThrow(`port ${port} is in use: choose another with --port N`);
});
