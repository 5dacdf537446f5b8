import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ViommuError } from '../src/core/errors.ts';

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
