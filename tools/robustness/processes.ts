import { type ChildProcess, fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** Compiled files of this folder: child processes run those, also when the parent is a test. */
const BUILT = [import.meta.dirname, join(import.meta.dirname, '../../dist/tools/robustness')].find((folder) =>
  existsSync(join(folder, 'server-process.js')),
);

/** Starts a process of this folder; it is there when it says so. */
export async function start(name: string, ...args: string[]): Promise<ChildProcess> {
  if (BUILT === undefined) throw new Error('not built: npm run build');
  const child = fork(join(BUILT, `${name}.js`), args, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  await new Promise<void>((resolve, reject) => {
    child.once('message', () => resolve());
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`${name} ended with ${code}`)));
  });
  return child;
}

/** Asks a process how it is. */
export function ask<T>(child: ChildProcess): Promise<T> {
  return new Promise((resolve) => {
    child.once('message', (m) => resolve(m as T));
    child.send('?');
  });
}

/** kill -9, and waits until it is gone. */
export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
}
