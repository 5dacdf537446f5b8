import { describe, expect, test } from 'vitest';
import { failuresSurvived, hostileAccesses } from '../../tools/robustness/hostile-accesses.ts';
import { HOSTILE } from '../../tools/robustness/hostile-client.ts';
import { crowd, latencies } from '../../tools/robustness/server-load.ts';

// The parts of `npm run robustness`, small.

describe('hostile guests', () => {
  test('reach every board with every command line and profile, and the heap does not grow with their accesses', () => {
    const r = hostileAccesses({ total: 16_000, seed: 5 });
    expect([r.machines, r.accesses >= 16_000]).toEqual([16, true]);
    expect(r.growth).toBeLessThan(16 << 20);
    expect(r.worst).toBeLessThanOrEqual(20);
  }, 600_000);

  test('meet a hundred failing steps, and nothing throws', () => {
    expect(failuresSurvived(6, 5).failed).toBeGreaterThan(100);
  }, 600_000);
});

describe('the iommufd server', () => {
  test('has nothing left of a crowd of which half is killed while it calls, and refuses the others nothing', async () => {
    const r = await crowd(40, 4, 2000, 3);
    expect(r).toMatchObject({ clients: 40, refused: 0, left: 0, broken: 0 });
    expect([r.killed > 0, r.calls > 0]).toEqual([true, true]);
  }, 120_000);

  test.each(HOSTILE)(
    'serves a well-behaved client beside one that is %s within twice its time',
    async (kind) => {
      // Calls to a server with and one without it, in turns: what else runs on the computer is in both.
      let ratio = Number.POSITIVE_INFINITY;
      for (let tries = 0; tries < 3 && ratio > 2; tries++) ratio = (await latencies([kind], 3, 60))[0]!.ratio;
      expect(ratio).toBeLessThanOrEqual(2);
    },
    240_000,
  );
});
