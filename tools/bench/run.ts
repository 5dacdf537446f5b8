import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { ViommuError } from '../../src/core/errors.ts';
import { type BenchCase, type Measured, titleOf } from './case.ts';
import { MEASURING } from './measure.ts';

const ONE = join(import.meta.dirname, 'one.js');

/**
 * Measures a case in a process of its own: what other cases taught the compiler and left in the heap must not show.
 * @throws ViommuError `EIO` the process fails; it has said why on standard error.
 */
export async function runAlone(c: BenchCase, rounds: number): Promise<Measured> {
  const args = [...MEASURING, ONE, titleOf(c), String(rounds)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (more: string) => {
    text += more;
  });
  const status = await new Promise<number | null>((resolve) => child.on('close', resolve));
  if (status !== 0) throw new ViommuError('EIO', 'host', `the bench process of "${titleOf(c)}" ended with ${status}`);
  return JSON.parse(text) as Measured;
}
