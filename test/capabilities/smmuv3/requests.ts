import { expect } from 'vitest';
import { DMA } from '../../../src/ports/dma.ts';
import { PRG } from '../../../src/spec/pcie/messages.ts';
import { EVENT } from '../../../src/spec/smmuv3/events.ts';
import { type Bed, BIG, Probe } from '../bed.ts';
import { type Command, DOORBELL, driving, LINES, nhVa, R, type Smmuv3Guest } from './machine.ts';
import { SID, type Smmuv3Row, translating, VA } from './stages.ts';

const BOTH = [{ profile: 'arch' }, { profile: 'qemu-11.1' }] as const;
/** STE word 1: EATS = 1, S1DSS = 2. */
const EATS = 1n << 28n;
const ATS = { ats: {}, pri: { capacity: 32 }, pasid: { width: 4 } };
const atcInv = (sid: number, va: number): Command => [(BigInt(sid) << 32n) | 0x40n, BigInt(va)];

/** Page requests in the guest's queue from `from` on: address, group, last. */
function pageRequests(bed: Bed, at: number, from: number, count: number) {
  return Array.from({ length: count }, (_, n) => {
    const [w0, w1] = [bed.get(at + 16 * (from + n)), bed.get(at + 16 * (from + n) + 8)];
    return {
      sid: Number(w0 & 0xffff_ffffn),
      address: Number(w1 & ~0xfffn),
      group: w1 & 0x1ffn,
      write: (w0 >> 61n) & 1n,
    };
  });
}

/** A function whose stage-1 faults stall. */
function stalling(bed: Bed): { g: Smmuv3Guest; fn: Probe; tables: ReturnType<Smmuv3Guest['tables']> } {
  const g = driving(bed);
  const fn = new Probe();
  bed.plug(fn, SID);
  const tables = g.tables();
  tables.map(VA, bed.page());
  g.stage1(SID, tables, { asid: 0x11, flip0: 1n << 44n });
  return { g, fn, tables };
}

const resume = (stag: bigint, retry: boolean): Command => [(BigInt(SID) << 32n) | (retry ? 0x1044n : 0x2044n), stag];

