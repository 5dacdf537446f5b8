import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Domain, NestedDomain } from '../../../src/host/kernel/driver.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { Bench, firstStageData, RAM } from './bench.ts';

const CHUNK = 0x10_0000;
const ROOTS = [0x1_0000, 0x2_0000];
const BASE = 0x7f00_0000_0000n;
const PAGES = 12;
/** Requester ids and PASIDs under test: two functions, one of them with PASIDs. */
const SLOTS = [
  [0x10, NO_PASID],
  [0x10, 5],
  [0x10, 9],
  [0x20, NO_PASID],
] as const;

type Step =
  | { op: 'attach'; slot: number; to: number }
  | { op: 'entry'; table: number; page: number; gpa: number | null; span: number }
  | { op: 'chunk'; chunk: number }
  | { op: 'dma'; slot: number; write: boolean };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ op: fc.constant('attach' as const), slot: fc.nat({ max: 3 }), to: fc.integer({ min: -1, max: 2 }) }),
  fc.record({
    op: fc.constant('entry' as const),
    table: fc.nat({ max: 1 }),
    page: fc.nat({ max: PAGES - 1 }),
    gpa: fc.option(fc.integer({ min: 1, max: RAM / 4096 - 1 })),
    span: fc.nat({ max: 3 }),
  }),
  fc.record({ op: fc.constant('chunk' as const), chunk: fc.nat({ max: 3 }) }),
  fc.record({
    op: fc.constant('dma' as const),
    slot: fc.nat({ max: 3 }),
    write: fc.boolean(),
  }),
);

/** Guest page numbers that hold no table of the guest's. */
const isTable = (page: number): boolean => ROOTS.some((r) => page >= r / 4096 && page < r / 4096 + 4);

function run(steps: readonly Step[], ats: boolean): void {
  const b = new Bench();
  const devices = new Map([0x10, 0x20].map((rid) => [rid, b.device(`f${rid}`, [rid], { ats })]));
  const dev = devices.get(0x10)!;
  const parent = b.paging(dev, HWPT_FLAG.NEST_PARENT);
  const mapped = [true, true, true, true];
  const map = (chunk: number) => parent.map(BigInt(chunk * CHUNK), b.hpa + chunk * CHUNK, CHUNK, 3);
  mapped.forEach((_, chunk) => {
    map(chunk);
  });
  const nested: NestedDomain[] = ROOTS.map((root) => b.nested(dev, parent, firstStageData(BigInt(root))));
  const domains: Domain[] = [parent, ...nested];
  const attached = SLOTS.map(() => -1);
  const entries = ROOTS.map(() => new Array<number | null>(PAGES).fill(null));
  for (const root of ROOTS) b.guestMap(root, BASE, 0n, 0n);

  const expected = (slot: number, page: number): number => {
    const at = attached[slot]!;
    if (at < 0) return -1;
    const iova = BASE + BigInt(page) * 4096n;
    if (at === 0) return iova < BigInt(RAM) ? Number(iova) : -1;
    const gpa = entries[at - 1]![page]! as number | null;
    if (!mapped[0] || gpa === null || !mapped[Math.floor((gpa * 4096) / CHUNK)]) return -1;
    return gpa * 4096;
  };
  const check = (slot: number, page: number, write: boolean): void => {
    const [rid, pasid] = SLOTS[slot]!;
    const got = b.dma(BASE + BigInt(page) * 4096n, rid, pasid, write ? 2 : 1);
    expect([slot, page, Math.max(got, -1)]).toEqual([slot, page, expected(slot, page)]);
  };

  for (const [slot, to] of [1, 2, 0, 1].entries()) {
    const [rid, pasid] = SLOTS[slot]!;
    expect(b.attach(devices.get(rid)!, domains[to]!, pasid)).toBe(0);
    attached[slot] = to;
  }
  for (const [t, root] of ROOTS.entries()) {
    for (let page = 0; page < PAGES; page++) {
      const gpa = 100 + 77 * (page + 3 * t);
      b.guestMap(root, BASE + BigInt(page) * 4096n, BigInt(gpa) * 4096n, 7n);
      entries[t]![page] = gpa;
    }
  }

  for (const s of steps) {
    switch (s.op) {
      case 'attach': {
        const [rid, pasid] = SLOTS[s.slot]!;
        const d = devices.get(rid)!;
        if (s.to < 0) b.detach(d, pasid);
        else if (s.to !== attached[s.slot]) expect(b.attach(d, domains[s.to]!, pasid)).toBe(0);
        attached[s.slot] = s.to;
        break;
      }
      case 'entry': {
        const gpa = s.gpa !== null && isTable(s.gpa) ? null : s.gpa;
        b.guestMap(ROOTS[s.table]!, BASE + BigInt(s.page) * 4096n, BigInt(gpa ?? 0) * 4096n, gpa === null ? 0n : 7n);
        entries[s.table]![s.page] = gpa;
        // The page alone, a range around it, or everything.
        const first = s.span === 2 ? Math.max(0, s.page - 2) : s.page;
        const page = BASE / 4096n + BigInt(first);
        const [lo, hi] = s.span === 3 ? [0, 0] : [Number(BigInt.asIntN(32, page << 12n)), Number(page >> 20n)];
        const count = s.span === 3 ? [-1, -1] : [s.span === 2 ? 5 : 1, 0];
        const words = Int32Array.from([lo, hi, ...count, s.span === 1 ? 1 : 0, 0]);
        expect(nested[s.table]!.invalidation!.run(words, 0, 1)).toBe(0);
        break;
      }
      case 'chunk':
        if (mapped[s.chunk]) parent.unmap(BigInt(s.chunk * CHUNK), BigInt(CHUNK));
        else map(s.chunk);
        mapped[s.chunk] = !mapped[s.chunk];
        break;
      default:
        for (let page = 0; page < PAGES; page++) check(s.slot, page, s.write);
    }
  }
  for (let slot = 0; slot < SLOTS.length; slot++) for (let page = 0; page < PAGES; page++) check(slot, page, false);
}

test('attaching, guest table changes with their invalidations, and memory coming and going: DMA is always current', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.boolean(), (steps, ats) => run(steps, ats)),
    { numRuns: 60 },
  );
});
