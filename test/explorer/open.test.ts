import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { Server } from 'node:http';
import { type AddressInfo, createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runCommand } from '../../tools/cli/command.ts';
import { COMMANDS } from '../../tools/commands/index.ts';
import { serveExplorer } from '../../tools/explorer/server.ts';

const RECORDING = 'guest-fixtures/recordings/smmuv3-boot.ndjson.gz';
let folder = '';
let server: Server;
let at = '';

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'viommu-explorer-'));
  writeFileSync(join(folder, 'index.html'), '<head><meta name="viommu-recordings" content="[]" /></head>');
  writeFileSync(join(folder, 'explorer.js'), 'export {};');
  writeFileSync(join(folder, 'style.css'), 'body {}');
  writeFileSync(join(folder, 'secret.txt'), 'secret');
  writeFileSync(join(folder, 'a"<b>.gz'), gzipSync('nothing'));
  server = await serveExplorer([RECORDING, join(folder, 'a"<b>.gz')], { port: 0, folder });
  at = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.close();
  server.closeAllConnections();
  rmSync(folder, { recursive: true });
});

/** The answer to a request as it is written here, which no client library changes. */
function raw(request: string): Promise<string> {
  const { port } = server.address() as AddressInfo;
  return new Promise((resolve, reject) => {
    const socket = createConnection({ port, host: '127.0.0.1' });
    let text = '';
    socket.on('data', (d) => {
      text += d;
    });
    socket.on('end', () => resolve(text));
    socket.on('error', reject);
    socket.end(request);
  });
}

test('the page names its recordings, comes with a policy that lets nothing else in, and is the only page', async () => {
  const page = await fetch(at);
  const policy = page.headers.get('content-security-policy')!;
  expect(policy).toContain("default-src 'none'");
  expect(policy).toContain("connect-src 'self'");
  expect(policy).not.toMatch(/unsafe|http|\*/);
  const html = await page.text();
  expect(html).toContain('content="[&quot;smmuv3-boot.ndjson.gz&quot;,&quot;a\\&quot;&lt;b>.gz&quot;]"');
});

test('a recording is served as it is', async () => {
  const answer = await fetch(`${at}/recordings/0`);
  expect(Buffer.from(await answer.arrayBuffer()).equals(readFileSync(RECORDING))).toBe(true);
  expect(Number(answer.headers.get('content-length'))).toBe(readFileSync(RECORDING).length);
});

test.each([
  '/secret.txt',
  '/recordings/2',
  '/recordings/00000',
  '/recordings/-1',
  '/recordings/0/../../secret.txt',
  '/recordings/',
  '/../package.json',
  '/%2e%2e/package.json',
  '/constructor',
])('%s is not of the page', async (path) => {
  const answer = await raw(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
  expect(answer).toMatch(/^HTTP\/1.1 404 /);
  expect(answer).not.toContain('secret\n');
});

test.each(['evil.example', '127.0.0.1.evil.example', 'localhost.evil.example:80', ''])(
  'a request for the host "%s" is refused: its name may point here by now',
  async (host) => {
    expect(await raw(`GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)).toMatch(/^HTTP\/1.1 421 /);
  },
);

test('a page that was not built says how it is', async () => {
  await expect(serveExplorer([RECORDING], { port: 0, folder: '/nowhere' })).rejects.toThrow(
    'the page is not built: npm run build:explorer makes it',
  );
});

async function opened(...args: string[]): Promise<{ status: number; err: string[]; out: string[] }> {
  const [out, err]: [string[], string[]] = [[], []];
  const io = { out: (line: string) => void out.push(line), err: (line: string) => void err.push(line) };
  return { status: await runCommand(COMMANDS, ['open', ...args], io), out, err };
}

test.each<[string, (path: string) => void, RegExp]>([
  ['that is not there', () => {}, /cannot be read: no such file/],
  ['that is empty', (p) => writeFileSync(p, ''), /expected a header line, found an empty file/],
  ['that is something else', (p) => writeFileSync(p, 'PK\u0003\u0004'), /expected a JSON object/],
  [
    'that is half written',
    (p) => writeFileSync(p, readFileSync(RECORDING).subarray(0, 3000)),
    /damaged or truncated gzip file/,
  ],
  ['of another version', (p) => writeFileSync(p, '{"t":"header","format":"viommu-trace","version":9}\n'), /"version"/],
])('a file %s is refused in one sentence, and nothing is served', async (_, make, why) => {
  const path = join(folder, 'bad.ndjson.gz');
  rmSync(path, { force: true });
  make(path);
  const { status, err, out } = await opened('--quiet', path);
  expect([status, out, err.length]).toEqual([2, [], 1]);
  expect(err[0]).toMatch(/^viommu open: /);
  expect(err[0]).toMatch(why);
});

test('a port that is taken is named, with the remedy', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await new Promise((done) => other.once('listening', done));
  const { port } = other.address() as AddressInfo;
  await expect(serveExplorer([RECORDING], { port, folder })).rejects.toThrow(
    `port ${port} is in use: choose another with --port N`,
  );
  other.close();
});

test('the standard input and impossible ports are refused', async () => {
  expect((await opened('-')).err[0]).toMatch(/give files/);
  expect((await opened('--port', '70000', RECORDING)).err[0]).toMatch(/expected a number from 0 to 65535, found 70000/);
});
