/** One token of a declaration file. Comments are kept: they are what a reader of the types sees. */
export interface Token {
  readonly kind: 'word' | 'string' | 'comment' | 'mark';
  readonly text: string;
  /** Line in the file, from 1. */
  readonly line: number;
}

const TOKEN =
  /(?<comment>\/\*[\s\S]*?\*\/|\/\/[^\n]*)|(?<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`)|(?<word>[#\w$]+)|(?<mark>=>|\S)/g;

/** Cuts a `.d.ts` file as the compiler writes it into tokens. */
export function tokensOf(text: string): Token[] {
  let line = 1;
  let at = 0;
  return [...text.matchAll(TOKEN)].map((match) => {
    line += text.slice(at, match.index).split('\n').length - 1;
    at = match.index;
    const { comment, string, word } = match.groups!;
    const kind =
      comment !== undefined ? 'comment' : string !== undefined ? 'string' : word !== undefined ? 'word' : 'mark';
    return { kind, text: match[0], line };
  });
}

const OPEN = new Set(['{', '(', '[', '<']);
const CLOSE = new Set(['}', ')', ']', '>']);

/** Index after the first `mark` outside of brackets from `from` on (the opening bracket at `from` itself not counted). */
export function after(tokens: readonly Token[], from: number, mark: string): number {
  let depth = 0;
  for (let i = from; i < tokens.length; i++) {
    const { kind, text } = tokens[i]!;
    if (kind !== 'mark') continue;
    if (depth === 0 && text === mark) return i + 1;
    if (OPEN.has(text)) depth++;
    else if (CLOSE.has(text)) depth--;
  }
  return tokens.length;
}

/** Pieces between `mark`s outside of brackets, without the marks. */
export function split(tokens: readonly Token[], mark: string): Token[][] {
  const pieces: Token[][] = [];
  for (let from = 0; from < tokens.length; ) {
    const to = after(tokens, from, mark);
    pieces.push(tokens.slice(from, tokens[to - 1]?.text === mark ? to - 1 : to));
    from = to;
  }
  return pieces;
}
