import { describe, expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ACCESS, ATS, NO_PASID } from '../../../src/ports/dma.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { FAULT } from '../../../src/spec/vtd/faults.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { Rig, type RigOptions, SlowEndpoint } from './rig.ts';

const A = 0x100_0000;
const B = 0x101_0000;
const ROOT = 0x70_0000;
const CONTEXTS = 0x70_1000;
const RIDS = [0x10, 0x18] as const;
const STATUS = 0x60_0000;
const PROFILES = ['qemu-11.1', 'arch'] as const;

/** A function with requester ids 0x10 and 0x18, and two tables that map 0x5000 to different pages. */
function machine(o: RigOptions = {}, description: object = {}) {
  const rig = new Rig(o);
  const { g } = rig;
  const scalable = o.props?.scalableMode === true;
  const fn = rig.units[0]!.addFunction(RIDS, RIDS.map(hostRid), { name: 'two', maxPasids: 256, ...description });
  const [a, b] = [rig.page(), rig.page()];
  const flags = o.props?.fsts === true ? 7n : 3n;
  g.map(a, 0x5000, A, flags, rig.pools[0]!);
  g.map(b, 0x5000, B, flags, rig.pools[0]!);
  g.store(ROOT, BigInt(CONTEXTS) | 1n, 0n);
  /** Legacy context entry; root null: not present. */
  const legacy = (rid: number, did: number, root: number | null) =>
    g.store(CONTEXTS + 16 * rid, root === null ? 0n : BigInt(root) | 1n, BigInt(did << 8) | 2n);
  const directories = new Map<number, number>();
  /** First-stage entry in a PASID table that the requester id has for itself. */
  const first = (rid: number, pasid: number, did: number, root: number | null) => {
    const directory = directories.get(rid) ?? rig.page();
    const table = directories.has(rid) ? Number(g.load(directory) & ~0xfffn) : rig.page();
    directories.set(rid, directory);
    g.store(directory, BigInt(table) | 1n);
    g.store(CONTEXTS + 32 * rid, BigInt(directory) | 9n | (g.r64(0x10) & 4n), 0n, 0n, 0n);
    g.store(table + 64 * pasid, root === null ? 0x48n : 0x49n, BigInt(did), BigInt(root ?? 0));
  };
  const on = () => {
    g.queueOn(scalable);
    g.translateOn(BigInt(ROOT) | (scalable ? 0x400n : 0n));
  };
  /** A context-cache invalidation of one requester id alone. */
  const invalidate = (rid: number) => g.submit(0x31n | (BigInt(rid) << 32n));
  const dma = (pasid = NO_PASID) => RIDS.map((rid) => rig.dma(rid, 0x5000, ACCESS.WRITE, pasid));
  /** Reason and source id of the records since the last call. */
  const records = () => {
    const out: [number, number][] = [];
    for (let i = 0; i < Number((g.r64(PAGE.CAP.at) >> 40n) & 0xffn) + 1; i++) {
      const at = PAGE.FRCD_LO.at + 16 * i;
      if (g.r32(at + 12) >>> 31 === 0) continue;
      out.push([g.r32(at + 12) & 0xff, g.r32(at + 8) & 0xffff]);
      g.w32(at + 12, 0x8000_0000);
    }
    return out;
  };
  return { rig, g, fn, a, b, legacy, first, on, invalidate, dma, records };
}

describe.each(PROFILES)('the requester ids of one function, %s', (profile) => {
  test('each translates with its own context entry, and an invalidation of the alias alone is noticed', () => {
    const m = machine({ props: { profile } });
    m.legacy(0x10, 5, m.a);
    m.legacy(0x18, 6, m.b);
    m.on();
    expect(m.dma()).toEqual([A, B]);
    m.legacy(0x18, 5, m.a);
    expect(m.dma()).toEqual([A, B]);
    m.invalidate(0x18);
    expect(m.dma()).toEqual([A, A]);
    m.legacy(0x10, 6, m.b);
    m.invalidate(0x18);
    expect(m.dma()).toEqual([A, A]);
    m.invalidate(0x10);
    expect(m.dma()).toEqual([B, A]);
  });

  test('one without an entry faults under its own name while the other translates', () => {
    const m = machine({ props: { profile } });
    m.legacy(0x10, 5, m.a);
    m.on();
    expect(m.dma()).toEqual([A, 'ABORT']);
    expect(m.records()).toEqual([[FAULT.CONTEXT_P, 0x18]]);
    m.legacy(0x18, 5, m.a);
    m.legacy(0x10, 5, null);
    m.invalidate(0x10);
    expect(m.dma()).toEqual(['ABORT', A]);
    expect(m.records()).toEqual([[FAULT.CONTEXT_P, 0x10]]);
  });

  test('each has its own PASIDs', () => {
    const m = machine({ props: { profile, scalableMode: true, fsts: true, pasidBits: 8 } });
    m.first(0x10, 0, 5, m.a);
    m.first(0x10, 3, 6, m.b);
    m.first(0x18, 0, 6, m.b);
    m.first(0x18, 3, 0, null);
    m.on();
    expect([m.dma(), m.dma(3)]).toEqual([
      [A, B],
      [B, 'ABORT'],
    ]);
    expect(m.records()).toEqual([[FAULT.PASID_P, 0x18]]);
    m.first(0x18, 3, 5, m.a);
    m.first(0x10, 3, 5, null);
    m.g.submit(0x17n | (6n << 16n) | (3n << 32n));
    expect([m.dma(), m.dma(3)]).toEqual([
      [A, B],
      ['ABORT', A],
    ]);
  });

  test('one that the host cannot set up faults with a record, and the other translates', () => {
    const m = machine({ props: { profile } });
    const { upcalls } = m.rig.vm;
    const real = upcalls.attachStream.bind(upcalls);
    let refuse = true;
    upcalls.attachStream = (dev, stream, pt, pasid) =>
      refuse && stream === 1 && pt !== 0 ? -E.OPNOTSUPP : real(dev, stream, pt, pasid);
    m.legacy(0x10, 5, m.a);
    m.legacy(0x18, 6, m.b);
    m.on();
    expect(m.dma()).toEqual([A, 'ABORT']);
    expect(m.records()).toEqual([[FAULT.CONTEXT_UNREADABLE, 0x18]]);
    refuse = false;
    expect(m.dma()).toEqual([A, B]);
  });

  test('come and go with their function, and leave nothing behind', () => {
    const m = machine({ props: { profile } });
    m.legacy(0x10, 5, m.a);
    m.legacy(0x18, 6, m.b);
    m.on();
    expect(m.dma()).toEqual([A, B]);
    m.fn.remove();
    expect(m.rig.units[0]!.device.attachments()).toEqual([]);
    const fn = m.rig.units[0]!.addFunction(RIDS, RIDS.map(hostRid), { name: 'again' });
    expect(m.dma()).toEqual([A, B]);
    m.g.w32(PAGE.GCMD.at, m.g.r32(PAGE.GSTS.at) & 0x16ff_ffff);
    expect(m.dma()).toEqual([0x5000, 0x5000]);
    fn.remove();
  });
});

