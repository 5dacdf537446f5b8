import { describe, expect, test } from 'vitest';
import { NvmeFunction } from '../../devices/endpoints/nvme/function.ts';
import { hostRid } from '../../src/lib/pci/rids.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { createQemuMachine } from '../../src/machine/qemu-machine.ts';
import { ACCESS, NO_PASID } from '../../src/ports/dma.ts';
import { PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { CD, cfgiSte, R, sync } from '../devices/smmuv3/guest.ts';
import { Rig as Smmuv3Rig, space } from './smmuv3/rig.ts';
import { Rig as VtdRig } from './vtd/rig.ts';

/** Addresses a GiB apart, each in a table of its own. */
const SPREAD = Array.from({ length: 24 }, (_, i) => i * 0x4000_0000 + 0x5000);

/** A second stage that the guest owns, with a page at each of the addresses. */
const OWNERS = {
  smmuv3: (limits: object) => {
    const rig = new Smmuv3Rig({ limits });
    const { g } = rig;
    rig.plug(8);
    const [l1, l2, l3] = [0x4060_0000, 0x4061_0000, 0x4062_0000];
    for (let i = 0; i < 32; i++) g.put(l1 + 8 * i, BigInt(l2) | 3n);
    g.put(l2, BigInt(l3) | 3n);
    g.put(l3 + 8 * 5, 0x4040_54ffn);
    g.ste(8, 0xdn, 0n, 0x040c_0059_0000_0007n, BigInt(l1));
    g.setUp(5);
    g.run(cfgiSte(8), sync);
    return { vm: rig.vm, dma: (iova: number) => rig.dma(8, iova), page: 0x4040_5000 };
  },
  vtd: (limits: object) => {
    const rig = new VtdRig({ limits });
    const root = rig.page();
    for (const iova of SPREAD) rig.g.map(root, iova, 0x40_5000, 3n, rig.pools[0]!);
    rig.plug(8);
    rig.legacy(8, 5, root);
    rig.g.queueOn();
    rig.g.translateOn(rig.root());
    return { vm: rig.vm, dma: (iova: number) => rig.dma(8, iova), page: 0x40_5000 };
  },
} as const;

describe.each(Object.entries(OWNERS))('tables that repeat the second stage of a %s guest', (_, make) => {
  test('take turns where they do not fit, and every access goes where the guest says', () => {
    const { vm, dma, page } = make({ shadowTables: 6 });
    for (let round = 0; round < 3; round++) {
      for (const iova of SPREAD) expect(dma(iova)).toBe(page);
      expect(vm.usage().shadowTables).toMatchObject({ limit: 6 });
      expect(vm.usage().shadowTables.used).toBeLessThanOrEqual(6);
    }
    expect(vm.usage().shadowTables.met).toBeGreaterThan(10);
  });

  test('are counted, and do not meet a limit that is far away', () => {
    const { vm, dma, page } = make({});
    for (const iova of SPREAD) expect(dma(iova)).toBe(page);
    const { used, met } = vm.usage().shadowTables;
    expect([used >= SPREAD.length, used <= vm.usage().tablePages.used, met]).toEqual([true, true, 0]);
  });
});

describe('what an SMMUv3 guest leaves unanswered', () => {
  /** A function with PRI whose queue of page requests is on. */
  function asking(limits: object) {
    const rig = new Smmuv3Rig({ limits, properties: { profile: 'arch', ats: true, pri: true, ssidsize: 8 } });
    const away = rig.plug(8, 0, { ats: true, pri: true, maxPasids: 256 });
    const answers: string[] = [];
    const slow = { on: false, asked: [] as number[] };
    rig.units[0]!.endpoints.to = {
      invalidate: (rid, _pasid, itag) => {
        if (slow.on) slow.asked.push(itag);
        else rig.units[0]!.hardware.invalidateCompletion(rid, (1 << itag) >>> 0, 1);
        return true;
      },
      pageResponse: (_rid, pasid, group, code) => void answers.push(`${pasid} ${group} ${code}`),
      resumed: () => {},
    };
    const { g } = rig;
    g.ste(8, space(g, 0, 0x11).ste, 0x1000_0000n);
    g.w64(PAGE0.PRIQ_BASE.at, 0x4070_0000n | 6n);
    g.setUp(5, 3, 5);
    g.w(PAGE0.CR0.at, 0xf);
    g.run(cfgiSte(8), sync);
    const ask = (group: number, pasid = NO_PASID, access: number = ACCESS.READ) =>
      rig.units[0]!.hardware.pageRequest(hostRid(8), pasid, 0x9000, 0, access, group, true);
    return { rig, g, away, answers, ask, slow };
  }

  test('page requests: the oldest is answered for it when too many wait, and the guest answers the others', () => {
    const { rig, g, answers, ask } = asking({ pageRequests: 3 });
    for (let group = 0; group < 5; group++) ask(group);
    expect(rig.vm.usage().pageRequests).toMatchObject({ used: 3, limit: 3, met: 2 });
    expect(answers).toEqual([`${NO_PASID} 0 1`, `${NO_PASID} 1 1`]);
    for (let group = 2; group < 5; group++) g.run([(8n << 32n) | 0x41n, BigInt(group) | (2n << 12n)], sync);
    expect(answers.slice(2)).toEqual([2, 3, 4].map((group) => `${NO_PASID} ${group} 0`));
    expect(rig.vm.usage().pageRequests.used).toBe(0);
  });

  test('page requests of a function that is taken out, or before a reset, are nobody’s any more', () => {
    const a = asking({});
    for (let group = 0; group < 4; group++) a.ask(group);
    expect(a.rig.vm.usage().pageRequests.used).toBe(4);
    a.rig.units[0]!.reset();
    expect(a.rig.vm.usage().pageRequests.used).toBe(0);
    const b = asking({});
    for (let group = 0; group < 4; group++) b.ask(group);
    b.away.remove();
    expect(b.rig.vm.usage().pageRequests.used).toBe(0);
  });

  test('stop markers, which nobody answers, take no place of a request that somebody has to', () => {
    const { rig, g, answers, ask } = asking({});
    for (let i = 0; i < 9000; i++) {
      ask(i & 511, 1 + (i >> 9), 0);
      g.w(R.PRIQ_CONS, g.r(R.PRIQ_PROD));
    }
    expect([rig.vm.usage().pageRequests.used, answers]).toEqual([0, []]);
    ask(7);
    expect([rig.vm.usage().pageRequests.used, answers]).toEqual([1, []]);
  });

  test('stalled transactions: a further one is terminated, with its event', () => {
    const rig = new Smmuv3Rig({
      limits: { stalls: 2 },
      properties: { profile: 'arch', stall: true },
      canStall: () => true,
    });
    rig.plug(8);
    const { g } = rig;
    const { ste } = space(g, 0, 0x11);
    g.put(CD, (0x11n << 48n) | 0x7204_c000_0019n);
    g.ste(8, ste);
    g.setUp(5, 4);
    g.run(cfgiSte(8), sync);
    const ends = [0x1000, 0x2000, 0x3000].map((iova) => rig.dma(8, iova));
    expect(ends).toEqual(['STALLED', 'STALLED', 'ABORT']);
    expect(rig.vm.usage().stalls).toMatchObject({ used: 2, limit: 2, met: 1 });
    expect(g.r(R.EVENTQ_PROD)).toBe(3);
    g.run([(8n << 32n) | 0x45n, 0n], sync);
    expect(rig.vm.usage().stalls.used).toBe(0);
  });

  test('invalidations of functions: the command queue waits for answers, and goes on with them', () => {
    const { rig, g, slow } = asking({ invalidations: 2 });
    slow.on = true;
    // Each is handed over by itself.
    for (let i = 0; i < 6; i++) g.run([(8n << 32n) | 0x40n, BigInt(i) << 12n]);
    let done = 0;
    for (let round = 0; round < 20 && slow.asked.length > 0; round++) {
      expect(rig.vm.usage().invalidations.used).toBeLessThanOrEqual(2);
      for (const itag of slow.asked.splice(0)) {
        rig.units[0]!.hardware.invalidateCompletion(hostRid(8), (1 << itag) >>> 0, 1);
        done++;
      }
    }
    expect([done, g.r(PAGE0.CMDQ_CONS.at), rig.vm.usage().invalidations.used]).toEqual([6, g.prod, 0]);
    expect(rig.vm.usage().invalidations.met).toBeGreaterThan(0);
  });
});

test.each(['-M virt,iommu=smmuv3 -m 64', '-machine q35 -m 64 -device intel-iommu'])(
  'a machine of QEMU has the limits it is given, and says what it uses: %s',
  (line) => {
    const limits = { tablePages: 4000, shadowTables: 9, pasids: 3, pageRequests: 5 };
    const m = createQemuMachine(parseQemuArgs(line), { nic: false, vga: false, limits });
    const usage = m.usage()!;
    for (const [name, limit] of Object.entries(limits)) {
      expect(usage[name as keyof typeof limits]).toMatchObject({ limit, met: 0 });
    }
    const before = usage.tablePages.used;
    const slots = [1, 2, 3].map((n) => m.board!.plug(new NvmeFunction({ disk: noDisk }).fn, 0x40 + 8 * n));
    expect(m.usage()!.tablePages.used).toBeGreaterThan(before);
    for (const s of slots) m.board!.complex.unplug(s);
    expect(() => createQemuMachine(parseQemuArgs(line), { nic: false, vga: false, limits: { tablePages: 0 } })).toThrow(
      /limit 'tablePages'/,
    );
  },
);

const noDisk = { blocks: 8, read() {}, write() {}, zero() {} };
