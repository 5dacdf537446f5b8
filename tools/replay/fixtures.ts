import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ViommuError } from '../../src/core/errors.ts';

export interface Fixture {
  readonly path: string;
  readonly file: string;
  readonly shows: string;
}

/** The package's folder, wherever this file runs from (source or dist). */
export function packageFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    try {
      readFileSync(join(folder, 'guest-fixtures', 'manifest.json'));
      return folder;
    } catch (e) {
      const up = dirname(folder);
      if (up === folder)
        throw new ViommuError('E_MISSING', 'caller', 'guest-fixtures/manifest.json is not there', {}, e);
      folder = up;
    }
  }
}

/** The recordings that come with the package, in the manifest's order. */
export function fixtures(): Fixture[] {
  const folder = join(packageFolder(), 'guest-fixtures');
  const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8')) as {
    readonly recordings: readonly { readonly file: string; readonly shows: string }[];
  };
  return manifest.recordings.map((r) => ({ path: join(folder, 'recordings', r.file), file: r.file, shows: r.shows }));
}
