import fc from 'fast-check';
import { expect, test } from 'vitest';
import { fromBase64, toBase64 } from '../../src/lib/base64.ts';

test('base64 is what Node writes and reads, with and without padding', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 70 }), (bytes) => {
      const text = Buffer.from(bytes).toString('base64');
      expect(toBase64(bytes)).toBe(text);
      expect([...fromBase64(text)]).toEqual([...bytes]);
      expect([...fromBase64(text.replace(/=+$/, ''))]).toEqual([...bytes]);
    }),
  );
});
