import { describe, expect, test } from 'vitest';
import type { ProfileName } from '../../../src/lib/profile/profile.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { Rig } from './rig.ts';

const QIE = 0x0400_0000;
const QUEUE = 0x100_0000;
const STATUS = 0x1f_0000;
const IQE = 0x10;

/** A guest that puts `count` descriptors into its queue, and switches the queue off directly behind the doorbell. */
function off(profile: ProfileName, count: number, last = 0x25n | (0x55n << 32n)) {
  const rig = new Rig({ props: { profile } });
  const { g } = rig;
  rig.vm.defer = () => {};
  g.registers.write(PAGE.IQA.at, 8, QUEUE | 5, 0);
  g.w32(PAGE.GCMD.at, QIE);
  for (let i = 0; i < count - 1; i++) g.store(QUEUE + 16 * i, 0x4n, 0n);
  g.store(QUEUE + 16 * (count - 1), last, (last & 0xfn) === 5n ? BigInt(STATUS) : 0n);
  g.w32(PAGE.IQT.at, 16 * count);
  g.w32(PAGE.GCMD.at, 0);
  const looks = () => {
    for (let i = 0; i < 100 && (g.r32(PAGE.GSTS.at) & QIE) !== 0; i++);
    return (g.r32(PAGE.GSTS.at) & QIE) !== 0;
  };
  return { g, looks };
}

describe('QIE off directly behind the doorbell', () => {
  test.each([2, 100, 1500, 5000])('of %i descriptors comes into force when all are executed, as in QEMU', (count) => {
    const { g, looks } = off('qemu-11.1', count);
    expect(looks()).toBe(false);
    expect([g.load(STATUS), g.r32(PAGE.IQH.at)]).toEqual([0x55n, 0]);
    // And on again.
    g.w32(PAGE.IQT.at, 0);
    g.store(QUEUE, 0x25n | (0x66n << 32n), BigInt(STATUS));
    g.w32(PAGE.GCMD.at, QIE);
    g.w32(PAGE.IQT.at, 16);
    expect([g.r32(PAGE.GSTS.at) & QIE, g.load(STATUS)]).toEqual([QIE, 0x66n]);
  });

  test.each([100, 1500])('of %i descriptors, the last of them no wait, is nothing to QEMU', (count) => {
    const { g, looks } = off('qemu-11.1', count, 0x4n);
    expect(looks()).toBe(true);
    expect(g.r32(PAGE.IQH.at)).toBe(16 * count);
  });

  test('of many descriptors is nothing to QEMU once one of them is an error', () => {
    const { g, looks } = off('qemu-11.1', 1500, 0xfn);
    expect(looks()).toBe(true);
    expect(g.r32(PAGE.FSTS.at) & IQE).toBe(IQE);
    // Cleared, the queue is as on as before.
    g.w32(PAGE.FSTS.at, IQE);
    expect(looks()).toBe(true);
  });

  test('is taken back by QIE on before it came into force', () => {
    const { g, looks } = off('qemu-11.1', 1500);
    g.w32(PAGE.GCMD.at, QIE);
    expect(looks()).toBe(true);
    expect(g.load(STATUS)).toBe(0x55n);
  });

  test('executes nothing that the guest appends behind it', () => {
    const { g, looks } = off('qemu-11.1', 1500);
    g.store(QUEUE + 16 * 1500, 0x25n | (0x77n << 32n), BigInt(STATUS));
    g.w32(PAGE.IQT.at, 16 * 1501);
    expect(looks()).toBe(false);
    expect(g.load(STATUS)).toBe(0x55n);
  });
});
