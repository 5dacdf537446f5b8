import { describe, expect, test } from 'vitest';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { isQualified } from '../../../src/spec/vtd/faults.ts';
import { CAP_ALL, ECAP_ALL, Rig } from './rig.ts';

const range = (high: number, low: number): number[] => Array.from({ length: high - low + 1 }, (_, i) => low + i);
const without = (ecap: bigint, ...bits: number[]): bigint => bits.reduce((e, b) => e & ~(1n << BigInt(b)), ecap);
/** A unit without first stage, device TLB, PASID, page requests, SSADE, SMPWC and snoop control. */
const PLAIN = without(ECAP_ALL, 2, 7, 26, 29, 31, 33, 34, 35, 36, 37, 38, 39, 40, 42, 45, 47, 48);
const IOVA = 0x5000n;

function legacyRig(ecap = ECAP_ALL): Rig {
  const rig = new Rig({ ecap });
  const table = rig.page();
  rig.legacy(0x10, BigInt(table) | 1n, 2n | (7n << 8n));
  rig.map(table, IOVA, 0x20_0000n, 3n);
  return rig.enable(0);
}

function scalableRig(ecap = ECAP_ALL, flags = 0n): Rig {
  const rig = new Rig({ ecap });
  const table = rig.page();
  rig.scalable(0x10, flags).second(0, 7, table);
  rig.map(table, IOVA, 0x20_0000n, 3n);
  return rig.enable(1);
}

/** The reasons met when each of the 64 bits of a qword is inverted, as {reason: bits}; 0 is success. */
function flips(make: () => Rig, address: (r: Rig) => number): Record<string, number[]> {
  const met: Record<string, number[]> = {};
  for (const bit of range(63, 0)) {
    const rig = make();
    rig.set(address(rig), rig.get(address(rig)) ^ (1n << BigInt(bit)));
    const out = rig.dma(IOVA);
    const reason = out >= 0 || out === -1000 ? 'ok' : (-out).toString(16);
    met[reason] = [...(met[reason] ?? []), bit];
  }
  return met;
}

describe('every bit of every legacy structure', () => {
  test('root entry', () => {
    const low = flips(legacyRig, (r) => r.rootEntry());
    expect(low['1']).toEqual([0]);
    expect(low.a).toEqual([...range(11, 1), ...range(63, 48)]);
    expect(flips(legacyRig, (r) => r.rootEntry() + 8)).toEqual({ a: range(63, 0) });
  });

  test('context entry', () => {
    const low = flips(legacyRig, (r) => r.contextEntry());
    expect(low['2']).toEqual([0]);
    expect(low.b).toEqual([...range(11, 4), ...range(63, 48)]);
    const high = flips(
      () => legacyRig(),
      (r) => r.contextEntry() + 8,
    );
    expect(high.b).toEqual([7, ...range(63, 24)]);
    // A width of 57 bits walks another way; 38 and less do not exist.
    expect(high.ok).toEqual([3, 4, 5, 6, ...range(23, 8)]);
  });
});

