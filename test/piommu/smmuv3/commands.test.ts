import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { COMMANDS, type CommandNeeds, OP, type OpName, RESERVED_FIELD } from '../../../src/spec/smmuv3/commands.ts';
import { FULL_IDRS, QEMU_IDRS, Rig, words } from './rig.ts';

const SSEC = 1n << 10n;

/** idr0 with single features switched. */
const idrs = (clear: number, set = 0) => ({ ...FULL_IDRS, idr0: (FULL_IDRS.idr0 & ~clear) | set });
const S2P = 1 << 0;
const S1P = 1 << 1;
const HYP = 1 << 9;
const ATS = 1 << 10;
const PRI = 1 << 16;
const NO_STALL = 1 << 24;

/** What makes a command legal, by the row of the table; never: this SMMU has none of it. */
const NEEDS: Readonly<Record<CommandNeeds, number | 'never'>> = {
  nothing: 0,
  S1P,
  S2P,
  HYP,
  ATS,
  PRI,
  STALL_MODEL: 0,
  EL3: 'never',
  MPAM: 'never',
};

const runs = (rig: Rig, w0: bigint, w1 = 0n) => rig.submit([w0, w1]) === HW_ERROR.NONE;

describe('which commands are illegal', () => {
  test('every opcode, by the features it needs', () => {
    const names = new Map(Object.entries(OP).map(([name, op]) => [op as number, name as OpName]));
    for (const [clear, set] of [
      [0, HYP],
      [S1P, HYP],
      [S2P, HYP],
      [ATS, HYP],
      [PRI, HYP],
      [0, 0],
      [0, HYP | NO_STALL],
    ] as const) {
      const rig = new Rig(idrs(clear, set));
      for (let op = 0; op < 256; op++) {
        const name = names.get(op);
        const have = (FULL_IDRS.idr0 & ~clear) | set;
        const needs = name === undefined ? 'EL3' : COMMANDS[name].needs;
        const need = NEEDS[needs];
        const stalls = needs !== 'STALL_MODEL' || (set & NO_STALL) === 0;
        const legal = need !== 'never' && (need & ~have) === 0 && stalls;
        expect(runs(rig, BigInt(op)), `opcode ${op.toString(16)} clear ${clear} set ${set}`).toBe(legal);
      }
    }
  });

  test('SSec on commands that have it', () => {
    const rig = new Rig(idrs(0, HYP));
    for (const [name, op] of Object.entries(OP)) {
      const { needs, reserved } = COMMANDS[name as OpName];
      if (NEEDS[needs] === 'never') continue;
      const illegal = (reserved & RESERVED_FIELD.SSEC) !== 0;
      expect(runs(rig, BigInt(op) | SSEC), name).toBe(!illegal);
    }
  });

  test('SYNC with CS = 3, PRI_RESP with Resp = 3, a range without NUM, SCALE and TTL', () => {
    const rig = new Rig(FULL_IDRS);
    for (let cs = 0n; cs < 4n; cs++) expect(runs(rig, BigInt(OP.SYNC) | (cs << 12n))).toBe(cs !== 3n);
    for (let resp = 0n; resp < 4n; resp++) expect(runs(rig, BigInt(OP.PRI_RESP), resp << 12n)).toBe(resp !== 3n);
    for (const op of [OP.TLBI_NH_VA, OP.TLBI_NH_VAA, OP.TLBI_S2_IPA]) {
      for (let tg = 0n; tg < 4n; tg++) {
        expect(runs(rig, BigInt(op), tg << 10n)).toBe(tg === 0n);
        expect(runs(rig, BigInt(op) | (1n << 12n), tg << 10n)).toBe(true);
        expect(runs(rig, BigInt(op) | (1n << 20n), tg << 10n)).toBe(true);
        expect(runs(rig, BigInt(op), (tg << 10n) | (1n << 8n))).toBe(true);
      }
    }
    const noRil = new Rig({ ...FULL_IDRS, idr3: FULL_IDRS.idr3 & ~(1 << 10) });
    expect(runs(noRil, BigInt(OP.TLBI_NH_VA), 1n << 10n)).toBe(true);
  });
});

test('a batch stops at the illegal command and says which; what was before it has been done', () => {
  const rig = new Rig();
  rig.ste(8, 9n);
  expect(rig.dma(8, 0x4050_0000n)).toBe(0);
  rig.ste(8, 0n);
  const error = rig.submit([0x46n, 0n], [0x8_0000_0003n, 1n], [0xffn, 0n], [0x46n, 0n]);
  expect([error, rig.hw.done]).toEqual([HW_ERROR.ILLEGAL, 2]);
  expect(rig.dma(8, 0x4050_0000n)).toBe(1);
});

test('a batch may start anywhere in the words it is given', () => {
  const rig = new Rig();
  const w = words(0xffn, 0n, 0x46n, 0n, 0x30n, 0n, 0xffn, 0n);
  rig.hw.submit(w, 4, 2);
  expect([rig.hw.done, rig.hw.error, rig.hw.pending]).toEqual([2, HW_ERROR.NONE, 0]);
});

test('whatever words a host submits, the queue answers', () => {
  for (const options of [QEMU_IDRS, FULL_IDRS]) {
    const rig = new Rig({ ...options, caches: { iotlb: 16, walks: 4, streams: 4, contexts: 4 } });
    const word = fc.oneof(fc.integer(), fc.constantFrom(...Object.values(OP)), fc.constant(0));
    fc.assert(
      fc.property(fc.array(fc.tuple(word, word, word, word), { maxLength: 20 }), (list) => {
        rig.hw.submit(Int32Array.from(list.flat()), 0, list.length);
        expect(rig.hw.done).toBeLessThanOrEqual(list.length);
        expect(rig.hw.error === HW_ERROR.NONE).toBe(rig.hw.done === list.length);
      }),
    );
  }
});
