import { describe, expect, test } from 'vitest';
import { MACHINE_LIMITS, type MachineLimits, machineLimits, Quota } from '../../src/lib/limits/machine-limits.ts';
import { hostRid } from '../../src/lib/pci/rids.ts';
import { InterruptQueue } from '../../src/machine/interrupt-queue.ts';
import { Vm } from '../../src/machine/vm.ts';
import { ACCESS } from '../../src/ports/dma.ts';
import { pageRequestWord2 } from '../../src/spec/vtd/page-request.ts';
import { KINDS, Rig as Plugged } from './plugged/rig.ts';
import { FIRST, Rig, SECOND, SlowEndpoint } from './vtd/rig.ts';

const SVM = { scalableMode: true, fsts: true, pasidBits: 8, svm: true, deviceIotlb: true } as const;

/** A guest with PASIDs 0 to `count` - 1 of function 0x10, each with VA 0x5000 on a page of its own. */
function pasids(count: number, limits: Partial<MachineLimits>) {
  const rig = new Rig({ props: SVM, limits });
  const { g } = rig;
  const f = rig.plug(0x10, 0, { ats: true, pri: true, maxPasids: 256 });
  for (let p = 0; p < count; p++) {
    const root = rig.page();
    rig.scalable(0x10, p, FIRST(p + 1, root));
    g.map(root, 0x5000, 0x100_0000 + p * 4096, 7n, rig.pools[0]!);
  }
  g.queueOn(true);
  g.translateOn(rig.root(1));
  const all = () => Array.from({ length: count - 1 }, (_, i) => rig.dma(0x10, 0x5000, ACCESS.WRITE, i + 1));
  const right = Array.from({ length: count - 1 }, (_, i) => 0x100_0000 + (i + 1) * 4096);
  return { rig, f, all, right };
}

