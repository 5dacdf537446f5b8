import { createReadStream, existsSync, readFileSync, statSync } from 'node:fs';
import type { Server } from 'node:http';
import { basename, join } from 'node:path';
import { ViommuError } from '../../src/core/errors.ts';
import { packageFolder } from '../package-folder.ts';
import { type Contents, serveLoopback } from '../web/loopback.ts';

/** The files of the page, as `npm run build:explorer` makes them. */
const FILES: { readonly [path: string]: string } = {
  '/': 'text/html; charset=utf-8',
  '/explorer.js': 'text/javascript',
  '/style.css': 'text/css',
};

/** The page is one script; its worker is in it, as a blob. Nothing but its own files is asked for. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  'worker-src blob:',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const PLACE = '<meta name="viommu-recordings" content="[]"';

function quoted(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('"', '&quot;').replaceAll('<', '&lt;');
}

/** @throws ViommuError `E_MISSING` the page was not built. */
function checked(folder: string): string {
  if (existsSync(join(folder, 'index.html'))) return folder;
  throw new ViommuError('E_MISSING', 'caller', 'the page is not built: npm run build:explorer makes it');
}

/** How the explorer is served. */
export interface ExplorerSite {
  /** 0: any. */
  readonly port: number;
  /** Where the built page is (default: in the package). */
  readonly folder?: string;
  /** Hears each address that is asked for. */
  asked?(path: string): void;
}

/**
 * Serves the explorer with some recordings on the loopback interface.
 * @param paths of the recordings, in the order in which the page offers them.
 * @throws ViommuError `E_MISSING` the page was not built; `EBUSY` the port is taken.
 */
export async function serveExplorer(paths: readonly string[], site: ExplorerSite): Promise<Server> {
  const folder = checked(site.folder ?? join(packageFolder(), 'dist', 'explorer'));
  const names = JSON.stringify(paths.map((p) => basename(p)));
  const html = readFileSync(join(folder, 'index.html'), 'utf8');
  if (!html.includes(PLACE))
    throw new ViommuError('E_MISSING', 'caller', 'the page is of another version: build it again');
  const index = Buffer.from(html.replace(PLACE, `<meta name="viommu-recordings" content="${quoted(names)}"`));
  const contents = (path: string): Contents | null => {
    const recording = /^\/recordings\/(\d{1,4})$/.exec(path)?.[1];
    const file = recording === undefined ? undefined : paths[Number(recording)];
    if (file !== undefined) {
      const length = statSync(file).size;
      return {
        type: 'application/octet-stream',
        bytes: { length, open: () => createReadStream(file, { end: length - 1 }) },
      };
    }
    if (!Object.hasOwn(FILES, path)) return null;
    return { type: FILES[path]!, bytes: path === '/' ? index : readFileSync(join(folder, path)) };
  };
  const { port, asked } = site;
  return serveLoopback({ port, policy: POLICY, contents, ...(asked === undefined ? {} : { asked }) });
}
