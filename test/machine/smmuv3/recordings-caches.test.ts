import { describe, expect, test } from 'vitest';
import { RECORDINGS, replay } from './replayed.ts';

describe.each(['tiny', 'off'] as const)('with caches %s', (caches) => {
  test.each(RECORDINGS)('the guest of %s cannot tell', async (name) => {
    const r = await replay(name, { caches });
    expect(r.differences).toEqual([]);
    expect(r.ok).toBe(true);
  });
});
