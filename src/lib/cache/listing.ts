import { TWO32 } from '../../core/bits.ts';
import type { IotlbData } from './iotlb.ts';
import { SHIFT_OF_CLASS } from './tlb-table.ts';

/** A cached translation, taken apart for listings. */
export interface CachedTranslation {
  /** VMID or domain id as the hardware knows it. */
  readonly domain: number;
  /** ASID or PASID; -1: the domain's own. */
  readonly id: number;
  /** Input address of the range (bytes). */
  readonly input: bigint;
  /** log2 bytes. */
  readonly shift: number;
  /** Output address of the range (bytes). */
  readonly out: number;
  /** As inserted. */
  readonly perm: number;
}

/** The translations that can still hit in a saved cache, by context and address. */
export function cachedTranslations(data: IotlbData): CachedTranslation[] {
  const contexts = new Map(data.tags.contexts.map(([domain, id, tag]) => [tag, { domain, id }]));
  const found: CachedTranslation[] = [];
  const { live } = data.leaves;
  for (let n = 0; n + 4 < live.length; n += 5) {
    const key = live[n + 2]!;
    const context = contexts.get(key >>> 16);
    if (context === undefined) continue;
    const shift = SHIFT_OF_CLASS[(key >>> 13) & 7]!;
    const page = (BigInt(key & 0x1fff) << 32n) | BigInt(live[n + 1]! >>> 0);
    const data3 = live[n + 4]!;
    const out = ((data3 & 0xff) * TWO32 + (live[n + 3]! >>> 0)) * 4096;
    const input = BigInt.asUintN(64, BigInt.asIntN(57, page << BigInt(shift)));
    found.push({ ...context, input, shift, out, perm: (data3 >>> 8) & 0x3f });
  }
  return found.toSorted((a, b) => a.domain - b.domain || a.id - b.id || (a.input < b.input ? -1 : 1));
}
