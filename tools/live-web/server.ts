import { existsSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { ViommuError } from '../../src/core/errors.ts';
import { built, builtKernel, initrdOf, v86Package } from '../live-v86/boot.ts';
import { packageFolder } from '../package-folder.ts';

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
};

/** v86 compiles WASM and yields through a worker made of a blob; nothing else is let in. */
const POLICY =
  "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src blob:; style-src 'self'; img-src 'self' data:";

const ROOT = packageFolder();

/** What an address of the page stands for. Null: nothing. */
function contents(path: string): { readonly type: string; readonly bytes: Uint8Array } | null {
  const file = (name: string) =>
    existsSync(name) ? { type: TYPES[extname(name)] ?? 'application/octet-stream', bytes: readFileSync(name) } : null;
  const raw = (bytes: Uint8Array) => ({ type: 'application/octet-stream', bytes });
  if (path === '/') return file(join(ROOT, 'tools/live-web/page/index.html'));
  if (path === '/page/style.css') return file(join(ROOT, 'tools/live-web/page/style.css'));
  if (path.startsWith('/dist/') && path.endsWith('.js')) return file(join(ROOT, path));
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

/** Names by which a browser on this machine asks for the page; any other is a foreign site's name for this machine. */
const HOSTS: ReadonlySet<string> = new Set(['127.0.0.1', 'localhost', '[::1]']);

/** Why a request is not answered, as status and text; null: it is. */
function refusal(request: IncomingMessage): readonly [status: number, why: string] | null {
  const host = (request.headers.host ?? '').replace(/:\d*$/, '').toLowerCase();
  if (!HOSTS.has(host)) return [421, `this is 127.0.0.1, not '${host}'`];
  if (request.method !== 'GET' && request.method !== 'HEAD') return [405, 'GET or HEAD'];
  return request.url?.startsWith('/') ? null : [400, 'an address of the page begins with /'];
}

/**
 * Serves the page on the loopback interface. @param port 0: any. @param asked hears each address that is asked for.
 * @throws ViommuError `EBUSY` when the port is taken.
 */
export function serve(port: number, asked?: (path: string) => void): Promise<Server> {
  const server = createServer((request, response) => {
    const refused = refusal(request);
    if (refused !== null) {
      response.writeHead(refused[0], refused[0] === 405 ? { Allow: 'GET, HEAD' } : {}).end(refused[1]);
      return;
    }
    // No URL parser: "//" is a path here, and would be a host there. Only literal addresses of the page are answered.
    const path = normalize(request.url!.replace(/[?#].*$/, ''));
    asked?.(path);
    try {
      const found = contents(path);
      if (found === null) response.writeHead(404).end(`nothing at ${path}`);
      else {
        response.writeHead(200, { 'Content-Type': found.type, 'Content-Security-Policy': POLICY });
        response.end(request.method === 'HEAD' ? undefined : found.bytes);
      }
    } catch (e) {
      // A guest that was not built, a package that is not installed: the page shows the message.
      response.writeHead(500).end((e as Error).message);
    }
  });
  return new Promise((resolve, reject) => {
    server.once('error', (e: NodeJS.ErrnoException) => {
      const taken = new ViommuError('EBUSY', 'caller', `port ${port} is in use: choose another with --port N`);
      reject(e.code === 'EADDRINUSE' ? taken : e);
    });
    server.listen(port, '127.0.0.1', () => resolve(server));
  });
}
