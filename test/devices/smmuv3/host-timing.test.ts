import { describe, expect, test } from 'vitest';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { cfgiAll, cfgiSte, Guest, nhAll, S1_STE, sync } from './guest.ts';

const s1 = (vmid = 0) => [S1_STE, 0, vmid, 0] as const;

describe('hot-plug', () => {
  test('the last device leaves nothing behind', () => {
    const g = new Guest();
    const before = new Set(g.host.kinds.keys());
    const undo = [8, 16].map((sid) => g.smmu.addDevice({ sids: [sid], vfio: g.host.device() }));
    g.ste(8, ...s1());
    g.ste(16, ...s1(7));
    g.setUp(5);
    g.run(cfgiAll, sync);
    for (const u of undo) u();
    const left = [...g.host.kinds].filter(([id, kind]) => !before.has(id) && kind !== 'device');
    expect(left).toEqual([]);
    expect(g.run(nhAll(0), cfgiAll, sync)).toBe(5);
  });

  test('a StreamID can be had once', () => {
    const g = new Guest();
    g.plug(8);
    expect(() => g.plug(8)).toThrow(/StreamID is taken \(sid=0x8\)/);
  });

  test('a device plugged into a running SMMU is configured on its first use', () => {
    const g = new Guest();
    g.ste(8, ...s1());
    g.setUp();
    const dev = g.plug(8);
    expect(g.host.attachedTo(dev)).toBe(0);
    expect(g.host.handlers.get(dev)!.onStreamMiss!(dev, 0, -1)).toBe(true);
  });
});

describe('CMD_SYNC and devices that take their time', () => {
  const ats = () => {
    const g = new Guest({ profile: 'arch', properties: { ats: true } });
    const dev = g.plug(8);
    g.ste(8, ...s1());
    g.setUp();
    g.run(cfgiSte(8), sync);
    return { g, handlers: g.host.handlers.get(dev)!, dev };
  };
  const atcInv = [0x8_0000_0040n, 52] as const;

  test('it waits for the completions before it, and goes on when they are in', () => {
    const { g, handlers } = ats();
    g.host.outstanding = 1;
    expect(g.run(atcInv, [0x1046, 0], sync)).toBe(3);
    expect(g.interrupts).toEqual([]);
    g.host.outstanding = 0;
    handlers.onDrained!();
    expect([g.r(PAGE0.CMDQ_CONS.at), g.interrupts]).toEqual([5, ['cmd_sync']]);
  });

  test('a timeout is CERROR_ATC_INV_SYNC at the SYNC, which signals nothing and completes after the acknowledgement', () => {
    const { g, handlers, dev } = ats();
    g.host.outstanding = 1;
    g.run(atcInv, [0x1046, 0]);
    g.host.outstanding = 0;
    handlers.onInvalidateError!(dev, 3, 0);
    handlers.onDrained!();
    expect([g.r(PAGE0.CMDQ_CONS.at), g.r(PAGE0.GERROR.at), g.interrupts]).toEqual([0x0300_0003, 1, []]);
    g.w(PAGE0.GERRORN.at, 1);
    expect([g.r(PAGE0.CMDQ_CONS.at), g.interrupts]).toEqual([4, ['cmd_sync']]);
  });

  test('a queue saved while it waits completes in the machine it was loaded into', () => {
    const { g } = ats();
    g.host.outstanding = 1;
    g.run(atcInv, [0x1046, 0]);
    const saved = JSON.parse(JSON.stringify(g.smmu.save()));
    const again = new Guest({ profile: 'arch', properties: { ats: true } });
    const dev = again.plug(8);
    again.host.outstanding = 1;
    for (let at = 0x4030_0000; at < 0x4030_0100; at += 8) again.put(at, g.get(at));
    again.smmu.load(saved);
    expect(again.smmu.streams[0]!.state).toBe('s1');
    expect(again.r(PAGE0.CMDQ_CONS.at)).toBe(3);
    again.host.outstanding = 0;
    again.host.handlers.get(dev)!.onDrained!();
    expect(again.r(PAGE0.CMDQ_CONS.at)).toBe(4);
    expect(again.smmu.save().registers).toEqual(
      (() => {
        g.host.outstanding = 0;
        [...g.host.handlers.values()][0]!.onDrained!();
        return g.smmu.save().registers;
      })(),
    );
  });
});
