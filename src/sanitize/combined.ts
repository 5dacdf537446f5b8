import { POW2 } from '../core/bits.ts';
import type { CacheTag } from './caches.ts';
import { ENTRY } from './formats.ts';
import type { EntryChange, TranslationTree } from './tree.ts';

/**
 * A change of a second-stage entry as it concerns one leaf of a first stage over it: `change` is by the addresses of the first
 * stage, and its outputs are those of both.
 */
export interface CombinedChange {
  readonly change: EntryChange;
  /** Where hardware holds what both stages say. */
  readonly tag: CacheTag;
  /** Intermediate page of the first input page. */
  readonly middle: number;
  /** log2 bytes of the leaf of the first stage. */
  readonly level: number;
}

/** What hardware may hold of both stages together where the entry `c` of a second stage changes. */
export function combinedChanges(c: EntryChange): CombinedChange[] {
  const found: CombinedChange[] = [];
  const last = c.base + POW2[c.shift - 12]! - 1;
  for (const [first, tag] of c.tree.over) {
    first.outputs?.overlapping(c.base, last, (level, out, base) => {
      const leaf = { level, out, base };
      if (isThere(first, leaf))
        found.push({ change: narrowed(c, first, leaf), tag, middle: Math.max(c.base, out), level });
      else first.outputs?.delete(level, out, base);
    });
  }
  return found;
}

interface Leaf {
  readonly level: number;
  readonly out: number;
  readonly base: number;
}

/** A table above the leaf may have been taken away. */
function isThere(first: TranslationTree, leaf: Leaf): boolean {
  first.walk(leaf.base);
  return first.kind === ENTRY.LEAF && first.out === leaf.out;
}

function narrowed(c: EntryChange, first: TranslationTree, leaf: Leaf): EntryChange {
  const middle = Math.max(c.base, leaf.out);
  const into = middle - c.base;
  let { oldKind, oldOut, oldPerm } = c;
  if (oldKind === ENTRY.LEAF) oldOut += into;
  else if (oldKind === ENTRY.TABLE) {
    // What the table that goes said of this page.
    const { tree } = c;
    oldKind = tree.below(c.node, c.at, middle) ? ENTRY.LEAF : ENTRY.NONE;
    oldOut = tree.out;
    oldPerm = tree.perm;
  }
  return {
    ...c,
    tree: first,
    base: leaf.base + (middle - leaf.out),
    shift: Math.min(c.shift, leaf.level),
    oldKind,
    oldOut,
    oldPerm,
    oldGlobal: first.format.global,
    out: c.kind === ENTRY.LEAF ? c.out + into : c.out,
  };
}
