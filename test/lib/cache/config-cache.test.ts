import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ConfigCache } from '../../../src/lib/cache/config-cache.ts';

const make = () => ({ keyA: 0, keyB: 0, generation: -1, value: 0 });
const key = fc.integer({ min: 0, max: 40 });

test('a configuration cache of any size answers only what was kept and not dropped', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(0, 1, 4, 64),
      fc.array(
        fc.oneof(
          fc.record({ op: fc.constant('keep' as const), a: key, b: fc.nat(2) }),
          fc.record({ op: fc.constant('claim' as const), a: key, b: fc.nat(2) }),
          fc.record({ op: fc.constant('drop' as const), a: key, b: fc.nat(2) }),
          fc.record({ op: fc.constant('range' as const), a: key, n: fc.nat(200) }),
          fc.record({ op: fc.constant('all' as const) }),
        ),
        { maxLength: 50 },
      ),
      (size, ops) => {
        const cache = new ConfigCache(size, make);
        const model = new Map<string, number>();
        let serial = 0;
        for (const o of ops) {
          if (o.op === 'keep' || o.op === 'claim') {
            const slot = cache.claim(o.a, o.b);
            slot.value = ++serial;
            model.delete(`${o.a},${o.b}`);
            if (o.op === 'keep') {
              cache.keep(slot);
              model.set(`${o.a},${o.b}`, serial);
            }
          } else if (o.op === 'drop') {
            cache.drop(o.a, o.b);
            model.delete(`${o.a},${o.b}`);
          } else if (o.op === 'range') {
            cache.dropRange(o.a, o.n);
            for (let a = o.a; a < o.a + o.n; a++) model.delete(`${a},0`);
          } else {
            cache.dropAll();
            model.clear();
          }
          for (let a = 0; a <= 40; a += 5) {
            for (let b = 0; b <= 2; b++) {
              const hit = cache.get(a, b);
              if (hit !== null) expect(hit.value).toBe(model.get(`${a},${b}`));
            }
          }
        }
      },
    ),
  );
});

test('a kept slot is found again without being made anew', () => {
  let made = 0;
  const cache = new ConfigCache(16, () => {
    made++;
    return make();
  });
  for (let i = 0; i < 100; i++) cache.keep(cache.claim(3, 0));
  expect(cache.get(3, 0)).not.toBeNull();
  expect(made).toBe(2); // the slot and the spare
});
