import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { promisify } from 'node:util';
import { hex, ViommuError } from '../../src/core/errors.ts';

const run = promisify(execFile);

/**
 * Function and line of program counters, by `addr2line`.
 * @param file an ELF file with symbols, as vmlinux.
 * @returns by address: `function at file:line`; addresses the file does not know are left out.
 * @throws ViommuError `E_MISSING` without `addr2line` or the file.
 */
export async function symbols(file: string, pcs: readonly bigint[]): Promise<Map<bigint, string>> {
  const found = new Map<bigint, string>();
  if (!existsSync(file)) throw new ViommuError('E_MISSING', 'caller', `${file}: no such file`);
  if (pcs.length === 0) return found;
  let text: string;
  try {
    text = (await run('addr2line', ['-f', '-C', '-e', file, ...pcs.map(hex)])).stdout;
  } catch (e) {
    const missing = e instanceof Error && 'code' in e && e.code === 'ENOENT';
    const told = e instanceof Error && 'stderr' in e ? String(e.stderr).trim() : '';
    const why = missing ? 'there is no addr2line' : told === '' ? String(e) : told;
    throw new ViommuError('E_MISSING', 'caller', `${file}: its symbols cannot be read: ${why.split('\n')[0]}`, {}, e);
  }
  const lines = text.trimEnd().split('\n');
  pcs.forEach((pc, n) => {
    const name = lines[2 * n] ?? '??';
    if (name !== '??') found.set(pc, `${name} at ${lines[2 * n + 1] ?? '??:0'}`);
  });
  return found;
}
