import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Smmuv3Driver } from '../../../src/host/drivers/smmuv3/driver.ts';
import type { KernelDevice } from '../../../src/host/kernel/device.ts';
import type { PagingDomain } from '../../../src/host/kernel/driver.ts';
import { HostKernel } from '../../../src/host/kernel/kernel.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { PhysicalSmmuv3 } from '../../../src/piommu/smmuv3/device.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { HwEvents } from '../../../src/ports/hw.ts';
import { HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { EVENT } from '../../../src/spec/smmuv3/events.ts';
import { identity, ok, Vsmmu } from './bench.ts';
import { walk } from './bigint-walker.ts';

const PAGE = 0x1000;
const PAGES = 1100;
const IOVA = 0x4000_0000;
const SIDS = [8, 0x120, 0x121] as const;

interface Plan {
  readonly ril: boolean;
  readonly oas: number;
  readonly caches: boolean;
}

/** The driver on the emulated SMMU itself, whose caches forget only what they are told to. */
function machine(plan: Plan, pasidBits = 0, httu = 0) {
  const id = identity(
    [5, 7, plan.oas],
    [3, 1 << 10, plan.ril ? 1 << 10 : 0],
    [0, (3 << 6) | (1 << 19), (httu << 6) | (1 << 19)],
    [1, 0x7c0, 20 << 6],
  );
  const memory = new HostMemory();
  const kernel = new HostKernel({ memory, clock: new VirtualClock() });
  let events: HwEvents | null = null;
  const relay: HwEvents = {
    streamMiss: (...a) => events!.streamMiss(...a),
    stageTwoMiss: (...a) => events!.stageTwoMiss(...a),
    fault: (...a) => events!.fault(...a),
    pageRequest: (...a) => events!.pageRequest(...a),
    completed: (...a) => events!.completed(...a),
  };
  const hw = new PhysicalSmmuv3({
    memory: memory.space,
    idr0: id.idr[0],
    idr1: id.idr[1],
    idr3: id.idr[3],
    idr5: id.idr[5],
    events: relay,
    clock: kernel.clock,
    ...(plan.caches ? {} : { caches: { iotlb: 0, walks: 0, streams: 0, contexts: 0 } }),
  });
  const driver = new Smmuv3Driver({ name: 'smmu', hw, memory });
  kernel.addIommu(driver);
  events = driver.events;
  const devices = SIDS.map((sid) => kernel.addDevice({ name: `d${sid}`, streams: [sid], iommu: driver, pasidBits }));
  return { memory, kernel, hw, driver, devices };
}

/** What a domain maps: page → host page. And its tables, for the walker. */
interface Mapped {
  readonly domain: PagingDomain;
  readonly stage: 1 | 2;
  readonly pages: Map<number, number>;
}

type Attached = { readonly kind: 'blocked' | 'abort' } | { readonly kind: 'through'; readonly mapped: Mapped };

/** Where a 2 MiB block may begin, often: blocks and tables take each other's places. */
const pageOf = fc.oneof(fc.nat(PAGES - 1), fc.constantFrom(0, 1, 511, 512));

const action = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('map' as const),
      d: fc.nat(3),
      page: pageOf,
      count: fc.constantFrom(1, 2, 3, 17, 64, 512),
      out: fc.nat(7),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('unmap' as const),
      d: fc.nat(3),
      page: pageOf,
      count: fc.constantFrom(1, 2, 5, 64, 512, 600),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('attach' as const),
      dev: fc.nat(2),
      d: fc.nat(3),
      how: fc.constantFrom('plain', 'bypass', 'abort'),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('detach' as const), dev: fc.nat(2) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('dma' as const), dev: fc.nat(2), page: pageOf }) },
);

