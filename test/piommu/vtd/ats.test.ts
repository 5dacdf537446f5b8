import { describe, expect, test } from 'vitest';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { PhysicalVtd } from '../../../src/piommu/vtd/device.ts';
import type { PhysicalVtdOptions } from '../../../src/piommu/vtd/options.ts';
import { ACCESS, AT, ATS, type EndpointPort, NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { CAP_ALL, ECAP_ALL, INVALIDATE as I, Rig, words } from './rig.ts';

/** Functions that answer invalidations as told, and keep what they heard. */
class Functions implements EndpointPort {
  readonly invalidations: { rid: number; pasid: number; itag: number; address: bigint; global: boolean }[] = [];
  readonly responses: [rid: number, pasid: number, group: number, code: number][] = [];
  /** 'now', 'later' (the test answers) or 'absent'. */
  answer: 'now' | 'later' | 'absent' = 'now';
  hw: PhysicalVtd | null = null;
  invalidate(rid: number, pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean {
    const address = (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
    this.invalidations.push({ rid, pasid, itag, address, global });
    if (this.answer === 'now') this.hw?.invalidateCompletion(rid, 1 << itag, 1);
    return this.answer !== 'absent';
  }
  pageResponse(rid: number, pasid: number, group: number, code: number): void {
    this.responses.push([rid, pasid, group, code]);
  }
  resumed(): void {}
}

function make(options: Partial<PhysicalVtdOptions> = {}) {
  const functions = new Functions();
  const clock = new VirtualClock();
  const rig = new Rig({ endpoints: functions, clock, invalidateTimeout: 1000, ...options });
  functions.hw = rig.hw;
  return { rig, functions, clock };
}

/** A translation request's answer: [status, output, shift, permissions]. */
function request(rig: Rig, iova: bigint, access = 3, pasid: number = NO_PASID): number[] {
  const status = rig.hw.translationRequest(0x10, pasid, ...words(iova), access);
  return [status, rig.hw.atsOut, rig.hw.atsShift, rig.hw.atsPerm];
}

describe('translation requests', () => {
  test('give size and permissions, and set D when W is granted', () => {
    const { rig } = make();
    const table = rig.page();
    const leaf = rig.map(table, 0x1000n, 0x5000_0000n, 7n);
    rig.map(table, 0x20_0000n, 0x4000_0000n, 0x87n, 7n, 2);
    rig.map(table, 0x3000n, 0x6000_0000n, 5n);
    rig.scalable().first(1, 7, table).enable(1);
    expect(request(rig, 0x1234n, ACCESS.READ, 1)).toEqual([ATS.SUCCESS, 0x5000_0000, 12, ACCESS.READ]);
    expect(rig.get(leaf) & 0x60n).toBe(0x20n);
    expect(request(rig, 0x1234n, 3, 1)).toEqual([ATS.SUCCESS, 0x5000_0000, 12, 3]);
    expect(rig.get(leaf) & 0x60n).toBe(0x60n);
    expect(request(rig, 0x20_5000n, 3, 1)).toEqual([ATS.SUCCESS, 0x4000_5000, 21, 3]);
    expect(request(rig, 0x3000n, 3, 1)).toEqual([ATS.SUCCESS, 0x6000_0000, 12, ACCESS.READ]);
    expect(request(rig, 0x9000n, 3, 1)).toEqual([ATS.SUCCESS, 0, 12, 0]);
    expect(rig.heard.faults.length).toBe(0);
  });

  test('that ask for no write get none, and do not set D, where no-write exists', () => {
    for (const nwfs of [0n, 1n << 33n]) {
      const { rig } = make({ ecap: (ECAP_ALL & ~(1n << 33n)) | nwfs });
      const table = rig.page();
      const clean = rig.map(table, 0x1000n, 0x5000_0000n, 7n);
      rig.map(table, 0x2000n, 0x6000_0000n, 0x47n);
      rig.scalable().first(1, 7, table).enable(1);
      const granted = nwfs === 0n ? 3 : ACCESS.READ;
      expect(request(rig, 0x1000n, ACCESS.READ, 1)[3]).toBe(granted);
      expect(request(rig, 0x2000n, ACCESS.READ, 1)[3]).toBe(granted);
      expect((rig.get(clean) & 0x40n) !== 0n).toBe(nwfs === 0n);
    }
  });

  test('a write-only second-stage page gives W alone', () => {
    const { rig } = make();
    const table = rig.page();
    rig.map(table, 0x1000n, 0x5000_0000n, 2n);
    rig.scalable().second(0, 7, table).enable(1);
    expect(request(rig, 0x1000n)).toEqual([ATS.SUCCESS, 0x5000_0000, 12, ACCESS.WRITE]);
  });

  test('are UR without DTE, translation or device TLB support; CA when a table is bad; and recorded', () => {
    const { rig } = make();
    expect(request(rig, 0x1000n)[0]).toBe(ATS.UR);
    const table = rig.page();
    rig.map(table, 0x1000n, 1n << 50n, 3n);
    rig.scalable(0x10, 8n).second(0, 7, table).enable(1);
    expect(request(rig, 0x1000n)[0]).toBe(ATS.UR);
    expect(rig.heard.faults.map((f) => (f[3]! >>> 0).toString(16))).toEqual(['d0000044']);
    rig.scalable(0x10);
    rig.inv(I.contextGlobal);
    expect(request(rig, 0x1000n)[0]).toBe(ATS.CA);
    expect(rig.heard.faults[1]![3]! & 0xff).toBe(0x7a);
    const { rig: poor } = make({ ecap: ECAP_ALL & ~4n });
    poor.scalable(0x10, 8n).second(0, 7, table).enable(1);
    expect(request(poor, 0x1000n)[0]).toBe(ATS.UR);
  });

  test('in the interrupt window allow an untranslated write and nothing else', () => {
    const { rig } = make();
    rig.scalable().second(0, 7, rig.page()).enable(1);
    expect(request(rig, 0xfee0_0000n)).toEqual([ATS.SUCCESS, 0, 12, ACCESS.WRITE]);
    expect(rig.hw.atsUntranslated).toBe(true);
    expect(request(rig, 0xfee0_0000n, ACCESS.READ)).toEqual([ATS.SUCCESS, 0, 12, 0]);
    expect(rig.hw.atsUntranslated).toBe(false);
  });

  test('legacy mode needs translation type 1', () => {
    const { rig } = make();
    const table = rig.page();
    rig.map(table, 0x1000n, 0x5000_0000n, 3n);
    rig.legacy(0x10, BigInt(table) | 5n, 2n | (7n << 8n)).enable(0);
    expect(request(rig, 0x1000n)).toEqual([ATS.SUCCESS, 0x5000_0000, 12, 3]);
    rig.legacy(0x10, BigInt(table) | 1n, 2n | (7n << 8n));
    rig.inv(I.contextGlobal);
    expect(request(rig, 0x1000n)[0]).toBe(ATS.UR);
    expect(rig.heard.faults[0]![3]! & 0xff).toBe(0xd);
  });
});

test('translated requests pass unchanged with DTE, are refused without, and never reach the interrupt window', () => {
  const { rig } = make();
  rig.scalable().enable(1);
  expect(rig.dma(0x1234_5678n, 2, 0x10, NO_PASID, AT.TRANSLATED)).toBe(0x1234_5678);
  expect(rig.dma(0xfee0_0000n, 2, 0x10, NO_PASID, AT.TRANSLATED)).toBe(-0x29);
  rig.scalable(0x10, 0n);
  rig.inv(I.contextGlobal);
  expect(rig.dma(0x1234_5678n, 2, 0x10, NO_PASID, AT.TRANSLATED)).toBe(-0x44);
});

describe('device-TLB invalidations', () => {
  test('carry address, size, PASID and G as ATS has them', () => {
    const { rig, functions } = make();
    rig.enable(1);
    expect(rig.inv(I.device(0x10, 0x7fff_ffff_ffff_f001n), I.pasidDevice(0x18, 5, 0x1000n | 0x800n | 1n))).toEqual({
      done: 2,
      error: HW_ERROR.NONE,
      pending: 0,
    });
    expect(functions.invalidations).toEqual([
      { rid: 0x10, pasid: NO_PASID, itag: 0, address: 0x7fff_ffff_ffff_f800n, global: false },
      { rid: 0x18, pasid: 5, itag: 0, address: 0x1800n, global: true },
    ]);
  });

  test('a function that is not there is a timeout at once', () => {
    const { rig, functions } = make();
    functions.answer = 'absent';
    rig.enable(1);
    expect(rig.inv(I.device(0x10, 0n)).error).toBe(HW_ERROR.ATC_TIMEOUT);
  });

  test('late completions end the token; the count says how many are due', () => {
    const { rig, functions } = make();
    functions.answer = 'later';
    rig.enable(1);
    const { pending, error } = rig.inv(I.device(0x10, 0n), I.device(0x18, 0n));
    expect([pending > 0, error]).toEqual([true, HW_ERROR.NONE]);
    rig.hw.invalidateCompletion(0x10, 1, 2);
    rig.hw.invalidateCompletion(0x10, 1, 2);
    expect(rig.heard.completions).toEqual([]);
    for (let i = 0; i < 8; i++) rig.hw.invalidateCompletion(0x18, 2, 0);
    expect(rig.heard.completions).toEqual([[pending, HW_ERROR.NONE, 0]]);
    rig.hw.invalidateCompletion(0x18, 2, 0);
    expect(rig.hw.unexpectedCompletions).toBe(1);
  });

  test('no completion in time: the error names the function, and the ITag is free again', () => {
    const { rig, functions, clock } = make();
    functions.answer = 'later';
    rig.enable(1);
    const { pending } = rig.inv(I.device(0x10, 0n), I.device(0x18, 0n));
    rig.hw.invalidateCompletion(0x18, 2, 1);
    clock.advance(999);
    expect(rig.heard.completions).toEqual([]);
    clock.advance(1);
    expect(rig.heard.completions).toEqual([[pending, HW_ERROR.ATC_TIMEOUT, 0x10]]);
    rig.inv(I.device(0x20, 0n));
    expect(functions.invalidations.at(-1)?.itag).toBe(0);
    // A completion from another function does not count.
    rig.hw.invalidateCompletion(0x18, 1, 1);
    expect([rig.heard.completions.length, rig.hw.unexpectedCompletions]).toEqual([1, 1]);
  });

  test('more requests than ITags wait for one', () => {
    const { rig, functions } = make();
    functions.answer = 'later';
    rig.enable(1);
    const { pending } = rig.inv(...Array.from({ length: 40 }, () => I.device(0x10, 0n)));
    expect(functions.invalidations.length).toBe(32);
    rig.hw.invalidateCompletion(0x10, -1, 1);
    expect(functions.invalidations.length).toBe(40);
    rig.hw.invalidateCompletion(0x10, 0xff, 1);
    expect(rig.heard.completions).toEqual([[pending, HW_ERROR.NONE, 0]]);
  });

  test('a submission made while another is being sent ends on its own', () => {
    const { rig, functions } = make();
    rig.enable(1);
    functions.answer = 'later';
    const first = rig.inv(I.device(0x10, 0n));
    let inner: ReturnType<typeof rig.inv> | null = null;
    rig.heard.completed = (token, error, rid) => {
      rig.heard.completions.push([token, error, rid]);
      if (inner === null) inner = rig.inv(I.device(0x28, 0n), [0xfn, 0n]);
    };
    // The second function answers for the first while its own request is being sent.
    const invalidate = functions.invalidate.bind(functions);
    functions.invalidate = (rid, ...rest) => {
      if (rid === 0x18) rig.hw.invalidateCompletion(0x10, 1, 1);
      return invalidate(rid, ...rest);
    };
    const second = rig.inv(I.device(0x18, 0n), I.device(0x20, 0n));
    expect([second.done, second.error, second.pending > 0]).toEqual([2, HW_ERROR.NONE, true]);
    expect(inner).toMatchObject({ done: 1, error: HW_ERROR.ILLEGAL });
    expect(rig.heard.completions).toEqual([[first.pending, HW_ERROR.NONE, 0]]);
    for (const rid of [0x18, 0x20, 0x28])
      for (let tag = 0; tag < 4; tag++) rig.hw.invalidateCompletion(rid, 1 << tag, 1);
    expect(rig.heard.completions.map((c) => c[0]).sort()).toEqual(
      [first.pending, second.pending, inner!.pending].sort(),
    );
  });

  test('a unit saved with invalidations under way finishes them after loading', () => {
    const { rig, functions, clock } = make();
    functions.answer = 'later';
    rig.enable(1);
    const { pending } = rig.inv(I.device(0x10, 0n), I.device(0x18, 0n));
    clock.advance(400);
    const data = JSON.parse(JSON.stringify(rig.hw.save()));
    const second = new PhysicalVtd({
      memory: rig.memory,
      cap: CAP_ALL,
      ecap: ECAP_ALL,
      events: rig.heard,
      endpoints: functions,
      clock: new VirtualClock(),
    });
    second.load(data);
    second.invalidateCompletion(0x10, 1, 1);
    second.invalidateCompletion(0x18, 2, 1);
    expect(rig.heard.completions).toEqual([[pending, HW_ERROR.NONE, 0]]);
  });
});

describe('page requests', () => {
  function paging() {
    const m = make();
    const table = m.rig.page();
    m.rig.map(table, 0x1000n, 0x5000_0000n, 7n);
    m.rig.scalable().first(1, 7, table).enable(1);
    return m;
  }

  test('become records; the page, and it alone, is no longer cached when the host sees them', () => {
    const { rig } = paging();
    const table = Number(rig.get(rig.pasidEntry(1) + 16));
    rig.map(table, 0x2000n, 0x5100_0000n, 7n);
    rig.dma(0x1000n, 1, 0x10, 1);
    rig.dma(0x2000n, 1, 0x10, 1);
    rig.map(table, 0x2000n, 0x6100_0000n, 7n);
    const leaf = rig.map(Number(rig.get(rig.pasidEntry(1) + 16)), 0x1000n, 0x6000_0000n, 7n);
    expect(rig.get(leaf)).toBe(0x6000_0007n);
    rig.hw.pageRequest(0x10, 1, 0x1000, 0, ACCESS.READ | ACCESS.WRITE | ACCESS.PRIV, 0x1ff, true);
    expect(rig.heard.pageRequests.map((r) => [...r].map((w) => (w >>> 0).toString(16)))).toEqual([
      ['100101', '200001', '1fff', '0', '0', '0', '0', '0'],
    ]);
    expect(rig.dma(0x1000n, 1, 0x10, 1)).toBe(0x6000_0000);
    expect(rig.dma(0x2000n, 1, 0x10, 1)).toBe(0x5100_0000);
  });

  test('on a bad table are recorded; the last of the group is answered invalid, others vanish', () => {
    const { rig, functions } = paging();
    rig.hw.pageRequest(0x10, 9, 0x1000, 0, ACCESS.READ, 3, false);
    expect(functions.responses).toEqual([]);
    rig.hw.pageRequest(0x10, 9, 0x1000, 0, ACCESS.READ, 3, true);
    expect(functions.responses).toEqual([[0x10, 9, 3, 1]]);
    rig.scalable(0x10, 0xcn);
    rig.inv(I.contextGlobal);
    rig.hw.pageRequest(0x10, 1, 0x1000, 0, ACCESS.READ, 4, true);
    rig.enable(0);
    rig.legacy(0x10, 0x11_0000n | 1n, 2n);
    rig.hw.pageRequest(0x10, NO_PASID, 0x1000, 0, ACCESS.READ, 5, true);
    expect(rig.heard.faults.map((f) => [(f[3]! >>> 0).toString(16), (f[2]! >>> 0).toString(16)])).toEqual([
      ['80000959', '90000010'],
      ['80000959', '90000010'],
      ['80000147', '90000010'],
      ['80000032', '10000010'],
    ]);
    expect(functions.responses.length).toBe(3);
    expect(rig.heard.pageRequests).toEqual([]);
  });

  test('are answered by the page-group response', () => {
    const { rig, functions } = paging();
    rig.inv([0x19n | (0x10n << 16n) | (1n << 32n), 0x1ffn << 3n], [0x1009n | (0x10n << 16n), 0x7n << 3n]);
    expect(functions.responses).toEqual([
      [0x10, 1, 0x1ff, 0],
      [0x10, NO_PASID, 7, 1],
    ]);
  });
});
