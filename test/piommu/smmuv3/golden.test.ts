import { describe, expect, test } from 'vitest';
import { DMA } from '../../../src/ports/dma.ts';
import { CD0, cfgiSte, Rig, STE_S2, STRTAB, stage1Tables, tlbi } from './rig.ts';

const SID = 8;
const NOWHERE = 0x800_0000_0000n;

/** The bench of QEMU's recordings: stream 8, CD at 0x40400000, leaf 5 of the level-3 table, target page 0x40500000. */
function bench(): Rig {
  const rig = new Rig();
  rig.store(0x4040_0000, CD0, 0x4041_0000n);
  return rig;
}

function tables(rig: Rig, leaf: bigint): void {
  rig.store(0x4041_0000, 0x4042_0003n);
  rig.store(0x4042_0000, 0x4043_0003n);
  rig.store(0x4043_0000 + 5 * 8, leaf);
}

interface Case {
  readonly name: string;
  readonly ste: readonly bigint[];
  readonly prepare?: (rig: Rig) => void;
  readonly iova: bigint;
  /** The record's four words, or null: none. */
  readonly record: readonly bigint[] | null;
  /** What QEMU 11.1.3 records instead, and why it differs. */
  readonly qemu?: string;
}

const S1 = 0x4040_000bn;
const NESTED = 0x4040_000fn;
const ste = (word0: bigint) => [word0, 0n, ...STE_S2];
const block = (rig: Rig) => rig.store(0x4060_0008, 0x4000_04c1n);

const CASES: readonly Case[] = [
  { name: 'a stream without an entry', ste: [0n], iova: 0x1000n, record: [0x8_0000_0004n, 0n, 0n, 0n] },
  {
    name: 'a StreamID beyond the table',
    ste: [0n],
    prepare: (rig) => rig.streamTable({ base: STRTAB, log2size: 3, twoLevel: false }),
    iova: 0x1000n,
    record: [0x8_0000_0002n, 0n, 0n, 0n],
  },
  { name: 'a stream that aborts', ste: [1n], iova: 0x1000n, record: null },
  {
    name: 'a stream table in a hole',
    ste: [0n],
    prepare: (rig) => rig.streamTable({ base: Number(NOWHERE), log2size: 4, twoLevel: false }),
    iova: 0x1000n,
    record: [0x8_0000_0003n, 0n, 0n, 0x800_0000_0200n],
  },
  {
    name: 'a CD in a hole',
    ste: [NOWHERE | 0xbn],
    iova: 0x1000n,
    record: [0x8_0000_0009n, 0n, 0n, NOWHERE],
    qemu: 'puts the fetch address into word 2',
  },
  {
    name: 'a CD that is not valid',
    ste: [S1],
    prepare: (rig) => rig.store(0x4040_0000, 0x0011_6204_4000_0019n),
    iova: 0x1000n,
    record: [0x8_0000_000an, 0n, 0n, 0n],
  },
  {
    name: 'a TTB0 beyond IPS',
    ste: [S1],
    prepare: (rig) => rig.store(0x4040_0008, 0x4000_0000_0000n),
    iova: 0x1000n,
    record: [0x8_0000_000an, 0n, 0n, 0n],
  },
  {
    name: 'a stage-1 table in a hole',
    ste: [S1],
    prepare: (rig) => rig.store(0x4040_0008, NOWHERE),
    iova: 0x1000n,
    record: [0x8_0000_000bn, 0x1100_0000_0000n, 0x1000n, NOWHERE],
    qemu: 'leaves TTRnW (bit 44) clear',
  },
  {
    name: 'an empty table',
    ste: [S1],
    iova: 0x1234_5678n,
    record: [0x8_0000_0010n, 0x200_0000_0000n, 0x1234_5678n, 0n],
  },
  {
    name: 'an address above T0SZ',
    ste: [S1],
    iova: 0x100_0000_1000n,
    record: [0x8_0000_0010n, 0x200_0000_0000n, 0x100_0000_1000n, 0n],
  },
  {
    name: 'an empty table with CD.R = 0',
    ste: [S1],
    prepare: (rig) => rig.store(0x4040_0000, 0x0011_4204_c000_0019n),
    iova: 0x1234_5678n,
    record: null,
  },
  {
    name: 'a read-only page',
    ste: [S1],
    prepare: (rig) => tables(rig, 0x4050_04c3n),
    iova: 0x5000n,
    record: [0x8_0000_0013n, 0x200_0000_0000n, 0x5000n, 0n],
  },
  {
    name: 'a page never accessed',
    ste: [S1],
    prepare: (rig) => tables(rig, 0x4050_0043n),
    iova: 0x5000n,
    record: [0x8_0000_0012n, 0x200_0000_0000n, 0x5000n, 0n],
  },
  {
    name: 'a page beyond IPS',
    ste: [S1],
    prepare: (rig) => tables(rig, 0x2000_0000_0443n),
    iova: 0x5000n,
    record: [0x8_0000_0011n, 0x200_0000_0000n, 0x5000n, 0n],
  },
  {
    name: 'stage 2 alone, an empty table',
    ste: ste(0xdn),
    iova: 0x1234_5000n,
    record: [0x8_0000_0010n, 0x280_0000_0000n, 0x1234_5000n, 0x1234_5000n],
  },
  {
    name: 'stage 2 alone with S2R = 0',
    ste: [0xdn, 0n, 0x000c_0059_0000_0007n, STE_S2[1]],
    iova: 0x1234_5000n,
    record: null,
  },
  {
    name: 'stage 2 alone, a write to a read-only block',
    ste: ste(0xdn),
    prepare: (rig) => rig.store(0x4060_0008, 0x4000_0441n),
    iova: 0x4050_0000n,
    record: [0x8_0000_0013n, 0x280_0000_0000n, 0x4050_0000n, 0x4050_0000n],
  },
  {
    name: 'stage 2 alone, an address above S2T0SZ',
    ste: ste(0xdn),
    prepare: block,
    iova: 0x80_0000_0000n,
    record: [0x8_0000_0010n, 0x280_0000_0000n, 0x80_0000_0000n, 0x80_0000_0000n],
  },
  {
    name: 'stage 2 alone, an address beyond the SMMU',
    ste: ste(0xdn),
    prepare: block,
    iova: 0x1000_0000_0000n,
    record: [0x8_0000_0011n, 0x200_0000_0000n, 0x1000_0000_0000n, 0n],
    qemu: 'records nothing: it asks the R bit of a CD that is not there',
  },
  {
    name: 'nested, a page stage 2 does not map',
    ste: ste(NESTED),
    prepare: (rig) => {
      block(rig);
      tables(rig, 0x1_4050_0443n);
    },
    iova: 0x5000n,
    record: [0x8_0000_0010n, 0x280_0000_0000n, 0x5000n, 0x1_4050_0000n],
  },
  {
    name: 'nested, a stage-1 table stage 2 does not map',
    ste: ste(NESTED),
    prepare: (rig) => {
      block(rig);
      rig.store(0x4041_0000, 0x1_4000_0003n);
    },
    iova: 0x5000n,
    record: [0x8_0000_0010n, 0x1180_0000_0000n, 0x5000n, 0x1_4000_0000n],
    qemu: 'loses the S2 bit and TTRnW',
  },
  {
    name: 'nested, a TTB0 stage 2 does not map',
    ste: ste(NESTED),
    prepare: (rig) => {
      block(rig);
      rig.store(0x4040_0008, 0x1_4000_0000n);
    },
    iova: 0x5000n,
    record: [0x8_0000_0010n, 0x1180_0000_0000n, 0x5000n, 0x1_4000_0000n],
    qemu: 'sets RnW although the transaction writes, not TTRnW',
  },
  {
    name: 'nested, a CD stage 2 does not map',
    ste: ste(0x1_4000_000fn),
    prepare: block,
    iova: 0x5000n,
    record: [0x8_0000_0010n, 0x80_0000_0000n, 0x5000n, 0x1_4000_0000n],
    qemu: 'sets RnW although the transaction writes',
  },
];

