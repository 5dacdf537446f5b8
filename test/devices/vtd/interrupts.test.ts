import { describe, expect, test } from 'vitest';
import { IRTE_RESERVED } from '../../../src/spec/vtd/interrupt.ts';
import { Guest } from './guest.ts';

const TABLE = 0x32_0000;
const INDEX0 = 0xfee0_0010;

/** Sixteen entries, remapping on. */
function remapping(options = 'intremap=on', profile: 'qemu-11.1' | 'arch' = 'qemu-11.1', irta = 3n): Guest {
  const g = new Guest(options, profile);
  g.w64(0xb8, BigInt(TABLE) | irta);
  g.w32(0x18, 0x0100_0000);
  g.w32(0x18, 0x0200_0000);
  return g;
}

/** [delivered, address, data] or the fault record. */
function send(g: Guest, rid = 0, address = INDEX0, data = 0x1234_5678): unknown {
  const port = g.vtd.interrupts;
  return port.remap(rid, address, data) ? [port.outAddress, port.outData] : g.fault();
}
const blocked = (reason: bigint, index = 0n, rid = 0n): unknown => [
  2,
  index << 48n,
  0x8000_0000_0000_0000n | (reason << 32n) | rid,
];

describe('a qemu-11.1 guest with 16 entries sees what QEMU 11.1.3 does', () => {
  test.each([
    ['present', 0x41_0101n, 0n, 0, [0xfee0_0000, 0x4041]],
    ['not present', 0n, 0n, 0, blocked(0x22n)],
    ['not present with FPD', 2n, 0n, 0, [0, 0n, 0n]],
    ['a reserved bit', 0x41_0101n, 1n << 63n, 0, blocked(0x24n)],
    ['source matches', 0x41_0101n, 0x4_0010n, 0x10, [0xfee0_0000, 0x4041]],
    ['source differs', 0x41_0101n, 0x4_0010n, 0, blocked(0x26n)],
    ['source with SQ=3 ignores the function', 0x41_0101n, 0x7_0017n, 0x12, [0xfee0_0000, 0x4041]],
    ['source with SQ=1 ignores function bit 2', 0x41_0101n, 0x5_0010n, 0x14, [0xfee0_0000, 0x4041]],
    ['source with SQ=1 compares bits 1:0', 0x41_0101n, 0x5_0010n, 0x11, blocked(0x26n, 0n, 0x11n)],
    ['SVT=3', 0x41_0101n, 0xc_0010n, 0x10, blocked(0x26n, 0n, 0x10n)],
    ['bus in range (QEMU: SID[7:0] is the first)', 0x41_0101n, 0x8_0301n, 0x2ff, [0xfee0_0000, 0x4041]],
    ['bus below the range', 0x41_0101n, 0x8_0301n, 0xff, blocked(0x26n, 0n, 0xffn)],
    ['bus above the range', 0x41_0101n, 0x8_0301n, 0x400, blocked(0x26n, 0n, 0x400n)],
    ['IM=1 is taken as remapped', 0x41_8101n, 0n, 0, [0xfee0_0000, 0x4041]],
    ['destination, mode, hint, trigger and delivery', 0x1200_0041_003dn, 0n, 0, [0xfee1_200c, 0xc141]],
  ])('%s', (_what, lo, hi, rid, want) => {
    const g = remapping();
    g.store(TABLE, lo, hi);
    expect(send(g, rid)).toEqual(want);
  });

  test('index beyond the table, subhandle added, table unreadable, compatibility format', () => {
    expect(send(remapping(), 0, 0xfee0_0290)).toEqual(blocked(0x21n, 20n));
    expect(send(remapping(), 0, 0xfee0_0018)).toEqual(blocked(0x21n, 0x5678n));
    expect(send(remapping('', 'qemu-11.1', 0xf0_0000_0003n))).toEqual(blocked(0x23n));
    expect(send(remapping(), 0, 0xfee0_1000, 0x31)).toEqual([0xfee0_1000, 0x31]);
  });

  test('with remapping off everything passes unchanged', () => {
    const g = new Guest();
    expect(send(g, 5, INDEX0, 7)).toEqual([INDEX0, 7]);
  });

  test('handle bit 15 comes from address bit 2, the subhandle from data', () => {
    const g = remapping('', 'qemu-11.1', 0xfn);
    g.store(TABLE + 16 * 0x8003, 0x55_0001n, 0n);
    expect(send(g, 0, 0xfee0_0014 | (3 << 5), 0)).toEqual([0xfee0_0000, 0x4055]);
    expect(send(g, 0, 0xfee0_001c | (1 << 5), 2)).toEqual([0xfee0_0000, 0x4055]);
  });
});

