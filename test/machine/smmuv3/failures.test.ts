import { describe, expect, test } from 'vitest';
import { type CommandFault, FaultyHw } from '../../../src/lib/inject/faulty-hw.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { cmdOp, OP } from '../../../src/spec/smmuv3/commands.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { cfgiCd, cfgiSte, nhVa, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, type RigOptions, space } from './rig.ts';

const PAGE = 0x4040_5000;
const EVENTQ_PROD = 0x100a8;
const RD = 0xff_ffff;
const atcInv = (sid: number) => [(BigInt(sid) << 32n) | 0x40n, 52n] as const;
const irqSync = [0x1046, 0] as const;

/** A guest whose stream 8 translates, over hardware that fails as it is told. */
function running(o: RigOptions = {}) {
  let made: FaultyHw | null = null;
  const rig: Rig = new Rig({
    ...o,
    wrapHw: (hw) => {
      made = new FaultyHw(hw, {
        get clock() {
          return rig.vm.clock;
        },
        get events() {
          return rig.units[0]!.driver.events;
        },
      });
      return made;
    },
  });
  const { g } = rig;
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, PAGE);
  rig.plug(8, 0, { ats: true });
  g.ste(8, ste, 1n << 28n);
  g.setUp(5, 3, 8);
  g.run(cfgiSte(8), sync);
  const hw = made! as FaultyHw;
  const inject = (op: number, error: number, more: Partial<CommandFault> = {}) =>
    hw.inject({ match: (w, at) => cmdOp(w[at]!) === op, error, ...more });
  const cons = () => g.r(PAGE0.CMDQ_CONS.at);
  return { rig, g, tables, ste, hw, inject, cons, at: g.prod };
}

describe('a command queue of the host that cannot be read', () => {
  test('for a moment is the host’s business', () => {
    const { rig, g, tables, inject, at } = running();
    expect(rig.dma(8, 0x5000)).toBe(PAGE);
    tables.unmap(0x5000);
    inject(OP.TLBI_NH_VA, HW_ERROR.ABORT, { times: 2 });
    expect(g.run(nhVa(0, 0x11, 0x5000), sync)).toBe(at + 2);
    expect(rig.dma(8, 0x5000)).toBe('ABORT');
  });

  test('for good stops the guest at the command that did not get through, and goes on from there once it is mended', () => {
    const { rig, g, tables, inject, at, cons } = running();
    expect(rig.dma(8, 0x5000)).toBe(PAGE);
    tables.unmap(0x5000);
    const mend = inject(OP.TLBI_NH_VA, HW_ERROR.ABORT, { times: 1000 });
    const stopped = g.run(cfgiCd(8), nhVa(0, 0x11, 0x5000), sync);
    expect(stopped >>> 24).not.toBe(0);
    expect(stopped & RD).toBeLessThanOrEqual(at + 1);
    expect(g.r(PAGE0.GERROR.at) & 1).toBe(1);
    mend();
    g.w(PAGE0.GERRORN.at, 1);
    expect(cons() & RD).toBe(at + 3);
    expect(rig.dma(8, 0x5000)).toBe('ABORT');
  });
});

