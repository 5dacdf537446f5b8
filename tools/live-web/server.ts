import { existsSync, readFileSync } from 'node:fs';
import type { Server } from 'node:http';
import { extname, join } from 'node:path';
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
const POLICY =
  "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src blob:; style-src 'self'; img-src 'self' data:";

const ROOT = packageFolder();

/** What an address of the page stands for. Null: nothing. */
function contents(path: string): Contents | null {
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

/**
 * Serves the page on the loopback interface. @param port 0: any. @param asked hears each address that is asked for.
 * @throws ViommuError `EBUSY` when the port is taken.
 */
export function serve(port: number, asked?: (path: string) => void): Promise<Server> {
  return serveLoopback({ port, policy: POLICY, contents, ...(asked === undefined ? {} : { asked }) });
}
