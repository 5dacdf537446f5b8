import { describe, expect, test } from 'vitest';
import { DATA, type Driver, rulesOf } from './driver.ts';
import { SMMU, SmmuDriver } from './smmuv3-driver.ts';
import { GCMD, VTD, VtdDriver } from './vtd-driver.ts';

const VA = 0x10_0000;
/** CAP of `VtdDriver` without ESRTPS: SRTP invalidates nothing by itself. */
const NO_ESRTPS = 0x00d2_008c_222f_0406n;

/** Register accesses by which a driver that meant to answer something would have done it. */
function later(d: Driver): void {
  for (let n = 0; n < 20; n++) d.guest.r(0, 0);
}

describe('SMMUv3', () => {
  /** Another stream table, with the function's entry in it, while the SMMU is off. */
  const moved = (all: 'before' | 'after' | 'never', same = false) => {
    const d = new SmmuDriver();
    d.map(VA, DATA);
    d.control(0x8);
    const other = same ? d.streams : d.guest.alloc(64 << 5);
    for (const [n, word] of d.steWords().entries()) d.guest.st(other + 64 * d.sid + 8 * n, word);
    d.guest.w(SMMU.STRTAB_BASE, other, 8);
    const invalidate = () => {
      d.command(0x04n, 31n);
      d.submit();
    };
    if (all === 'before') invalidate();
    d.control(0x9);
    if (all === 'after') invalidate();
    for (let n = 0; n < 3; n++) d.submit();
    d.guest.dma(d.sid, VA, DATA);
    return rulesOf(d);
  };

  test('config-change-not-invalidated: another stream table', () => {
    expect(moved('never')).toEqual(['config-change-not-invalidated']);
  });

  test('not config-change-not-invalidated: CFGI_ALL before or behind SMMUEN, or the same table again', () => {
    expect(moved('before')).toEqual([]);
    expect(moved('after')).toEqual([]);
    expect(moved('never', true)).toEqual([]);
  });

  test('handshake-not-awaited: a base is written after its enable was cleared; not after CR0ACK', () => {
    const write = (awaited: boolean) => {
      const d = new SmmuDriver();
      d.guest.w(SMMU.CR0, 0x8);
      if (awaited) d.guest.r(SMMU.CR0ACK, 0x8);
      d.guest.w(SMMU.STRTAB_BASE, d.streams, 8).r(SMMU.CR0ACK, 0x8);
      return rulesOf(d);
    };

    expect(write(false)).toEqual(['handshake-not-awaited']);
    expect(write(true)).toEqual([]);
  });

  test('handshake-not-awaited: SMMUEN before IRQ_CTRLACK; not after it, and not for what was enabled long ago', () => {
    const enable = (awaited: boolean) => {
      const d = new SmmuDriver();
      d.control(0x8);
      d.guest.w(SMMU.IRQ_CTRL, 5);
      if (awaited) d.guest.r(SMMU.IRQ_CTRLACK, 5);
      d.control(0x9);
      return rulesOf(d);
    };

    expect(enable(false)).toEqual(['handshake-not-awaited']);
    expect(enable(true)).toEqual([]);
  });

  test('interrupt-without-handler: EVENTQ_CONS is never written; not when records are taken', () => {
    const handle = (taken: boolean) => {
      const d = new SmmuDriver();
      d.guest.add({ t: 'irq', line: 'evtq' }).r(SMMU.EVENTQ_PROD, 1);
      if (taken) d.guest.w(SMMU.EVENTQ_CONS, 1);
      later(d);
      return rulesOf(d);
    };

    expect(handle(false)).toEqual(['interrupt-without-handler']);
    expect(handle(true)).toEqual([]);
  });

  test('queue-overrun: CMDQ_PROD with the other wrap bit is one thing, whatever the guest does then', () => {
    const d = new SmmuDriver();
    d.submit();
    d.invalidate(VA);
    d.fence();
    d.guest.w(SMMU.PROD, d.prod ^ 0x40);
    for (let n = 0; n < 3; n++) {
      d.map(VA, DATA);
      d.unmap(VA);
      d.invalidate(VA);
      d.submit();
    }

    expect(rulesOf(d)).toEqual(['queue-overrun']);
  });

  test('beyond-output-size: an ASID of two streams is not shared by a table that nothing reaches', () => {
    const d = new SmmuDriver({ ssid: 2 });
    d.cd(1, d.root, 9);
    d.cd(2, 2 ** 50, 9);

    expect(rulesOf(d)).toEqual(['beyond-output-size']);
  });
});

