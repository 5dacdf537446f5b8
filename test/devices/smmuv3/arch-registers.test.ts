import { describe, expect, test } from 'vitest';
import { SMMUV3_DEVIATIONS, type Smmuv3DeviationName, smmuv3Deviations } from '../../../devices/smmuv3/profile.ts';
import { GERROR, PAGE0, PAGE1, PAGE1_BASE } from '../../../src/spec/smmuv3/registers.ts';
import { CMDQ, EVENTQ, Guest, NOWHERE, R, RAM, sync } from './guest.ts';

const arch = (properties = {}) => new Guest({ profile: 'arch', properties });
const FULL = { ats: true, pri: true, stall: true, ssidsize: 4 };

describe('under arch a guest sees what the architecture says', () => {
  test('every reserved bit of every register reads 0 after all ones were written, every other one is kept', () => {
    for (const properties of [{}, FULL, { msi: false }]) {
      const g = arch(properties);
      const pri = 'pri' in properties;
      const msi = !('msi' in properties);
      const narrowed: Record<string, bigint> = {
        CR0: pri ? 0x1fn : 0xdn,
        CR2: pri ? 0xan : 2n,
        IRQ_CTRL: pri ? 7n : 5n,
        GERRORN: 0x105n | (pri ? 8n : 0n) | (msi ? 0xb0n : 0n) | (pri && msi ? 0x40n : 0n),
        GBPA: 0x1f3f1fn,
      };
      for (const [name, spec] of [...Object.entries(PAGE0), ...Object.entries(PAGE1)]) {
        const rw = 'rw' in spec ? spec.rw : 0n;
        const noPri = name.startsWith('PRIQ') && !pri;
        const noMsi = name.includes('_IRQ_CFG') && !msi;
        const mask = noPri || noMsi ? 0n : (narrowed[name] ?? rw);
        const at = spec.at + (name in PAGE1 ? PAGE1_BASE : 0);
        for (let bit = 0; bit < spec.size * 8; bit++) {
          g.smmu.reset();
          const word = at + 4 * (bit >>> 5);
          const before = g.r(word);
          const value = (1 << (bit & 31)) >>> 0;
          g.w(word, name === 'GBPA' ? value | 0x8000_0000 : value);
          const kept = ((mask >> BigInt(bit)) & 1n) === 1n;
          const seen = (g.r(word) >>> (bit & 31)) & 1;
          const want = rw === 0n ? (before >>> (bit & 31)) & 1 : Number(kept);
          expect(seen, `${name} bit ${bit}`).toBe(want);
        }
      }
    }
  });

  test('CR0ACK and IRQ_CTRL_ACK show implemented bits only', () => {
    const g = arch();
    g.w(PAGE0.CR0.at, 0xffff_ffff);
    g.w(PAGE0.IRQ_CTRL.at, 0xffff_ffff);
    expect([g.r(PAGE0.CR0ACK.at), g.r(PAGE0.IRQ_CTRLACK.at)]).toEqual([0xd, 5]);
  });

  test('page 1 shows the queue indices and nothing else, page 0 shows everything but them', () => {
    const g = arch();
    g.w(R.EVENTQ_CONS, 3);
    expect([g.r(R.EVENTQ_CONS), g.r(PAGE1.EVENTQ_CONS.at)]).toEqual([3, 0]);
    expect([g.r(PAGE1_BASE), g.r(0)]).toEqual([0, g.r(0)]);
    expect(g.r(0)).not.toBe(0);
  });

  test('an 8-byte access and its two halves mean the same on every pair of registers', () => {
    for (let at = 0; at < 0x100; at += 8) {
      const [one, two] = [arch(), arch()];
      const value = 0x0123_4567_89ab_cde0n;
      one.w64(at, value);
      two.w(at, Number(value & 0xffff_ffffn));
      two.w(at + 4, Number(value >> 32n));
      expect(one.r64(at), `0x${at.toString(16)}`).toBe((BigInt(two.r(at + 4)) << 32n) | BigInt(two.r(at)));
    }
  });

  test('guarded registers ignore writes while their enable bit is set, and take them again afterwards', () => {
    const guards: [number, number, number][] = [
      [PAGE0.CMDQ_BASE.at, PAGE0.CR0.at, 8],
      [PAGE0.CMDQ_BASE.at + 4, PAGE0.CR0.at, 8],
      [PAGE0.CMDQ_CONS.at, PAGE0.CR0.at, 8],
      [PAGE0.EVENTQ_BASE.at, PAGE0.CR0.at, 4],
      [R.EVENTQ_PROD, PAGE0.CR0.at, 4],
      [PAGE0.STRTAB_BASE.at, PAGE0.CR0.at, 1],
      [PAGE0.STRTAB_BASE_CFG.at, PAGE0.CR0.at, 1],
      [PAGE0.CR2.at, PAGE0.CR0.at, 1],
      [PAGE0.PRIQ_BASE.at, PAGE0.CR0.at, 2],
      [R.PRIQ_PROD, PAGE0.CR0.at, 2],
      [PAGE0.GERROR_IRQ_CFG0.at, PAGE0.IRQ_CTRL.at, 1],
      [PAGE0.EVENTQ_IRQ_CFG1.at, PAGE0.IRQ_CTRL.at, 4],
      [PAGE0.PRIQ_IRQ_CFG1.at, PAGE0.IRQ_CTRL.at, 2],
    ];
    for (const [at, control, bit] of guards) {
      const g = arch(FULL);
      g.w(control, bit);
      const before = g.r(at);
      g.w(at, ~before >>> 0);
      expect(g.r(at), `0x${at.toString(16)} while enabled`).toBe(before);
      g.w(control, 0);
      g.w(at, ~before >>> 0);
      expect(g.r(at), `0x${at.toString(16)} while disabled`).not.toBe(before);
    }
  });

  test('EVENTQ_CONS and PRIQ_CONS are always writable', () => {
    const g = arch(FULL);
    g.w(PAGE0.CR0.at, 0xf);
    g.w(R.EVENTQ_CONS, 0x8000_0001);
    g.w(R.PRIQ_CONS, 0x8000_0002);
    expect([g.r(R.EVENTQ_CONS), g.r(R.PRIQ_CONS)]).toEqual([0x8000_0001, 0x8000_0002]);
  });

  test('the error field goes with the acknowledgement, and disabling the queue does not clear the error', () => {
    const g = arch();
    g.setUp();
    expect(g.run([0, 0], sync)).toBe(0x0100_0000);
    g.w(PAGE0.CR0.at, 5);
    g.w(PAGE0.CR0.at, 0xd);
    expect(g.r(PAGE0.CMDQ_CONS.at)).toBe(0x0100_0000);
    g.put(CMDQ, 0x46, 0);
    g.w(PAGE0.GERRORN.at, 1);
    expect(g.r(PAGE0.CMDQ_CONS.at)).toBe(2);
  });

  test('while the error is active PROD may move back to CONS', () => {
    const g = arch();
    g.setUp();
    g.run([0, 0], sync);
    g.w(PAGE0.CMDQ_PROD.at, 0);
    g.w(PAGE0.GERRORN.at, 1);
    expect([g.r(PAGE0.CMDQ_CONS.at), g.r(PAGE0.GERROR.at)]).toEqual([0, 1]);
  });

  test('overflow toggles OVFLG once, loses the record, raises no error, and later records need no acknowledgement', () => {
    const g = arch();
    const dev = g.plug(8);
    g.setUp(4, 0);
    g.w(PAGE0.IRQ_CTRL.at, 5);
    const fault = () => g.fault(dev, [4, 8, 0, 0, 0, 0, 0, 0]);
    fault();
    fault();
    fault();
    expect([g.r(R.EVENTQ_PROD), g.r(PAGE0.GERROR.at)]).toEqual([0x8000_0001, 0]);
    g.w(R.EVENTQ_CONS, 1);
    fault();
    expect(g.r(R.EVENTQ_PROD)).toBe(0x8000_0000);
    g.w(R.EVENTQ_CONS, 0x8000_0000);
    fault();
    fault();
    expect(g.r(R.EVENTQ_PROD)).toBe(1);
  });

  test('a write abort of the event queue stops it until acknowledged; PROD stays and no interrupt comes', () => {
    const g = arch();
    const dev = g.plug(8);
    g.setUp();
    g.w(PAGE0.CR0.at, 9);
    g.w64(PAGE0.EVENTQ_BASE.at, BigInt(NOWHERE));
    g.w(PAGE0.CR0.at, 0xd);
    g.w(PAGE0.IRQ_CTRL.at, 5);
    g.interrupts.length = 0;
    g.fault(dev, [4, 8, 0, 0, 0, 0, 0, 0]);
    expect([g.r(PAGE0.GERROR.at), g.r(R.EVENTQ_PROD), g.interrupts]).toEqual([4, 0, ['gerror']]);
    g.w(PAGE0.CR0.at, 9);
    g.w64(PAGE0.EVENTQ_BASE.at, BigInt(EVENTQ + 3));
    g.w(PAGE0.CR0.at, 0xd);
    g.fault(dev, [4, 8, 0, 0, 0, 0, 0, 0]);
    expect(g.r(R.EVENTQ_PROD)).toBe(0);
    g.w(PAGE0.GERRORN.at, 4);
    g.fault(dev, [4, 8, 0, 0, 0, 0, 0, 0]);
    expect(g.r(R.EVENTQ_PROD)).toBe(1);
  });

  test('the event interrupt comes when the queue was empty; under QEMU with every record', () => {
    for (const [profile, want] of [
      ['arch', 1],
      ['qemu-11.1', 3],
    ] as const) {
      const g = new Guest({ profile });
      const dev = g.plug(8);
      g.setUp();
      g.w(PAGE0.IRQ_CTRL.at, 4);
      for (let i = 0; i < 3; i++) g.fault(dev, [4, 8, 0, 0, 0, 0, 0, 0]);
      expect(g.interrupts.filter((i) => i === 'evtq').length).toBe(want);
    }
  });

  test('with an address in IRQ_CFG0 an interrupt is a message; one nobody takes is the matching global error', () => {
    const g = arch();
    const dev = g.plug(8);
    g.setUp();
    g.w64(PAGE0.EVENTQ_IRQ_CFG0.at, 0x0809_0040n);
    g.w(PAGE0.EVENTQ_IRQ_CFG1.at, 0x77);
    g.w64(PAGE0.GERROR_IRQ_CFG0.at, 0x0809_0048n);
    g.w(PAGE0.GERROR_IRQ_CFG1.at, 0x78);
    g.w(PAGE0.IRQ_CTRL.at, 5);
    g.fault(dev, [4, 8, 0, 0, 0, 0, 0, 0]);
    expect(g.messages).toEqual([{ address: 0x8090040, data: 0x77 }]);
    g.w(R.EVENTQ_CONS, 1);
    g.doorbell = false;
    g.fault(dev, [4, 8, 0, 0, 0, 0, 0, 0]);
    const errors = GERROR.MSI_EVENTQ_ABT_ERR | GERROR.MSI_GERROR_ABT_ERR;
    expect(g.r(PAGE0.GERROR.at)).toBe(errors);
    expect(g.messages.length).toBe(3);
    // The wires pulse regardless of the messages.
    expect(g.interrupts).toEqual(['evtq', 'gerror', 'evtq']);
  });

  test('a message to RAM is a write like any other', () => {
    const g = arch();
    const dev = g.plug(8);
    g.setUp();
    g.w64(PAGE0.EVENTQ_IRQ_CFG0.at, BigInt(RAM + 0x8000));
    g.w(PAGE0.EVENTQ_IRQ_CFG1.at, 0x77);
    g.w(PAGE0.IRQ_CTRL.at, 5);
    g.put(RAM + 0x8000, 0xdddd_dddd_dddd_ddddn);
    g.fault(dev, [4, 8, 0, 0, 0, 0, 0, 0]);
    g.run([0x55_0000_1046n, BigInt(RAM + 0x8004)]);
    expect(g.get(RAM + 0x8000)).toBe(0x55_0000_0077n);
    expect([g.messages, g.interrupts, g.r(PAGE0.GERROR.at)]).toEqual([[], ['evtq', 'cmd_sync'], 0]);
  });

  test('CMD_SYNC with CS=1 pulses its wire, and sends a message unless the address is 0; CS=2 signals nothing', () => {
    const g = arch();
    g.setUp();
    g.run([0x55_0000_1046n, 0x0809_0040], [0x1046, 0], [0x2046, 0]);
    expect([g.messages, g.interrupts]).toEqual([[{ address: 0x8090040, data: 0x55 }], ['cmd_sync', 'cmd_sync']]);
    g.doorbell = false;
    g.run([0x55_0000_1046n, 0x0809_0040]);
    expect(g.r(PAGE0.GERROR.at)).toBe(GERROR.MSI_CMDQ_ABT_ERR);
  });

  test('a reset brings every register to its power-on value', () => {
    const g = arch();
    const fresh = arch();
    g.setUp();
    g.w(PAGE0.CR1.at, 0xfff);
    g.smmu.reset();
    for (let at = 0; at < 0x1000; at += 4) expect(g.r(at), `0x${at.toString(16)}`).toBe(fresh.r(at));
  });
});

test('the two profiles differ in named rows only, each with the rule, its section and QEMU’s way; one can be turned alone', () => {
  for (const [name, text] of Object.entries(SMMUV3_DEVIATIONS)) {
    const row = name as Smmuv3DeviationName;
    expect(text, name).toMatch(/^.*§\S?\d.*\. QEMU\b.+\.$/);
    expect([row, smmuv3Deviations('arch')[row], smmuv3Deviations('qemu-11.1')[row]]).toEqual([row, false, true]);
    expect(smmuv3Deviations('arch', { [row]: true })[row]).toBe(true);
  }
});
