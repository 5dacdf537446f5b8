import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, split, type Token, tokensOf } from './tokens.ts';

/** A method, property or accessor of a class or an interface. */
export interface Member {
  readonly name: string;
  readonly doc: boolean;
  readonly line: number;
  /** The declaration says it all: the tag of a union, or a constructor of one documented object. */
  readonly plain: boolean;
}

/** One exported or private declaration of a `.d.ts` file. Several of one name (a type beside a constant) are one. */
export interface Declaration {
  readonly file: string;
  readonly name: string;
  readonly line: number;
  readonly doc: boolean;
  readonly members: readonly Member[];
  /** What it extends and implements, as it is called in this file. */
  readonly bases: readonly string[];
  /** Names of other declarations in it: local or imported ones, as they are called in this file. */
  readonly names: ReadonlySet<string>;
}

/** Where a name comes from: another file's export. */
export interface Origin {
  /** Path of the `.d.ts` file, or the name of a package. */
  readonly file: string;
  readonly name: string;
}

/** One `.d.ts` file of the build, taken apart. */
export interface Module {
  readonly file: string;
  readonly declarations: ReadonlyMap<string, Declaration>;
  readonly imports: ReadonlyMap<string, Origin>;
  /** What the file exports, under which name: its own declarations and what it hands on. */
  readonly exports: ReadonlyMap<string, Origin>;
  /** Files of `export * from`. */
  readonly stars: readonly string[];
  /** Every module specifier in it, types included. */
  readonly specifiers: readonly string[];
}

const MODIFIERS = new Set(['readonly', 'static', 'get', 'set', 'abstract', 'public', 'protected', 'async', 'declare']);

function membersOf(body: readonly Token[]): Member[] {
  const members = new Map<string, Member>();
  for (const piece of split(body, ';')) {
    const said = piece.findLast((t, i) => t.kind === 'comment' && piece.slice(0, i).every((p) => p.kind === 'comment'));
    const words = piece.filter((t) => t.kind !== 'comment');
    let at = 0;
    // A modifier is one only when a name follows: `get(): number` is a method called get.
    while (MODIFIERS.has(words[at]?.text ?? '') && !'(:?;<'.includes(words[at + 1]?.text ?? ';')) at++;
    const first = words[at];
    if (first === undefined || first.text === '#private' || first.text === 'private') continue;
    const name =
      first.text === '['
        ? words
            .slice(at, after(words, at + 1, ']'))
            .map((t) => t.text)
            .join('')
        : first.text;
    const doc = said?.text.startsWith('/**') === true;
    const known = members.get(name);
    const rest = words.slice(at + 1);
    const plain = name === 'constructor' ? split(rest.slice(1, -1), ',').length <= 1 : isTag(rest);
    members.set(name, { name, doc: doc || known?.doc === true, line: known?.line ?? first.line, plain });
  }
  return [...members.values()];
}

/** `: 'word'` alone. */
function isTag(rest: readonly Token[]): boolean {
  return rest.length === 2 && rest[0]!.text === ':' && rest[1]!.kind === 'string';
}

/** Names behind `extends` and `implements`, type arguments left out; `Port.Iommufd` is one name. */
function basesOf(head: readonly Token[]): string[] {
  const from = head.findIndex((t) => t.text === 'extends' || t.text === 'implements');
  if (from < 0) return [];
  const plain: Token[] = [];
  let depth = 0;
  for (const token of head.slice(from)) {
    if (token.text === '<') depth++;
    if (depth === 0) plain.push(token);
    if (token.text === '>') depth--;
  }
  return [...namesIn(plain)].filter((name) => name !== 'extends' && name !== 'implements');
}

/** Names that may refer to a declaration: words that are neither a member's key nor behind a dot. */
function namesIn(tokens: readonly Token[]): Set<string> {
  const words = tokens.filter((t) => t.kind !== 'comment');
  return new Set(
    words.flatMap((t, i) => {
      const before = words[i - 1]?.text;
      const next = words[i + 1]?.text;
      const key = (next === ':' || (next === '?' && words[i + 2]?.text === ':')) && before !== '?';
      if (t.kind !== 'word' || before === '.' || key) return [];
      return next === '.' ? [`${t.text}.${words[i + 2]?.text}`] : [t.text];
    }),
  );
}