describe('VT-d', () => {
  /** Another root table under translation, whose entries say the same. */
  const moved = (cap: bigint, flush: boolean, same = false) => {
    const d = new VtdDriver();
    d.guest.r(VTD.CAP, cap, 8);
    d.map(VA, DATA);
    const other = same ? d.roots : d.guest.alloc();
    d.guest.st(other, BigInt(d.contexts) | 1n);
    d.guest.w(VTD.RTADDR, other, 8);
    d.control(GCMD.SRTP);
    if (flush) {
      d.descriptor(0x11n, 0n);
      d.descriptor(0x12n, 0n);
    }
    for (let n = 0; n < 3; n++) d.submit();
    d.guest.dma(d.sid, VA, DATA);
    return rulesOf(d);
  };

  test('config-change-not-invalidated: another root table', () => {
    expect(moved(NO_ESRTPS, false)).toEqual(['config-change-not-invalidated']);
  });

  test('not config-change-not-invalidated: it was invalidated, SRTP does it by itself, or it is the same table', () => {
    expect(moved(NO_ESRTPS, true)).toEqual([]);
    expect(moved(NO_ESRTPS | (1n << 63n), false)).toEqual([]);
    expect(moved(NO_ESRTPS, false, true)).toEqual([]);
  });

  test('config-change-not-invalidated: another interrupt table; not with a global IEC, nor before remapping is on', () => {
    const change = (on: boolean, flush: boolean) => {
      const d = new VtdDriver();
      d.guest.w(VTD.IRTA, BigInt(d.interrupts) | 7n, 8);
      d.control(GCMD.SIRTP);
      if (on) d.control(GCMD.IRE);
      d.guest.w(VTD.IRTA, BigInt(d.guest.alloc()) | 7n, 8);
      d.control(GCMD.SIRTP);
      if (flush) d.descriptor(4n, 0n);
      for (let n = 0; n < 3; n++) d.submit();
      return rulesOf(d);
    };

    expect(change(true, false)).toEqual(['config-change-not-invalidated']);
    expect(change(true, true)).toEqual([]);
    expect(change(false, false)).toEqual([]);
  });

  test('base-changed-while-enabled: scalable mode under translation; not where SRTP invalidates', () => {
    const change = (cap: bigint) => {
      const d = new VtdDriver();
      d.guest.r(VTD.CAP, cap, 8).w(VTD.RTADDR, d.guest.alloc() + 0x400, 8);
      d.control(GCMD.SRTP);
      return rulesOf(d);
    };

    expect(change(NO_ESRTPS)).toEqual(['base-changed-while-enabled']);
    expect(change(NO_ESRTPS | (1n << 63n))).toEqual([]);
  });

  test('handshake-not-awaited: descriptors or an invalidation by register before SRTP is done; not after', () => {
    const go = (awaited: boolean, on: (d: VtdDriver) => void) => {
      const d = new VtdDriver();
      d.guest.w(VTD.GCMD, d.levels + GCMD.SRTP);
      if (awaited) d.guest.r(VTD.GSTS, d.levels + GCMD.SRTP);
      on(d);
      return rulesOf(d);
    };
    const descriptors = (d: VtdDriver) => {
      d.descriptor(0x11n, 0n);
      d.submit();
    };
    const register = (d: VtdDriver) => d.guest.w(VTD.CCMD, 0xa000_0000_0000_0000n, 8).r(VTD.CCMD, 0, 8);

    expect(go(false, descriptors)).toEqual(['handshake-not-awaited']);
    expect(go(false, register)).toEqual(['handshake-not-awaited']);
    expect(go(true, descriptors)).toEqual([]);
    expect(go(true, register)).toEqual([]);
  });

  test('beyond-output-size: a domain is not shared by a table that nothing reaches', () => {
    const d = new VtdDriver();
    d.context(d.did, 2 ** 50, 9);

    expect(rulesOf(d)).toEqual(['beyond-output-size']);
  });
});

describe.each([
  ['SMMUv3', 2 ** 45, () => new SmmuDriver()],
  ['VT-d', 2 ** 49, () => new VtdDriver()],
] as const)('%s', (_, far, make) => {
  test('beyond-output-size alone: an access that an older mapping explains is no second fault', () => {
    const d = make();
    d.map(VA, DATA);
    d.unmap(VA);
    d.map(VA, DATA + far);
    d.guest.dma(d.sid, VA, DATA);

    expect(rulesOf(d)).toEqual(['beyond-output-size']);
  });
});
