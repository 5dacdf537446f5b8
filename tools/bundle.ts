/**
 * Puts the modules that each subpath of the package consists of together, into few files: loading four hundred of them takes
 * longer than most programs run. What several subpaths use is in files that they share, so that each class is there once.
 * `node dist/tools/bundle.js` does it for the build of this folder.
 */
import { readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { rolldown } from 'rolldown';

interface Entry {
  readonly types: string;
  readonly default: string;
}

interface Manifest {
  readonly exports: Readonly<Record<string, string | Entry>>;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly peerDependencies: Readonly<Record<string, string>>;
}

const LIB = './dist/lib/';

/**
 * Bundles what package.json exports: the module beside each declaration goes to the file that the subpath names, without its
 * folder `dist`.
 * @param dist the build, where `lib` is written anew.
 */
export async function bundle(dist: string): Promise<void> {
  const { exports, dependencies, peerDependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as Manifest;
  const input: Record<string, string> = {};
  for (const entry of Object.values(exports)) {
    if (typeof entry === 'string') continue;
    if (!entry.default.startsWith(LIB))
      throw new Error(`package.json: ${entry.default}: what is exported lies in ${LIB}`);
    const name = entry.default.slice(LIB.length).replace(/\.js$/, '');
    input[name] = join(dist, entry.types.replace('./dist/', '').replace(/\.d\.ts$/, '.js'));
  }
  const foreign = [...Object.keys(dependencies), ...Object.keys(peerDependencies)].map((n) => new RegExp(`^${n}(/|$)`));
  const dir = join(dist, 'lib');
  rmSync(dir, { recursive: true, force: true });
  const all = await rolldown({ input, platform: 'neutral', external: [/^node:/, ...foreign] });
  await all.write({
    dir,
    format: 'esm',
    chunkFileNames: 'shared/[name].js',
    comments: { legal: true, annotation: true, jsdoc: false },
  });
  await all.close();
}

if (process.argv[1] === import.meta.filename) await bundle(resolve('dist'));
