/** Pieces of a shadow that are taken away at one occasion. */
export const SHADOW_PIECES = 512;
/** Units of work of each of them. */
export const SHADOW_PIECE_WORK = 8;
/** Units of work of what a table of the host takes away, whatever it holds; and for so many pages of a range one more. */
const TABLE_WORK = 2;
const TABLE_PAGES = 512;

/** Units of work of taking `count` pieces away, as many as one occasion bears. */
export function shadowPiecesWork(count: number): number {
  return SHADOW_PIECE_WORK * (Math.min(count, SHADOW_PIECES) + 1);
}

/** Units of work of taking a range out of a table of the host. @param pages 4 KiB pages named; 0: everything goes at once. */
export function shadowTableWork(pages: number): number {
  return TABLE_WORK + Math.min(pages, TABLE_PAGES * TABLE_PAGES) / TABLE_PAGES;
}
