import { expect } from 'vitest';
import { ACCESS, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { PRG } from '../../../src/spec/pcie/messages.ts';
import { FAULT } from '../../../src/spec/vtd/faults.ts';
import { FSTS, GCMD, PAGE } from '../../../src/spec/vtd/registers.ts';
import { type Bed, Probe } from '../bed.ts';
import { VtdGuest } from './machine.ts';
import { FIRST, FULL, firstStage, QEMU, RID, SCALABLE, translating, VA, type VtdRow } from './stages.ts';

const ATS = { ats: {}, pri: { capacity: 32 }, pasid: { width: 8 } };
const all = (value: number, list: readonly object[]) => list.map((properties) => ({ value, properties }));
const deviceTlb = (va: number) => [0x3n | (BigInt(RID) << 32n), BigInt(va)] as const;

/** Interrupt remapping on, with a table of 256 entries. @returns where it lies. */
function remapping(bed: Bed, g: VtdGuest, extended = false): number {
  const table = bed.pages();
  bed.w64(PAGE.IRTA.at, BigInt(table) | 7n | (extended ? 0x800n : 0n));
  g.command(GCMD.SIRTP);
  g.command(GCMD.IRE);
  return table;
}

/** A message in remappable format for an index. */
const remappable = (index: number) => 0xfee0_0010 | (index << 5);
/** An entry: present, vector, physical xAPIC or x2APIC destination, SVT of this requester. */
const irte = (vector: number, destination: bigint): [bigint, bigint] => [
  1n | (BigInt(vector) << 16n) | (destination << 32n),
  BigInt(RID) | (1n << 18n),
];

/** Device TLBs, interrupts, PASIDs and page requests. */
export const REQUESTS: readonly VtdRow[] = [
  {
    register: 'ECAP',
    field: 'DT',
    section: '11.4.3',
    promise: 'A function with ATS translates by itself until a device-TLB descriptor takes it away',
    shown: all(1, [{ deviceIotlb: true }, { ...QEMU, deviceIotlb: true }, { ...FIRST, deviceIotlb: true }]),
    cut: { deaf: ['invalidate'] },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed, ATS);
      if (!g.scalable) g.legacy(RID, tables, 1, 1n);
      g.flush();
      bed.arrives(fn, VA, pa);
      expect([fn.shell.memory.requests, fn.shell.memory.atc.used]).toEqual([1, 1]);
      bed.arrives(fn, VA, pa);
      expect(fn.shell.memory.hits).toBe(1);
      const moved = bed.page();
      tables.map(VA, moved);
      g.run([0x12n], g.wait(0x40n), deviceTlb(VA));
      bed.arrives(fn, VA, moved);
      expect(g.reasons()).toEqual([]);
    },
  },
  {
    register: 'ECAP',
    field: 'IR',
    section: '11.4.3',
    promise: 'Messages in remappable format become what their table entry says, and one of another source is blocked',
    shown: all(1, [{}, QEMU, SCALABLE]),
    cut: { device: { properties: { intremap: false } } },
    run: (bed) => {
      const g = new VtdGuest(bed).setUp();
      const [fn, other] = [new Probe(), new Probe()];
      bed.plug(fn, RID);
      bed.plug(other, RID + 8);
      const table = remapping(bed, g);
      bed.put(table + 16 * 5, ...irte(0x41, 0x0300n));
      expect(fn.message(remappable(5), 0)).toBe(DMA.OK);
      bed.settle();
      expect(bed.messages).toEqual([[0xfee0_3000, 0x4041]]);
      other.message(remappable(5), 0);
      bed.settle();
      expect([bed.messages.length, g.reasons()]).toEqual([1, [FAULT.IR_SOURCE]]);
    },
  },
  {
    register: 'ECAP',
    field: 'EIM',
    section: '11.4.3',
    promise: 'Destinations have 32 bits (IRTA.EIME), in table entries and in the unit’s own messages',
    shown: all(1, [{ eim: true }, { ...QEMU, eim: true }]),
    cut: { register: (at, value) => (at === PAGE.IRTA.at ? value & ~0x800n : value) },
    run: (bed) => {
      const g = new VtdGuest(bed).setUp();
      const fn = new Probe();
      bed.plug(fn, RID);
      const table = remapping(bed, g, true);
      bed.put(table, ...irte(0x52, 0x0001_2345n));
      fn.message(remappable(0), 0);
      bed.settle();
      // Bits 7:0 in [19:12], the rest from bit 40 on.
      expect(bed.messages).toEqual([[0xfee4_5000 + 0x1_2300 * 2 ** 32, 0x4052]]);
    },
  },
  {
    register: 'CAP',
    field: 'PI',
    section: '11.4.2',
    promise:
      'An interrupt may be posted (IRTE.IM): a bit in a descriptor in memory, and one notification until software clears ON; SN keeps all but urgent ones quiet',
    shown: all(1, [{ postedInterrupts: true }, { postedInterrupts: true, eim: true }]),
    cut: { device: { properties: { postedInterrupts: false } } },
    run: (bed, _, { eim }) => {
      const g = new VtdGuest(bed).setUp();
      const fn = new Probe();
      bed.plug(fn, RID);
      const table = remapping(bed, g, eim === true);
      const descriptor = bed.pages() + 0x40;
      const entry = (vector: number, urgent: bigint) => {
        const low =
          1n | (1n << 15n) | (urgent << 14n) | (BigInt(vector) << 16n) | ((BigInt(descriptor) & 0xffff_ffc0n) << 32n);
        return [low, BigInt(RID) | (1n << 18n) | ((BigInt(descriptor) >> 32n) << 32n)] as const;
      };
      bed.put(table + 16 * 1, ...entry(0x41, 0n));
      bed.put(table + 16 * 2, ...entry(0xe3, 1n));
      // NV 0xf2, to APIC id 3.
      const control = (0xf2n << 16n) | (eim === true ? 3n << 32n : 3n << 40n);
      bed.put(descriptor + 32, control);
      const send = (index: number) => {
        expect(fn.message(remappable(index), 0)).toBe(DMA.OK);
        bed.settle();
        const bits = [0, 8, 16, 24].flatMap((at) => {
          const word = bed.get(descriptor + at);
          return Array.from({ length: 64 }, (_, n) => 8 * at + n).filter((n) => (word >> BigInt(n % 64)) % 2n === 1n);
        });
        return [bits, bed.get(descriptor + 32) & 3n, bed.messages.splice(0)];
      };
      const told = [[0xfee0_3000, 0x40f2]];
      expect(send(1)).toEqual([[0x41], 1n, told]);
      // ON is set: nobody is told again.
      expect(send(2)).toEqual([[0x41, 0xe3], 1n, []]);
      // Software takes what there is, and wants to be left alone (SN).
      bed.put(descriptor, 0n, 0n, 0n, 0n, control | 2n);
      expect(send(1)).toEqual([[0x41], 2n, []]);
      expect(send(2)).toEqual([[0x41, 0xe3], 3n, told]);
      expect(g.reasons()).toEqual([]);
      bed.put(descriptor + 32, control | 4n);
      fn.message(remappable(1), 0);
      expect(g.reasons()).toEqual([FAULT.IR_PID_RESERVED]);
    },
  },
  {
    register: 'CAP',
    field: 'ESIRTPS',
    section: '11.4.2',
    promise: 'SIRTP empties the interrupt entry cache by itself',
    shown: all(1, [{ esirtps: true }]),
    cut: {
      register: (at, value) => (at === PAGE.GCMD.at && (value & 0x200_0000n) !== 0n ? value & ~0x100_0000n : value),
    },
    run: (bed) => {
      const g = new VtdGuest(bed).setUp();
      const fn = new Probe();
      bed.plug(fn, RID);
      const vector = (table: number, value: number) => bed.put(table + 16 * 5, ...irte(value, 0n));
      const send = () => {
        fn.message(remappable(5), 0);
        bed.settle();
        return bed.messages.at(-1)![1] & 0xff;
      };
      vector(remapping(bed, g), 0x41);
      expect(send()).toBe(0x41);
      const other = bed.pages();
      vector(other, 0x42);
      bed.w64(PAGE.IRTA.at, BigInt(other) | 7n);
      g.command(GCMD.SIRTP);
      expect(send()).toBe(0x42);
    },
  },
  {
    register: 'ECAP',
    field: 'MHMV',
    section: '11.4.3',
    promise: 'An interrupt-entry-cache descriptor may name 2^15 entries (IM)',
    shown: all(15, [{}, QEMU, SCALABLE]),
    cut: {
      store: (value) => ((value & 0x1fn) === 0x14n ? 5n : value),
      device: { deviations: { entriesUncached: false } },
    },
    run: (bed) => {
      const g = new VtdGuest(bed).setUp();
      const fn = new Probe();
      bed.plug(fn, RID);
      const table = remapping(bed, g);
      const send = (index: number) => {
        fn.message(remappable(index), 0);
        bed.settle();
        return bed.messages.at(-1)![1] & 0xff;
      };
      for (const index of [3, 250]) bed.put(table + 16 * index, ...irte(0x41, 0n));
      expect([send(3), send(250)]).toEqual([0x41, 0x41]);
      for (const index of [3, 250]) bed.put(table + 16 * index, ...irte(0x42, 0n));
      g.run([0x14n | (15n << 27n)]);
      expect([send(3), send(250)]).toEqual([0x42, 0x42]);
      expect(g.reasons()).toEqual([]);
    },
  },
  {
    register: 'ECAP',
    field: 'NWFS',
    section: '11.4.3',
    promise: 'A translation request may say that it will not write (NW): the page does not become dirty for it',
    shown: all(1, [FULL, { ...FULL, ...QEMU }]),
    cut: { bus: { access: (access) => access | ACCESS.WRITE } },
    run: (bed, _, { profile }) => {
      const { g, fn, tables, pa } = firstStage(bed, 4, 0, ATS);
      const leaf = tables.map(VA, pa, 0x7n);
      g.run([0x1_0026n]);
      expect(fn.read(VA)).toBe(0);
      expect([fn.shell.memory.requests, bed.get(leaf) & 0x60n], 'accessed, not dirty').toEqual([1, 0x20n]);
      bed.arrives(fn, VA, pa);
      // QEMU sets neither flag when one of them is set (leafFlagsTogether).
      expect(bed.get(leaf) & 0x60n).toBe(profile === undefined ? 0x60n : 0x20n);
    },
  },
  {
    register: 'ECAP',
    field: 'PASID',
    section: '11.4.3',
    promise: 'Requests may carry a PASID, and each PASID has tables of its own',
    shown: all(1, [
      { ...FIRST, pasidBits: 8 },
      { ...FIRST, ...QEMU, pasidBits: 8 },
      { ...SCALABLE, pasidBits: 8 },
    ]),
    cut: { bus: { pasid: () => NO_PASID } },
    run: (bed) => {
      const g = new VtdGuest(bed).setUp();
      const fn = new Probe({ pasid: { width: 8 } });
      bed.plug(fn, RID);
      const pages = [0, 3, 0xff].map((pasid) => {
        const pa = bed.page();
        const tables = g.field('ECAP', 'FSTS') === 1 ? g.first() : g.second();
        tables.map(VA, pa);
        if (g.field('ECAP', 'FSTS') === 1) g.firstStage(RID, pasid, tables, pasid + 1);
        else g.secondStage(RID, pasid, tables, pasid + 1);
        return [pasid === 0 ? NO_PASID : pasid, pa] as const;
      });
      g.flush();
      for (const [pasid, pa] of pages) bed.arrives(fn, VA, pa, pasid);
      bed.refused(fn, VA, pages[1]![1], 4);
      expect(g.reasons().length).toBe(1);
    },
  },
  {
    register: 'ECAP',
    field: 'PSS',
    section: '11.4.3',
    promise: 'PASIDs have this many bits and one more',
    shown: [{}, QEMU].flatMap((p) =>
      Array.from({ length: 20 }, (_, value) => ({ value, properties: { ...FIRST, ...p, pasidBits: value + 1 } })),
    ),
    cut: { bus: { pasid: (pasid) => (pasid > 0 ? pasid - 1 : pasid) } },
    run: (bed, value) => {
      const g = new VtdGuest(bed).setUp();
      const fn = new Probe({ pasid: { width: value + 1 } });
      bed.plug(fn, RID);
      const [last, pa, tables] = [2 ** (value + 1) - 1, bed.page(), g.first()];
      tables.map(VA, pa);
      g.firstStage(RID, last, tables, 9);
      g.flush();
      bed.arrives(fn, VA, pa, last);
      expect(g.reasons()).toEqual([]);
    },
  },
  {
    register: 'ECAP',
    field: 'PRS',
    section: '11.4.3',
    promise: 'Page requests arrive in the queue of the guest, and a page-group response answers the function',
    shown: all(1, [FULL, { ...FULL, ...QEMU }]),
    cut: { deaf: ['pageResponse'] },
    run: (bed) => {
      const { g, fn, tables } = firstStage(bed, 4, 3, ATS);
      expect(fn.ask(VA + 0x1000, 3)).toBe(true);
      bed.settle();
      expect([bed.r(PAGE.PQT.at), bed.r(PAGE.PRS.at) & 1]).toEqual([32, 1]);
      const [w0, w1] = [bed.get(g.requests), bed.get(g.requests + 8)];
      expect([(w0 >> 16n) & 0xffffn, (w0 >> 32n) & 0xf_ffffn, w1 & ~0xfffn]).toEqual([
        BigInt(RID),
        3n,
        BigInt(VA + 0x1000),
      ]);
      const pa = bed.page();
      tables.map(VA + 0x1000, pa);
      bed.w(PAGE.PQH.at, 32);
      g.run([0x19n | (3n << 32n) | (BigInt(RID) << 16n), ((w1 >> 3n) & 0x1ffn) << 3n]);
      expect(fn.answers).toEqual([PRG.SUCCESS]);
      bed.arrives(fn, VA + 0x1000, pa, 3);
    },
  },
  {
    register: 'ECAP',
    field: 'PDS',
    section: '11.4.3',
    promise:
      'A wait may drain page requests (PD): those made before it are in the queue, or answered, when it completes',
    shown: all(1, [FULL, { ...FULL, ...QEMU }]),
    cut: { bus: { lost: ['pageRequest'] } },
    run: (bed) => {
      const { g, fn } = firstStage(bed, 4, 3, ATS);
      fn.ask(VA + 0x1000, 3);
      fn.ask(VA + 0x2000, 3);
      g.submit(g.wait(0x80n));
      bed.settle();
      expect([bed.r(PAGE.FSTS.at) & FSTS.IQE, g.ticket() > 0, bed.r(PAGE.PQT.at)]).toEqual([0, true, 64]);
      expect(fn.answers).toEqual([]);
    },
  },
  ...(['ECAP', 'VCCAP'] as const).map(
    (register): VtdRow => ({
      register,
      field: register === 'ECAP' ? 'VCS' : 'PAS',
      section: register === 'ECAP' ? '11.4.3' : '11.4.16.4',
      promise:
        register === 'ECAP'
          ? 'There are virtual commands (VCMD), and VCCAP says which'
          : 'Virtual commands allocate PASIDs and free them, and a PASID that was allocated can be used',
      shown: all(1, [{ ...FIRST, pasidBits: 8 }]),
      cut: { device: { deviations: { noExtensions: true } } },
      run: (bed) => {
        const g = new VtdGuest(bed).setUp();
        const fn = new Probe({ pasid: { width: 8 } });
        bed.plug(fn, RID);
        const call = (command: bigint) => {
          bed.w64(PAGE.VCMD.at, command);
          const answer = bed.r64(PAGE.VCRSP.at);
          expect(answer & 1n, 'IP').toBe(0n);
          return [Number((answer >> 1n) & 0x7fn), Number((answer >> 16n) & 0xf_ffffn)];
        };
        const [status, pasid] = call(1n);
        expect([status, pasid! > 0]).toEqual([0, true]);
        const [tables, pa] = [g.first(), bed.page()];
        tables.map(VA, pa);
        g.firstStage(RID, pasid!, tables, 4);
        g.flush();
        bed.arrives(fn, VA, pa, pasid!);
        expect(call(1n)[1]).not.toBe(pasid);
        // Free it: once, and not again.
        g.pasid(RID, pasid!, 0n);
        g.flush();
        expect([call(2n | (BigInt(pasid!) << 16n))[0], call(2n | (BigInt(pasid!) << 16n))[0]]).toEqual([0, 16]);
        expect(call(7n)[0], 'a command that there is not').toBe(1);
      },
    }),
  ),
];
