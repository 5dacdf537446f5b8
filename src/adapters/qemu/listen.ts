import { rmSync } from 'node:fs';
import type { Server } from 'node:net';

/** Listens at a Unix socket; a stale socket file there is replaced. */
export function listenAt(server: Server, path: string): Promise<void> {
  rmSync(path, { force: true });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
}
