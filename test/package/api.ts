import { join } from 'node:path';
import type { Entry } from './build.ts';
import { type Declaration, type Module, moduleOf, type Origin } from './declarations.ts';

/** What a user of the package sees: every declaration a subpath exports, and everything those speak of. */
export interface Api {
  /** Declarations that can be imported, by the subpath and name they are imported under. */
  readonly exported: ReadonlyMap<Declaration, string>;
  /** Declarations that a public one speaks of and no subpath exports, each with one that names it. */
  readonly missing: ReadonlyMap<Declaration, Declaration>;
  /** Packages that public types come from. */
  readonly packages: ReadonlySet<string>;
  /** Names of members whose doc a class takes from an interface it implements. */
  inherited(declaration: Declaration): ReadonlySet<string>;
}

/** Reads the `.d.ts` files of a build, from its subpaths on. */
export function apiOf(folder: string, entries: readonly Entry[]): Api {
  const modules = new Map<string, Module>();
  const packages = new Set<string>();
  const load = (file: string): Module => {
    const known = modules.get(file);
    if (known !== undefined) return known;
    const read = moduleOf(file);
    modules.set(file, read);
    for (const specifier of read.specifiers) if (!specifier.startsWith('.')) packages.add(specifier);
    return read;
  };
  /** Names a file exports, `export *` included. */
  const exportsOf = (file: string): Map<string, Origin> => {
    const module = load(file);
    return new Map([...module.stars.flatMap((star) => [...exportsOf(star)]), ...module.exports]);
  };
  const find = ({ file, name }: Origin): Declaration | null => {
    if (!file.endsWith('.d.ts')) return null;
    const module = load(file);
    const own = module.declarations.get(name);
    if (own !== undefined) return own;
    const from = exportsOf(file).get(name) ?? module.imports.get(name);
    if (from === undefined || (from.file === file && from.name === name)) {
      throw new Error(`${file} does not declare ${name}`);
    }
    return find(from);
  };

  /** The declaration a name stands for in a file: declared there, imported, or in an imported namespace. */
  const named = ({ file }: Declaration, name: string): Declaration | null => {
    const { declarations, imports } = load(file);
    const [space, inside] = name.split('.');
    const imported = imports.get(space!);
    if (imported?.name === '*') return inside === undefined ? null : find({ file: imported.file, name: inside });
    const origin = imported ?? (declarations.has(space!) ? { file, name: space! } : undefined);
    return origin === undefined ? null : find(origin);
  };

  const exported = new Map<Declaration, string>();
  for (const { name, types } of entries) {
    for (const [as, origin] of exportsOf(join(folder, types))) {
      const declaration = find(origin);
      if (declaration !== null && !exported.has(declaration)) exported.set(declaration, `${name}: ${as}`);
    }
  }
  const missing = new Map<Declaration, Declaration>();
  const work = [...exported.keys()];
  for (let speaker = work.pop(); speaker !== undefined; speaker = work.pop()) {
    for (const name of speaker.names) {
      const spoken = named(speaker, name);
      if (spoken === null || exported.has(spoken) || missing.has(spoken)) continue;
      missing.set(spoken, speaker);
      work.push(spoken);
    }
  }
  const inherited = (declaration: Declaration): Set<string> => {
    const bases = declaration.bases.flatMap((name) => named(declaration, name) ?? []);
    return new Set(
      bases.flatMap((b) => [...b.members.filter((m) => m.doc || m.plain).map((m) => m.name), ...inherited(b)]),
    );
  };
  return { exported, missing, packages, inherited };
}

/** State of a save is plain data: its type is documented, its members are named after what they keep. */
const SAVED = /(?:State|Data|Saved)$/;

/** Declarations and members without a doc comment, as `file:line name.member`. */
export function undocumented(folder: string, api: Api): string[] {
  return [...api.exported.keys()]
    .flatMap((d) => {
      const at = d.file.slice(folder.length + 1);
      const own = d.doc ? [] : [`${at}:${d.line} ${d.name}`];
      if (SAVED.test(d.name)) return own;
      const inherited = api.inherited(d);
      const bare = d.members.filter((m) => !m.doc && !m.plain && !inherited.has(m.name));
      return [...own, ...bare.map((m) => `${at}:${m.line} ${d.name}.${m.name}`)];
    })
    .sort();
}
