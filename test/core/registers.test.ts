import { expect, test } from 'vitest';
import { RegisterFile } from '../../src/core/registers.ts';

const TABLE = {
  CTRL: { at: 0x0, size: 4, rw: 0x0fn, reset: 0x3n },
  STAT: { at: 0x4, size: 4, w1c: 0x30n, reset: 0x31n },
  BASE: { at: 0x8, size: 8, rw: 0x4000_0000_0000_ffe0n },
  CMD: { at: 0x10, size: 4, rw: 0xffn, wo: 0xf0n },
} as const;

test('a write changes exactly the writable bits, clears W1C ones, and write-only bits read as zero', () => {
  for (const r of Object.values(TABLE) as {
    at: number;
    size: number;
    rw?: bigint;
    w1c?: bigint;
    wo?: bigint;
    reset?: bigint;
  }[]) {
    for (let bit = 0; bit < r.size * 8; bit++) {
      const file = new RegisterFile(TABLE, 0x20);
      const at = r.at + (bit >>> 5) * 4;
      const m = 1n << BigInt(bit);
      const before = ((r.reset ?? 0n) >> BigInt(bit)) & 1n;
      file.write32(at, 1 << (bit & 31));
      const stored = (file.get(at) >>> (bit & 31)) & 1;
      const want = (r.rw ?? 0n) & m ? 1 : (r.w1c ?? 0n) & m ? 0 : Number(before);
      expect(stored, `bit ${bit} of 0x${r.at.toString(16)}`).toBe(want);
      const seen = (file.read32(at) >>> (bit & 31)) & 1;
      expect(seen).toBe((r.wo ?? 0n) & m ? 0 : want);
    }
  }
});