test('random attaches, maps and unmaps: every DMA and every table entry is as an obvious model says, stale caches included', () => {
  const plans = fc.record({ ril: fc.boolean(), oas: fc.constantFrom(2, 3, 4, 5), caches: fc.boolean() });
  fc.assert(
    fc.property(plans, fc.array(action, { minLength: 20, maxLength: 120 }), (plan, actions) => {
      const m = machine(plan);
      const flags = [HWPT_FLAG.NEST_PARENT, HWPT_FLAG.NEST_PARENT, 0, HWPT_FLAG.PASID];
      const domains: Mapped[] = flags.map((f) => ({
        domain: ok(m.driver.allocPaging(m.devices[0]!, f, null)),
        stage: f === HWPT_FLAG.NEST_PARENT ? 2 : 1,
        pages: new Map(),
      }));
      const vsmmus = domains.slice(0, 2).map((d) => new Vsmmu(m.driver, m.devices[0]!, d.domain, new Map()));
      const at: Attached[] = SIDS.map(() => ({ kind: 'blocked' }));

      const dma = (dev: number, page: number) => {
        const to = at[dev]!;
        const want = to.kind === 'through' ? to.mapped.pages.get(page) : undefined;
        const lo = IOVA + page * PAGE + 0x123;
        const code = m.hw.translate(SIDS[dev]!, NO_PASID, lo, 0, ACCESS.WRITE, AT.UNTRANSLATED);
        expect(code === DMA.OK ? m.hw.out : undefined).toBe(want === undefined ? undefined : want + 0x123);
      };

      for (const a of actions) {
        if (a.do === 'map') {
          const { domain, pages } = domains[a.d]!;
          let count = 0;
          while (count < a.count && a.page + count < PAGES && !pages.has(a.page + count)) count++;
          if (count === 0) continue;
          const out = 2 ** 31 + a.out * 0x20_0000 + (a.out % 2) * PAGE + a.page * PAGE;
          expect(domain.map(BigInt(IOVA + a.page * PAGE), out, count * PAGE, 7)).toBe(0);
          for (let i = 0; i < count; i++) pages.set(a.page + i, out + i * PAGE);
        } else if (a.do === 'unmap') {
          const { domain, pages } = domains[a.d]!;
          const count = Math.min(a.count, PAGES - a.page);
          let had = 0;
          for (let i = 0; i < count; i++) if (pages.delete(a.page + i)) had++;
          expect(domain.unmap(BigInt(IOVA + a.page * PAGE), BigInt(count * PAGE))).toBe(BigInt(had * PAGE));
        } else if (a.do === 'attach') {
          const dev = m.devices[a.dev]!;
          const mapped = domains[a.d]!;
          if (a.how === 'plain' || mapped.stage === 1) {
            expect(dev.group.setDomain(mapped.domain)).toBe(0);
            at[a.dev] = { kind: 'through', mapped };
          } else {
            const nested = ok(vsmmus[a.d]!.nested(a.how === 'bypass' ? 9n : 1n, 0n));
            expect(dev.group.setDomain(nested)).toBe(0);
            at[a.dev] = a.how === 'bypass' ? { kind: 'through', mapped } : { kind: 'abort' };
          }
        } else if (a.do === 'detach') {
          m.devices[a.dev]!.group.block(m.driver.blocked);
          at[a.dev] = { kind: 'blocked' };
        } else {
          dma(a.dev, a.page);
        }
      }
      for (let dev = 0; dev < SIDS.length; dev++) {
        for (let page = 0; page < PAGES; page += 11) dma(dev, page);
        checkEntry(m, SIDS[dev]!, at[dev]!);
      }
    }),
    { numRuns: 60 },
  );
});

