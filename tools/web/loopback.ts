import { createServer, type IncomingMessage, type Server } from 'node:http';
import { normalize } from 'node:path';
import { pipeline, type Readable } from 'node:stream';
import { ViommuError } from '../../src/core/errors.ts';

/** What an address stands for. */
export interface Contents {
  /** Its media type. */
  readonly type: string;
  /** All of it, or how to read it and how long it is (bytes). */
  readonly bytes: Uint8Array | { readonly length: number; open(): Readable };
}

/** What is served, and to whom. */
export interface LoopbackSite {
  /** 0: any. */
  readonly port: number;
  /** The content security policy of every answer. */
  readonly policy: string;
  /** What an address stands for; null: nothing. What it throws is answered with status 500. */
  contents(path: string): Contents | null;
  /** Hears each address that is asked for. */
  asked?(path: string): void;
}

/** Names by which a browser on this machine asks for a page; any other is a foreign site's name for this machine. */
const HOSTS: ReadonlySet<string> = new Set(['127.0.0.1', 'localhost', '[::1]']);

/** Why a request is not answered, as status and text; null: it is. */
function refusal(request: IncomingMessage): readonly [status: number, why: string] | null {
  const host = (request.headers.host ?? '').replace(/:\d*$/, '').toLowerCase();
  if (!HOSTS.has(host)) return [421, `this is 127.0.0.1, not '${host}'`];
  if (request.method !== 'GET' && request.method !== 'HEAD') return [405, 'GET or HEAD'];
  return request.url?.startsWith('/') ? null : [400, 'an address of the page begins with /'];
}

/**
 * Serves a few literal addresses on the loopback interface, to whoever asks for it by its own names.
 * @throws ViommuError `EBUSY` when the port is taken.
 */
export function serveLoopback(site: LoopbackSite): Promise<Server> {
  const { port, policy } = site;
  const server = createServer((request, response) => {
    const refused = refusal(request);
    if (refused !== null) {
      response.writeHead(refused[0], refused[0] === 405 ? { Allow: 'GET, HEAD' } : {}).end(refused[1]);
      return;
    }
    // No URL parser: "//" is a path here, and would be a host there. Only literal addresses of the page are answered.
    const path = normalize(request.url!.replace(/[?#].*$/, ''));
    site.asked?.(path);
    try {
      const found = site.contents(path);
      if (found === null) {
        response.writeHead(404).end(`nothing at ${path}`);
        return;
      }
      const { type, bytes } = found;
      response.writeHead(200, {
        'Content-Type': type,
        'Content-Length': bytes.length,
        'Content-Security-Policy': policy,
        'X-Content-Type-Options': 'nosniff',
      });
      if (request.method === 'HEAD') response.end();
      else if (bytes instanceof Uint8Array) response.end(bytes);
      // A file that goes away meanwhile ends the answer before its length: the page says that it is incomplete.
      else pipeline(bytes.open(), response, () => {});
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
