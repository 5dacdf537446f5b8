import { expect, test } from 'vitest';
import { Iotlb } from '../../../src/lib/cache/iotlb.ts';
import { cachedTranslations } from '../../../src/lib/cache/listing.ts';

test('what a cache would still answer can be listed, and nothing else', () => {
  const tlb = new Iotlb({ entries: 64 });
  const a = tlb.context(3, 5);
  const b = tlb.context(3, -1);
  tlb.insert(a, 0xffff_c123 | 0, 0, 0x4477_7123, 12, 0x1b, 12, 0);
  tlb.insert(a, 0x0020_0000, 0xffff_0000 | 0, 0x1_8000_0000, 21, 0x3f, 21, 0);
  tlb.insert(b, 0x4000_0000, 0, 0x2_4000_0000, 30, 0x09, 0, 0);
  tlb.insert(tlb.context(4, 1), 0x1000, 0, 0x1000, 12, 0x3f, 12, 0);
  tlb.invalidateContext(tlb.context(4, 1));

  expect(cachedTranslations(tlb.save())).toEqual([
    { domain: 3, id: -1, input: 0x4000_0000n, shift: 30, out: 0x2_4000_0000, perm: 0x09 },
    { domain: 3, id: 5, input: 0xffff_c000n, shift: 12, out: 0x4477_7000, perm: 0x1b },
    { domain: 3, id: 5, input: 0xffff_0000_0020_0000n, shift: 21, out: 0x1_8000_0000, perm: 0x3f },
  ]);
});
