import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { ViommuError } from '../../../src/core/errors.ts';
import type { BenchCase } from '../case.ts';

const ROOT = join(import.meta.dirname, '../../../..');
const PROGRAM = join(ROOT, 'dist/tools/viommu.js');

/** Milliseconds until a process has ended. */
function milliseconds(...args: string[]): number {
  const before = process.hrtime.bigint();
  const { status, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: 'utf8' });
  const took = Number(process.hrtime.bigint() - before) / 1e6;
  if (status !== 0) throw new ViommuError('EIO', 'host', `node ${args.join(' ')} ended with ${status}: ${stderr}`);
  return took;
}

const BARE = ['--input-type=module', '-e', '0'];

/** What a subpath takes beyond a bare node. */
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