describe('an ATS invalidation that is never answered', () => {
  const ARCH: RigOptions = { properties: { profile: 'arch', ats: true } };

  test('is CERROR_ATC_INV_SYNC at the SYNC, with no completion; acknowledged, the SYNC completes', () => {
    const { rig, g, inject, at, cons } = running(ARCH);
    inject(OP.ATC_INV, HW_ERROR.ATC_TIMEOUT);
    expect(g.run(cfgiCd(8), atcInv(8), cfgiCd(8), irqSync)).toBe(0x0300_0000 + at + 3);
    expect(rig.interrupts).toEqual([]);
    g.w(PAGE0.GERRORN.at, 1);
    expect(cons() & RD).toBe(at + 4);
    expect(rig.interrupts).toEqual(['cmd_sync']);
  });

  test('and is noticed late holds the SYNC until then', () => {
    const { rig, g, inject, at, cons } = running(ARCH);
    inject(OP.ATC_INV, HW_ERROR.ATC_TIMEOUT, { delay: 1000 });
    expect(g.run(atcInv(8), irqSync)).toBe(at + 1);
    rig.vm.clock.advance(999);
    expect(cons()).toBe(at + 1);
    rig.vm.clock.advance(1);
    expect(cons()).toBe(0x0300_0000 + at + 1);
    g.w(PAGE0.GERRORN.at, 1);
    expect([cons() & RD, rig.interrupts]).toEqual([at + 2, ['cmd_sync']]);
  });

  test('linux-only: the guest is told nothing, and its SYNC completes', () => {
    const { rig, g, inject, at } = running({ ...ARCH, linuxOnly: true });
    inject(OP.ATC_INV, HW_ERROR.ATC_TIMEOUT);
    expect(g.run(atcInv(8), irqSync)).toBe(at + 2);
    expect([g.r(PAGE0.GERROR.at), rig.interrupts]).toEqual([0, ['cmd_sync']]);
  });

  test('of the kernel’s own, at an attach, is not the guest’s error', () => {
    const { rig, g, inject, at, ste } = running(ARCH);
    rig.dma(8, 0x5000);
    inject(OP.ATC_INV, HW_ERROR.ATC_TIMEOUT);
    g.ste(8, ste, (1n << 28n) | 2n);
    expect(g.run(cfgiSte(8), irqSync)).toBe(at + 2);
    expect(g.r(PAGE0.GERROR.at)).toBe(0);
  });
});

test('a host out of VMIDs refuses a guest’s second one at the CFGI_STE that asks for it; the stream stays what it was', () => {
  const { rig, g, ste, at, cons } = running({ maxVmids: 1 });
  expect(rig.dma(8, 0x5000)).toBe(PAGE);
  g.ste(8, ste, 0, 7);
  expect(g.run(cfgiSte(8), sync)).toBe(0x0100_0000 + at);
  expect(rig.dma(8, 0x5000)).toBe(PAGE);
  // The guest gives up the idea and acknowledges.
  g.ste(8, ste, 0, 0);
  g.w(PAGE0.GERRORN.at, 1);
  expect(cons() & RD).toBe(at + 2);
  expect(rig.dma(8, 0x5000)).toBe(PAGE);
});

describe('tables of the host that cannot be read', () => {
  /** Host-physical 8-byte loads at `bad` abort. */
  function breaking(rig: Rig, bad: (hpa: number) => boolean): () => void {
    const { walked: memory } = rig.vm.hostMemory;
    const load64 = memory.load64.bind(memory);
    const locate = memory.locate.bind(memory);
    memory.load64 = (hpa) => !bad(hpa) && load64(hpa);
    memory.locate = (hpa) => !bad(hpa) && locate(hpa);
    memory.moved();
    return () => {
      memory.moved();
      memory.load64 = load64;
      memory.locate = locate;
    };
  }

  test.each(['stream table entry', 'stage-2 start table'])(
    'abort the DMA and blame the guest for nothing: %s',
    (which) => {
      const { rig, g } = running();
      const unit = rig.units[0]!;
      expect(rig.dma(8, 0x5000)).toBe(PAGE);
      const ste = unit.driver.streamTable.addressOf(hostRid(8));
      rig.vm.hostMemory.space.load64(ste + 24);
      const s2 = rig.vm.hostMemory.space.lo + (rig.vm.hostMemory.space.hi & 0xf_ffff) * 2 ** 32;
      const base = which === 'stream table entry' ? ste : s2;
      const bytes = which === 'stream table entry' ? 64 : 4096;
      // What the hardware has cached is dropped behind everybody's back.
      unit.hardware.submit(Int32Array.of(OP.CFGI_STE, hostRid(8), 1, 0, OP.TLBI_NSNH_ALL, 0, 0, 0), 0, 2);
      const mend = breaking(rig, (hpa) => hpa >= base && hpa < base + bytes);
      expect(rig.dma(8, 0x5000)).toBe('ABORT');
      expect(g.r(EVENTQ_PROD)).toBe(0);
      mend();
      expect(rig.dma(8, 0x5000)).toBe(PAGE);
    },
  );
});
