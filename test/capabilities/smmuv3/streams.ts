import { expect } from 'vitest';
import { EVENT } from '../../../src/spec/smmuv3/events.ts';
import { BIG, Probe } from '../bed.ts';
import { cfgiSte, driving, nhVa, R, Smmuv3Guest } from './machine.ts';
import { badCd, SID, type Smmuv3Row, translating, VA } from './stages.ts';

const BOTH = [{ profile: 'arch' }, { profile: 'qemu-11.1' }] as const;
const LOW_LOG2 = (value: bigint): bigint => value & ~0x1fn;

/** Stream tables, CD tables, tags and invalidations. */
export const STREAMS: readonly Smmuv3Row[] = [
  {
    register: 'IDR0',
    field: 'ST_LEVEL',
    section: '6.3.1',
    promise: 'The stream table may have two levels (STRTAB_BASE_CFG.FMT)',
    shown: BOTH.map((properties) => ({ value: 1, properties })),
    // FMT does not arrive.
    cut: { register: (at, value) => (at === R.STRTAB_BASE_CFG ? value & 0xffffn : value) },
    run: (bed) => {
      const g = new Smmuv3Guest(bed);
      expect(g.field('IDR0', 'ST_LEVEL')).toBe(1);
      const [l1, l2] = [bed.pages(0x2000), bed.pages(64 << 8)];
      bed.w64(R.STRTAB_BASE, BigInt(l1));
      bed.w(R.STRTAB_BASE_CFG, 16 | (8 << 6) | (1 << 16));
      g.queues();
      bed.w(R.CR0, 0xd);
      const [fn, lost] = [new Probe(), new Probe()];
      bed.plug(fn, 0x301);
      bed.plug(lost, 0x401);
      const [tables, pa] = [g.tables(), bed.page()];
      tables.map(VA, pa);
      const cd = bed.pages();
      bed.put(cd, ...g.cd(tables.root));
      bed.put(l2 + 64 * 1, BigInt(cd) | 0xbn, 0n);
      // Streams 0x300 to 0x31f: Span 6.
      bed.put(l1 + 8 * 3, BigInt(l2) | 6n);
      g.run([0x301_0000_0003n, 1n], [0x301_0000_0003n, 0n]);
      bed.arrives(fn, VA, pa);
      expect(g.faults()).toEqual([]);
      bed.w(R.CR2, 2);
      bed.refused(lost, VA, pa);
    },
  },
  {
    register: 'IDR1',
    field: 'SIDSIZE',
    section: '6.3.2',
    promise: 'StreamIDs have 16 bits: every requester id of a segment is a stream',
    shown: BOTH.map((properties) => ({ value: 16, properties })),
    cut: { bus: { rid: (rid) => rid & 0xff } },
    run: (bed) => {
      const g = new Smmuv3Guest(bed, 16).setUp();
      expect(g.field('IDR1', 'SIDSIZE')).toBe(16);
      const ends = [0x0008, 0x0300, 0xff00].map((sid) => {
        const [fn, tables, pa] = [new Probe(), g.tables(), bed.page()];
        bed.plug(fn, sid);
        tables.map(VA, pa);
        g.stage1(sid, tables);
        return { fn, pa };
      });
      for (const { fn, pa } of ends) bed.arrives(fn, VA, pa);
      expect(g.faults()).toEqual([]);
    },
  },
  {
    register: 'IDR1',
    field: 'SSIDSIZE',
    section: '6.3.2',
    promise:
      'SubstreamIDs of this many bits: each has a CD of its own, up to the last one, and S1CDMax beyond it is refused',
    // QEMU has SubstreamIDs with accel=on only.
    shown: [{}, { profile: 'qemu-11.1', accel: true, far: 40 } as const].flatMap((p) =>
      Array.from({ length: 20 }, (_, n) => ({ value: n + 1, properties: { ...p, ssidsize: n + 1 } })),
    ),
    cut: { bus: { pasid: (pasid) => (pasid > 0 ? pasid - 1 : pasid) } },
    run: (bed, value, { profile }) => {
      const g = driving(bed);
      expect(g.field('IDR1', 'SSIDSIZE')).toBe(value);
      const fn = new Probe({ pasid: { width: value } });
      bed.plug(fn, SID);
      const last = 2 ** value - 1;
      // Two levels with 64 KiB tables, where there are two: the last CD lies at the end of the last one. A linear table lies
      // with its end at the end of memory, and what is not used of it may lie where there is none.
      const twoLevels = g.field('IDR0', 'CD2L') === 1;
      const table = twoLevels ? bed.pages(8 * 2 ** Math.max(0, value - 10)) : 2 ** 40 - 64 * 2 ** value;
      const cd = (ssid: number) => {
        if (!twoLevels) return table + 64 * ssid;
        const own = table + 8 * (ssid >> 10);
        if (bed.get(own) === 0n) bed.put(own, BigInt(bed.pages(0x1_0000)) | 1n);
        return Number(bed.get(own) & ~1n) + 64 * (ssid & 1023);
      };
      const spaces = [...new Set([twoLevels ? 1 : Math.max(1, last - 1), last])].map((ssid) => {
        const [tables, pa] = [g.tables(), bed.page()];
        tables.map(VA, pa);
        bed.put(cd(ssid), ...g.cd(tables.root));
        return { ssid, pa };
      });
      const ste = (max: number) => BigInt(table) | 0xbn | ((twoLevels ? 2n : 0n) << 4n) | (BigInt(max) << 59n);
      g.ste(SID, ste(value), 2n);
      for (const { ssid, pa } of spaces) bed.arrives(fn, VA, pa, ssid);
      expect(g.faults()).toEqual([]);
      if (value === 20) return;
      if (profile === undefined) {
        g.ste(SID, ste(value + 1), 2n);
        bed.refused(fn, VA, spaces[0]!.pa, spaces[0]!.ssid);
        expect(g.faults()).toEqual([EVENT.C_BAD_STE]);
      } else {
        // QEMU refuses the command (badSteIsIll).
        bed.put(g.streams + 64 * SID, ste(value + 1));
        expect(g.ring(cfgiSte(SID))).toBe(1);
      }
    },
  },
  {
    register: 'IDR0',
    field: 'CD2L',
    section: '6.3.1',
    promise: 'CD tables may have two levels, with tables of 4 or 64 KiB (STE.S1Fmt)',
    shown: [{ value: 1, properties: { ssidsize: 12 } }],
    cut: { hardware: { idr0: 0x0d04_101f & ~(1 << 19) } },
    run: (bed) => {
      const g = driving(bed);
      expect(g.field('IDR0', 'CD2L')).toBe(1);
      const fn = new Probe({ pasid: { width: 12 } });
      bed.plug(fn, SID);
      for (const [format, split] of [
        [1n, 6],
        [2n, 10],
      ] as const) {
        const ssid = 0x8a5;
        const [l1, l2, tables, pa] = [bed.pages(), bed.pages(64 << split), g.tables(), bed.page()];
        tables.map(VA, pa);
        bed.put(l1 + 8 * (ssid >> split), BigInt(l2) | 1n);
        bed.put(l2 + 64 * (ssid % 2 ** split), ...g.cd(tables.root));
        g.ste(SID, BigInt(l1) | 0xbn | (format << 4n) | (12n << 59n), 2n);
        bed.arrives(fn, VA, pa, ssid);
        // A level-1 descriptor that is not valid.
        bed.refused(fn, VA, pa, 0x25);
        expect(g.faults()).toEqual([EVENT.C_BAD_SUBSTREAMID]);
      }
    },
  },
  {
    register: 'IDR0',
    field: 'ASID16',
    section: '6.3.1',
    promise: 'ASIDs have 16 bits: translations of ASIDs that differ in the upper byte never meet',
    shown: BOTH.map((properties) => ({ value: 1, properties })),
    cut: { hardware: { idr0: 0x0d04_101f & ~(1 << 12) } },
    run: (bed) => {
      const g = driving(bed);
      expect(g.field('IDR0', 'ASID16')).toBe(1);
      const ends = [0x0142, 0x8142].map((asid, n) => {
        const [fn, tables, pa] = [new Probe(), g.tables(), bed.page()];
        bed.plug(fn, SID + 8 * n);
        tables.map(VA, pa);
        g.stage1(SID + 8 * n, tables, { asid });
        return { fn, tables, pa };
      });
      for (const { fn, pa } of ends) bed.arrives(fn, VA, pa);
      // Each keeps what it has until its own ASID is invalidated.
      const moved = ends.map(({ tables }) => {
        const pa = bed.page();
        tables.map(VA, pa);
        return pa;
      });
      g.run(nhVa(0x8142, VA));
      bed.arrives(ends[0]!.fn, VA, ends[0]!.pa);
      bed.arrives(ends[1]!.fn, VA, moved[1]!);
      g.run([(0x0142n << 48n) | 0x11n, 0n]);
      bed.arrives(ends[0]!.fn, VA, moved[0]!);
    },
  },
  {
    register: 'IDR0',
    field: 'VMID16',
    section: '6.3.1',
    promise: 'VMIDs have 16 bits: an invalidation of one leaves one that differs in the upper byte',
    shown: BOTH.flatMap((p) => (['2', 'nested'] as const).map((stage) => ({ value: 1, properties: { ...p, stage } }))),
    // The upper byte of a VMID never arrives, in STEs and commands alike.
    cut: {
      store: (value) =>
        (value >> 8n) % 0x100n === 0x81n
          ? value & ~0xff00n
          : (value >> 40n) % 0x100n === 0x81n
            ? value & ~(0xffn << 40n)
            : value,
    },
    run: (bed) => {
      const g = driving(bed);
      expect(g.field('IDR0', 'VMID16')).toBe(1);
      const ends = [0x0042, 0x8142].map((vmid, n) => {
        const [fn, tables, pa] = [new Probe(), g.tables(), bed.page()];
        bed.plug(fn, SID + 8 * n);
        tables.map(VA, pa, 3, 0x4fcn);
        g.stage2(SID + 8 * n, tables, vmid);
        return { fn, tables, pa };
      });
      for (const { fn, pa } of ends) bed.arrives(fn, VA, pa);
      const moved = ends.map(({ tables }) => {
        const pa = bed.page();
        tables.map(VA, pa, 3, 0x4fcn);
        return pa;
      });
      g.run([0x8142_0000_002an, BigInt(VA)]);
      bed.arrives(ends[0]!.fn, VA, ends[0]!.pa);
      bed.arrives(ends[1]!.fn, VA, moved[1]!);
      g.run([0x0042_0000_0028n, 0n]);
      bed.arrives(ends[0]!.fn, VA, moved[0]!);
    },
  },
  {
    register: 'IDR0',
    field: 'TERM_MODEL',
    section: '6.3.1',
    promise: 'Faults abort: CD.A=0 (read as zero, write ignored) is C_BAD_CD',
    shown: BOTH.map((properties) => ({ value: 1, properties })),
    cut: { hardware: { idr0: 0x0d04_101f & ~(1 << 26) } },
    run: (bed) => {
      const set = translating(bed);
      expect(set.g.field('IDR0', 'TERM_MODEL')).toBe(1);
      badCd(bed, set, 1n << 46n);
      bed.refused(set.fn, VA + 0x1000);
      expect(set.fn.read(VA + 0x1000)).toBeNull();
    },
  },
  {
    register: 'IDR3',
    field: 'RIL',
    section: '6.3.4',
    promise: 'TLBI by address may name a range (TG, NUM, SCALE) and the level of the leaf (TTL)',
    shown: BOTH.map((properties) => ({ value: 1, properties })),
    cut: { hardware: { idr3: 0x1414 & ~(1 << 10) } },
    run: (bed) => {
      const { g, fn, tables } = translating(bed);
      expect(g.field('IDR3', 'RIL')).toBe(1);
      // (1 + 1) * 2^2 = 8 pages from VA on, TTL 3; the ninth keeps what it has.
      const before = Array.from({ length: 9 }, () => bed.page());
      const after = before.map(() => bed.page());
      const at = (n: number) => 0x4000_0000 + n * 0x1000;
      for (let n = 0; n < 9; n++) tables.map(at(n), before[n]!);
      for (let n = 0; n < 9; n++) bed.arrives(fn, at(n), before[n]!);
      for (let n = 0; n < 9; n++) tables.map(at(n), after[n]!);
      const range = (1n << 12n) | (2n << 20n);
      g.run([0x12n | range | (0x11n << 48n), BigInt(at(0)) | 1n | (3n << 8n) | (1n << 10n)]);
      for (let n = 0; n < 8; n++) bed.arrives(fn, at(n), after[n]!);
      bed.arrives(fn, at(8), before[8]!);
    },
  },
  {
    register: 'IDR1',
    field: 'CMDQS',
    section: '6.3.2',
    promise: 'The command queue may have 2^19 entries',
    shown: BOTH.map((properties) => ({ value: 19, properties: { ...properties, big: true as const } })),
    cut: { register: (at, value) => (at === R.CMDQ_BASE ? LOW_LOG2(value) | 6n : value) },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed);
      expect(g.field('IDR1', 'CMDQS')).toBe(19);
      bed.arrives(fn, VA, pa);
      const queue = BIG.base;
      bed.w(R.CR0, 5);
      bed.w64(R.CMDQ_BASE, BigInt(queue + 19));
      // The last entry before the indices wrap.
      const last = 2 ** 19 - 1;
      bed.w(R.CMDQ_PROD, last);
      bed.w(R.CMDQ_CONS, last);
      bed.w(R.CR0, 0xd);
      const other = bed.page();
      tables.map(VA, other);
      bed.put(queue + 16 * last, ...nhVa(0x11, VA));
      bed.put(queue, 0x46n, 0n);
      bed.w(R.CMDQ_PROD, 2 ** 19 + 1);
      expect(bed.r(R.CMDQ_CONS)).toBe(2 ** 19 + 1);
      bed.arrives(fn, VA, other);
    },
  },
  {
    register: 'IDR1',
    field: 'EVENTQS',
    section: '6.3.2',
    promise: 'The event queue may have 2^19 entries',
    shown: BOTH.map((properties) => ({ value: 19, properties: { ...properties, big: true as const } })),
    cut: { register: (at, value) => (at === R.EVENTQ_BASE ? LOW_LOG2(value) | 6n : value) },
    run: (bed) => {
      const { g, fn } = translating(bed);
      expect(g.field('IDR1', 'EVENTQS')).toBe(19);
      const queue = BIG.base;
      bed.w(R.CR0, 9);
      bed.w64(R.EVENTQ_BASE, BigInt(queue + 19));
      const last = 2 ** 19 - 1;
      bed.w(R.EVENTQ_PROD, last);
      bed.w(R.EVENTQ_CONS, last);
      bed.w(R.CR0, 0xd);
      bed.refused(fn, VA + 0x1000);
      bed.refused(fn, VA + 0x2000);
      expect(bed.r(R.EVENTQ_PROD)).toBe(2 ** 19 + 1);
      expect([bed.get(queue + 32 * last + 16), bed.get(queue + 16)]).toEqual([
        BigInt(VA + 0x1000),
        BigInt(VA + 0x2000),
      ]);
    },
  },
];