test('a device-TLB invalidation goes to the requester id that it names', () => {
  const m = machine({ props: { profile: 'arch', deviceIotlb: true } }, { ats: true });
  const endpoint = new SlowEndpoint(m.rig.units[0]!);
  m.g.store(CONTEXTS + 16 * 0x10, BigInt(m.a) | 5n, 0x502n);
  m.g.store(CONTEXTS + 16 * 0x18, BigInt(m.b) | 5n, 0x602n);
  m.on();
  const { hardware } = m.rig.units[0]!;
  expect(hardware.translationRequest(hostRid(0x18), NO_PASID, 0x5000, 0, ACCESS.READ)).toBe(ATS.SUCCESS);
  expect(m.rig.vm.memory.gpaOf(hardware.atsOut)).toBe(B);
  endpoint.answer();
  m.g.submit(3n | (0x18n << 32n), 0x5000n);
  expect(endpoint.asked.map((a) => a.rid)).toEqual([hostRid(0x18)]);
});

describe('a host with one configuration per device (linux-only)', () => {
  test('gives the function what all its requester ids ask for', () => {
    const m = machine({ linuxOnly: true });
    m.legacy(0x10, 5, m.a);
    m.legacy(0x18, 5, m.a);
    m.on();
    m.g.submit(0x11n);
    expect(m.dma()).toEqual([A, A]);
    m.legacy(0x10, 6, m.b);
    m.legacy(0x18, 6, m.b);
    m.g.submit(0x11n);
    expect(m.g.r32(PAGE.FSTS.at)).toBe(0);
    expect(m.dma()).toEqual([B, B]);
  });

  test('refuses two configurations that are there before translation: the records name who has nothing', () => {
    const m = machine({ linuxOnly: true, props: { profile: 'arch' } });
    m.legacy(0x10, 5, m.a);
    m.legacy(0x18, 6, m.b);
    m.on();
    expect(m.dma()).toEqual(['ABORT', 'ABORT']);
    expect(m.records()).toEqual(RIDS.map((rid) => [FAULT.CONTEXT_UNREADABLE, rid]));
    // The invalidation behind a good one heals both.
    m.legacy(0x18, 5, m.a);
    m.g.submit(0x11n);
    expect([m.g.r32(PAGE.FSTS.at), ...m.dma(), ...m.records()]).toEqual([0, A, A]);
  });

  test('refuses the second configuration: the invalidation that asks for it is an error, and nothing gets through', () => {
    const m = machine({ linuxOnly: true });
    m.legacy(0x10, 5, m.a);
    m.legacy(0x18, 5, m.a);
    m.on();
    expect(m.dma()).toEqual([A, A]);
    m.legacy(0x18, 6, m.b);
    m.invalidate(0x18);
    m.g.submit(0x25n | (7n << 32n), BigInt(STATUS));
    expect(m.g.r32(PAGE.FSTS.at)).toBe(0x10);
    expect(m.g.load(STATUS)).toBe(0n);
    expect(m.dma()).toEqual(['ABORT', 'ABORT']);
    // The guest puts it back and goes on.
    m.legacy(0x18, 5, m.a);
    m.g.w32(PAGE.FSTS.at, 0x10);
    m.g.w32(PAGE.IQT.at, m.g.tail);
    expect([m.g.r32(PAGE.FSTS.at), m.g.load(STATUS)]).toEqual([0, 7n]);
    expect(m.dma()).toEqual([A, A]);
  });
});
