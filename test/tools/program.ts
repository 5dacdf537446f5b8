import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';

export const PROGRAM = resolve('dist/tools/viommu.js');
if (!existsSync(PROGRAM)) throw new Error('the program is not built: npm run build');

/** The environment of a test, without what decides about colours. */
export function environment(more: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  const { NO_COLOR, FORCE_COLOR, TERM, ...rest } = process.env;
  return { ...rest, TERM: 'xterm', ...more };
}

export interface Ended {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs the built program to its end, its input and output on pipes. */
export function run(args: readonly string[], env: Readonly<Record<string, string>> = {}, input = ''): Ended {
  const ran = spawnSync(process.execPath, [PROGRAM, ...args], {
    encoding: 'utf8',
    env: environment(env),
    input,
    timeout: 120_000,
    maxBuffer: 2 ** 27,
  });
  return { status: ran.status, out: ran.stdout, err: ran.stderr };
}

/** Runs a line of bash in which $VIOMMU is the built program. */
export function bash(script: string, env: Readonly<Record<string, string>> = {}): Ended {
  const ran = spawnSync('bash', ['--noprofile', '--norc', '-c', script], {
    encoding: 'utf8',
    env: environment({ VIOMMU: `${process.execPath} ${PROGRAM}`, ...env }),
    maxBuffer: 2 ** 27,
  });
  return { status: ran.status, out: ran.stdout, err: ran.stderr };
}

/** Starts the built program. */
export function start(args: readonly string[], cwd: string): ChildProcess {
  return spawn(process.execPath, [PROGRAM, ...args], { cwd, env: environment(), stdio: ['ignore', 'pipe', 'pipe'] });
}
