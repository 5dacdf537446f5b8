import { POW2 } from '../core/bits.ts';
import { ENTRY } from './formats.ts';
import { STALE } from './stale.ts';
import type { EntryChange, TableNode, TranslationTree } from './tree.ts';

/** nT of a block. */
const NT = 1 << 16;

/** The address of a page, for messages. */
export const addressOf = (page: number): string => `0x${(page * 4096).toString(16)}`;

/** Why what was cached of the entry before is stale: `STALE`. */
export function change(c: EntryChange): number {
  if (c.kind === ENTRY.NONE) return STALE.UNMAPPED;
  if (c.kind !== c.oldKind || c.out !== c.oldOut) return STALE.REPLACED;
  return (c.oldPerm & ~c.perm) !== 0 ? STALE.LOWERED : STALE.RAISED;
}

/** No entry of the table that goes is valid: nothing below it is cached that the entries themselves did not make stale. */
export function isEmpty(nodes: readonly TableNode[] | undefined, tree: TranslationTree): boolean {
  if (nodes === undefined) return false;
  for (const n of nodes) {
    if (n.page.words === null) continue;
    for (let at = n.first; at < n.first + n.count; at++) {
      tree.format.decode(n.shift, n.page.lo(at), n.page.hi(at));
      if (tree.format.kind !== ENTRY.NONE) return false;
    }
  }
  return true;
}

/** A block became a table that says the same, or the other way round. */
export function sameOutputs(c: EntryChange): boolean {
  const f = c.tree.format;
  const [block, nodes] = c.kind === ENTRY.TABLE ? [c.oldOut, null] : [c.out, c.node.below.get(c.at) ?? []];
  // The new table is told after the store that links it: nothing is known against it.
  if (nodes === null) return true;
  let out = block;
  for (const n of nodes) {
    for (let at = n.first; at < n.first + n.count; at++, out += POW2[n.shift - 12]!) {
      f.decode(n.shift, n.page.lo(at), n.page.hi(at));
      if (f.kind !== ENTRY.LEAF || f.out !== out) return false;
    }
  }
  return true;
}

/**
 * What the new entry does to the old one where the old one has to go first, a clause; null: it need not.
 * @param bbml IDR3.BBML; null: the architecture does not ask for it.
 */
export function broken(c: EntryChange, bbml: number | null): string | null {
  if (bbml === null) return null;
  // At level 1 the block must say that it is not to be cached (nT, IHI 0070 §3.21.1.2).
  const quiet = bbml > 1 || (bbml > 0 && ((c.kind === ENTRY.TABLE ? c.oldLo : c.newLo) & NT) !== 0);
  if (c.oldKind !== c.kind && quiet && sameOutputs(c)) return null;
  if (c.oldKind === c.kind) return `got another output (${addressOf(c.oldOut)}, now ${addressOf(c.out)})`;
  return c.kind === ENTRY.TABLE ? 'was split into a table' : 'was joined into a block';
}
