import { describe, expect, test } from 'vitest';
import { DATA, rulesOf } from './driver.ts';
import { SMMU, SmmuDriver } from './smmuv3-driver.ts';
import { GCMD, VTD, VtdDriver } from './vtd-driver.ts';

const VA = 0x10_0000;
const STE = (d: SmmuDriver, n: number) => d.streams + 64 * d.sid + 8 * n;

describe('SMMUv3', () => {
  const awaited = (d: SmmuDriver) => {
    for (let n = 0; n < 3; n++) d.submit();
  };

  test('config-change-not-invalidated: an STE; not when it was invalidated', () => {
    const change = (told: boolean) => {
      const d = new SmmuDriver();
      d.map(VA, DATA);
      d.guest.st(STE(d, 0), 9);
      if (told) d.config(d.sid);
      awaited(d);
      d.guest.dma(d.sid, VA, VA);
      return rulesOf(d);
    };

    expect(change(false)).toEqual(['config-change-not-invalidated']);
    expect(change(true)).toEqual([]);
  });

  test('config-change-not-invalidated: a CD; not when it was invalidated', () => {
    const change = (told: boolean) => {
      const d = new SmmuDriver();
      d.guest.st(d.cds, d.cdWord(d.asid) & ~(1n << 45n));
      if (told) d.command(0x05n | (BigInt(d.sid) << 32n), 1n);
      awaited(d);
      return rulesOf(d);
    };

    expect(change(false)).toEqual(['config-change-not-invalidated']);
    expect(change(true)).toEqual([]);
  });

  test('torn-entry: two words that hardware looks at are changed while the STE is valid', () => {
    const d = new SmmuDriver({ stage2: true });
    d.guest.st(STE(d, 3), d.guest.alloc());
    d.guest.st(STE(d, 2), d.steWords()[2]! + 1n);
    d.config(d.sid);

    expect(rulesOf(d)).toEqual(['torn-entry']);
  });

  test('not torn-entry: Linux goes from bypass to stage 1 by words nobody looks at, an invalidation, and one word', () => {
    const d = new SmmuDriver();
    d.guest.st(STE(d, 0), 9);
    d.config(d.sid);
    d.guest.st(STE(d, 1), 0);
    d.config(d.sid);
    d.guest.st(STE(d, 1), d.steWords()[1]!);
    d.config(d.sid);
    d.guest.st(STE(d, 0), d.steWords()[0]!);
    d.config(d.sid);

    expect(rulesOf(d)).toEqual([]);
  });

  test('not torn-entry: made invalid, invalidated, written, made valid', () => {
    const d = new SmmuDriver({ stage2: true });
    d.guest.st(STE(d, 0), 0);
    d.config(d.sid);
    d.invalidateAll();
    d.submit();
    d.guest
      .st(STE(d, 3), d.guest.alloc())
      .st(STE(d, 2), d.steWords()[2]! + 1n)
      .st(STE(d, 0), 0xd);
    d.config(d.sid);

    expect(rulesOf(d)).toEqual([]);
  });

  test('valid-before-filled: V before the second word', () => {
    const d = new SmmuDriver({ stage2: true });
    const at = d.streams + 64 * 16;
    const [w0, w1, w2, w3] = d.steWords();
    d.guest
      .st(at, w0!)
      .st(at + 8, w1!)
      .st(at + 16, w2!)
      .st(at + 24, w3!);
    d.config(16);

    expect(rulesOf(d)).toEqual(['valid-before-filled']);
  });

  test('not valid-before-filled: V first, with words behind it that nobody looks at, and those with V', () => {
    const d = new SmmuDriver({ stage2: true });
    const at = d.streams + 64 * 16;
    const [, w1, w2, w3] = d.steWords();
    // Bypass needs no word of stage 2.
    d.guest
      .st(at + 8, 0)
      .st(at, 9)
      .st(at + 16, w2!)
      .st(at + 24, w3!);
    d.config(16);
    d.guest.st(at + 8, w1!).st(at, 0xd);
    d.config(16);

    expect(rulesOf(d)).toEqual([]);
  });

  test('table-not-aligned: stream table, queues, CD table, table of stage 1; not when they are', () => {
    const restart = (f: (d: SmmuDriver) => void) => {
      const d = new SmmuDriver();
      d.control(0);
      f(d);
      d.control(0xd);
      return d.guest.judge('smmuv3').filter((x) => x.rule === 'table-not-aligned').length;
    };

    expect(restart((d) => d.guest.w(SMMU.STRTAB_BASE, d.streams + 64, 8))).toBe(1);
    expect(restart((d) => d.guest.w(SMMU.CMDQ_BASE, BigInt(d.commands) + 0x200n + 6n, 8))).toBe(1);
    expect(restart((d) => d.guest.w(SMMU.EVENTQ_BASE, BigInt(d.events) + 0x20n + 5n, 8))).toBe(1);
    expect(restart(() => {})).toBe(0);
    const d = new SmmuDriver({ ssid: 2 });
    d.guest.st(d.streams + 64 * 16 + 8, 2).st(d.streams + 64 * 16, 0xbn | BigInt(d.cds + 64) | (2n << 59n));
    d.guest.st(d.cds + 192 + 8, d.root + 0x40).st(d.cds + 192, d.cdWord(9));
    expect(rulesOf(d)).toContain('table-not-aligned');
  });

  test('beyond-output-size: a page and a table; not one that the SMMU can reach', () => {
    const far = (pa: number) => {
      const d = new SmmuDriver();
      d.map(VA, pa);
      return rulesOf(d);
    };

    expect(far(2 ** 45)).toEqual(['beyond-output-size']);
    expect(far(2 ** 43)).toEqual([]);
  });

  test('tag-shared: one ASID, two tables; not the same tables for two streams', () => {
    const share = (root: (d: SmmuDriver) => number) => {
      const d = new SmmuDriver();
      const cds = d.guest.alloc();
      d.guest.st(cds + 8, root(d)).st(cds, d.cdWord(d.asid));
      d.guest.st(d.streams + 64 * 16, 0xbn | BigInt(cds));
      d.config(16);
      return rulesOf(d);
    };

    expect(share((d) => d.guest.alloc())).toEqual(['tag-shared']);
    expect(share((d) => d.root)).toEqual([]);
  });

  test('tag-reused: an ASID goes to other tables; not after TLBI_NH_ASID, too small with another ASID or one page', () => {
    const reuse = (flush: (d: SmmuDriver) => void) => {
      const d = new SmmuDriver();
      d.map(VA, DATA);
      d.guest.st(STE(d, 0), 1);
      d.config(d.sid);
      flush(d);
      d.submit();
      const cds = d.guest.alloc();
      d.guest.st(cds + 8, d.guest.alloc()).st(cds, d.cdWord(d.asid));
      d.guest.st(STE(d, 0), 0xbn | BigInt(cds));
      d.config(d.sid);
      return rulesOf(d);
    };

    expect(reuse(() => {})).toEqual(['tag-reused']);
    expect(reuse((d) => d.invalidateAll())).toEqual([]);
    expect(reuse((d) => d.command(0x11n | (6n << 48n), 0n))).toEqual(['invalidation-too-small']);
    expect(reuse((d) => d.invalidate(VA + 0x1000))).toEqual(['invalidation-too-small']);
  });

  test('pasid-not-drained: a CD goes with a page request queued; not when it was answered', () => {
    const free = (answered: boolean) => {
      const d = new SmmuDriver({ ssid: 2 });
      d.cd(1, d.root, 7);
      d.command(0x05n | (1n << 12n) | (BigInt(d.sid) << 32n), 1n);
      d.submit();
      d.guest.written(d.requests, [d.sid, 0x7000_0001 | 0x8000_0000 | 0, 0x1000, 0]);
      if (answered) d.command(0x41n | (1n << 11n) | (1n << 12n) | (BigInt(d.sid) << 32n), 2n << 12n);
      d.guest.st(d.cds + 64, 0);
      d.command(0x05n | (1n << 12n) | (BigInt(d.sid) << 32n), 1n);
      d.submit();
      return d.guest
        .judge('smmuv3')
        .filter((f) => f.severity === 'error')
        .map((f) => f.rule);
    };

    expect(free(false)).toEqual(['pasid-not-drained']);
    expect(free(true)).toEqual([]);
  });
});

