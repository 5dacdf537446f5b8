import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { bundle } from '../../tools/bundle.ts';

/** An entry of `exports` in package.json: a subpath with its types and its code, as built. */
export interface Entry {
  /** `viommu`, `viommu/smmuv3`, … */
  readonly name: string;
  /** Files of the build, from its folder: `src/index.d.ts`, `lib/index.js`. */
  readonly types: string;
  readonly code: string;
}

type Exports = { readonly [subpath: string]: string | { readonly types: string; readonly default: string } };

/** Every subpath with code. */
export function entries(): Entry[] {
  const { exports } = JSON.parse(readFileSync('package.json', 'utf8')) as { readonly exports: Exports };
  return Object.entries(exports).flatMap(([subpath, files]) => {
    if (typeof files === 'string') return [];
    const inside = (path: string): string => path.replace(/^\.\/dist\//, '');
    return [{ name: `viommu${subpath.slice(1)}`, types: inside(files.types), code: inside(files.default) }];
  });
}

/** The package as it is built from the sources of this moment, in a folder that `remove` takes away. */
export async function build(): Promise<{ readonly folder: string; remove(): void }> {
  const folder = mkdtempSync(join(tmpdir(), 'viommu-build-'));
  const config = {
    extends: resolve('tsconfig.json'),
    // Types were checked by the build; only the text counts here.
    compilerOptions: {
      noCheck: true,
      incremental: false,
      rootDir: resolve('.'),
      outDir: folder,
      typeRoots: [resolve('node_modules/@types')],
    },
    include: ['src', 'devices', 'bus'].map((room) => resolve(room)),
  };
  const project = join(folder, 'tsconfig.json');
  writeFileSync(project, JSON.stringify(config));
  execFileSync(process.execPath, [resolve('node_modules/typescript/bin/tsc'), '-p', project], { stdio: 'inherit' });
  await bundle(folder);
  return { folder, remove: () => rmSync(folder, { recursive: true }) };
}