describe('every bit of every scalable-mode structure, on a unit with none of the optional features', () => {
  test('root entry: only the half of the requester counts', () => {
    const low = flips(
      () => scalableRig(PLAIN),
      (r) => r.rootEntry(),
    );
    expect(low['39']).toEqual([0]);
    expect(low['3a']).toEqual([...range(11, 1), ...range(63, 48)]);
    expect(
      flips(
        () => scalableRig(PLAIN),
        (r) => r.rootEntry() + 8,
      ),
    ).toEqual({ ok: range(63, 0) });
  });

  test('context entry', () => {
    const q0 = flips(
      () => scalableRig(PLAIN),
      (r) => r.smContextEntry(),
    );
    expect(q0['41']).toEqual([0]);
    expect(q0['42']).toEqual([...range(8, 2), ...range(63, 48)]);
    expect(
      flips(
        () => scalableRig(PLAIN),
        (r) => r.smContextEntry() + 8,
      )['42'],
    ).toEqual(range(63, 20));
    for (const q of [16, 24]) {
      expect(
        flips(
          () => scalableRig(PLAIN),
          (r) => r.smContextEntry() + q,
        ),
      ).toEqual({ '42': range(63, 0) });
    }
  });

  test('PASID directory entry', () => {
    const met = flips(
      () => scalableRig(PLAIN),
      (r) => r.directoryEntry(),
    );
    expect(met['51']).toEqual([0]);
    expect(met['52']).toEqual([...range(11, 2), ...range(63, 48)]);
  });

  test('PASID entry', () => {
    const q0 = flips(
      () => scalableRig(PLAIN),
      (r) => r.pasidEntry(),
    );
    expect(q0['59']).toEqual([0]);
    expect(q0['5a']).toEqual([5, 9, 10, 11, ...range(63, 48)]);
    const q1 = flips(
      () => scalableRig(PLAIN),
      (r) => r.pasidEntry() + 8,
    );
    expect(q1['5a']).toEqual(range(63, 16));
    const q2 = flips(
      () => scalableRig(PLAIN),
      (r) => r.pasidEntry() + 16,
    );
    expect(q2['5a']).toEqual(range(63, 0).filter((b) => b !== 5 && b !== 6));
    for (const q of [24, 32, 40, 48, 56]) {
      expect(
        flips(
          () => scalableRig(PLAIN),
          (r) => r.pasidEntry() + q,
        ),
      ).toEqual({ '5a': range(63, 0) });
    }
  });

  test('the features take their bits out of the reserved ones', () => {
    const make = () => scalableRig(ECAP_ALL, 0x1cn);
    expect(flips(make, (r) => r.smContextEntry())['42']).toEqual([...range(8, 5), ...range(63, 48)]);
    expect(flips(make, (r) => r.smContextEntry())['43']).toEqual([2]);
    expect(flips(make, (r) => r.pasidEntry())['5a']).toEqual([5, 10, 11, ...range(63, 48)]);
    expect(flips(make, (r) => r.pasidEntry() + 8)['5a']).toEqual([...range(22, 16), ...range(63, 25)]);
    expect(flips(make, (r) => r.pasidEntry() + 16)['5a']).toEqual([1, 8, 9, 10, 11, ...range(63, 48)]);
  });
});

type Case = readonly [name: string, reason: number, (rig: Rig) => unknown];
/** FPD of the context (or PASID) entry set beside; qualified reasons fall silent, others do not. */
const LEGACY: readonly Case[] = [
  ['root unreadable', 8, (r) => r.enableAt(0xdead_0000, 0)],
  ['context unreadable', 9, (r) => r.set(r.rootEntry(), 0x9999_0000n | 1n)],
  ['translation type reserved', 3, (r) => r.set(r.contextEntry(), r.get(r.contextEntry()) | 0xcn)],
  ['width not supported', 3, (r) => r.set(r.contextEntry() + 8, 4n | (7n << 8n))],
  [
    'second-stage root unreadable',
    3,
    (r) => r.set(r.contextEntry(), 0x9999_0000n | (r.get(r.contextEntry()) & 2n) | 1n),
  ],
];

test.each(LEGACY)('legacy: %s is reason %i, silent under FPD if qualified', (_, reason, spoil) => {
  const rig = legacyRig();
  spoil(rig);
  expect(rig.dma(IOVA)).toBe(-reason);
  const quiet = legacyRig();
  quiet.set(quiet.contextEntry(), quiet.get(quiet.contextEntry()) | 2n);
  spoil(quiet);
  expect(quiet.dma(IOVA)).toBe(isQualified(reason) ? -1000 : -reason);
});