describe('faults of a write are recorded as in the recordings of QEMU, except where QEMU departs from the architecture', () => {
  test.each(CASES)('$name', ({ ste, prepare, iova, record }) => {
    const rig = bench();
    rig.ste(SID, ...ste);
    prepare?.(rig);
    expect(rig.dma(SID, iova)).toBe(DMA.ABORT);
    expect(rig.takeFaults()).toEqual(record === null ? [] : [record]);
    // Nothing bad was kept: the same again.
    expect(rig.dma(SID, iova)).toBe(DMA.ABORT);
    expect(rig.takeFaults()).toEqual(record === null ? [] : [record]);
  });
});

test('bypass, stage 1, stage 2 and both give the addresses of the recordings', () => {
  const rig = bench();
  tables(rig, 0x4050_0443n);
  block(rig);
  for (const [entry, iova, guestShift, shift, tag] of [
    [[9n], 0x4050_0000n, 0, 12, -1],
    [[S1], 0x5000n, 12, 12, 0x11],
    [ste(0xdn), 0x4050_0000n, 0, 30, -1],
    [ste(NESTED), 0x5000n, 12, 12, 0x11],
  ] as const) {
    rig.ste(SID, ...entry);
    rig.submit(cfgiSte(SID));
    for (let again = 0; again < 2; again++) {
      expect(rig.dma(SID, iova + 0x123n)).toBe(DMA.OK);
      expect(rig.hw.out).toBe(0x4050_0123);
      expect([rig.hw.guestShift, rig.hw.outShift, rig.hw.tag]).toEqual([guestShift, shift, tag]);
    }
  }
});

