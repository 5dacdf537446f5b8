import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, sep } from 'node:path';

/** One TypeScript file of the tree. */
export interface Source {
  /** Path from the root of the tree, with `/`. */
  readonly path: string;
  readonly text: string;
}

/** One `import` or `export … from`, `import type` and `import('…')` included. */
export interface Import {
  readonly importer: string;
  readonly line: number;
  /** As written: `./bits.ts`, `node:fs`, `vitest`. */
  readonly specifier: string;
  /** The imported file's path from the root of the tree, or null for a package. */
  readonly file: string | null;
}

function under(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) return under(path);
      return entry.name.endsWith('.ts') ? [path.split(sep).join('/')] : [];
    })
    .sort();
}

/** Every TypeScript file of these folders (from the root of the tree), in the order of their paths. */
export function sources(...folders: readonly string[]): Source[] {
  return folders.flatMap(under).map((path) => ({ path, text: readFileSync(path, 'utf8') }));
}

// An import or a re-export begins a line; what stands between the word and `from` holds no quote and no semicolon.
const STATEMENT = /^(?:import|export)\b(?:[^;'"]*?\bfrom)?\s*'([^']+)'/gm;
const CALL = /\bimport\(\s*(?:\/\*[^*]*\*\/\s*)?'([^']+)'/g;

/** What a file imports, in the order it is written. */
export function importsOf({ path, text }: Source): Import[] {
  return [...text.matchAll(STATEMENT), ...text.matchAll(CALL)]
    .sort((a, b) => a.index - b.index)
    .map((match) => {
      const specifier = match[1]!;
      const file = specifier.startsWith('.')
        ? normalize(join(dirname(path), specifier))
            .split(sep)
            .join('/')
        : null;
      return { importer: path, line: text.slice(0, match.index).split('\n').length, specifier, file };
    });
}

const DECLARATION =
  /^export (?:declare )?(?:abstract )?(?:async )?(?:class|interface|type|const|let|function\*?|enum|namespace) +(\w+)/gm;
const LIST = /^export (?:type )?\{([^}]*)\};/gm;

/** The names a file declares and exports; what it only hands on (`export … from`) is somebody else's. */
export function exportsOf({ text }: Source): Set<string> {
  const declared = [...text.matchAll(DECLARATION)].map((match) => match[1]!);
  const listed = [...text.matchAll(LIST)].flatMap((match) =>
    match[1]!
      .split(',')
      .map((name) => name.trim().split(/\s+/).at(-1)!)
      .filter((name) => name !== ''),
  );
  return new Set([...declared, ...listed]);
}
