import type { RunIndex } from './lines.ts';

/** What a key means where the timeline or the list has the focus. */
export type KeyAction =
  | { readonly is: 'select'; readonly n: number }
  | { readonly is: 'zoom'; readonly factor: number }
  | { readonly is: 'fit' }
  | { readonly is: 'mark'; readonly which: 'a' | 'b' }
  | { readonly is: 'finding' };

/** What the browser says of a key. */
interface Pressed {
  readonly key: string;
  readonly ctrlKey: boolean;
  readonly metaKey: boolean;
  readonly altKey: boolean;
}

/** The nearest moment in the next row up or down that has one. */
function otherRow(index: RunIndex, n: number, step: number): number {
  for (let row = index.run.row[n]! + step; row >= 0 && row < index.rows.length; row += step) {
    const found = index.nearest(row, n);
    if (found >= 0) return found;
  }
  return n;
}

/** @param n number of the selected moment; -1: none. Null: the key means nothing here. */
export function keyAction(e: Pressed, index: RunIndex, n: number): KeyAction | null {
  if (e.ctrlKey || e.metaKey || e.altKey) return null;
  const { moments } = index.run;
  const to = (found: number): KeyAction => ({ is: 'select', n: found });
  switch (e.key) {
    case 'ArrowRight':
      return to(n < 0 ? 0 : index.beside(n, 1));
    case 'ArrowLeft':
      return to(n < 0 ? moments - 1 : index.beside(n, -1));
    case 'ArrowUp':
      return n < 0 ? null : to(otherRow(index, n, -1));
    case 'ArrowDown':
      return n < 0 ? null : to(otherRow(index, n, 1));
    case 'Home':
      return to(0);
    case 'End':
      return to(moments - 1);
    case 'c':
      return n >= 0 && index.run.cause[n]! >= 0 ? to(index.run.cause[n]!) : null;
    case 'e':
      return n >= 0 && index.effects(n).length > 0 ? to(index.effects(n)[0]!) : null;
    case '+':
    case '=':
      return { is: 'zoom', factor: 2 };
    case '-':
      return { is: 'zoom', factor: 0.5 };
    case '0':
      return { is: 'fit' };
    case 'a':
      return { is: 'mark', which: 'a' };
    case 'b':
      return { is: 'mark', which: 'b' };
    case 'f':
      return { is: 'finding' };
    default:
      return null;
  }
}
