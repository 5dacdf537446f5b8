import { expect, test } from 'vitest';
import { bits, NO_COMMAND, NO_DESCRIPTOR, op, type Planted, plant, plus, type } from './planted.ts';

const TTL3 = (w: readonly number[]) => ((w[2]! >>> 8) & 3) === 3;
const AM = 0x3f;

// biome-ignore format: table
const PLANTED: readonly Planted[] = [
  { bug: 'TLBI_NH_VA withheld', trace: 'smmuv3-strict-heavy', is: op(0x12), to: NO_COMMAND, rule: 'missing-invalidation' },
  { bug: 'TLBI_NH_VA withheld, 16K', trace: 'smmuv3-16k-faults', is: op(0x12), to: NO_COMMAND, rule: 'missing-invalidation' },
  { bug: 'TLBI_NH_VA withheld, Linux 6.12', trace: 'smmuv3-linux612-reset-1g', is: op(0x12), to: NO_COMMAND, rule: 'missing-invalidation' },
  { bug: 'TLBI_S2_IPA withheld', trace: 'smmuv3-stage2only', is: op(0x2a), to: NO_COMMAND, rule: 'missing-invalidation' },
  { bug: 'TLBI with another ASID', trace: 'smmuv3-strict-heavy', is: op(0x12), to: plus(1, 0x1_0000), rule: 'invalidation-too-small' },
  { bug: 'TLBI with another VMID', trace: 'smmuv3-rebind-vfio', is: op(0x12), to: plus(1, 1), rule: 'invalidation-too-small' },
  { bug: 'TLBI_S2_IPA with another VMID', trace: 'smmuv3-stage2only', is: op(0x2a), to: plus(1, 1), rule: 'invalidation-too-small' },
  { bug: 'TLBI of one page of a range', trace: 'smmuv3-strict-heavy', is: (w) => op(0x12)(w) && (w[0] & 0x1f1_f000) !== 0, to: bits(0, 0x1f1_f000), rule: 'invalidation-too-small' },
  { bug: 'TLBI of the page after', trace: 'smmuv3-strict-heavy', is: op(0x12), to: plus(2, 0x1000), rule: 'invalidation-too-small' },
  { bug: 'TLBI with the level of a block', trace: 'smmuv3-strict-heavy', is: (w) => op(0x12)(w) && TTL3(w), to: bits(2, 0x100), rule: 'invalidation-too-small' },
  { bug: 'CFGI_STE withheld', trace: 'smmuv3-rebind-vfio', is: op(3), to: NO_COMMAND, rule: 'config-change-not-invalidated' },
  { bug: 'CFGI_STE of another stream', trace: 'smmuv3-rebind-vfio', is: op(3), to: plus(1, 1), rule: 'config-change-not-invalidated' },
  { bug: 'CFGI_STE withheld, stage 2', trace: 'smmuv3-stage2only', is: op(3), to: NO_COMMAND, rule: 'config-change-not-invalidated' },
  { bug: 'CFGI_STE withheld, identity', trace: 'smmuv3-identity-vfio', is: op(3), to: NO_COMMAND, rule: 'config-change-not-invalidated' },
  { bug: 'CMD_SYNC withheld', trace: 'smmuv3-strict-heavy', is: op(0x46), to: NO_COMMAND, rule: 'invalidation-not-awaited' },
  { bug: 'CMD_SYNC withheld, stage 2', trace: 'smmuv3-stage2only', is: op(0x46), to: NO_COMMAND, rule: 'invalidation-not-awaited' },
  { bug: 'IOTLB invalidation withheld', trace: 'vtd-legacy-strict-heavy', is: type(2), to: NO_DESCRIPTOR, rule: 'missing-invalidation' },
  { bug: 'PASID-IOTLB invalidation withheld', trace: 'vtd-scalable-first-ats', is: type(6, 3), to: NO_DESCRIPTOR, rule: 'missing-invalidation' },
  { bug: 'IOTLB invalidation withheld, scalable second stage', trace: 'vtd-scalable-second-eim-strict', is: type(2, 3), to: NO_DESCRIPTOR, rule: 'missing-invalidation' },
  { bug: 'IOTLB invalidation of another domain', trace: 'vtd-legacy-strict-heavy', is: type(2), to: plus(0, 0x1_0000), rule: 'invalidation-too-small' },
  { bug: 'PASID-IOTLB invalidation of another PASID', trace: 'vtd-scalable-first-ats', is: type(6), to: plus(1, 1), rule: 'invalidation-too-small' },
  { bug: 'IOTLB invalidation of one page of a range', trace: 'vtd-legacy-strict-heavy', is: (w) => type(2, 3)(w) && (w[2] & AM) !== 0, to: bits(2, AM), rule: 'invalidation-too-small' },
  { bug: 'PASID-IOTLB invalidation of one page of a range', trace: 'vtd-scalable-first-ats', is: (w) => type(6, 3)(w) && (w[2] & AM) !== 0, to: bits(2, AM), rule: 'invalidation-too-small' },
  { bug: 'IOTLB invalidation of the page after', trace: 'vtd-legacy-strict-heavy', is: (w) => type(2, 3)(w) && (w[2] & AM) === 0, to: plus(2, 0x1000), rule: 'invalidation-too-small' },
  { bug: 'wait without status', trace: 'vtd-legacy-strict-heavy', is: type(5), to: NO_DESCRIPTOR, rule: 'invalidation-not-awaited' },
  { bug: 'context-cache invalidation withheld', trace: 'vtd-legacy-ats', is: type(1, 3), to: NO_DESCRIPTOR, rule: 'config-change-not-invalidated' },
  { bug: 'context-cache invalidation withheld, caching mode', trace: 'vtd-caching-mode', is: type(1, 3), to: NO_DESCRIPTOR, rule: 'config-change-not-invalidated' },
  { bug: 'PASID-cache invalidation withheld', trace: 'vtd-scalable-second-eim-strict', is: type(7), to: NO_DESCRIPTOR, rule: 'config-change-not-invalidated' },
  { bug: 'IEC invalidation withheld', trace: 'vtd-caching-mode', is: type(4), to: NO_DESCRIPTOR, rule: 'config-change-not-invalidated' },
  { bug: 'device-TLB invalidation withheld', trace: 'vtd-legacy-ats', is: type(3), to: NO_DESCRIPTOR, rule: 'missing-atc-invalidation' },
  { bug: 'device-TLB invalidation withheld, scalable', trace: 'vtd-scalable-first-ats', is: type(3), to: NO_DESCRIPTOR, rule: 'missing-atc-invalidation' },
  { bug: 'device-TLB invalidation of another function', trace: 'vtd-scalable-second-eim-strict', is: type(3), to: plus(1, 8), rule: 'invalidation-too-small' },
];

test.each(PLANTED)('$trace: $bug is $rule, and nothing else', async (p) => {
  expect(await plant(p)).toEqual([p.rule]);
});