describe('what a guest can make its host use', () => {
  test('limits that are not known, or none, are refused by name, and nothing else is asked of the caller', () => {
    expect(machineLimits()).toEqual(MACHINE_LIMITS);
    expect(machineLimits({ pasids: 7 })).toEqual({ ...MACHINE_LIMITS, pasids: 7 });
    for (const bad of [{ pasids: 0 }, { pasids: 1.5 }, { stalls: Number.NaN }, { pages: 1 } as object]) {
      expect(() => new Vm({ ram: [{ base: 0, bytes: 4096 }], limits: bad })).toThrow(/limit '(pasids|stalls|pages)'/);
    }
  });

  test('more PASIDs than there is room for take turns, and each access goes where its own tables say', () => {
    const { rig, all, right } = pasids(40, { pasids: 8 });
    for (let round = 0; round < 3; round++) {
      expect(all()).toEqual(right);
      expect(rig.vm.usage().pasids).toMatchObject({ used: 8, limit: 8 });
    }
    expect(rig.vm.usage().pasids.met).toBeGreaterThan(32);
    expect(rig.g.r32(0x34)).toBe(0);
  });

  test('a PASID whose page request waits for the guest stays, and the guest can still answer', () => {
    const { rig, all, right } = pasids(20, { pasids: 4 });
    const unit = rig.units[0]!;
    const endpoint = new SlowEndpoint(unit);
    rig.g.w64(0xd0, 0x30_0000n);
    expect(rig.dma(0x10, 0x5000, ACCESS.WRITE, 3)).toBe(right[2]);
    unit.hardware.pageRequest(
      hostRid(0x10),
      3,
      pageRequestWord2(0x9000, 5, true, false, true),
      0,
      ACCESS.READ,
      5,
      true,
    );
    expect(rig.vm.usage().pageRequests.used).toBe(1);
    expect(all()).toEqual(right);
    expect(unit.device.attachments().some((a) => a.pasid === 3)).toBe(true);
    // Page group response: requester, group, success.
    rig.g.submit(0x9n | (1n << 4n) | (0x10n << 16n) | (3n << 32n), 5n << 3n, 0n, 0n);
    expect(endpoint.responses).toEqual([`${hostRid(0x10).toString(16)} 3 5 0`]);
    expect(rig.vm.usage().pageRequests.used).toBe(0);
  });

  test('counts go back to nothing when the functions do', () => {
    const { rig, f, all } = pasids(20, {});
    all();
    expect(rig.vm.usage().pasids.used).toBeGreaterThan(10);
    f.remove();
    expect(rig.vm.usage().pasids.used).toBe(0);
    expect(rig.vm.usage().shadowPieces.used).toBe(0);
  });

  test.each([false, true])(
    '120 PASIDs over one table that points at itself stay within the quota (linux-only %s)',
    (linuxOnly) => {
      const limits = { shadowPieces: 2000, tablePages: 20_000 };
      const rig = new Rig({
        linuxOnly,
        limits,
        props: { scalableMode: true, pasidBits: 8, cachingMode: true, awBits: 48 },
      });
      const { g } = rig;
      const tables = [0x100_0000, 0x100_1000, 0x100_2000, 0x100_3000];
      for (let i = 0; i < 512; i++) {
        for (let l = 0; l < 3; l++) g.store(tables[l]! + 8 * i, BigInt(tables[l + 1]!) | 3n);
        g.store(tables[3]! + 8 * i, BigInt(0x10_0000 + (i % 2) * 0x4000) | 3n);
      }
      rig.plug(0x10, 0, { maxPasids: 256 });
      for (let p = 0; p < 120; p++) rig.scalable(0x10, p, SECOND(p + 1, tables[0]!));
      g.store(0x20_2008, 0x20_4001n);
      g.queueOn(true);
      g.translateOn(rig.root(1));
      g.submit(0x37n, 0n, 0n, 0n);
      for (let i = 0; i < 1000 && g.r32(0x80) !== g.tail; i++);
      expect(g.r32(0x80)).toBe(g.tail);
      const reached = new Set<unknown>();
      for (let k = 0; k < 40; k++) {
        for (let p = 1; p < 120; p++) reached.add(rig.dma(0x10, 0x7000_0000 + k * 0x4000_0000, ACCESS.WRITE, p));
      }
      const { shadowPieces, tablePages } = rig.vm.usage();
      expect(tablePages.used).toBeLessThan(20_000);
      expect(shadowPieces.used).toBeLessThanOrEqual(2001);
      // On demand everything is there in its turn; without misses only what had room.
      if (!linuxOnly) expect([...reached]).toEqual([0x10_0000]);
    },
  );

  test('a command queue waits while too many answers of functions are missing, and loses none', () => {
    const rig = new Rig({ props: SVM, limits: { invalidations: 4 } });
    const { g } = rig;
    rig.plug(0x10, 0, { ats: true, maxPasids: 256 });
    const endpoint = new SlowEndpoint(rig.units[0]!);
    g.queueOn(true);
    for (let i = 0; i < 20; i++) g.store(g.queue + 32 * i, 0x3n | (0x10n << 32n), BigInt(i * 4096), 0n, 0n);
    g.w32(0x88, 32 * 20);
    expect(rig.vm.usage().invalidations).toMatchObject({ used: 4, limit: 4 });
    expect(g.r32(0x80)).toBe(32 * 4);
    const seen: number[] = [];
    for (let i = 0; i < 10 && endpoint.asked.length > 0; i++) {
      seen.push(...endpoint.asked.map((a) => a.lo >>> 12));
      endpoint.answer();
    }
    expect(seen).toEqual(Array.from({ length: 20 }, (_, i) => i));
    expect(g.r32(0x80)).toBe(32 * 20);
    expect(rig.vm.usage().invalidations.used).toBe(0);
  });

  test('the oldest page request is answered for the guest when too many wait', () => {
    const { rig } = pasids(3, { pageRequests: 3 });
    const unit = rig.units[0]!;
    const endpoint = new SlowEndpoint(unit);
    rig.g.w64(0xd0, 0x30_0000n);
    for (let group = 0; group < 5; group++) {
      unit.hardware.pageRequest(
        hostRid(0x10),
        1,
        pageRequestWord2(0x9000, group, true, false, true),
        0,
        ACCESS.READ,
        group,
        true,
      );
    }
    expect(rig.vm.usage().pageRequests).toMatchObject({ used: 3, met: 2 });
    const invalid = (group: number) => `${hostRid(0x10).toString(16)} 1 ${group} 1`;
    expect(endpoint.responses).toEqual([invalid(0), invalid(1)]);
  });

  test('an emulator that never comes out of its access keeps lines and a bounded number of messages', () => {
    const heard: string[] = [];
    const quota = new Quota(10);
    const sink = {
      line: (n: number, on: boolean) => void heard.push(`${n} ${on}`),
      message: (address: number, data: number) => void heard.push(`m ${address} ${data}`),
    };
    const queue = new InterruptQueue(
      sink,
      () => true,
      () => {},
      quota,
    );
    const port = queue.port([5, 6]);
    for (let i = 0; i < 1000; i++) {
      queue.message(0x10, i, 0);
      port.pulse(0);
      port.level(1, i % 2 === 0);
    }
    expect(quota.used).toBeLessThanOrEqual(12);
    queue.flush();
    expect(heard.at(-1)).toBe('6 false');
    expect(heard.filter((h) => h === '5 true').length).toBeGreaterThan(0);
    expect(heard.length).toBeLessThan(20);
    expect(quota.used).toBe(0);
  });

  test('a machine of either kind says what it uses', () => {
    for (const kind of KINDS) {
      const { machine } = new Plugged(kind);
      const usage = machine.usage();
      expect(Object.keys(usage).sort()).toEqual(Object.keys(MACHINE_LIMITS).sort());
      for (const [name, { used, limit }] of Object.entries(usage)) {
        expect(limit).toBe(MACHINE_LIMITS[name as keyof MachineLimits]);
        expect(used).toBeLessThanOrEqual(limit);
      }
      expect(usage.tablePages.used).toBeGreaterThan(0);
    }
  });
});
