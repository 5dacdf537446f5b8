import fc from 'fast-check';
import { expect, test } from 'vitest';
import { readPng, smallPng } from '../../tools/explorer/small-png.ts';

test('a picture of few colours comes back as it was', () => {
  const pictures = fc
    .tuple(
      fc.integer({ min: 1, max: 20 }),
      fc.integer({ min: 1, max: 20 }),
      fc.uint8Array({ minLength: 3, maxLength: 60 }),
    )
    .map(([width, height, colours]) => ({
      width,
      height,
      rgb: Uint8Array.from({ length: width * height * 3 }, (_, n) => colours[(n * 7) % colours.length]! & 0xc0),
    }));
  fc.assert(
    fc.property(pictures, (p) => {
      expect(readPng(smallPng(p))).toEqual(p);
    }),
  );
});

test('one of many colours keeps its size, and every pixel is near to what it was', () => {
  const rgb = Uint8Array.from({ length: 64 * 64 * 3 }, (_, n) => (n * 37) % 251);
  const read = readPng(smallPng({ width: 64, height: 64, rgb }));
  expect([read.width, read.height]).toEqual([64, 64]);
  expect(rgb.every((v, n) => Math.abs(v - read.rgb[n]!) < 64)).toBe(true);
});