/** ATS, page requests, stalls and messages. */
export const REQUESTS: readonly Smmuv3Row[] = [
  {
    register: 'IDR0',
    field: 'ATS',
    section: '6.3.1',
    promise: 'A function with ATS translates by itself (STE.EATS=1) until CMD_ATC_INV takes it away',
    shown: BOTH.map((p) => ({ value: 1, properties: { ...p, ats: true } })),
    cut: { deaf: ['invalidate'] },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed, { probe: ATS, ste1: EATS });
      expect(g.field('IDR0', 'ATS')).toBe(1);
      bed.arrives(fn, VA, pa);
      expect([fn.shell.memory.requests, fn.shell.memory.atc.used]).toEqual([1, 1]);
      bed.arrives(fn, VA, pa);
      expect([fn.shell.memory.requests, fn.shell.memory.hits]).toEqual([1, 1]);
      const other = bed.page();
      tables.map(VA, other);
      g.run(nhVa(0x11, VA), [0x46n, 0n], atcInv(SID, VA));
      bed.arrives(fn, VA, other);
      expect(g.faults()).toEqual([]);
    },
  },
  {
    register: 'IDR0',
    field: 'NS1ATS',
    section: '6.3.1',
    promise: 'No split-stage ATS: STE.EATS=2 is C_BAD_STE where translated requests are checked (CR0.ATSCHK)',
    shown: (['1', 'nested'] as const).map((stage) => ({ value: 1, properties: { ats: true, stage } })),
    cut: { device: { deviations: { fewFeatures: true } }, hardware: { idr0: 0x0d04_141f } },
    run: (bed) => {
      const { g, fn, pa, cd } = translating(bed, { probe: ATS, ste1: EATS, cr0: 0x10 });
      expect(g.field('IDR0', 'NS1ATS')).toBe(1);
      bed.arrives(fn, VA, pa);
      bed.w(R.CR0, 0xc);
      bed.w(R.CR2, 8);
      bed.w(R.CR0, 0x1d);
      const nested = g.field('IDR0', 'S2P') === 1;
      const second = g.tables();
      for (let at = 0x4000_0000; at < 0x4100_0000; at += 0x20_0000) second.map(at, at, 2, 0x4fcn);
      const stage2 = nested ? g.vtcr(second, 3) : [];
      g.ste(SID, BigInt(cd) | (nested ? 0xfn : 0xbn), (2n << 28n) | (1n << 44n), ...stage2);
      g.run(atcInv(SID, VA));
      bed.refused(fn, VA, pa);
      expect(g.faults()).toEqual([EVENT.C_BAD_STE]);
      // Full ATS with both stages does what the two together say.
      g.ste(SID, BigInt(cd) | (nested ? 0xfn : 0xbn), EATS | (1n << 44n), ...stage2);
      bed.arrives(fn, VA, pa);
    },
  },
  {
    register: 'IDR0',
    field: 'ATSRECERR',
    section: '6.3.1',
    promise: 'With CR2.REC_CFG_ATS=1 bad configuration met by a translation request is recorded',
    shown: [{ value: 1, properties: { ats: true } }],
    cut: { device: { deviations: { fewFeatures: true } } },
    run: (bed) => {
      const g = driving(bed);
      expect(g.field('IDR0', 'ATSRECERR')).toBe(1);
      bed.w(R.CR0, 0xc);
      bed.w(R.CR2, 8);
      bed.w(R.CR0, 0xd);
      const fn = new Probe({ ...ATS, translatedOnly: true });
      bed.plug(fn, SID);
      const tables = g.tables();
      tables.map(VA, bed.page());
      const cd = g.stage1(SID, tables, {}, EATS);
      bed.put(cd, 0n);
      g.run([(BigInt(SID) << 32n) | 5n, 1n]);
      bed.refused(fn, VA);
      expect(g.faults()).toEqual([EVENT.C_BAD_CD]);
    },
  },
  {
    register: 'IDR0',
    field: 'PRI',
    section: '6.3.1',
    promise: 'Page requests arrive in the PRI queue with an interrupt, and CMD_PRI_RESP answers the function',
    shown: BOTH.map((p) => ({ value: 1, properties: { ...p, ats: true, pri: true } })),
    cut: { deaf: ['pageResponse'] },
    run: (bed) => {
      const { g, fn, tables } = translating(bed, { probe: ATS, ste1: EATS });
      expect(g.field('IDR0', 'PRI')).toBe(1);
      expect(fn.ask(VA + 0x1000)).toBe(true);
      bed.settle();
      expect([bed.pulses.includes(LINES.PRIQ), bed.r(R.PRIQ_PROD)]).toEqual([true, 1]);
      const [request] = pageRequests(bed, g.requests, 0, 1);
      expect(request).toMatchObject({ sid: SID, address: VA + 0x1000, write: 1n });
      const pa = bed.page();
      tables.map(VA + 0x1000, pa);
      bed.w(R.PRIQ_CONS, 1);
      g.run([(BigInt(SID) << 32n) | 0x41n, request!.group | (2n << 12n)]);
      expect(fn.answers).toEqual([PRG.SUCCESS]);
      bed.arrives(fn, VA + 0x1000, pa);
      fn.ask(VA + 0x2000);
      bed.w(R.PRIQ_CONS, 2);
      g.run([(BigInt(SID) << 32n) | 0x41n, pageRequests(bed, g.requests, 1, 1)[0]!.group | (1n << 12n)]);
      expect(fn.answers).toEqual([PRG.SUCCESS, PRG.INVALID]);
    },
  },
  {
    register: 'IDR3',
    field: 'PPS',
    section: '6.3.4',
    promise:
      'The automatic answer to a page request that finds no room in the queue repeats its PASID, whatever STE.PPAR says',
    // QEMU has SubstreamIDs with accel=on only.
    shown: [{}, { profile: 'qemu-11.1', accel: true } as const].map((p) => ({
      value: 1,
      properties: { ...p, ats: true, pri: true, pps: true, ssidsize: 4 },
    })),
    cut: { device: { properties: { pps: false } } },
    run: (bed) => {
      const g = driving(bed);
      const fn = new Probe({ ...ATS, pri: { capacity: 32, responseWithPasid: true } });
      bed.plug(fn, SID);
      const cds = bed.pages();
      bed.put(cds + 64 * 3, ...g.cd(g.tables().root));
      g.ste(SID, BigInt(cds) | 0xbn | (4n << 59n), EATS | 2n);
      bed.w(R.CR0, 0xd);
      bed.halves(R.PRIQ_BASE, BigInt(g.requests + 2));
      bed.w(R.CR0, 0xf);
      // Four entries, and one request more.
      for (let n = 0; n < 5; n++) expect(fn.ask(VA + 0x1000 * n, 3)).toBe(true);
      expect([bed.r(R.PRIQ_PROD) >>> 31, fn.answers, fn.answeredAs]).toEqual([1, [PRG.SUCCESS], [3]]);
    },
  },
  {
    register: 'IDR1',
    field: 'PRIQS',
    section: '6.3.2',
    promise: 'The PRI queue may have 2^19 entries',
    shown: BOTH.map((p) => ({ value: 19, properties: { ...p, ats: true, pri: true, big: true as const } })),
    cut: { register: (at, value) => (at === R.PRIQ_BASE ? (value & ~0x1fn) | 5n : value) },
    run: (bed) => {
      const { g, fn } = translating(bed, { probe: ATS, ste1: EATS });
      expect(g.field('IDR1', 'PRIQS')).toBe(19);
      const queue = BIG.base;
      bed.w(R.CR0, 0xd);
      bed.halves(R.PRIQ_BASE, BigInt(queue + 19));
      const last = 2 ** 19 - 1;
      bed.w(R.PRIQ_PROD, last);
      bed.w(R.PRIQ_CONS, last);
      bed.w(R.CR0, 0xf);
      fn.ask(VA + 0x1000);
      fn.ask(VA + 0x2000);
      expect(bed.r(R.PRIQ_PROD)).toBe(2 ** 19 + 1);
      expect([pageRequests(bed, queue, last, 1)[0]!.address, pageRequests(bed, queue, 0, 1)[0]!.address]).toEqual([
        VA + 0x1000,
        VA + 0x2000,
      ]);
    },
  },
  {
    register: 'IDR0',
    field: 'STALL_MODEL',
    section: '6.3.1',
    promise:
      '0: accesses may wait for CMD_RESUME (CD.S). 1: they never do, CD.S=1 is C_BAD_CD, CMD_RESUME and CMD_STALL_TERM are illegal (qemu-11.1 consumes them)',
    shown: [
      ...BOTH.map((p) => ({ value: 0, properties: { ...p, stall: true } })),
      { value: 1, properties: {} },
      { value: 1, properties: { profile: 'qemu-11.1' } },
    ],
    cut: (value) => (value === 0 ? { deaf: ['resumed'] } : { hardware: { idr0: 0x0c04_101f } }),
    run: (bed, value, { profile }) => {
      const { g, fn, tables } = stalling(bed);
      expect(g.field('IDR0', 'STALL_MODEL')).toBe(value);
      if (value === 1) {
        bed.refused(fn, VA);
        expect(g.faults()).toEqual([EVENT.C_BAD_CD]);
        // QEMU consumes them (absentCommandsConsumed).
        if (profile === undefined) expect([g.ring(resume(0n, true)), bed.r(R.GERROR) & 1]).toEqual([1, 1]);
        return;
      }
      expect(fn.write(VA + 0x1000, 1)).toBe(DMA.STALLED);
      const token = fn.token;
      const [record] = g.records();
      expect([record![0]! & 0xffn, (record![1]! >> 31n) & 1n, record![2]]).toEqual([0x10n, 1n, BigInt(VA + 0x1000)]);
      const pa = bed.page();
      tables.map(VA + 0x1000, pa);
      g.run(resume(record![1]! & 0xffffn, true));
      expect(fn.resumed).toEqual([{ token, outcome: DMA.OK }]);
      bed.arrives(fn, VA + 0x1000, pa);
      expect(fn.write(VA + 0x2000, 1)).toBe(DMA.STALLED);
      g.run(resume(g.records()[0]![1]! & 0xffffn, false));
      expect(fn.resumed.at(-1)!.outcome).toBe(DMA.ABORT);
    },
  },
  {
    register: 'IDR5',
    field: 'STALL_MAX',
    section: '6.3.6',
    promise: 'This many accesses wait at once, each with a STAG of its own that CMD_RESUME takes',
    shown: BOTH.map((p) => ({ value: 64, properties: { ...p, stall: true } })),
    cut: { hardware: { idr5: 0x1_0074 } },
    run: (bed) => {
      const { g, fn } = stalling(bed);
      const most = g.field('IDR5', 'STALL_MAX');
      expect(most).toBe(64);
      const stags: bigint[] = [];
      for (let n = 0; n < most; n++) {
        expect(fn.write(VA + 0x1000 * (n + 1), n)).toBe(DMA.STALLED);
        stags.push(...g.records().map((r) => r[1]! & 0xffffn));
      }
      expect(new Set(stags).size, 'each with its record').toBe(most);
      for (const stag of stags.reverse()) g.run(resume(stag, false));
      expect(fn.resumed.map((r) => r.outcome)).toEqual(Array(most).fill(DMA.ABORT));
    },
  },
  {
    register: 'IDR0',
    field: 'MSI',
    section: '6.3.1',
    promise:
      'Interrupts may be messages: CMD_SYNC (CS=1), event and PRI queue, global errors; a write to memory or to a doorbell',
    shown: [{ value: 1, properties: { ats: true, pri: true } }],
    cut: { device: { properties: { msi: false } } },
    run: (bed) => {
      const { g, fn } = translating(bed, { probe: ATS, ste1: EATS });
      expect(g.field('IDR0', 'MSI')).toBe(1);
      bed.w(R.IRQ_CTRL, 0);
      const configure = (at: number, address: number, data: number) => {
        bed.w64(at, BigInt(address));
        bed.w(at + 8, data);
      };
      configure(R.EVENTQ_IRQ_CFG0, DOORBELL + 0x40, 7);
      configure(R.PRIQ_IRQ_CFG0, DOORBELL + 0x40, 8);
      configure(R.GERROR_IRQ_CFG0, DOORBELL + 0x40, 9);
      bed.w(R.IRQ_CTRL, 7);
      fn.ask(VA + 0x1000);
      const slow = new Probe();
      bed.plug(slow, SID + 8);
      bed.refused(slow, VA);
      // Drivers that poll name the command's own place.
      const place = bed.page();
      g.run([0x46n | (1n << 12n) | (0x5a5an << 32n), BigInt(place)]);
      expect(bed.get32(place)).toBe(0x5a5a);
      expect(g.ring([0xffn, 0n])).toBe(1);
      g.skip();
      bed.settle();
      expect(bed.messages.filter(([at]) => at === DOORBELL + 0x40).map(([, data]) => data)).toEqual([8, 7, 9]);
    },
  },
];
