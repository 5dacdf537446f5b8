import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ITags, type ITagsOptions } from '../../../src/lib/ats/itags.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';

/** Functions that answer when the test says so. */
function bench(options: Partial<ITagsOptions> = {}) {
  const clock = new VirtualClock();
  const sent: { readonly rid: number; readonly itag: number }[] = [];
  const ended: [token: number, error: number, rid: number][] = [];
  const absent = new Set<number>();
  const tags = new ITags({
    endpoints: {
      invalidate(rid, _pasid, itag) {
        sent.push({ rid, itag });
        return !absent.has(rid);
      },
      pageResponse() {},
      resumed() {},
    },
    clock,
    timeout: 1000,
    depth: 32,
    absent: HW_ERROR.NONE,
    completed: (token, error, rid) => void ended.push([token, error, rid]),
    ...options,
  });
  const batch = (...rids: number[]): number => {
    tags.begin();
    for (const rid of rids) tags.request(rid, NO_PASID, 0, 0, false);
    return tags.close();
  };
  return { clock, tags, sent, ended, absent, batch };
}

describe('invalidation requests', () => {
  test.each([
    [HW_ERROR.NONE, 0],
    [HW_ERROR.ATC_TIMEOUT, HW_ERROR.ATC_TIMEOUT],
  ])('to a function that is not there end as %i', (absent, error) => {
    const b = bench({ absent });
    b.absent.add(8);
    expect([b.batch(8), b.tags.error]).toEqual([0, error]);
  });

  test('that nobody has time for are given up inside their call', () => {
    for (const none of [{ timeout: 0 }, { clock: null }]) {
      const b = bench(none);
      expect([b.batch(8), b.tags.error]).toEqual([0, HW_ERROR.ATC_TIMEOUT]);
      // The next batch knows nothing of it.
      expect([b.batch(), b.tags.error]).toEqual([0, HW_ERROR.NONE]);
    }
  });

  test('to a full function wait, those to another do not', () => {
    const b = bench({ depth: 1 });
    b.batch(8, 8, 9);
    expect(b.sent).toEqual([
      { rid: 8, itag: 0 },
      { rid: 9, itag: 1 },
    ]);
    // An answer from somebody else frees nothing.
    b.tags.completion(9, 1, 1);
    expect([b.sent.length, b.tags.unexpected]).toEqual([2, 1]);
    b.tags.completion(8, 1, 1);
    expect(b.sent.slice(2)).toEqual([{ rid: 8, itag: 0 }]);
  });

  test('end their batch with the error of the one that was not answered, also when it waited', () => {
    const b = bench({ depth: 1 });
    const token = b.batch(8, 8);
    b.clock.advance(999);
    b.tags.completion(8, 1, 1);
    b.clock.advance(999);
    expect(b.ended).toEqual([]);
    b.clock.advance(1);
    expect(b.ended).toEqual([[token, HW_ERROR.ATC_TIMEOUT, 8]]);
  });
});

test('whatever is asked, answered and given up: no ITag is used twice, no function exceeds its depth, every batch ends once', () => {
  const step = fc.oneof(
    fc.record({ do: fc.constant('batch' as const), rids: fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 50 }) }),
    fc.record({ do: fc.constant('answer' as const), n: fc.nat(60), rid: fc.integer({ min: 1, max: 3 }) }),
    fc.record({ do: fc.constant('time' as const), ns: fc.integer({ min: 1, max: 700 }) }),
    fc.record({ do: fc.constant('reload' as const) }),
  );
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 32 }), fc.array(step, { maxLength: 60 }), (depth, steps) => {
      const clock = new VirtualClock();
      const inUse = new Map<number, number>();
      const open = new Set<number>();
      const options: ITagsOptions = {
        endpoints: {
          invalidate(rid, _pasid, itag) {
            expect(inUse.get(itag) ?? 0).toBe(0);
            inUse.set(itag, rid);
            expect([...inUse.values()].filter((r) => r === rid).length).toBeLessThanOrEqual(depth);
            return true;
          },
          pageResponse() {},
          resumed() {},
        },
        // Time frees ITags before the functions' model knows, so time alone is tested with everything given up.
        clock,
        timeout: 1000,
        depth,
        absent: HW_ERROR.NONE,
        completed: (token) => expect(open.delete(token)).toBe(true),
      };
      let tags = new ITags(options);
      let idle = 0;
      for (const s of steps) {
        if (s.do === 'batch') {
          tags.begin();
          for (const rid of s.rids) tags.request(rid, NO_PASID, 0, 0, false);
          const token = tags.close();
          if (token !== 0) open.add(token);
          expect(token !== 0).toBe(s.rids.length > 0);
        } else if (s.do === 'answer') {
          const [itag] = [...inUse].filter(([, rid]) => rid === s.rid)[s.n % 32] ?? [];
          if (itag === undefined) continue;
          inUse.delete(itag);
          tags.completion(s.rid, 1 << itag, 1);
        } else if (s.do === 'time') {
          idle += s.ns;
          if (idle < 900) clock.advance(s.ns);
        } else {
          const data = JSON.parse(JSON.stringify(tags.save()));
          tags = new ITags(options);
          tags.load(data);
        }
      }
      while (inUse.size > 0) {
        const [itag, rid] = inUse.entries().next().value!;
        inUse.delete(itag);
        tags.completion(rid, 1 << itag, 1);
      }
      expect(open.size).toBe(0);
      expect(tags.unexpected).toBe(0);
    }),
  );
});