const SCALABLE: readonly Case[] = [
  ['root unreadable', 0x38, (r) => r.enableAt(0xdead_0000, 1)],
  ['context unreadable', 0x40, (r) => r.set(r.rootEntry(), 0x9999_0000n | 1n)],
  ['directory unreadable', 0x50, (r) => r.set(r.smContextEntry(), 0x9999_0000n | (r.get(r.smContextEntry()) & 0xfffn))],
  ['PASID table unreadable', 0x58, (r) => r.set(r.directoryEntry(), 0x9999_0000n | 1n)],
  ['PGTT 0', 0x5b, (r) => r.set(r.pasidEntry(), r.get(r.pasidEntry()) & ~0x1c0n)],
  ['PGTT 5', 0x5b, (r) => r.set(r.pasidEntry(), (r.get(r.pasidEntry()) & ~0x1c0n) | (5n << 6n))],
  ['AW 5', 0x5b, (r) => r.set(r.pasidEntry(), (r.get(r.pasidEntry()) & ~0x1cn) | (5n << 2n))],
  ['FSPM 2', 0x5b, (r) => r.pasid(0, (1n << 6n) | (r.get(r.pasidEntry()) & 2n) | 1n, 7n, 0x11_0000n | (2n << 2n))],
  ['second-stage root unreadable', 0x7b, (r) => r.set(r.pasidEntry(), 0x9999_0000n | (r.get(r.pasidEntry()) & 0xfffn))],
  ['leaf absent', 0x79, (r) => r.map(Number(r.get(r.pasidEntry()) & ~0xfffn), IOVA, 0n, 0n)],
];

test.each(SCALABLE)('scalable: %s is reason %i, silent under FPD if qualified', (_, reason, spoil) => {
  const rig = scalableRig();
  spoil(rig);
  expect(rig.dma(IOVA)).toBe(-reason);
  const quiet = scalableRig();
  quiet.set(quiet.pasidEntry(), quiet.get(quiet.pasidEntry()) | 2n);
  spoil(quiet);
  // The PASID entry's own FPD counts only once it was read.
  expect(quiet.dma(IOVA)).toBe(isQualified(reason) ? -1000 : -reason);
  const above = scalableRig();
  above.set(above.smContextEntry(), above.get(above.smContextEntry()) | 2n);
  spoil(above);
  expect(above.dma(IOVA)).toBe(isQualified(reason) ? -1000 : -reason);
});

test('FPD counts in an entry that is not present: context, directory, PASID entry', () => {
  for (const at of [(r: Rig) => r.smContextEntry(), (r: Rig) => r.directoryEntry(), (r: Rig) => r.pasidEntry()]) {
    const rig = scalableRig();
    rig.set(at(rig), 2n);
    expect(rig.dma(IOVA)).toBe(-1000);
    rig.set(at(rig), 0n);
    expect(rig.dma(IOVA)).toBeLessThan(-0x40);
  }
  const legacy = legacyRig();
  legacy.set(legacy.contextEntry(), 2n);
  expect(legacy.dma(IOVA)).toBe(-1000);
});

test('P=0 hides reserved bits and wrong types; reserved bits come before wrong types', () => {
  const rig = scalableRig();
  rig.set(rig.pasidEntry(), (5n << 6n) | 0x800n);
  expect(rig.dma(IOVA)).toBe(-0x59);
  rig.set(rig.pasidEntry(), (5n << 6n) | 0x801n);
  expect(rig.dma(IOVA)).toBe(-0x5a);
  rig.set(rig.pasidEntry(), (5n << 6n) | 1n);
  expect(rig.dma(IOVA)).toBe(-0x5b);
});

test('requests with PASID: 31 in legacy mode, 45, 46, 48 and 89 in scalable mode', () => {
  expect(legacyRig().dma(IOVA, 1, 0x10, 5)).toBe(-0x31);
  expect(scalableRig(ECAP_ALL, 0x4n).dma(IOVA, 1, 0x10, 5)).toBe(-0x45);
  const rig = scalableRig(ECAP_ALL, 0x1cn);
  expect(rig.dma(IOVA, 1, 0x10, 2 ** 13)).toBe(-0x46);
  expect(rig.dma(IOVA, 1, 0x10, 0)).toBe(-0x48);
  const narrow = scalableRig((ECAP_ALL & ~(31n << 35n)) | (7n << 35n), 0x1cn);
  expect(narrow.dma(IOVA, 1, 0x10, 256)).toBe(-0x89);
});

test('RID_PASID counts only with RPS', () => {
  for (const rps of [0n, 1n << 49n]) {
    const rig = scalableRig(ECAP_ALL | rps, 0x1cn);
    rig.set(rig.smContextEntry() + 8, 9n);
    const table = rig.page();
    rig.map(table, IOVA, 0x30_0000n, 3n);
    rig.second(9, 8, table);
    expect(rig.dma(IOVA)).toBe(rps === 0n ? 0x20_0000 : 0x30_0000);
    rig.set(rig.smContextEntry() + 8, BigInt(2 ** 13));
    rig.inv([0x11n, 0n]);
    expect(rig.dma(IOVA)).toBe(rps === 0n ? 0x20_0000 : -0x43);
  }
});