describe('two-level stream tables', () => {
  test.each([
    [3, 0x8_0000_0002n],
    [4, 0x8_0000_0002n],
    [5, null],
    [7, null],
    [8, 0x8_0000_0002n],
    [0, 0x8_0000_0002n],
  ] as const)('Span %i covers 2^(Span-1) entries; beyond, C_BAD_STREAMID', (span, word0) => {
    const rig = bench();
    rig.streamTable({ base: STRTAB, log2size: 8, twoLevel: true, split: 6 });
    rig.store(STRTAB, 0x4011_0000n | BigInt(span));
    rig.store(0x4011_0200, 9n);
    expect(rig.dma(SID, 0x4050_0000n)).toBe(word0 === null ? DMA.OK : DMA.ABORT);
    expect(rig.takeFaults()).toEqual(word0 === null ? [] : [[word0, 0n, 0n, 0n]]);
  });

  test.each([
    [{ base: STRTAB + 0x200, log2size: 4, twoLevel: false }, true],
    [{ base: STRTAB + 0x400, log2size: 4, twoLevel: false }, false],
    [{ base: STRTAB + 0x200, log2size: 14, twoLevel: true, split: 6 }, true],
    [{ base: STRTAB + 0x400, log2size: 14, twoLevel: true, split: 6 }, true],
    [{ base: STRTAB + 0x800, log2size: 14, twoLevel: true, split: 6 }, false],
  ])('base bits below the size of the table do not count: %o', (table, works) => {
    const rig = bench();
    rig.streamTable(table);
    if (table.twoLevel) {
      rig.store(STRTAB, 0x4011_0007n);
      rig.store(0x4011_0200, 9n);
    } else rig.ste(SID, 9n);
    expect(rig.dma(SID, 0x4050_0000n)).toBe(works ? DMA.OK : DMA.ABORT);
  });
});

describe('what is cached after the leaf was cleared', () => {
  const VA = 0x5000n;
  test.each([
    ['NH_VA of the ASID', tlbi(0x12, 0, 0x11, VA), true],
    ['NH_VA of another ASID', tlbi(0x12, 0, 0x12, VA), false],
    ['NH_VA of another VMID', tlbi(0x12, 5, 0x11, VA), false],
    ['NH_VA of another page', tlbi(0x12, 0, 0x11, 0x6000n), false],
    ['NH_VAA', tlbi(0x13, 0, 0, VA), true],
    ['a range of four pages', tlbi(0x12, 0, 0x11, 0x4400n, 3n << 12n), true],
    ['a range that ends before', tlbi(0x12, 0, 0x11, 0x1400n, 3n << 12n), false],
    ['NH_ASID', tlbi(0x11, 0, 0x11), true],
    ['NH_ASID of another', tlbi(0x11, 0, 0x12), false],
    ['NH_ALL', tlbi(0x10, 0, 0), true],
    ['NH_ALL of another VMID', tlbi(0x10, 1, 0), false],
    ['S12_VMALL', tlbi(0x28, 0, 0), true],
    ['NSNH_ALL', tlbi(0x30, 0, 0), true],
    ['S2_IPA', tlbi(0x2a, 0, 0, 0x4050_0000n), false],
    ['CFGI_CD', [0x8_0000_0005n, 1n], false],
    ['CFGI_STE', cfgiSte(SID), false],
    ['SYNC', [0x46n, 0n], false],
  ] as const)('%s', (_name, command, gone) => {
    const rig = bench();
    rig.ste(SID, S1);
    const writer = stage1Tables(rig);
    writer.map(VA, 0x4050_0000, 3, 0xc40n);
    expect(rig.dma(SID, VA)).toBe(DMA.OK);
    writer.write(writer.slot(VA, 3), 0n);
    expect(rig.dma(SID, VA)).toBe(DMA.OK);
    expect(rig.submit(command)).toBe(0);
    expect(rig.dma(SID, VA)).toBe(gone ? DMA.ABORT : DMA.OK);
  });

  test('a changed STE or CD is seen after the command that names it, not before', () => {
    const rig = bench();
    rig.ste(SID, 9n);
    expect(rig.dma(SID, 0x4050_0000n)).toBe(DMA.OK);
    rig.ste(SID, 0n);
    expect(rig.dma(SID, 0x4050_0000n)).toBe(DMA.OK);
    rig.submit(cfgiSte(7));
    expect(rig.dma(SID, 0x4050_0000n)).toBe(DMA.OK);
    rig.submit(cfgiSte(SID));
    expect(rig.dma(SID, 0x4050_0000n)).toBe(DMA.ABORT);
    // V = 0 was not kept.
    rig.ste(SID, 9n);
    expect(rig.dma(SID, 0x4050_0000n)).toBe(DMA.OK);
  });
});
