import { describe, expect, test } from 'vitest';
import { DATA, type Driver, rulesOf } from './driver.ts';
import { SMMU, SmmuDriver } from './smmuv3-driver.ts';
import { GCMD, VTD, VtdDriver } from './vtd-driver.ts';

const VA = 0x10_0000;
/** Register accesses by which a driver that meant to answer something would have done it. */
function later(d: Driver): void {
  for (let n = 0; n < 80; n++) d.guest.r(0, 0);
}

describe('SMMUv3', () => {
  test('queue-overrun: more commands than there is room; not when the queue is exactly full', () => {
    const fill = (commands: number) => {
      const d = new SmmuDriver();
      for (let n = 0; n < commands; n++) d.invalidate(VA);
      d.submit(false);
      d.submit();
      return d.guest.judge('smmuv3').filter((f) => f.rule === 'queue-overrun').length;
    };

    expect(fill(65)).toBe(1);
    expect(fill(63)).toBe(0);
  });

  test('command-overwritten: a slot CMDQ_CONS has not passed; not one it has', () => {
    const store = (slot: (d: SmmuDriver) => number) => {
      const d = new SmmuDriver();
      d.invalidate(VA);
      d.fence();
      d.submit(false);
      d.guest.st(d.commands + 16 * slot(d), 0x30);
      d.guest.r(SMMU.CONS, d.prod);
      return rulesOf(d);
    };

    expect(store((d) => d.prod - 1)).toEqual(['command-overwritten']);
    expect(store((d) => d.prod - 3)).toEqual([]);
  });

  test('command-refused: the guest sees CERROR_ILL and mends the command; not a stale ERR field', () => {
    const d = new SmmuDriver();
    d.command(0xffn, 0n);
    d.submit(false);
    d.guest.r(SMMU.CONS, 0x100_0000 | (d.prod - 1)).r(SMMU.GERROR, 1);
    d.guest
      .st(d.commands + 16 * (d.prod - 1), 0x46)
      .w(SMMU.GERRORN, 1)
      .r(SMMU.CONS, 0x100_0000 | d.prod);

    const found = d.guest.judge('smmuv3');
    expect(found.map((f) => f.rule)).toEqual(['command-refused']);
    expect(found[0]!.message).toMatch(/CERROR_ILL.*acknowledged/);
    // What ERR says while GERROR does not say that the queue stopped is of a time before.
    const stale = new SmmuDriver();
    stale.submit();
    stale.guest.r(SMMU.CONS, 0x100_0000 | stale.prod).r(SMMU.GERROR, 0);
    later(stale);
    expect(rulesOf(stale)).toEqual([]);
  });

  test('error-not-acknowledged and interrupt-without-handler: GERROR interrupts, and nobody acknowledges', () => {
    const d = new SmmuDriver();
    d.guest.w(SMMU.IRQ_CTRL, 1).r(SMMU.IRQ_CTRLACK, 1);
    d.guest.add({ t: 'irq', line: 'gerror' });
    later(d);

    expect(rulesOf(d)).toEqual(['error-not-acknowledged', 'interrupt-without-handler']);
  });

  test('neither error-not-acknowledged nor interrupt-without-handler when GERROR is read and written back', () => {
    const d = new SmmuDriver();
    d.guest.w(SMMU.IRQ_CTRL, 1).r(SMMU.IRQ_CTRLACK, 1);
    d.guest.add({ t: 'irq', line: 'gerror' }).r(SMMU.GERROR, 0x10).w(SMMU.GERRORN, 0x10);
    later(d);

    expect(rulesOf(d)).toEqual([]);
  });

  test('record-lost, and overflow-not-acknowledged unless OVACKFLG follows', () => {
    const overflow = (acknowledged: boolean) => {
      const d = new SmmuDriver();
      d.guest.r(SMMU.EVENTQ_PROD, 0x8000_0020);
      d.guest.w(SMMU.EVENTQ_CONS, acknowledged ? 0x8000_0020 : 0x20);
      later(d);
      return rulesOf(d);
    };

    expect(overflow(false)).toEqual(['overflow-not-acknowledged', 'record-lost']);
    expect(overflow(true)).toEqual(['record-lost']);
  });

  test('not record-lost: a queue that filled up just so', () => {
    const d = new SmmuDriver();
    d.guest.r(SMMU.EVENTQ_PROD, 0x20).w(SMMU.EVENTQ_CONS, 0x20);
    later(d);

    expect(rulesOf(d)).toEqual([]);
  });

  test.each([
    ['STRTAB_BASE', SMMU.STRTAB_BASE, 8],
    ['CMDQ_BASE', SMMU.CMDQ_BASE, 8],
    ['EVENTQ_BASE', SMMU.EVENTQ_BASE, 8],
    ['STRTAB_BASE_CFG', SMMU.STRTAB_BASE_CFG, 4],
  ])('base-changed-while-enabled: %s; not while it is off', (_, register, size) => {
    const write = (off: boolean) => {
      const d = new SmmuDriver();
      if (off) d.control(0);
      d.guest.w(register, size === 8 ? d.streams : 4, size);
      return rulesOf(d);
    };

    expect(write(false)).toEqual(['base-changed-while-enabled']);
    expect(write(true)).toEqual([]);
  });

  test('handshake-not-awaited: CR0 again before CR0ACK; not after it', () => {
    const twice = (awaited: boolean) => {
      const d = new SmmuDriver();
      d.guest.w(SMMU.CR0, 0xd);
      if (awaited) d.guest.r(SMMU.CR0ACK, 0xd);
      d.control(0xf);
      return rulesOf(d);
    };

    expect(twice(false)).toEqual(['handshake-not-awaited']);
    expect(twice(true)).toEqual([]);
  });

  test('handshake-not-awaited: GBPA again before Update is clear', () => {
    const d = new SmmuDriver();
    d.guest.w(SMMU.GBPA, 0x8010_0000).w(SMMU.GBPA, 0x8000_0000).r(SMMU.GBPA, 0);

    expect(rulesOf(d)).toEqual(['handshake-not-awaited']);
  });

  test('reserved-bits: of CR0 and of a command; not bits that are defined', () => {
    const d = new SmmuDriver();
    d.guest.w(SMMU.CR0, 0x2f).r(SMMU.CR0ACK, 0xf);
    expect(rulesOf(d)).toEqual(['reserved-bits']);

    const command = new SmmuDriver();
    command.command(0x12n | (1n << 9n) | (5n << 48n), BigInt(VA));
    command.submit();
    expect(rulesOf(command)).toEqual(['reserved-bits']);

    const good = new SmmuDriver();
    good.command(0x12n | (31n << 12n) | (3n << 20n) | (5n << 48n), BigInt(VA) | 0x701n);
    good.submit();
    expect(rulesOf(good)).toEqual([]);
  });

  test('command-without-sync: invalidations nothing stands behind; not with a CMD_SYNC', () => {
    const rings = (synced: boolean) => {
      const d = new SmmuDriver();
      for (let n = 0; n < 4; n++) {
        d.invalidate(VA);
        if (synced) d.fence();
        d.submit(false);
        d.guest.r(SMMU.CONS, d.prod);
      }
      return rulesOf(d);
    };

    expect(rings(false)).toEqual(['command-without-sync']);
    expect(rings(true)).toEqual([]);
  });
});

