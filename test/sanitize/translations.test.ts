import { describe, expect, test } from 'vitest';
import type { Finding } from '../../src/sanitize/index.ts';
import { errors, judge, recording, rewritten, type Submitted, submitted } from './spoil.ts';

const GUESTS = [
  { name: 'smmuv3-strict-heavy', isTlb: (c: Submitted) => (c.words[0] & 0xff) === 0x12, nothing: [1, 0x20, 0, 0] },
  { name: 'vtd-legacy-strict-heavy', isTlb: (c: Submitted) => (c.words[0] & 0xf) === 2, nothing: [0x45, 0, 0, 0] },
  { name: 'vtd-scalable-first-ats', isTlb: (c: Submitted) => (c.words[0] & 0xf) === 6, nothing: [0x45, 0, 0, 0] },
] as const;

describe.each(GUESTS)('$name', ({ name, isTlb, nothing }) => {
  test('an invalidation that is withheld is missed where its address is used again', async () => {
    const r = await recording(name);
    const all = submitted(r).filter((c) => isTlb(c) && c.stores[0]! >= 0);
    const some = all.filter((_, n) => n % Math.ceil(all.length / 12) === 3);

    const found = some.map((c) => errors(r.header, rewritten(r.events, c, nothing)));

    expect(new Set(found.flat())).toEqual(new Set(['missing-invalidation']));
    expect(found.filter((f) => f.length > 0).length).toBeGreaterThan(some.length / 3);
  });

  test('the finding names stream, address and both ends', async () => {
    const r = await recording(name);
    const all = submitted(r).filter((c) => isTlb(c) && c.stores[0]! >= 0);

    let found: Finding[] = [];
    for (let n = 5; found.length === 0; n += 7) found = judge(r.header, rewritten(r.events, all[n]!, nothing));
    const [f] = found;

    expect(f).toMatchObject({ rule: 'missing-invalidation', severity: 'error', count: 1 });
    expect(f!.stream).toBeGreaterThan(0);
    expect(f!.iova! % 4096n).toBe(0n);
    expect(f!.events).toHaveLength(2);
    expect(f!.message).toMatch(/invalidate it and wait/);
  });
});
