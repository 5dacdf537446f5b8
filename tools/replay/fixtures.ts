import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageFolder } from '../package-folder.ts';

export interface Fixture {
  readonly path: string;
  readonly file: string;
  readonly shows: string;
}

/** The recordings that come with the package, in the manifest's order. */
export function fixtures(): Fixture[] {
  const folder = join(packageFolder(), 'guest-fixtures');
  const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8')) as {
    readonly recordings: readonly { readonly file: string; readonly shows: string }[];
  };
  return manifest.recordings.map((r) => ({ path: join(folder, 'recordings', r.file), file: r.file, shows: r.shows }));
}
