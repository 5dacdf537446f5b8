import { existsSync, readdirSync, readFileSync } from 'node:fs';
import type { Server } from 'node:http';
import { extname, join } from 'node:path';
import { ViommuError } from '../../src/core/errors.ts';
import { built, builtKernel, initrdOf, v86Package } from '../live-v86/boot.ts';
import { packageFolder } from '../package-folder.ts';
import { type Contents, serveLoopback } from '../web/loopback.ts';

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
};

/** v86 compiles WASM and yields through a worker made of a blob; nothing else is let in. */
const POLICY = [
  "default-src 'self'",
  "script-src 'self' 'wasm-unsafe-eval'",
  'worker-src blob:',
  "style-src 'self'",
  "img-src 'self' data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const ROOT = packageFolder();
const RECORDINGS = join(ROOT, 'guest-fixtures/recordings');
const PLACE = '<meta name="viommu-recordings" content="[]"';

/** Recordings that are played as if their machine ran: the programs without an operating system first. */
function recordings(): string[] {
  const names = readdirSync(RECORDINGS).flatMap((f) => (f.endsWith('.ndjson.gz') ? [f.slice(0, -10)] : []));
  return names.toSorted((a, b) => Number(b.includes('guest')) - Number(a.includes('guest')));
}

/** The page, with the recordings it can offer. @throws ViommuError `E_MISSING` it was not built. */
function page(): Contents {
  const path = join(ROOT, 'dist/live-web/index.html');
  if (!existsSync(path))
    throw new ViommuError('E_MISSING', 'caller', 'the page is not built: npm run build:web makes it');
  const names = JSON.stringify(recordings()).replaceAll('"', '&quot;');
  const html = readFileSync(path, 'utf8').replace(PLACE, `<meta name="viommu-recordings" content="${names}"`);
  return { type: TYPES['.html']!, bytes: Buffer.from(html) };
}

/** What an address of the page stands for. Null: nothing. */
function contents(path: string): Contents | null {
  const file = (name: string) =>
    existsSync(name) ? { type: TYPES[extname(name)] ?? 'application/octet-stream', bytes: readFileSync(name) } : null;
  const raw = (bytes: Uint8Array) => ({ type: 'application/octet-stream', bytes });
  if (path === '/') return page();
  if (path === '/live.js' || path === '/style.css' || path === '/live.css')
    return file(join(ROOT, 'dist/live-web', path));
  const recording = /^\/recordings\/([\w-]+)\.ndjson\.gz$/.exec(path)?.[1];
  if (recording !== undefined) return file(join(RECORDINGS, `${recording}.ndjson.gz`));
  if (path === '/v86/version') return raw(Buffer.from(v86Package().version));
  if (path === '/v86/libv86.mjs' || path === '/v86/v86.wasm')
    return file(join(v86Package().dir, 'build', path.slice(5)));
  switch (path) {
    case '/guest/seabios.bin':
    case '/guest/vgabios.bin':
      return raw(built(path.slice(7), ''));
    case '/guest/bzImage':
      return raw(builtKernel('6.1'));
    case '/guest/initrd':
      return raw(initrdOf({}));
    default:
      return null;
  }
}

/**
 * Serves the page on the loopback interface. @param port 0: any. @param asked hears each address that is asked for.
 * @throws ViommuError `EBUSY` when the port is taken.
 */
export function serve(port: number, asked?: (path: string) => void): Promise<Server> {
  return serveLoopback({ port, policy: POLICY, contents, ...(asked === undefined ? {} : { asked }) });
}
