import type { Iotlb } from '../../lib/cache/iotlb.ts';

/** 2^am pages of a domain; the address is rounded down to that size. First-stage translations go whatever the address. */
export function invalidatePages(iotlb: Iotlb, did: number, lo: number, hi: number, am: number, leaf: boolean): void {
  const list = iotlb.contextsOf(did);
  const start = am >= 20 ? 0 : lo & (-1 << (am + 12));
  const top = am >= 20 ? hi & (am >= 52 ? 0 : -1 << (am - 20)) : hi;
  for (let i = 0; i < list.length; i++) {
    const c = list[i]!;
    if ((c.id & 1) !== 0) iotlb.invalidateContext(c);
    else iotlb.invalidateRange(c, start, top, 2 ** am, leaf);
  }
}
