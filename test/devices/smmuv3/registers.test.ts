import { describe, expect, test } from 'vitest';
import { PAGE0, PAGE1_BASE } from '../../../src/spec/smmuv3/registers.ts';
import { CMDQ, Guest, NOWHERE, R } from './guest.ts';

describe('under qemu-11.1 a guest sees what QEMU 11.1.3 answered', () => {
  test('identity and reset values', () => {
    const g = new Guest();
    const want: [number, number][] = [
      [0x00, 0x0d44101b],
      [0x04, 0x02730010],
      [0x08, 0],
      [0x0c, 0x1414],
      [0x10, 0],
      [0x14, 0x74],
      [0x18, 0],
      [0x1c, 1],
      [0x44, 0x1000],
      [0x90, 0x13],
      [0xa0, 0x13],
      [0x8004, 0],
      [0xc0, 0],
      [0x190, 0],
      [PAGE1_BASE, 0x0d44101b],
      [PAGE1_BASE + 0xa8, 0],
    ];
    for (const [at, value] of want) expect(g.r(at), `0x${at.toString(16)}`).toBe(value);
    const ids = [0x04, 0, 0, 0, 0x84, 0xb4, 0xf0, 0x10, 0x0d, 0xf0, 0x05, 0xb1];
    expect(ids.map((_, i) => g.r(0xfd0 + 4 * i))).toEqual(ids);
    expect(new Guest({ properties: { stage: '2' } }).r(0)).toBe(0x0d441019);
    const s1 = new Guest({ properties: { stage: '1' } });
    expect([s1.r(0), s1.r(0xc)]).toEqual([0x0d44101a, 0x1404]);
  });

  test('raw registers keep every bit, acknowledgements show 0x5df of CR0 and all of IRQ_CTRL', () => {
    const g = new Guest();
    for (const at of [0x28, 0x2c, 0x50, 0x54, 0x88, 0x70, 0x74, 0x98, 0x9c, 0xa8, 0xac]) {
      if (at !== 0x54) g.w(at, 0xffff_ffff);
      expect(g.r(at), `0x${at.toString(16)}`).toBe(0xffff_ffff);
    }
    g.w(0x24, 0xffff_ffff);
    expect(g.r(0x24)).toBe(0);
    g.w(0x20, 0xffff_ffff);
    expect([g.r(0x20), g.r(0x24)]).toEqual([0xffff_ffff, 0x5df]);
    for (const at of [0x80, 0x90, 0xa0, 0x68]) {
      g.w64(at, 0xffff_ffff_ffff_ffffn);
      expect(g.r64(at)).toBe(0xffff_ffff_ffff_ffffn);
      g.w(at, 0x12345678);
      g.w(at + 4, 0x9abcdef0);
      expect(g.r64(at)).toBe(0x9abcdef0_12345678n);
    }
    g.w64(0xb0, 0x1000n);
    g.w(0xb8, 0x100);
    expect([g.r64(0xb0), BigInt(g.r(0xb8))]).toEqual([0n, 0n]);
  });

  test('8-byte accesses reach the wide registers only, narrow and unaligned ones reach nothing', () => {
    const g = new Guest();
    g.w(0x98, 5);
    expect([g.r64(0), g.r64(0x98), g.r64(0x20)]).toEqual([0n, 0n, 0n]);
    g.w64(0x20, 0xdn);
    expect(g.r(0x20)).toBe(0);
    for (const [at, size] of [
      [0, 1],
      [0, 2],
      [2, 4],
    ] as const) {
      expect(g.smmu.read(at, size)).toBe(0);
    }
    g.smmu.write(0x28, 2, 0xffff, 0);
    expect(g.r(0x28)).toBe(0);
  });

  test('GBPA changes with UPDATE only, and at once', () => {
    const g = new Guest();
    for (const [written, seen] of [
      [0x0010_0000, 0x1000],
      [0x8010_0000, 0x0010_0000],
      [0x0000_0000, 0x0010_0000],
      [0xffff_ffff, 0x7fff_ffff],
      [0x8000_0000, 0],
    ] as const) {
      g.w(0x44, written);
      expect(g.r(0x44)).toBe(seen);
    }
  });

  test('the command queue freezes at an illegal command and goes on at the same index, exactly as recorded', () => {
    const g = new Guest();
    g.put(0x4010_0000, 0xff, 0, 0x46, 0, 0x46, 0, 0x46, 0);
    g.w64(PAGE0.CMDQ_BASE.at, 0x40100002n);
    g.w(0x20, 8);
    const steps: ['w' | 'r', number, number][] = [
      ['r', 0x24, 8],
      ['w', 0x98, 2],
      ['r', 0x9c, 0x0100_0000],
      ['r', 0x60, 1],
      ['w', 0x98, 3],
      ['r', 0x9c, 0x0100_0000],
    ];
    const more: ['w' | 'r', number, number][] = [
      ['r', 0x9c, 0x0100_0000],
      ['w', 0x64, 1],
      ['r', 0x9c, 0x0100_0003],
      ['r', 0x60, 1],
      ['w', 0x98, 4],
      ['r', 0x9c, 0x0100_0004],
      ['w', 0x98, 0xffff_ff04],
      ['r', 0x98, 0xffff_ff04],
      ['r', 0x9c, 0x0100_0004],
      ['w', 0x64, 0x8000_0003],
      ['r', 0x64, 0x8000_0003],
      ['r', 0x60, 1],
    ];
    const play = (list: typeof steps) => {
      for (const [kind, at, value] of list) {
        if (kind === 'w') g.w(at, value);
        else expect(g.r(at), `0x${at.toString(16)}`).toBe(value);
      }
    };
    play(steps);
    g.put(0x4010_0000, 0x46, 0);
    play(more);
  });

  test('a command queue in a hole is CERROR_ABT', () => {
    const g = new Guest();
    g.w64(PAGE0.CMDQ_BASE.at, BigInt(NOWHERE) + 2n);
    g.w(0x20, 8);
    g.w(0x98, 1);
    expect([g.r(0x9c), g.r(0x60)]).toEqual([0x0200_0000, 1]);
  });

  test('every opcode alone: the ones QEMU knows are consumed, the others are CERROR_ILL', () => {
    const known = new Set([1, 2, 3, 4, 5, 6, 0x10, 0x11, 0x12, 0x13, 0x18, 0x1a, 0x20, 0x21, 0x22, 0x23, 0x28, 0x2a]);
    for (const op of [0x30, 0x40, 0x41, 0x44, 0x45, 0x46]) known.add(op);
    const g = new Guest();
    for (let op = 0; op < 256; op++) {
      g.smmu.reset();
      g.put(CMDQ, op, 0);
      g.w64(PAGE0.CMDQ_BASE.at, BigInt(CMDQ + 2));
      g.w(0x20, 8);
      g.w(0x98, 1);
      const seen = [g.r(0x9c), g.r(0x60)];
      expect(seen, `op ${op.toString(16)}`).toEqual(known.has(op) ? [1, 0] : [0x0100_0000, 1]);
    }
  });

  test('a full event queue is GERROR.EVENTQ_ABT_ERR, without an overflow flag', () => {
    const g = new Guest();
    const dev = g.plug(8);
    g.setUp(4, 0);
    for (let i = 0; i < 3; i++) g.fault(dev, [4, 0x400008, 0, 0, 0, 0, 0, 0]);
    expect([g.r(R.EVENTQ_PROD), g.r(0x60)]).toEqual([1, 4]);
  });

  test('a reset keeps what QEMU keeps', () => {
    const g = new Guest();
    g.setUp();
    g.w(0x28, 0x123);
    g.smmu.reset();
    expect([g.r(0x28), g.r(0x80), g.r(0x88), g.r(0x20), g.r(0x90)]).toEqual([0x123, 0x4010_0000, 4, 0, 0x4030_0013]);
  });
});