test('table modes are latched by SRTP and judged per request: 30 unsupported, 33 abort', () => {
  const adms = scalableRig(ECAP_ALL | (1n << 52n));
  adms.enable(3);
  expect(adms.dma(IOVA)).toBe(-0x33);
  const rig = scalableRig();
  rig.enable(3);
  expect(rig.dma(IOVA)).toBe(-0x30);
  rig.enable(2);
  expect(rig.dma(IOVA)).toBe(-0x30);
  // RTADDR alone changes nothing.
  rig.enable(1);
  rig.hw.writeRegister(0x20, 0n);
  expect(rig.dma(IOVA)).toBe(0x20_0000);
});

test('a privileged request needs SRE in the first stage', () => {
  for (const sre of [0n, 1n]) {
    const rig = new Rig();
    const table = rig.page();
    rig.map(table, IOVA, 0x20_0000n, 7n);
    rig.scalable().first(5, 7, table, sre).enable(1);
    expect(rig.dma(IOVA, 1, 0x10, 5)).toBe(0x20_0000);
    expect(rig.dma(IOVA, 1 | 8, 0x10, 5)).toBe(sre === 1n ? 0x20_0000 : -0x5d);
  }
});

test('RID_PRIV makes requests without PASID privileged', () => {
  for (const ridPriv of [0n, 1n << 20n]) {
    const rig = new Rig({ ecap: ECAP_ALL | (1n << 53n) });
    const table = rig.page();
    rig.map(table, IOVA, 0x20_0000n, 3n);
    rig.scalable().first(0, 7, table, 1n);
    rig.set(rig.smContextEntry() + 8, ridPriv);
    rig.enable(1);
    expect(rig.dma(IOVA)).toBe(ridPriv === 0n ? -0x81 : 0x20_0000);
  }
});

test('pass-through is identity up to the address width', () => {
  const rig = scalableRig();
  rig.pasid(0, (4n << 6n) | 1n, 7n);
  expect(rig.dma(0x1234_5678n)).toBe(0x1234_5678);
  expect(rig.dma(1n << 48n)).toBe(-0x83);
  const legacy = legacyRig();
  legacy.set(legacy.contextEntry(), 9n);
  expect(legacy.dma(0x1234_5678n)).toBe(0x1234_5678);
  expect(legacy.dma(1n << 48n)).toBe(-4);
});

test('the interrupt window: a write is a message, a read is refused, a PASID makes it an ordinary address', () => {
  const rig = scalableRig(ECAP_ALL, 0x1cn);
  expect(rig.dma(0xfee0_1000n, 2)).toBe(-2004);
  expect(rig.dma(0xfee0_1000n, 1)).toBe(-0x29);
  rig.second(5, 7, Number(rig.get(rig.pasidEntry()) & ~0xfffn));
  expect(rig.dma(0xfee0_1000n, 2, 0x10, 5)).toBe(-0x79);
  rig.pasid(6, (4n << 6n) | 1n, 7n);
  expect(rig.dma(0xfee0_1000n, 2, 0x10, 6)).toBe(-0x87);
});

test('the record says who, where, how and why', () => {
  const rig = scalableRig(ECAP_ALL, 0x1cn);
  expect(rig.dma(0x1234_5678_9abcn, 2, 0x10, 0x45)).toBe(-0x59);
  expect([...rig.heard.faults[0]!].map((w) => (w >>> 0).toString(16))).toEqual([
    '56789000',
    '1234',
    '80000010',
    '80004559',
  ]);
  rig.dma(0x9000n, 1, 0x10, NO_PASID);
  expect([...rig.heard.faults[1]!].map((w) => (w >>> 0).toString(16))).toEqual(['9000', '0', '10', 'c0000079']);
});

test('a reading of CAP and ECAP gives what the unit was made with', () => {
  const rig = new Rig();
  expect([rig.hw.readRegister(8), rig.hw.readRegister(0x10)]).toEqual([CAP_ALL, ECAP_ALL]);
});