describe('VT-d', () => {
  const awaited = (d: VtdDriver) => {
    for (let n = 0; n < 3; n++) d.submit();
  };

  test('config-change-not-invalidated: a context entry; not when it was invalidated', () => {
    const change = (told: boolean) => {
      const d = new VtdDriver();
      d.guest.st(d.contexts + 16 * d.sid, 0);
      if (told) d.contextCache();
      awaited(d);
      return rulesOf(d);
    };

    expect(change(false)).toEqual(['config-change-not-invalidated']);
    expect(change(true)).toEqual([]);
  });

  test('config-change-not-invalidated: root entry, PASID directory and PASID entry, each named', () => {
    const change = (scalable: boolean, f: (d: VtdDriver) => void) => {
      const d = new VtdDriver({ scalable });
      f(d);
      awaited(d);
      return d.guest
        .judge('vtd')
        .map((x) => `${x.rule}: ${/the (root entry|PASID directory entry|PASID entry)/.exec(x.message)?.[1]}`);
    };

    expect(change(false, (d) => d.guest.st(d.roots, 0))).toEqual(['config-change-not-invalidated: root entry']);
    expect(change(true, (d) => d.guest.st(d.directory, 0))).toEqual([
      'config-change-not-invalidated: PASID directory entry',
    ]);
    expect(change(true, (d) => d.guest.st(d.pasids, 0))).toEqual(['config-change-not-invalidated: PASID entry']);
  });

  test('config-change-not-invalidated: an IRTE; not behind an IEC invalidation', () => {
    const change = (told: boolean) => {
      const d = new VtdDriver();
      d.guest.st(d.interrupts + 16, 0x30_0001).st(d.interrupts + 24, 0);
      d.guest.w(VTD.IRTA, BigInt(d.interrupts) | 7n, 8);
      d.control(GCMD.SIRTP);
      d.submit();
      d.guest.st(d.interrupts + 16, 0x31_0001);
      if (told) d.descriptor(0x14n | (1n << 32n), 0n);
      awaited(d);
      d.guest.add({ t: 'remap', irte: { index: 1 } });
      return rulesOf(d);
    };

    expect(change(false)).toEqual(['config-change-not-invalidated']);
    expect(change(true)).toEqual([]);
  });

  test('torn-entry: a PASID entry zeroed while present', () => {
    const d = new VtdDriver({ scalable: true });
    for (let n = 0; n < 8; n++) d.guest.st(d.pasids + 8 * n, 0);
    d.descriptor(7n | (1n << 4n) | (BigInt(d.did) << 16n), 0n);
    d.invalidateAll();
    awaited(d);

    expect(rulesOf(d)).toEqual(['torn-entry']);
  });

  test('not torn-entry: P first, the invalidation, then the rest', () => {
    const d = new VtdDriver({ scalable: true });
    d.guest.st(d.pasids, 0x40);
    d.descriptor(7n | (1n << 4n) | (BigInt(d.did) << 16n), 0n);
    d.invalidateAll();
    d.submit();
    for (let n = 0; n < 8; n++) d.guest.st(d.pasids + 8 * n, 0);

    expect(rulesOf(d)).toEqual([]);
  });

  test('torn-entry: a context entry goes to other tables and another domain half by half', () => {
    const d = new VtdDriver();
    d.map(VA, DATA);
    const root = d.guest.alloc();
    d.guest.st(d.contexts + 16 * d.sid + 8, 2n | (9n << 8n)).st(root, 0);
    d.guest.st(d.contexts + 16 * d.sid, BigInt(root) | 1n);
    d.contextCache();
    d.submit();
    d.invalidateAll();
    awaited(d);

    expect(rulesOf(d)).toEqual(['torn-entry']);
  });

  test('not torn-entry: both halves of a context entry in one 16-byte store', () => {
    const d = new VtdDriver();
    const at = d.contexts + 16 * d.sid;
    d.guest.st(at, BigInt(d.guest.alloc()) | 1n).st(at + 8, 2n | (9n << 8n));
    d.contextCache();
    d.invalidateAll();
    awaited(d);

    expect(rulesOf(d)).toEqual([]);
  });

  test('valid-before-filled: P of a PASID entry before its pointer', () => {
    const d = new VtdDriver({ scalable: true });
    const at = d.pasids + 64;
    d.guest
      .st(at, 0x41)
      .st(at + 8, 9)
      .st(at + 16, d.guest.alloc());

    expect(rulesOf(d)).toEqual(['valid-before-filled']);
  });

  test('not valid-before-filled: the pointer, the domain id, then P', () => {
    const d = new VtdDriver({ scalable: true });
    const at = d.pasids + 64;
    d.guest
      .st(at + 16, d.guest.alloc())
      .st(at + 8, 9)
      .st(at, 0x40)
      .st(at, 0x41);

    expect(rulesOf(d)).toEqual([]);
  });

  test('table-not-aligned: a page request queue; not when it is', () => {
    const place = (offset: number) => {
      const d = new VtdDriver({ scalable: true });
      const queue = d.guest.alloc(0x4000);
      d.guest.w(VTD.PQA, BigInt(queue + offset) | 2n, 8);
      return rulesOf(d);
    };

    expect(place(0x1000)).toEqual(['table-not-aligned']);
    expect(place(0)).toEqual([]);
  });

  test('beyond-output-size; not one that the unit can reach', () => {
    const far = (pa: number) => {
      const d = new VtdDriver();
      d.map(VA, pa);
      return rulesOf(d);
    };

    expect(far(2 ** 49)).toEqual(['beyond-output-size']);
    expect(far(2 ** 46)).toEqual([]);
  });

  test('tag-shared: one domain id, two tables; not the same tables for two functions', () => {
    const share = (root: (d: VtdDriver) => number) => {
      const d = new VtdDriver();
      d.context(d.did, root(d), 16);
      return rulesOf(d);
    };

    expect(share((d) => d.guest.alloc())).toEqual(['tag-shared']);
    expect(share((d) => d.root)).toEqual([]);
  });

  test('tag-reused: a domain goes to other tables; not after its invalidation, too small with another one or a page', () => {
    const reuse = (flush: (d: VtdDriver) => void) => {
      const d = new VtdDriver();
      d.map(VA, DATA);
      d.guest.st(d.contexts + 16 * d.sid, 0);
      d.contextCache();
      flush(d);
      d.submit();
      d.context(d.did, d.guest.alloc());
      return rulesOf(d);
    };

    expect(reuse(() => {})).toEqual(['tag-reused']);
    expect(reuse((d) => d.invalidateAll())).toEqual([]);
    expect(reuse((d) => d.descriptor(2n | (2n << 4n) | (6n << 16n), 0n))).toEqual(['invalidation-too-small']);
    expect(reuse((d) => d.invalidate(VA + 0x1000))).toEqual(['invalidation-too-small']);
  });

  test('pasid-not-drained: a PASID goes with a page request queued; not when the queue was drained', () => {
    const free = (drained: boolean) => {
      const d = new VtdDriver({ scalable: true });
      d.guest.w(VTD.PQA, d.requests, 8);
      d.pasid(1, 9, d.guest.alloc());
      d.guest.written(d.requests, [0x101 | (d.sid << 16), 1, 0x1005, 0]);
      d.guest.st(d.pasids + 64, 0x40);
      d.descriptor(7n | (1n << 4n) | (9n << 16n) | (1n << 32n), 0n);
      d.descriptor(6n | (2n << 4n) | (9n << 16n) | (1n << 32n), 0n);
      if (drained) d.descriptor(0xc5n, 0n);
      awaited(d);
      return d.guest
        .judge('vtd')
        .filter((f) => f.severity === 'error')
        .map((f) => f.rule);
    };

    expect(free(false)).toEqual(['pasid-not-drained']);
    expect(free(true)).toEqual([]);
  });
});
