import { expect, test } from 'vitest';
import { ringEmpty, ringFull, ringNext, ringSlot, ringUsed } from '../../../src/lib/queue/ring.ts';

test('a queue of every size is empty, full and half full where a driver expects it, whatever stands above the wrap flag', () => {
  for (let log2 = 0; log2 <= 19; log2++) {
    const size = 2 ** log2;
    const noise = 0x7ff << (log2 + 1);
    let prod = 0;
    for (let n = 0; n < Math.min(size, 40); n++) prod = ringNext(prod, log2);
    expect(ringUsed(prod, 0, log2)).toBe(Math.min(size, 40));
    expect(ringEmpty(5 | noise, 5, log2)).toBe(true);
    expect(ringFull(size | noise, 0, log2)).toBe(true);
    expect(ringFull(0, 0, log2)).toBe(false);
    expect(ringNext(2 * size - 1, log2)).toBe(0);
    expect(ringSlot(2 * size - 1, log2)).toBe(size - 1);
  }
});
