import { expect, test } from 'vitest';
import { DATA, rulesOf } from './driver.ts';
import { SMMU, SmmuDriver } from './smmuv3-driver.ts';
import { VtdDriver } from './vtd-driver.ts';

const VA = 0x10_0000;

/** Words of something else, which would be entries that come and go. */
function reuse(d: SmmuDriver | VtdDriver, page: number): void {
  for (let n = 0; n < 3; n++) {
    for (let at = 0; at < 4096; at += 8)
      d.guest.st(page + at, BigInt(n) * 0x1234_5678_9abc_def1n + BigInt(at) + 0x8000_000bn);
    d.submit();
  }
}

/** A stream table of two levels, split at 64 entries: the second level of streams 0 to 63 goes. */
function streams(invalidated: boolean): string[] {
  const d = new SmmuDriver();
  d.map(VA, DATA);
  d.control(0x8);
  const [first, second] = [d.guest.alloc(), d.guest.alloc()];
  for (const [n, word] of d.steWords().entries()) d.guest.st(second + 64 * d.sid + 8 * n, word);
  d.guest.st(first, BigInt(second) | 7n);
  d.guest.w(SMMU.STRTAB_BASE, first, 8).w(SMMU.STRTAB_BASE_CFG, (1 << 16) | (6 << 6) | 10);
  d.command(0x04n, 31n);
  d.submit();
  d.control(0x9);
  d.guest.st(first, 0);
  if (invalidated) d.command(0x04n, 31n);
  d.submit();
  reuse(d, second);
  return rulesOf(d);
}

test('a second-level stream table that was invalidated is other memory, and not before', () => {
  expect(streams(true)).toEqual([]);
  expect(streams(false)).toContain('config-change-not-invalidated');
});

/** CDs of two levels, with leaf tables of 4 KiB: the second one goes. */
function contexts(invalidated: boolean): string[] {
  const d = new SmmuDriver();
  const [first, zero, one] = [d.guest.alloc(), d.guest.alloc(), d.guest.alloc()];
  d.guest.st(zero, 0).st(one, 0);
  for (const [ssid, leaf] of [
    [0, zero],
    [64, one],
  ] as const) {
    d.guest.st(leaf + 8, d.guest.alloc()).st(leaf, d.cdWord(10 + ssid));
    d.guest.st(first + 8 * (ssid / 64), BigInt(leaf) | 1n);
  }
  const at = d.streams + 64 * 16;
  d.guest.st(at + 8, 2n).st(at, 0xbn | (1n << 4n) | BigInt(first) | (7n << 59n));
  d.config(16);
  d.guest.st(first + 8, 0);
  if (invalidated) {
    d.command(0x06n | (16n << 32n), 0n);
    d.command(0x11n | (74n << 48n), 0n);
  }
  d.submit();
  reuse(d, one);
  return rulesOf(d);
}

test('a second-level CD table that was invalidated is other memory, and not before', () => {
  expect(contexts(true)).toEqual([]);
  expect(contexts(false)).toContain('config-change-not-invalidated');
});

test('a context table that was invalidated is other memory', () => {
  const d = new VtdDriver();
  d.guest.st(d.roots, 0);
  d.descriptor(0x11n, 0n);
  d.descriptor(0x12n, 0n);
  d.submit();
  reuse(d, d.contexts);

  expect(rulesOf(d)).toEqual([]);
});
