import { E } from '../../../spec/iommufd/errno.ts';
import type { AreaTree } from './area-tree.ts';
import { IOVA_LAST, type IovaRange, joinRanges, type ReservedRanges } from './ranges.ts';

/** Automatic IOVAs line up with transparent huge pages up to this size. */
const HUGE_PAGE = 0x20_0000n;
/** Neither the first page nor the last is ever chosen. */
const LOWEST = 4096n;
const HIGHEST = IOVA_LAST - 4096n;

/** What decides where a mapping may go. */
export interface PlacementRules {
  readonly areas: AreaTree;
  readonly reserved: ReservedRanges;
  /** Empty: everything is allowed. */
  readonly allowed: readonly IovaRange[];
  /** Bytes every IOVA is a multiple of. */
  readonly alignment: number;
}

/**
 * Finds a free place for `length` bytes that keeps the alignment of `address` as far as that helps large pages
 * (`iopt_alloc_iova`).
 * @param address of the memory to map. @returns the IOVA, or -errno: -EOVERFLOW, -EINVAL the memory is not aligned enough,
 *   -ENOSPC.
 */
export function chooseIova(rules: PlacementRules, address: bigint, length: bigint): bigint {
  if (length >= IOVA_LAST / 2n) return BigInt(-E.OVERFLOW);
  let align = 1n;
  while (align < length) align <<= 1n;
  if (address !== 0n) {
    const natural = address & -address;
    if (natural < align) align = natural;
  }
  if (align > HUGE_PAGE) align = HUGE_PAGE;
  if (align < BigInt(rules.alignment)) return BigInt(-E.INVAL);
  const offset = address % 4096n;
  // The first address of [start, last] that serves; -1n when none does.
  const place = (start: bigint, last: bigint): bigint => {
    const at = ((start + align - 1n) & -align) | offset;
    return at >= last || at > IOVA_LAST || last - at < length - 1n ? -1n : at;
  };
  const allowed = rules.allowed.length === 0 ? [{ start: LOWEST, last: HIGHEST }] : joinRanges(rules.allowed);
  let found = -1n;
  for (const piece of allowed) {
    if (piece.last < LOWEST || piece.start > HIGHEST) continue;
    const last = piece.last > HIGHEST ? HIGHEST : piece.last;
    const start = place(piece.start < LOWEST ? LOWEST : piece.start, last);
    if (start < 0n) continue;
    for (const hole of rules.reserved.holes(start, last)) {
      rules.areas.findHole(hole.start, hole.last, Number(length), (page, off, lastPage, lastOff) => {
        found = place((BigInt(page) << 12n) | BigInt(off), (BigInt(lastPage) << 12n) | BigInt(lastOff));
        return found >= 0n;
      });
      if (found >= 0n) return found;
    }
  }
  return BigInt(-E.NOSPC);
}
