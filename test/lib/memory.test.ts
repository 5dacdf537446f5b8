import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AddressSpace, ramBacking } from '../../src/lib/memory/address-space.ts';
import { HostMemory } from '../../src/lib/memory/host-memory.ts';

const PAGE = 4096;

/** Two RAM pieces that touch, one far away, a read-only one, a window: and holes between. */
function space() {
  const s = new AddressSpace();
  s.addRam(0x1000, 2 * PAGE, ramBacking(2 * PAGE));
  s.addRam(0x3000, PAGE, ramBacking(4 * PAGE), true, PAGE);
  s.addRam(2 ** 44, PAGE, ramBacking(PAGE));
  s.addRam(0x8000, PAGE, ramBacking(PAGE), false);
  const log: string[] = [];
  s.addWindow(0x6000, 0x10, {
    name: 'w',
    read: (offset, size) => (0x0403_0201 >>> (8 * (offset % 4))) & (size === 4 ? -1 : 2 ** (8 * size) - 1),
    write: (offset, size, value) => void log.push(`${offset}/${size}=${value.toString(16)}`),
  });
  return { s, log };
}

test('bytes written anywhere are read back there and nowhere else, whatever the size and alignment', () => {
  const where = fc.oneof(
    fc.nat(0x9fff),
    fc.nat(0x1fff).map((n) => 2 ** 44 - 0x1000 + n),
  );
  const action = fc.record({ at: where, bytes: fc.uint8Array({ minLength: 1, maxLength: 40 }) });
  fc.assert(
    fc.property(fc.array(action, { maxLength: 30 }), (actions) => {
      const { s } = space();
      const model = new Map<number, number>();
      const ok = (a: number) => (a >= 0x1000 && a < 0x4000) || (a >= 2 ** 44 && a < 2 ** 44 + PAGE);
      const window = (a: number) => a >= 0x6000 && a < 0x6010;
      for (const { at, bytes } of actions) {
        const fits = bytes.findIndex((_, i) => !ok(at + i) && !window(at + i));
        expect(s.writeBytes(at, bytes)).toBe(fits < 0);
        bytes.forEach((b, i) => {
          if (ok(at + i) && (fits < 0 || i < fits)) model.set(at + i, b);
        });
      }
      for (const base of [0x1000, 2 ** 44]) {
        const size = base === 0x1000 ? 3 * PAGE : PAGE;
        const all = new Uint8Array(size);
        expect(s.readBytes(base, all)).toBe(true);
        expect(all.every((b, i) => b === (model.get(base + i) ?? 0))).toBe(true);
      }
    }),
    { numRuns: 200 },
  );
});

test('holes abort, read-only memory refuses stores, a window is asked in naturally aligned pieces', () => {
  const { s, log } = space();
  expect(s.load64(0x0)).toBe(false);
  expect(s.load32(0x4000)).toBe(false);
  expect(s.store32(0x8000, 1)).toBe(false);
  expect(s.load32(0x8000)).toBe(true);
  expect(s.load64(0x6000)).toBe(true);
  expect([s.lo, s.hi]).toEqual([0x0403_0201, 0x0403_0201]);
  expect(s.writeBytes(0x6001, Uint8Array.of(1, 2, 3, 4, 5, 6, 7))).toBe(true);
  expect(log).toEqual(['1/1=1', '2/2=302', '4/4=7060504']);
});

test('a backing that moved is asked again', () => {
  const s = new AddressSpace();
  let words = new Int32Array(1024);
  s.addRam(0, PAGE, { words: () => words });
  s.store32(8, 1);
  words = new Int32Array(words);
  words[2] = 7;
  s.moved();
  expect(s.load32(8)).toBe(true);
  expect(s.lo).toBe(7);
});

test('overlaps are refused with the place that is taken', () => {
  const { s } = space();
  expect(() => s.addRam(0x2000, PAGE, ramBacking(PAGE))).toThrow(/overlaps RAM \(base=0x2000/);
  expect(() => s.addWindow(0x600c, 8, { name: 'x', read: () => 0, write: () => {} })).toThrow(/overlaps window w/);
  expect(() => s.addRam(0x10, PAGE, ramBacking(PAGE))).toThrow(/alignment/);
});

test('kernel pages are zero, distinct, given back, and run out at the limit', () => {
  const m = new HostMemory(8);
  const pages = new Set<number>();
  for (let i = 0; i < 4; i++) pages.add(m.allocate());
  const four = m.allocate(4);
  expect(four % (4 * PAGE)).toBe(0);
  expect(pages.size).toBe(4);
  expect(m.allocate()).toBe(-1);
  const first = [...pages][0]!;
  m.space.store32(first, 5);
  m.free(first);
  expect(m.allocate()).toBe(first);
  m.space.load32(first);
  expect(m.space.lo).toBe(0);
  expect(m.pagesUsed).toBe(8);
});

test('guest RAM lands at a host-physical address that differs from the guest-physical one, and large blocks stay possible', () => {
  const m = new HostMemory();
  for (const gpa of [0, 0x4000_0000, 0x1_0000_0000]) {
    const hpa = m.place(gpa, 0x1000_0000, ramBacking(0x1000_0000));
    expect(hpa).not.toBe(gpa);
    expect(hpa % 2 ** 30).toBe(gpa % 2 ** 30);
  }
});

test('memory shared with another process is fetched before it is read and handed over when written', () => {
  const words = new Int32Array(2048);
  const theirs = new Uint8Array(2 * PAGE);
  const fetched: number[] = [];
  const s = new AddressSpace();
  s.addRam(0x4000, 2 * PAGE, {
    words: () => words,
    fetch: (offset) => {
      const page = offset - (offset % PAGE);
      fetched.push(page);
      new Uint8Array(words.buffer, page, PAGE).set(theirs.subarray(page, page + PAGE));
    },
    wrote: (offset, bytes) => theirs.set(new Uint8Array(words.buffer, offset, bytes), offset),
  });
  theirs[PAGE - 1] = 0xaa;
  theirs[PAGE] = 0xbb;
  const two = new Uint8Array(2);
  expect(s.readBytes(0x4fff, two)).toBe(true);
  expect([...two]).toEqual([0xaa, 0xbb]);
  expect(fetched).toEqual([0, PAGE]);
  s.store32(0x5010, 0x0102_0304);
  s.store64(0x4018, 5, 6);
  s.writeBytes(0x4ffe, Uint8Array.of(7, 8, 9, 10));
  expect([...theirs.subarray(PAGE + 0x10, PAGE + 0x14)]).toEqual([4, 3, 2, 1]);
  expect([theirs[0x18], theirs[0x1c]]).toEqual([5, 6]);
  expect([...theirs.subarray(0xffe, 0x1002)]).toEqual([7, 8, 9, 10]);
});

test('runs of kernel pages are used again, zeroed, and take no new address space', () => {
  const memory = new HostMemory();
  const first = memory.allocate(8);
  memory.space.store64(first + 0x7000, 1, 2);
  memory.free(first, 8);
  const again = memory.allocate(8);
  expect(again).toBe(first);
  memory.space.load64(first + 0x7000);
  expect([memory.space.lo, memory.space.hi]).toEqual([0, 0]);
  expect(memory.pagesUsed).toBe(8);
});
