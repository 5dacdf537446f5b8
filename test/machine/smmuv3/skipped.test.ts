import { describe, expect, test } from 'vitest';
import { FaultyHw } from '../../../src/lib/inject/faulty-hw.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { cmdOp, OP } from '../../../src/spec/smmuv3/commands.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { CMDQ, cfgiSte, nhVa, sync, type Words } from '../../devices/smmuv3/guest.ts';
import { Rig, type RigOptions, space } from './rig.ts';

const PAGE = 0x4040_5000;
const PREFETCH: Words = [1n, 0n];
const ILLEGAL: Words = [0xfen, 0n];
const atcInv: Words = [0x40n | (8n << 32n), 0x5000n];
const SLOTS = 8;

/** A guest whose function reaches 0x5000 and 0x6000, and hardware that refuses what it is told to. */
function guest(o: RigOptions, eats = 0n) {
  let hardware!: FaultyHw;
  const wrapHw: RigOptions['wrapHw'] = (hw) => {
    hardware = new FaultyHw(hw);
    return hardware;
  };
  const rig = new Rig({ ...o, wrapHw });
  const { g } = rig;
  const { tables, ste } = space(g, 0, 0x11);
  for (const va of [0x5000, 0x6000]) tables.map(va, PAGE);
  rig.plug(8, 0, { ats: eats !== 0n, control: { setAts() {}, setPri() {} } });
  g.ste(8, ste, eats);
  g.setUp(5, 3, 3);
  g.run(cfgiSte(8), sync);
  const cons = () => g.r(PAGE0.CMDQ_CONS.at);
  const refuse = (op: number) => {
    let on = true;
    const match = (words: Int32Array, at: number) => on && cmdOp(words[at]!) === op;
    hardware.inject({ match, error: HW_ERROR.ILLEGAL, times: Number.POSITIVE_INFINITY });
    return () => {
      on = false;
    };
  };
  /** Puts a command where the queue stopped, as Linux puts a CMD_SYNC, and goes on. */
  const goOn = (instead?: Words) => {
    if (instead !== undefined) g.put(CMDQ + 16 * (cons() & (SLOTS - 1)), BigInt(instead[0]), BigInt(instead[1] ?? 0));
    g.w(PAGE0.GERRORN.at, g.r(PAGE0.GERROR.at));
  };
  const stopped = () => ((g.r(PAGE0.GERROR.at) ^ g.r(PAGE0.GERRORN.at)) & 1) !== 0;
  return { rig, g, tables, refuse, goOn, cons, stopped };
}

describe.each(['qemu-11.1', 'arch'] as const)('a guest that goes on behind a refused command, %s', (profile) => {
  const o: RigOptions = { properties: { profile } };

  test('an illegal command behind it hides nothing', () => {
    const { rig, g, tables, refuse, goOn, stopped } = guest(o);
    expect(rig.dma(8, 0x5000)).toBe(PAGE);
    tables.unmap(0x5000);
    const mend = refuse(OP.TLBI_NH_VA);
    g.run(nhVa(0, 0x11, 0x5000), ILLEGAL, sync);
    mend();
    for (let i = 0; i < 2; i++) {
      expect(stopped()).toBe(true);
      goOn(sync);
    }
    expect([stopped(), rig.dma(8, 0x5000)]).toEqual([false, 'ABORT']);
  });

  test('another one that is refused after it and done again does not take its place', () => {
    const { rig, g, tables, refuse, goOn, stopped } = guest(o);
    expect([rig.dma(8, 0x5000), rig.dma(8, 0x6000)]).toEqual([PAGE, PAGE]);
    for (const va of [0x5000, 0x6000]) tables.unmap(va);
    const mend = refuse(OP.TLBI_NH_VA);
    g.run(nhVa(0, 0x11, 0x5000));
    goOn(PREFETCH);
    g.run(nhVa(0, 0x11, 0x6000));
    expect(stopped()).toBe(true);
    mend();
    goOn();
    g.run(sync);
    expect([stopped(), rig.dma(8, 0x5000), rig.dma(8, 0x6000)]).toEqual([false, 'ABORT', 'ABORT']);
  });
});

test('the CMD_SYNC in the place of a refused ATC_INV waits for what is sent instead', () => {
  const { rig, g, tables, refuse, goOn, cons } = guest({ properties: { profile: 'arch', ats: true } }, 1n << 28n);
  const { hardware, endpoints } = rig.units[0]!;
  const asked: [number, number][] = [];
  endpoints.to = {
    invalidate(rid: number, _pasid: number, itag: number) {
      asked.push([rid, itag]);
      return true;
    },
    pageResponse() {},
    resumed() {},
  };
  expect(hardware.translationRequest(hostRid(8), NO_PASID, 0x5000, 0, ACCESS.READ)).toBe(0);
  tables.unmap(0x5000);
  const mend = refuse(OP.ATC_INV);
  g.run(nhVa(0, 0x11, 0x5000), atcInv, sync);
  mend();
  const at = cons() & (SLOTS - 1);
  goOn(sync);
  expect([asked.length, cons() & (SLOTS - 1)]).toEqual([1, at]);
  for (const [rid, itag] of asked) hardware.invalidateCompletion(rid, 1 << itag, 1);
  expect(cons() & (SLOTS - 1)).toBe((at + 2) % SLOTS);
});