describe('VT-d', () => {
  test('queue-overrun: a tail that laps what may not be fetched; not when entries are free', () => {
    const fill = (descriptors: number) => {
      const d = new VtdDriver();
      for (let n = 0; n < 2; n++) {
        for (let k = 0; k < descriptors; k++) d.invalidate(VA);
        d.submit(false);
      }
      d.submit();
      return d.guest.judge('vtd').filter((f) => f.rule === 'queue-overrun').length;
    };

    expect(fill(130)).toBe(1);
    expect(fill(120)).toBe(0);
  });

  test('command-overwritten: a descriptor that may not be fetched; not one that is', () => {
    const store = (slot: (d: VtdDriver) => number) => {
      const d = new VtdDriver();
      d.invalidate(VA);
      d.submit(false);
      d.guest.st(d.queue + 16 * slot(d), 0x12);
      d.submit();
      return rulesOf(d);
    };

    expect(store((d) => d.tail - 1)).toEqual(['command-overwritten']);
    expect(store((d) => d.tail - 2)).toEqual([]);
  });

  test('command-refused: IQE, and the guest clears it; error-not-acknowledged unless it does', () => {
    const error = (cleared: boolean) => {
      const d = new VtdDriver();
      d.guest.r(VTD.FSTS, 0x10);
      if (cleared) d.guest.w(VTD.FSTS, 0x10);
      later(d);
      return rulesOf(d);
    };

    expect(error(true)).toEqual(['command-refused']);
    expect(error(false)).toEqual(['command-refused', 'error-not-acknowledged']);
    const quiet = new VtdDriver();
    quiet.guest.r(VTD.FSTS, 0);
    later(quiet);
    expect(rulesOf(quiet)).toEqual([]);
  });

  test('interrupt-without-handler: fault events arrive and FSTS is never read; not when it is', () => {
    const arrive = (handled: boolean) => {
      const d = new VtdDriver();
      d.guest.w(VTD.FEDATA, 0x21).w(VTD.FEADDR, 0xfee0_1000).w(VTD.FECTL, 0);
      d.guest.add({ t: 'msi', address: 0xfee0_1000, data: 0x21 });
      if (handled) d.guest.r(VTD.FSTS, 2).w(0x22c, 0x8000_0000);
      later(d);
      return rulesOf(d);
    };

    expect(arrive(false)).toEqual(['interrupt-without-handler']);
    expect(arrive(true)).toEqual([]);
  });

  test('record-lost, and overflow-not-acknowledged unless PFO is cleared', () => {
    const overflow = (acknowledged: boolean) => {
      const d = new VtdDriver();
      d.guest.r(VTD.FSTS, 3);
      if (acknowledged) d.guest.w(VTD.FSTS, 1);
      later(d);
      return rulesOf(d);
    };

    expect(overflow(false)).toEqual(['overflow-not-acknowledged', 'record-lost']);
    expect(overflow(true)).toEqual(['record-lost']);
  });

  test('not record-lost: a fault is pending, and none was lost', () => {
    const d = new VtdDriver();
    d.guest.r(VTD.FSTS, 2).w(0x22c, 0x8000_0000);
    later(d);

    expect(rulesOf(d)).toEqual([]);
  });

  test('base-changed-while-enabled: IQA; not while the queue is off', () => {
    const write = (off: boolean) => {
      const d = new VtdDriver();
      if (off) {
        d.levels -= GCMD.QIE;
        d.guest.w(VTD.GCMD, d.levels).r(VTD.GSTS, d.levels + GCMD.SRTP);
      }
      d.guest.w(VTD.IQA, d.queue, 8);
      return rulesOf(d);
    };

    expect(write(false)).toEqual(['base-changed-while-enabled']);
    expect(write(true)).toEqual([]);
  });

  test('handshake-not-awaited: GCMD again before GSTS; not after it', () => {
    const twice = (awaited: boolean) => {
      const d = new VtdDriver();
      d.guest.w(VTD.IRTA, BigInt(d.interrupts) | 7n, 8);
      d.guest.w(VTD.GCMD, d.levels + GCMD.SIRTP);
      if (awaited) d.guest.r(VTD.GSTS, d.levels + GCMD.SRTP + GCMD.SIRTP);
      d.control(GCMD.IRE);
      return rulesOf(d);
    };

    expect(twice(false)).toEqual(['handshake-not-awaited']);
    expect(twice(true)).toEqual([]);
  });

  test('handshake-not-awaited: CCMD and the IOTLB register are written again before they are done', () => {
    const d = new VtdDriver();
    const icc = 0xa000_0000_0000_0000n;
    d.guest.w(VTD.CCMD, icc, 8).w(VTD.CCMD, icc, 8).r(VTD.CCMD, 0, 8);

    expect(rulesOf(d)).toEqual(['handshake-not-awaited']);
  });

  test('one-bit-at-a-time: two levels in one write; not one after the other', () => {
    const d = new VtdDriver();
    d.guest.w(VTD.GCMD, d.levels + GCMD.IRE + GCMD.SIRTP).r(VTD.GSTS, d.levels + GCMD.IRE + GCMD.SIRTP + GCMD.SRTP);
    expect(rulesOf(d)).toEqual(['one-bit-at-a-time']);

    const good = new VtdDriver();
    good.guest.w(VTD.IRTA, BigInt(good.interrupts) | 7n, 8);
    good.control(GCMD.SIRTP);
    good.control(GCMD.IRE);
    expect(rulesOf(good)).toEqual([]);
  });

  test('reserved-bits: of GCMD and of a descriptor; not the fields of one', () => {
    const d = new VtdDriver();
    d.guest.w(VTD.GCMD, d.levels + 1).r(VTD.GSTS, d.levels + GCMD.SRTP);
    expect(rulesOf(d)).toEqual(['reserved-bits']);

    const descriptor = new VtdDriver();
    descriptor.descriptor(0x12n | (1n << 12n), 0n);
    descriptor.submit();
    expect(rulesOf(descriptor)).toEqual(['reserved-bits']);

    const good = new VtdDriver();
    good.descriptor(0xf2n | (0xffffn << 16n), BigInt(VA) | 0x52n);
    good.submit();
    expect(rulesOf(good)).toEqual([]);
  });

  test('command-without-sync: invalidations no wait stands behind; not with one', () => {
    const rings = (waited: boolean) => {
      const d = new VtdDriver();
      for (let n = 0; n < 4; n++) {
        d.invalidate(VA);
        if (waited) d.fence();
        d.submit(false);
      }
      return rulesOf(d);
    };

    expect(rings(false)).toEqual(['command-without-sync']);
    expect(rings(true)).toEqual([]);
  });
});

describe('what is not told is not judged', () => {
  test('no register reads: nothing is said of handshakes, and that is said', async () => {
    const { Sanitizer } = await import('../../src/sanitize/index.ts');
    const d = new SmmuDriver();
    d.guest.w(SMMU.CR0, 0xd).w(SMMU.CR0, 0xf);
    const events = d.guest.events.filter((e) => e.t !== 'r').map((e, i) => ({ ...e, i }));
    const s = new Sanitizer({ iommu: 'smmuv3', ram: [{ gpa: DATA, size: 0x1000 }], devices: [] });
    for (const e of events) s.event(e);

    expect(s.finish().map((f) => f.rule)).not.toContain('handshake-not-awaited');
    expect([...s.findings.unjudged().values()].flatMap((r) => [...r])).toContain('handshake-not-awaited');
  });
});
