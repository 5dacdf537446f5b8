import { describe, expect, test } from 'vitest';
import { readStage1, readStage2 } from '../../../src/lib/walk/vmsa-regime.ts';
import { fillWithDescriptors, VmsaComparison, vmsaCase } from '../../../tools/fuzz/walks/smmuv3.ts';
import { Random } from '../../../tools/oracle/random.ts';

describe('the fast walker and the slow one agree', () => {
  const bench = new VmsaComparison();

  test('on 120,000 random tables and addresses: stage 1, stage 2 and nested, every granule, right and fault', () => {
    const rnd = new Random(0x5eed);
    for (let round = 0; round < 12; round++) {
      fillWithDescriptors(bench.memory, rnd);
      for (let n = 0; n < 500; n++) {
        const c = vmsaCase(rnd);
        readStage1(bench.s1, c.cd, 0, c.oas);
        readStage2(bench.s2, c.ste, 0, c.oas, true);
        for (let k = 0; k < 5; k++) expect(bench.one(rnd, c, 'stage1')).toBe(null);
        for (let k = 0; k < 5; k++) expect(bench.one(rnd, c, 'stage2')).toBe(null);
        for (let k = 0; k < 10; k++) expect(bench.one(rnd, c, 'nested')).toBe(null);
      }
    }
  });

  test('and the random cases reached everything worth reaching', () => {
    const faults = ['F_TRANSLATION', 'F_ADDR_SIZE', 'F_ACCESS', 'F_PERMISSION'];
    const wanted = [
      ...['stage1', 'stage2', 'nested'].flatMap((m) => [12, 14, 16].map((g) => `${m} ${g} mapped`)),
      ...faults.flatMap((f) => [`stage1 stage 1 IN ${f}`, `stage2 stage 2 IN ${f}`, `nested stage 2 TT ${f}`]),
      ...faults.map((f) => `nested stage 2 IN ${f}`),
      'stage1 stage 1 TT F_WALK_EABT',
      'nested stage 1 TT F_WALK_EABT',
      ...[12, 14, 16, 21, 25, 29, 30].map((s) => `stage1 size ${s}`),
      ...[16, 21, 25, 29, 30].map((s) => `stage2 size ${s}`),
    ];
    const missing = wanted.filter((k) => (bench.seen.get(k) ?? 0) < 20);
    expect(missing, JSON.stringify([...bench.seen].toSorted())).toEqual([]);
  });
});