function importClause(words: readonly Token[], file: string): Map<string, Origin> {
  const names = new Map<string, Origin>();
  const star = words.findIndex((t) => t.text === '*');
  if (star >= 0) names.set(words[star + 2]!.text, { file, name: '*' });
  const open = words.findIndex((t) => t.text === '{');
  if (open < 0) return names;
  for (const piece of split(words.slice(open + 1, after(words, open + 1, '}') - 1), ',')) {
    const [name, as, local] = piece.filter((t) => t.kind === 'word' && t.text !== 'type').map((t) => t.text);
    if (name !== undefined) names.set(as === 'as' ? local! : name, { file, name });
  }
  return names;
}

/** Reads one `.d.ts` file. */
export function moduleOf(file: string): Module {
  const tokens = tokensOf(readFileSync(file, 'utf8'));
  const declarations = new Map<string, Declaration>();
  const imports = new Map<string, Origin>();
  const exports = new Map<string, Origin>();
  const specifiers: string[] = [];
  const stars: string[] = [];
  const resolve = (specifier: string): string => {
    specifiers.push(specifier);
    return specifier.startsWith('.') ? join(dirname(file), specifier).replace(/\.ts$/, '.d.ts') : specifier;
  };

  const declare = (kind: string, words: readonly Token[], doc: boolean, exported: boolean): void => {
    const name = words[0]!;
    const open = words.findIndex((t) => t.text === '{');
    const bodied = kind === 'class' || kind === 'interface';
    const known = declarations.get(name.text);
    const body = bodied ? words.slice(open + 1, after(words, open + 1, '}') - 1) : [];
    declarations.set(name.text, {
      file,
      name: name.text,
      line: known?.line ?? name.line,
      doc: doc || known?.doc === true,
      members: [...(known?.members ?? []), ...membersOf(body)],
      bases: bodied ? basesOf(words.slice(1, open)) : (known?.bases ?? []),
      names: new Set([...(known?.names ?? []), ...namesIn(words.slice(1))]),
    });
    if (exported) exports.set(name.text, { file, name: name.text });
  };

  for (let at = 0, doc = false; at < tokens.length; ) {
    if (tokens[at]!.kind === 'comment') {
      doc = tokens[at]!.text.startsWith('/**');
      at++;
      continue;
    }
    const exported = tokens[at]!.text === 'export';
    let head = exported ? at + 1 : at;
    while (['declare', 'abstract', 'type', 'async'].includes(tokens[head]!.text) && tokens[head + 1]!.kind === 'word') {
      if (tokens[head]!.text === 'type') break;
      head++;
    }
    const kind = tokens[head]!.text;
    const bodied = kind === 'class' || kind === 'interface';
    const open = tokens.findIndex((t, i) => i > head && t.text === '{');
    const end = bodied ? after(tokens, open + 1, '}') : after(tokens, at, ';');
    const words = tokens.slice(head + 1, end);
    const from = words.find((t) => t.kind === 'string')?.text.slice(1, -1);
    if (kind === 'import')
      for (const [local, origin] of importClause(words, resolve(from!))) imports.set(local, origin);
    else if (exported && kind === '*') stars.push(resolve(from!));
    else if (exported && (kind === '{' || (kind === 'type' && words[0]!.text === '{'))) {
      const target = from === undefined ? file : resolve(from);
      for (const [name, origin] of importClause(tokens.slice(head, end), target)) exports.set(name, origin);
    } else if (['class', 'interface', 'type', 'const', 'let', 'function', 'enum'].includes(kind))
      for (const piece of kind === 'const' || kind === 'let' ? split(words, ',') : [words])
        declare(kind, piece, doc, exported);
    at = end;
    doc = false;
  }
  return { file, declarations, imports, exports, stars, specifiers };
}