/** The entry in memory, read with bigints, and the tables it names. */
function checkEntry(m: ReturnType<typeof machine>, sid: number, to: Attached): void {
  const words = Array.from({ length: 8 }, (_, i) => {
    m.memory.space.load64(m.driver.streamTable.addressOf(sid) + 8 * i);
    return (BigInt(m.memory.space.hi >>> 0) << 32n) | BigInt(m.memory.space.lo >>> 0);
  });
  expect(words[0]! & 1n).toBe(1n);
  const config = (words[0]! >> 1n) & 7n;
  if (to.kind !== 'through') {
    expect(words).toEqual([1n, 0n, 0n, 0n, 0n, 0n, 0n, 0n]);
    return;
  }
  expect(config).toBe(to.mapped.stage === 2 ? 6n : 5n);
  let root = words[3]! & 0x000f_ffff_ffff_fff0n;
  let inputBits = 64 - Number((words[2]! >> 32n) & 63n);
  let level = 2 - Number((words[2]! >> 38n) & 3n);
  if (to.mapped.stage === 1) {
    const cd = Number(words[0]! & 0x000f_ffff_ffff_ffc0n);
    m.memory.space.load64(cd);
    inputBits = 64 - (m.memory.space.lo & 63);
    m.memory.space.load64(cd + 8);
    root = (BigInt(m.memory.space.hi >>> 0) << 32n) | BigInt(m.memory.space.lo >>> 0);
    level = 0;
  }
  for (let page = 0; page < PAGES; page += 5) {
    const found = walk(m.memory.space, to.mapped.stage, root, inputBits, level, BigInt(IOVA + page * PAGE));
    const want = to.mapped.pages.get(page);
    expect(found === null ? undefined : Number(found.out)).toBe(want);
  }
}

