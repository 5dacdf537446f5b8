import type { PciFunction } from '../../ports/pci.ts';

/** First extended capability, and how many there can be: the list of a function of somebody else's may be a circle. */
const FIRST = 0x100;
const MOST = 960;

/** Offset of an extended capability in a function's configuration space; 0: it has none. */
export function extendedCapability(fn: Pick<PciFunction, 'configRead'>, id: number): number {
  let at = FIRST;
  for (let i = 0; i < MOST && at >= FIRST; i++) {
    const head = fn.configRead(at, 4);
    if (head === 0 || head === 0xffff_ffff) return 0;
    if ((head & 0xffff) === id) return at;
    at = (head >>> 20) & 0xffc;
  }
  return 0;
}
