import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { ViommuError } from '../../../src/core/errors.ts';
import type { BenchCase } from '../case.ts';

const ROOT = join(import.meta.dirname, '../../../..');
const PROGRAM = join(ROOT, 'dist/tools/viommu.js');

/** Tells on standard error, when the process ends, what it has used. */
const TELL = `data:text/javascript,${encodeURIComponent(
  "process.on('exit', () => { const { user, system } = process.cpuUsage(); process._rawDebug('used', user + system); })",
)}`;

/** CPU time of a process, milliseconds: how long it takes by the clock depends on what else runs. */
function milliseconds(...args: string[]): number {
  const { status, stderr } = spawnSync(process.execPath, ['--import', TELL, ...args], { cwd: ROOT, encoding: 'utf8' });
  const used = /^used (\d+)$/m.exec(stderr)?.[1];
  if (status !== 0 || used === undefined)
    throw new ViommuError('EIO', 'host', `node ${args.join(' ')} ended with ${status}: ${stderr}`);
  return Number(used) / 1000;
}

const BARE = ['--input-type=module', '-e', '0'];

/** What a subpath takes beyond a bare node, CPU time. */
function imported(subpath: string): BenchCase {
  const importing = ['--input-type=module', '-e', `import '${subpath}'`];
  const sample = () => {
    const bare = milliseconds(...BARE);
    return milliseconds(...importing) - bare;
  };
  return { path: 'start', name: `import '${subpath}'`, unit: 'ms', samples: 15, sample };
}

/** How long it takes until there is something to run. */
export const START: readonly BenchCase[] = [
  {
    path: 'start',
    name: 'viommu help, over a bare node',
    unit: 'x',
    samples: 15,
    sample: () => {
      const bare = milliseconds(...BARE);
      return milliseconds(PROGRAM, 'help') / bare;
    },
  },
  imported('viommu/machine'),
  imported('viommu/smmuv3'),
  imported('viommu/vtd'),
];
