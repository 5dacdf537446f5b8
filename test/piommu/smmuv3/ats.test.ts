import { describe, expect, test } from 'vitest';
import { ACCESS, AT, ATS, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { S1_RW, S2_RW } from '../../support/vmsa-tables.ts';
import { CD0, cfgiSte, FULL_IDRS, identityStage2, QEMU_IDRS, Rig, STE_S2, stage1Tables } from './rig.ts';

const SID = 8;
const VA = 0x5000n;
const { READ, WRITE, EXEC, PRIV } = ACCESS;
const EATS = (n: bigint) => n << 28n;
/** F_BAD_ATS_TREQ of a read. */
const BAD_TREQ = [0x8_0000_0005n, 1n << 30n, VA, 0n];

/** Stage 1 only: VA read-write, VA + 0x1000 read-only, VA + 0x2000 not mapped, VA + 0x3000 not accessed. */
function bench(options = FULL_IDRS, eats = 1n): Rig {
  const rig = new Rig(options);
  rig.store(0x4040_0000, CD0, 0x4041_0000n);
  const tables = stage1Tables(rig);
  tables.map(VA, 0x4050_0000);
  tables.map(VA + 0x1000n, 0x4051_0000, 3, S1_RW | 0x80n);
  tables.map(VA + 0x3000n, 0x4052_0000, 3, S1_RW & ~0x400n);
  tables.map(0x20_0000n, 0x4400_0000, 2);
  rig.ste(SID, 0x4040_000bn, EATS(eats));
  return rig;
}

describe('translation requests', () => {
  test('succeed with the size and permissions of the mapping, as far as they were asked for', () => {
    const rig = bench();
    const ask = (va: bigint, access: number) => [
      rig.ats(SID, va, access),
      rig.hw.atsOut,
      rig.hw.atsShift,
      rig.hw.atsPerm,
    ];
    expect(ask(VA, READ | WRITE)).toEqual([ATS.SUCCESS, 0x4050_0000, 12, READ | WRITE]);
    expect(ask(VA, READ)).toEqual([ATS.SUCCESS, 0x4050_0000, 12, READ]);
    expect(ask(VA + 0x1000n, READ | WRITE)).toEqual([ATS.SUCCESS, 0x4051_0000, 12, READ]);
    expect(ask(0x20_0000n, READ | WRITE)).toEqual([ATS.SUCCESS, 0x4400_0000, 21, READ | WRITE]);
    expect(rig.faults).toEqual([]);
  });

  test('of something not mapped, out of range or not accessed succeed with nothing and record nothing', () => {
    const rig = bench();
    for (const va of [VA + 0x2000n, 1n << 45n, VA + 0x3000n]) {
      expect([rig.ats(SID, va, READ), rig.hw.atsPerm]).toEqual([ATS.SUCCESS, 0]);
    }
    expect(rig.faults).toEqual([]);
  });

  test('are refused as unsupported while the STE or the SMMU does not grant them', () => {
    for (const [word0, word1, record] of [
      [9n, EATS(1n), true],
      [0x4040_000bn, EATS(0n), true],
      [0x4040_000bn, EATS(3n), true],
      [1n, EATS(1n), false],
    ] as const) {
      const rig = bench();
      rig.ste(SID, word0, word1);
      expect(rig.ats(SID, VA)).toBe(ATS.UR);
      expect(rig.takeFaults()).toEqual(record ? [BAD_TREQ] : []);
    }
    const off = bench();
    off.control({ smmuen: false });
    expect(off.ats(SID, VA)).toBe(ATS.UR);
    expect(off.takeFaults()).toEqual([BAD_TREQ]);
    expect(bench(QEMU_IDRS).ats(SID, VA)).toBe(ATS.UR);
  });

  test('that meet bad configuration are aborted, and recorded only with REC_CFG_ATS', () => {
    for (const record of [false, true]) {
      const rig = bench();
      rig.control({ recCfgAts: record });
      rig.store(0x4040_0000, 0n);
      expect(rig.ats(SID, VA)).toBe(ATS.CA);
      rig.ste(SID, 0n);
      rig.submit(cfgiSte(SID));
      expect(rig.ats(SID, VA)).toBe(ATS.CA);
      rig.ste(SID, 0x800_0000_000bn, EATS(1n));
      expect(rig.ats(SID, VA)).toBe(ATS.CA);
      expect(rig.ats(0x100, VA)).toBe(ATS.CA);
      const codes = rig.takeFaults().map(([w0]) => Number(w0! & 0xffn));
      expect(codes).toEqual(record ? [0x0a, 0x04, 0x09, 0x02] : []);
    }
  });

  test('execute and privilege are granted with a PASID only, execute only where reading is', () => {
    const rig = bench();
    rig.store(0x4040_0000 + 64, CD0, 0x4041_0000n);
    rig.ste(SID, (2n << 59n) | 0x4040_000bn, EATS(1n));
    const ask = (access: number, pasid: number) => {
      rig.ats(SID, VA, access, pasid);
      return rig.hw.atsPerm;
    };
    expect(ask(READ | EXEC, 1)).toBe(READ | EXEC);
    expect(ask(READ | PRIV, 1)).toBe(READ | PRIV);
    // What unprivileged code may write, privileged code does not execute.
    expect(ask(READ | EXEC | PRIV, 1)).toBe(READ | PRIV);
    rig.ste(SID, 0x4040_000bn, EATS(1n));
    rig.submit(cfgiSte(SID));
    expect(ask(READ | EXEC | PRIV, NO_PASID)).toBe(READ);
  });

  test('stage 1 bypassed by S1DSS gives the address itself, read-write', () => {
    const rig = bench();
    rig.ste(SID, (2n << 59n) | 0x4040_000bn, EATS(1n) | 1n);
    expect(rig.ats(SID, VA, READ | WRITE)).toBe(ATS.SUCCESS);
    expect([rig.hw.atsOut, rig.hw.atsPerm]).toEqual([0x5000, READ | WRITE]);
  });

  test('a stage-2 miss is asked for before the answer', () => {
    const rig = bench();
    const outer = identityStage2(rig);
    outer.write(outer.slot(0x4040_0000n, 2), 0n);
    rig.ste(SID, 0x4040_000fn, EATS(1n), ...STE_S2);
    rig.onStageTwoMiss = (ipa) => {
      outer.map(BigInt(ipa - (ipa % 2 ** 21)), ipa - (ipa % 2 ** 21), 2, S2_RW);
      return true;
    };
    expect([rig.ats(SID, VA, READ), rig.hw.atsOut]).toEqual([ATS.SUCCESS, 0x4050_0000]);
    expect(rig.stageTwoMisses.length).toBe(1);
  });

  test('with split-stage ATS the answer is an intermediate address, and the translated request goes through stage 2', () => {
    const rig = bench();
    const outer = identityStage2(rig);
    outer.map(0x1_0000_0000n, 0x4600_0000, 2, S2_RW);
    stage1Tables(rig).map(VA + 0x7000n, 0x1_0000_3000);
    rig.ste(SID, 0x4040_000fn, EATS(2n), ...STE_S2);
    expect(rig.ats(SID, VA + 0x7000n, READ | WRITE)).toBe(ATS.SUCCESS);
    expect([rig.hw.atsOut, rig.hw.atsPerm]).toEqual([0x1_0000_3000, READ | WRITE]);
    expect(rig.dma(SID, 0x1_0000_3004n, WRITE, NO_PASID, AT.TRANSLATED)).toBe(DMA.OK);
    expect(rig.hw.out).toBe(0x4600_3004);
    expect(rig.dma(SID, 0x2_0000_0000n, WRITE, NO_PASID, AT.TRANSLATED)).toBe(DMA.ABORT);
    expect(rig.takeFaults()).toEqual([[0x8_0000_0010n, 0x280_0000_0000n, 0x2_0000_0000n, 0x2_0000_0000n]]);
    // Without ATSCHK it acts as no grant.
    rig.control({ atschk: false });
    rig.submit(cfgiSte(SID));
    expect(rig.ats(SID, VA)).toBe(ATS.UR);
  });
});

describe('translated requests', () => {
  const translated = (rig: Rig, address = 0x4050_0123n) => rig.dma(SID, address, WRITE, NO_PASID, AT.TRANSLATED);

  test('pass as they are when the STE grants ATS, or nobody checks', () => {
    const rig = bench();
    expect([translated(rig), rig.hw.out]).toEqual([DMA.OK, 0x4050_0123]);
    rig.ste(SID, 0x4040_000bn, EATS(0n));
    rig.submit(cfgiSte(SID));
    rig.control({ atschk: false });
    expect([translated(rig), rig.hw.out]).toEqual([DMA.OK, 0x4050_0123]);
  });

  test('are forbidden without a grant, in bypass, with the SMMU off; silently aborted where all is', () => {
    const record = [0x8_0000_0007n, 0n, 0x4050_0123n, 0n];
    for (const [word0, word1, want] of [
      [0x4040_000bn, EATS(0n), record],
      [9n, EATS(1n), record],
      [1n, 0n, null],
      [0n, 0n, null],
    ] as const) {
      const rig = bench();
      rig.ste(SID, word0, word1);
      expect(translated(rig)).toBe(DMA.ABORT);
      expect(rig.takeFaults()).toEqual(want === null ? [] : [want]);
    }
    // A bad entry is recorded if CR2.REC_CFG_ATS asks for it.
    const asked = bench();
    asked.control({ recCfgAts: true });
    asked.ste(SID, 0n, 0n);
    expect(translated(asked)).toBe(DMA.ABORT);
    expect(asked.takeFaults()).toEqual([[0x8_0000_0004n, 0n, 0n, 0n]]);
    const off = bench();
    off.control({ smmuen: false });
    expect(translated(off)).toBe(DMA.ABORT);
    expect(off.takeFaults()).toEqual([record]);
  });
});

test('with a device permission table an invented translated address is refused and reported, a granted one passes', () => {
  const rig = new Rig({ ...FULL_IDRS, reach: (rid, address) => rid === SID && address < 0x4100_0000 });
  rig.ste(SID, 0x4040_000bn, EATS(1n));
  const at = (address: bigint) => rig.dma(SID, address, READ, NO_PASID, AT.TRANSLATED);
  expect([at(0x4050_0000n), at(0x4100_0000n)]).toEqual([DMA.OK, DMA.ABORT]);
  expect(rig.takeFaults()).toEqual([[0x8_0000_0007n, 0x8_0000_0000n, 0x4100_0000n, 0n]]);
});

describe('ATC_INV', () => {
  const atcInv = (address: bigint, size: number, ssid?: number, global = false) =>
    [
      (BigInt(SID) << 32n) |
        (ssid === undefined ? 0n : (BigInt(ssid) << 12n) | (1n << 11n)) |
        (global ? 1n << 9n : 0n) |
        0x40n,
      address | BigInt(size),
    ] as const;
  const sent = (rig: Rig) => rig.messages.splice(0).map((m) => m.args);

  test('the size becomes the ATS encoding: ones from bit 12 up, one zero', () => {
    const rig = bench();
    for (let size = 0; size <= 52; size++) {
      rig.submit(atcInv(0xffff_ffff_ffff_f000n, size));
      const [args] = sent(rig);
      const [rid, pasid, , lo, hi, global] = args as [number, number, number, number, number, boolean];
      expect([rid, pasid, global]).toEqual([SID, NO_PASID, false]);
      const got = (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
      const span = (1n << 12n) << BigInt(size);
      const base = BigInt.asUintN(64, 0xffff_ffff_ffff_f000n & ~(span - 1n));
      const ones = size === 0 ? 0n : span / 2n - (1n << 12n);
      expect(got).toBe(size === 0 ? base : base | ones | (1n << 11n));
    }
  });

  test('SubstreamID and Global travel; Global needs a SubstreamID', () => {
    const rig = bench();
    rig.submit(atcInv(0x5000n, 0, 7, true), atcInv(0x5000n, 0, undefined, true));
    expect(sent(rig)).toEqual([
      [SID, 7, 0, 0x5000, 0, true],
      [SID, NO_PASID, 0, 0x5000, 0, false],
    ]);
  });

  test('answered at once it leaves nothing pending; a function that is not there counts as answered', () => {
    const rig = bench();
    expect(rig.submit(atcInv(0n, 52))).toBe(HW_ERROR.NONE);
    expect(rig.hw.pending).toBe(0);
    rig.onInvalidate = () => false;
    expect(rig.submit(atcInv(0n, 52))).toBe(HW_ERROR.NONE);
    expect(rig.hw.pending).toBe(0);
  });

  test('no effect while the SMMU is off', () => {
    const rig = bench();
    rig.control({ smmuen: false });
    expect(rig.submit(atcInv(0n, 52))).toBe(HW_ERROR.NONE);
    expect(sent(rig)).toEqual([]);
  });

  test('answered late, each batch ends when its last request is answered', () => {
    const rig = bench();
    rig.onInvalidate = () => true;
    rig.submit(atcInv(0x1000n, 0), atcInv(0x2000n, 0));
    const first = rig.hw.pending;
    rig.submit(atcInv(0x3000n, 0));
    const second = rig.hw.pending;
    expect([first > 0, second > 0, first !== second, rig.hw.error]).toEqual([true, true, true, HW_ERROR.NONE]);
    expect(sent(rig).map((a) => a[2])).toEqual([0, 1, 2]);
    rig.hw.invalidateCompletion(SID, 0b101, 1);
    expect(rig.completed).toEqual([[second, HW_ERROR.NONE, -1]]);
    rig.hw.invalidateCompletion(9, 0b010, 1); // somebody else's
    expect(rig.completed.length).toBe(1);
    rig.hw.invalidateCompletion(SID, 0b010, 1);
    expect(rig.completed[1]).toEqual([first, HW_ERROR.NONE, -1]);
  });

  test('several completions are counted, eight when the count says 0', () => {
    const rig = bench();
    rig.onInvalidate = () => true;
    for (const count of [1, 2, 7, 0]) {
      rig.submit(atcInv(0x1000n, 0));
      const before = rig.completed.length;
      const expected = count === 0 ? 8 : count;
      for (let n = 1; n <= expected; n++) {
        expect(rig.completed.length).toBe(before);
        rig.hw.invalidateCompletion(SID, 1, count);
      }
      expect(rig.completed.length).toBe(before + 1);
    }
  });

  test('not answered, it is given up after the timeout: the batch fails and names the function', () => {
    const rig = new Rig({ ...FULL_IDRS, invalidateTimeout: 1000 });
    rig.onInvalidate = () => true;
    rig.submit(atcInv(0x1000n, 0), atcInv(0x2000n, 0));
    const token = rig.hw.pending;
    rig.clock.advance(999);
    expect(rig.completed).toEqual([]);
    rig.clock.advance(1);
    expect(rig.completed).toEqual([[token, HW_ERROR.ATC_TIMEOUT, SID]]);
    // A completion after that is nobody's; the ITag is free again.
    rig.hw.invalidateCompletion(SID, 1, 1);
    rig.submit(atcInv(0x3000n, 0));
    expect(sent(rig).map((a) => a[2])).toEqual([0, 1, 0]);
  });

  test('with a timeout of nothing the sync itself fails', () => {
    const rig = new Rig({ ...FULL_IDRS, invalidateTimeout: 0 });
    rig.onInvalidate = () => true;
    expect(rig.submit(atcInv(0x1000n, 0))).toBe(HW_ERROR.ATC_TIMEOUT);
    expect([rig.hw.done, rig.hw.pending]).toEqual([1, 0]);
    expect(rig.submit()).toBe(HW_ERROR.NONE);
  });

  test('a function gets no more requests than its queue takes, and no ITag twice', () => {
    const rig = new Rig({ ...FULL_IDRS, atcDepth: 4 });
    const open = new Set<number>();
    let most = 0;
    rig.onInvalidate = (_rid, itag) => {
      expect(open.has(itag)).toBe(false);
      open.add(itag);
      most = Math.max(most, open.size);
      return true;
    };
    rig.submit(...Array.from({ length: 50 }, (_, i) => atcInv(BigInt(i) << 12n, 0)));
    const token = rig.hw.pending;
    for (let n = 0; n < 50; n++) {
      expect(rig.completed).toEqual([]);
      const itag = [...open][n % open.size]!;
      open.delete(itag);
      rig.hw.invalidateCompletion(SID, 1 << itag, 1);
    }
    expect(most).toBe(4);
    expect(rig.completed).toEqual([[token, HW_ERROR.NONE, -1]]);
    expect(rig.messages.length).toBe(50);
  });

  test('a batch submitted in the middle of another has its own completion, and so has the outer one', () => {
    const rig = bench();
    const inner: number[] = [];
    rig.onInvalidate = (_rid, itag) => {
      if (itag === 0) {
        rig.submit(atcInv(0x9000n, 0));
        inner.push(rig.hw.pending, rig.hw.done);
      }
      return true;
    };
    expect(rig.submit(atcInv(0x1000n, 0), [0x46n, 0n])).toBe(HW_ERROR.NONE);
    const [innerToken, innerDone] = inner;
    const outer = rig.hw.pending;
    expect([innerDone, rig.hw.done, innerToken! > 0, outer > 0, outer !== innerToken]).toEqual([
      1,
      2,
      true,
      true,
      true,
    ]);
    rig.hw.invalidateCompletion(SID, 0b01, 1);
    expect(rig.completed).toEqual([[outer, HW_ERROR.NONE, -1]]);
    rig.hw.invalidateCompletion(SID, 0b10, 1);
    expect(rig.completed[1]).toEqual([innerToken, HW_ERROR.NONE, -1]);
  });

  test('in flight it survives saving: the answer, or the rest of the timeout', () => {
    for (const answer of [true, false]) {
      const rig = new Rig({ ...FULL_IDRS, invalidateTimeout: 1000, atcDepth: 1 });
      rig.onInvalidate = () => true;
      rig.submit(atcInv(0x1000n, 0), atcInv(0x2000n, 0));
      const token = rig.hw.pending;
      rig.clock.advance(400);
      const other = new Rig({ ...FULL_IDRS, invalidateTimeout: 1000, atcDepth: 1 });
      other.onInvalidate = () => true;
      other.clock.advance(400);
      other.hw.load(JSON.parse(JSON.stringify(rig.hw.save())));
      if (answer) {
        other.hw.invalidateCompletion(SID, 1, 1);
        expect(other.messages.length).toBe(1);
        other.hw.invalidateCompletion(SID, 1, 1);
        expect(other.completed).toEqual([[token, HW_ERROR.NONE, -1]]);
      } else {
        other.clock.advance(600);
        expect(other.messages.length).toBe(1);
        other.clock.advance(1000);
        expect(other.completed).toEqual([[token, HW_ERROR.ATC_TIMEOUT, SID]]);
      }
    }
  });
});
