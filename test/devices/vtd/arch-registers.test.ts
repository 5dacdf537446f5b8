import { expect, test } from 'vitest';
import type { RegisterSpec } from '../../../src/core/registers.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { Guest } from './guest.ts';

const FULL = 'scalable-mode=on,fsts=on,pasid-bits=20,svm=on,device-iotlb=on,intremap=on,eim=on';
/** A one in the highest bit asks for an invalidation; it reads 0 when that is done. */
const REQUESTS: readonly string[] = ['CCMD', 'IOTLB'];

test.each(['', FULL])(
  'arch, intel-iommu,%s: of every register, each reserved bit reads 0 after it was written, every other one is kept',
  (options) => {
    const g = new Guest(options, 'arch');
    const absent = options === '' ? /^(.*UADDR|P[QRE].*|VCMD.*)$/ : /^$/;
    const narrowed: Record<string, bigint> = { IEDATA: 0xffffn };
    for (const [name, spec] of Object.entries(PAGE) as [string, RegisterSpec][]) {
      // Fault records have a test of their own.
      if (name.startsWith('FRCD')) continue;
      const kept = absent.test(name) ? 0n : (narrowed[name] ?? spec.rw ?? 0n) & ~(spec.wo ?? 0n);
      for (let bit = 0; bit < 8 * spec.size; bit++) {
        if (bit === 63 && REQUESTS.includes(name)) continue;
        g.vtd.reset();
        const at = spec.at + 4 * (bit >>> 5);
        const mask = (1 << (bit & 31)) >>> 0;
        const before = (g.r32(at) & mask) !== 0;
        g.w32(at, mask);
        const want = spec.rw === undefined ? before : ((kept >> BigInt(bit)) & 1n) === 1n;
        expect((g.r32(at) & mask) !== 0, `${name} bit ${bit}`).toBe(want);
      }
    }
  },
);