describe('arch', () => {
  test('row 46: compatibility format is blocked unless CFIS=1 and EIME=0, FPD or not', () => {
    const g = remapping('intremap=on,eim=on', 'arch');
    expect(send(g, 0x10, 0xfee0_1000, 0x31)).toEqual([2, 0n, 0x8000_0025_0000_0010n]);
    g.w32(0x18, 0x0280_0000);
    expect(send(g, 0x10, 0xfee0_1000, 0x31)).toEqual([0xfee0_1000, 0x31]);
    g.w64(0xb8, BigInt(TABLE) | 0x803n);
    g.w32(0x18, 0x0380_0000);
    expect(g.vtd.interrupts.remap(0x10, 0xfee0_1000, 0x31)).toBe(false);
  });

  test('row 50: IM without posted interrupts is reserved, 0x24, and FPD suppresses it', () => {
    const g = remapping('', 'arch');
    g.store(TABLE, 0x41_8101n, 0n);
    expect(send(g)).toEqual(blocked(0x24n));
    const quiet = remapping('', 'arch');
    quiet.store(TABLE, 0x41_8103n, 0n);
    expect(send(quiet)).toEqual([0, 0n, 0n]);
  });

  test('a bus range starts with SID[15:8]', () => {
    const g = remapping('', 'arch');
    g.store(TABLE, 0x41_0101n, 0x8_0103n);
    const seen = [0x0ff, 0x100, 0x3ff, 0x400].map((rid) => g.vtd.interrupts.remap(rid, INDEX0, 0));
    expect(seen).toEqual([false, true, true, false]);
  });

  test('SHV wants data[31:16] zero, else 0x20', () => {
    const g = remapping('', 'arch');
    expect(send(g, 0, 0xfee0_0018)).toEqual(blocked(0x20n));
  });

  test('extended mode: 32 bits of destination, the upper ones in the address', () => {
    const g = remapping('intremap=on,eim=on', 'arch', 0x803n);
    g.store(TABLE, (0x1234n << 32n) | 0x41_0001n, 0n);
    expect(send(g)).toEqual([0x1200_fee3_4000, 0x4041]);
    expect(g.vtd.interrupts.outDestination).toBe(0x1234);
  });

  test('entries are cached until the interrupt entry cache is invalidated, index-selectively or globally', () => {
    const g = remapping('', 'arch');
    g.store(TABLE, 0x41_0001n, 0n);
    g.store(TABLE + 16, 0x51_0001n, 0n);
    const vectors = (): number[] => [send(g), send(g, 0, INDEX0 + 32)].map((r) => (r as number[])[1]! & 0xff);
    expect(vectors()).toEqual([0x41, 0x51]);
    g.store(TABLE, 0x42_0001n, 0n);
    g.store(TABLE + 16, 0x52_0001n, 0n);
    expect(vectors()).toEqual([0x41, 0x51]);
    g.queueOn();
    g.submit(0x1_0000_0014n, 0n);
    expect(vectors()).toEqual([0x41, 0x52]);
    g.submit(0x4n, 0n);
    expect(vectors()).toEqual([0x42, 0x52]);
    g.store(TABLE, 0x43_0001n, 0n);
    g.store(TABLE + 16, 0x53_0001n, 0n);
    g.submit(0x1_0800_0014n, 0n);
    expect(vectors()).toEqual([0x43, 0x53]);
  });
});

test('qemu-11.1 reads the table for every interrupt', () => {
  const g = remapping();
  g.store(TABLE, 0x41_0001n, 0n);
  send(g);
  g.store(TABLE, 0x42_0001n, 0n);
  expect(send(g)).toEqual([0xfee0_0000, 0x4042]);
});

test.each([
  ['remapped, 8-bit destinations', IRTE_RESERVED.XAPIC, 3n, 1n],
  ['remapped, 32-bit destinations', IRTE_RESERVED.REMAPPED, 0x803n, 1n],
] as const)('arch: every reserved bit of an entry is 0x24 (%s)', (_what, mask, irta, base) => {
  for (let bit = 0; bit < 128; bit++) {
    if ((mask[(bit >> 5) as 0 | 1 | 2 | 3] & (1 << (bit & 31))) === 0) continue;
    const g = remapping('intremap=on,eim=on', 'arch', irta);
    const entry = [base, 0n];
    entry[bit >> 6]! |= 1n << BigInt(bit & 63);
    g.store(TABLE, ...entry);
    expect([bit, send(g)]).toEqual([bit, blocked(0x24n)]);
  }
});
