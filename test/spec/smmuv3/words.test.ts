import fc from 'fast-check';
import { expect, test } from 'vitest';
import { COMMAND_NAMES, decodeCommand, OP } from '../../../src/spec/smmuv3/commands.ts';
import { decodeEvent, EVENT, encodeEvent } from '../../../src/spec/smmuv3/events.ts';
import * as ste from '../../../src/spec/smmuv3/ste.ts';

test('the golden nested stream table entry reads as its author wrote it', () => {
  const words = Int32Array.of(0x4040000f, 0, 0, 0, 7, 0x040c0059, 0x40600000, 0, ...Array(8).fill(0));
  expect(ste.steValid(words, 0)).toBe(true);
  expect(ste.steConfig(words, 0)).toBe(ste.CONFIG.NESTED);
  expect(ste.steS1Enabled(words, 0) && ste.steS2Enabled(words, 0)).toBe(true);
  expect(ste.steS1ContextPtr(words, 0)).toBe(0x40400000);
  expect(ste.steS2Vmid(words, 0)).toBe(7);
  expect(ste.steS2T0sz(words, 0)).toBe(25);
  expect(ste.steS2Sl0(words, 0)).toBe(1);
  expect(ste.steS2Ps(words, 0)).toBe(4);
  expect(ste.steS2Aa64(words, 0)).toBe(1);
  expect(ste.steS2R(words, 0)).toBe(1);
  expect(ste.steS2Ttb(words, 0)).toBe(0x40600000);
});

test('the four configurations that do not abort enable exactly the stages they name', () => {
  for (let config = 0; config < 8; config++) {
    const words = Int32Array.of(1 | (config << 1), 0, 0, 0);
    expect(ste.steS1Enabled(words, 0)).toBe(config === ste.CONFIG.S1 || config === ste.CONFIG.NESTED);
    expect(ste.steS2Enabled(words, 0)).toBe(config === ste.CONFIG.S2 || config === ste.CONFIG.NESTED);
  }
});

test('a guest that writes any sixteen bytes is shown one command, named as QEMU names it', () => {
  fc.assert(
    fc.property(fc.int32Array({ minLength: 4, maxLength: 4 }), (words) => {
      const c = decodeCommand(words);
      const name = COMMAND_NAMES[words[0]! & 0xff];
      expect(name).toBe(c.op === 'reserved' ? 'INVALID' : `SMMU_CMD_${c.op}`);
    }),
  );
  expect(COMMAND_NAMES[OP.CFGI_STE_RANGE]).toBe('SMMU_CMD_CFGI_STE_RANGE');
  expect(decodeCommand(Int32Array.of(0x00200812, 0x00110007, 0x401, 0x80))).toEqual({
    op: 'TLBI_NH_VA',
    vmid: 7,
    asid: 0x11,
    address: 0x80_0000_0000n,
    leaf: true,
    tg: 1,
    ttl: 0,
    num: 0,
    scale: 2,
  });
});

test('the recorded stage-2 event has its class, stage and address where QEMU put them', () => {
  const e = Int32Array.of(0x10, 8, 0, 0x280, 0x12345000, 0, 0x12345000, 0);
  expect(decodeEvent(e)).toMatchObject({ type: 'F_TRANSLATION', sid: 8, stage2: true, class: 'IN', read: false });
  const again = new Int32Array(8);
  encodeEvent(again, 0, EVENT.F_TRANSLATION, 8, -1, 0x280, 0x12345000, 0, 0x12345000, 0);
  expect([...again]).toEqual([...e]);
});