describe('on the emulated SMMU', () => {
  test.each([0, HWPT_FLAG.NEST_PARENT])(
    'a block that takes the place of an emptied table is seen at once (flags %i)',
    (flags) => {
      const m = machine({ ril: true, oas: 4, caches: true });
      const domain = ok(m.driver.allocPaging(m.devices[0]!, flags, null));
      m.devices[0]!.group.setDomain(domain);
      const dma = () => m.hw.translate(SIDS[0], NO_PASID, IOVA + 3 * PAGE, 0, ACCESS.READ, AT.UNTRANSLATED);
      for (let i = 0; i < 8; i++) domain.map(BigInt(IOVA + i * PAGE), 0x8000_1000 + 2 * i * PAGE, PAGE, 7);
      expect(dma()).toBe(DMA.OK);
      for (let i = 0; i < 8; i++) domain.unmap(BigInt(IOVA + i * PAGE), BigInt(PAGE));
      domain.map(BigInt(IOVA), 0x9000_0000, 0x20_0000, 7);
      expect([dma(), m.hw.out]).toEqual([DMA.OK, 0x9000_0000 + 3 * PAGE]);
    },
  );

  test('writes are found in the dirty bits, once for each time they are cleared', () => {
    for (const caches of [true, false]) {
      const m = machine({ ril: true, oas: 4, caches }, 0, 2);
      expect(m.driver.dirtyCapable(m.devices[0]!)).toBe(true);
      const domain = ok(m.driver.allocPaging(m.devices[0]!, HWPT_FLAG.DIRTY_TRACKING, null));
      m.devices[0]!.group.setDomain(domain);
      domain.map(BigInt(IOVA), 0x8000_0000, 0x20_0000, 7);
      domain.map(BigInt(IOVA + 0x20_0000), 0x9000_1000, 16 * PAGE, 7);
      const dma = (offset: number, access: number) =>
        expect(m.hw.translate(SIDS[0], NO_PASID, IOVA + offset, 0, access, AT.UNTRANSLATED)).toBe(DMA.OK);
      const dirty = (keep: boolean) => {
        const seen: number[][] = [];
        const sink = { dirty: (iova: bigint, bytes: number) => void seen.push([Number(iova) - IOVA, bytes]) };
        domain.dirty!.read(BigInt(IOVA), 0x40_0000n, keep, sink);
        return seen;
      };
      dirty(false);
      domain.dirty!.set(true);
      expect(dirty(false)).toEqual([]);
      for (let round = 0; round < 3; round++) {
        dma(0x1_2345, ACCESS.READ);
        dma(0x20_0000 + 3 * PAGE, ACCESS.READ);
        expect(dirty(false)).toEqual([]);
        dma(0x1_2345, ACCESS.WRITE);
        dma(0x20_0000 + 3 * PAGE, ACCESS.WRITE);
        const written = [
          [0, 0x20_0000],
          [0x20_0000 + 3 * PAGE, PAGE],
        ];
        expect(dirty(true)).toEqual(written);
        expect(dirty(false)).toEqual(written);
      }
    }
  });

  test('PASIDs of the host go their own ways, in tables of two levels', () => {
    const m = machine({ ril: true, oas: 4, caches: true }, 20);
    const dev = m.devices[0]!;
    const pasids = [1, 1023, 1024, 0xf_ffff];
    const dma = (pasid: number) => {
      const code = m.hw.translate(SIDS[0], pasid, IOVA + 0x123, 0, ACCESS.WRITE, AT.UNTRANSLATED);
      return code === DMA.OK ? m.hw.out : -1;
    };
    const domains = pasids.map((pasid, i) => {
      const d = ok(m.driver.allocPaging(dev, HWPT_FLAG.PASID, null));
      d.map(BigInt(IOVA), 0x8000_0000 + i * PAGE, PAGE, 7);
      expect(dev.group.setPasid(d, pasid, false)).toBe(0);
      return d;
    });
    expect(pasids.map(dma)).toEqual(pasids.map((_, i) => 0x8000_0123 + i * PAGE));
    expect([dma(NO_PASID), dma(2), dma(1025)]).toEqual([-1, -1, -1]);

    // Replace one, take one away: the others stay.
    expect(dev.group.setPasid(domains[1]!, pasids[0]!, true)).toBe(0);
    dev.group.clearPasid(pasids[2]!);
    expect(pasids.map(dma)).toEqual([0x8000_0123 + PAGE, 0x8000_0123 + PAGE, -1, 0x8000_0123 + 3 * PAGE]);

    // The RID on a domain of its own beside them.
    dev.group.setDomain(domains[3]!);
    expect([dma(NO_PASID), dma(pasids[1]!)]).toEqual([0x8000_0123 + 3 * PAGE, 0x8000_0123 + PAGE]);
    domains[1]!.unmap(BigInt(IOVA), BigInt(PAGE));
    expect([dma(NO_PASID), dma(pasids[0]!), dma(pasids[1]!)]).toEqual([0x8000_0123 + 3 * PAGE, -1, -1]);
  });

  test('no step of any move is illegal: hardware that takes DMA between all stores finds no valid entry it must refuse', () => {
    let illegal = 0;
    let looked = 0;
    const m = machine({ ril: true, oas: 4, caches: false });
    const dev: KernelDevice = m.devices[0]!;
    const parents = [0, 1].map(() => ok(m.driver.allocPaging(dev, HWPT_FLAG.NEST_PARENT, null)));
    const own = ok(m.driver.allocPaging(dev, 0, null));
    const vsmmu = new Vsmmu(m.driver, dev, parents[0]!, new Map([[1, dev]]));
    const stations = [
      parents[0]!,
      parents[1]!,
      own,
      ok(vsmmu.nested(9n, 0n)),
      ok(vsmmu.nested(1n, 0n)),
      ok(vsmmu.nested(0xbn, 0n)),
    ];
    const write = m.hw.writeEntry.bind(m.hw);
    const seen = { during: false };
    m.hw.writeEntry = (table, entry, word, lo, hi) => {
      write(table, entry, word, lo, hi);
      if (!seen.during) return;
      m.hw.translate(SIDS[0], NO_PASID, 0x1000, 0, ACCESS.READ, AT.UNTRANSLATED);
    };
    const faults = m.driver.events.fault.bind(m.driver.events);
    m.driver.events.fault = (r) => {
      m.memory.space.load64(m.driver.streamTable.addressOf(SIDS[0]));
      // An invalid entry is what a move that cannot be hitless shows in between; a valid one must be legal.
      if ((r[0]! & 0xff) === EVENT.C_BAD_STE && (m.memory.space.lo & 1) === 1) illegal++;
      looked++;
      faults(r);
    };
    for (const from of stations) {
      for (const to of stations) {
        dev.group.setDomain(from);
        seen.during = true;
        dev.group.setDomain(to);
        seen.during = false;
      }
    }
    expect(illegal).toBe(0);
    expect(looked).toBeGreaterThan(50);
  });
});
