import { describe, expect, test } from 'vitest';
import { PAGE_FAULT } from '../../../devices/endpoints/requester.ts';
import { vtdDefaults } from '../../../devices/vtd/properties.ts';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ENQUEUE } from '../../../src/machine/pasid/cpu-pasid-table.ts';
import { PasidLayer } from '../../../src/machine/pasid/pasid-layer.ts';
import { DMA } from '../../../src/ports/dma.ts';
import { PRG } from '../../../src/spec/pcie/messages.ts';
import { FAULT, frcd } from '../../../src/spec/vtd/faults.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { DATA as PAGES, probe, Rig, VA } from '../plugged/rig.ts';
import { DATA, dataOf, fill, Intel } from './intel.ts';

const ats = { pasid: { width: 20 }, ats: {}, pri: { capacity: 32 } } as const;

/** A machine with a function and what the guest sees of it: a slice at 02.0, or the function itself in global mode. */
function machine(kind: 'slice' | 'global') {
  const layer = new PasidLayer(new PasidSpace(0x1000, 0x1100));
  const rig = new Rig('vtd', { pasids: layer });
  const fn = probe(ats);
  if (kind === 'slice') {
    const parent = probe(ats);
    rig.plug(parent, 0x08);
    rig.machine.plug(fn, 0x10, undefined, { slice: { of: parent, pasid: 0x40 } });
  } else rig.machine.plug(fn, 0x10, undefined, { pasids: 'global' });
  rig.config(0, 0x10, 4, 2, 6);
  const cap = fn.config.findExtended(0x1b);
  rig.config(0, 0x10, cap + 6, 2, 7);
  const { window } = rig.machine.unit;
  const r32 = (at: number) => window.read(at, 4);
  const w32 = (at: number, v: number) => window.write(at, 4, v, 0);
  const records = () => {
    const list: { sid: number; pasid: number; reason: number }[] = [];
    for (let at = 0x220; at < 0x220 + 8 * 16; at += 16) {
      const [w2, w3] = [r32(at + 8) | 0, r32(at + 12) | 0];
      if (!frcd.isFault(w3)) continue;
      list.push({ sid: frcd.sid(w2), pasid: frcd.pasid(w2, w3), reason: frcd.reason(w3) });
      w32(at + 12, 0x8000_0000 | 0);
    }
    w32(PAGE.FSTS.at, 0xff);
    return list;
  };
  const toAts = () => rig.enable(0, 0x10, fn);
  /** What the PASID goes out as: the twin, or the slice's own name of its real one. */
  const sent = (pasid: number) => (kind === 'global' ? layer.cpu.translate(pasid) : pasid);
  return { rig, fn, layer, records, toAts, sent };
}

describe.each(['slice', 'global'] as const)('the way back of a %s', (kind) => {
  test('a fault is recorded under the requester id and the PASID the guest knows', () => {
    const { rig, fn, records, sent } = machine(kind);
    const [pa] = rig.space(0x10, [3]);
    expect(rig.reaches(fn, pa!, 3)).toBe(true);
    expect(rig.reaches(fn, pa!, sent(3))).toBe(true);
    expect(rig.write(fn, 1, sent(3), VA + 0x8000)).toBe(DMA.ABORT);
    expect(records()).toEqual([{ sid: 0x10, pasid: 3, reason: FAULT.FS_P }]);
    // A PASID that the guest has not set up is one as well.
    expect(rig.write(fn, 1, 9)).toBe(DMA.ABORT);
    expect(records()).toMatchObject([{ sid: 0x10, pasid: 9 }]);
  });

  test('translations it has cached go with the guest’s device-TLB invalidation, page requests come with its names', () => {
    const { rig, fn, toAts, sent } = machine(kind);
    toAts();
    const [pa] = rig.space(0x10, [3]);
    expect(rig.reaches(fn, pa!, 3)).toBe(true);
    expect(rig.reaches(fn, pa!, sent(3))).toBe(true);
    expect(fn.memory.atc.used).toBeGreaterThan(0);
    rig.guest.unmap(0x10, 3, VA);
    rig.guest.invalidate(0x10, 3, VA);
    expect(rig.guest.sync()).toBe(true);
    expect(rig.write(fn, 1, sent(3))).toBe(PAGE_FAULT);

    const answers: number[] = [];
    expect(fn.memory.pageRequest(sent(3), VA, 0, 1, (code) => answers.push(code))).toBe(true);
    const [request] = rig.guest.requests();
    expect(request).toMatchObject({ sid: 0x10, pasid: 3, address: VA, last: true });
    expect(answers).toEqual([]);
    rig.guest.map(0x10, 3, VA, PAGES + 0x4000);
    rig.guest.respond(request!, true);
    expect(answers).toEqual([PRG.SUCCESS]);
    expect(rig.reaches(fn, PAGES + 0x4000, sent(3))).toBe(true);
  });
});

describe('a pool that is used up', () => {
  test.each(['global', 'slice'] as const)('the guest hears that a PASID of a %s cannot be set up', (kind) => {
    const g = new Intel({ layer: new PasidLayer(new PasidSpace(0x1000, 0x1002)) });
    g.boot(0x10);
    const rid = kind === 'global' ? 0x10 : 0x99;
    if (kind === 'global') g.accelerator(0x10, 'global');
    else {
      const parent = g.unit.addFunction([0x99], [hostRid(0x99)], { name: 'parent', pasidBits: 20 });
      g.unit.addSlice(0x10, parent, 40);
    }
    for (const pasid of [3, 4]) g.setPasid(pasid, 0);
    expect(g.r32(PAGE.FSTS.at)).toBe(0);
    g.setPasid(5, 0);
    expect([g.unit.device.hostPasids(0x10, 5), g.r32(PAGE.FSTS.at)]).toEqual([[], 0]);
    if (kind === 'global') g.dma(rid, 5, DATA);
    else g.unit.device.requestRefused(0x10, 5, DATA, 0, 2);
    const [w2, w3] = [g.r32(0x228) | 0, g.r32(0x22c) | 0];
    expect([frcd.isFault(w3), frcd.sid(w2), frcd.pasid(w2, w3)]).toEqual([true, 0x10, 5]);
    expect(frcd.reason(w3)).toBe(FAULT.PASID_UNREADABLE);
    // The next invalidation after one is given back sets it up.
    g.setPasid(3, -1);
    g.setPasid(5, 0);
    expect(g.unit.device.hostPasids(0x10, 5).length).toBe(kind === 'global' ? 2 : 1);
  });
});

describe('an ENQCMD with a PASID that the host has no twin for', () => {
  test('is recorded for the function whose tables have it, until one is given back', () => {
    const g = new Intel({ layer: new PasidLayer(new PasidSpace(0x1000, 0x1002)) });
    g.boot(0x10, 0x18);
    const card = g.accelerator(0x10, 'global');
    g.accelerator(0x18);
    const enqcmd = (local: number) => g.layer.cpu.enqcmd(card.accelerator, 0, fill(0x66), local);
    const records = () => {
      const list: unknown[] = [];
      for (let at = 0x220; at < 0x220 + 8 * 16; at += 16) {
        const [w2, w3] = [g.r32(at + 8) | 0, g.r32(at + 12) | 0];
        if (!frcd.isFault(w3)) continue;
        list.push([g.r64(at), frcd.sid(w2), frcd.pasid(w2, w3), frcd.isRead(w3), frcd.reason(w3)]);
        g.w32(at + 12, 0x8000_0000 | 0);
      }
      return list;
    };
    // What the tables do not have is the guest's own business.
    expect([enqcmd(5), records()]).toEqual([ENQUEUE.UNTRANSLATED, []]);
    for (const pasid of [3, 4, 5]) g.setPasid(pasid, 0);
    expect([enqcmd(3), enqcmd(4), records()]).toEqual([ENQUEUE.ACCEPTED, ENQUEUE.ACCEPTED, []]);
    for (let i = 0; i < 2; i++) {
      expect(enqcmd(5)).toBe(ENQUEUE.UNTRANSLATED);
      expect(records()).toEqual([[0n, 0x10, 5, false, FAULT.PASID_UNREADABLE]]);
    }
    g.setPasid(3, -1);
    expect([enqcmd(5), records()]).toEqual([ENQUEUE.ACCEPTED, []]);
    expect(g.load32(dataOf(0))).toBe(0x66);
  });
});

describe('a device-TLB invalidation that nobody answers', () => {
  /** A function and two slices of it that answer nothing; the function is the guest's as well, or not. */
  function silent(whose: boolean) {
    const g = new Intel({
      properties: { ...vtdDefaults('arch'), scalableMode: true, fsts: true, pasidBits: 8, deviceIotlb: true },
    });
    g.boot(0x10, 0x18, 0x20);
    for (const devfn of [0x10, 0x18, 0x20]) g.store(0x31_0000 + devfn * 32, 0x31_100dn, 0n, 0n, 0n);
    const rid = whose ? 0x20 : 0x99;
    const control = { setAts: () => {}, setPri: () => {} };
    const parent = g.unit.addFunction([rid], [hostRid(rid)], { name: 'parent', pasidBits: 20, ats: true, control });
    const slices = [40, 41].map((own, i) => g.unit.addSlice([0x10, 0x18][i]!, parent, own));
    g.unit.endpoints.to = { invalidate: () => true, pageResponse() {}, resumed() {} };
    const settle = () => g.vm.clock.advance(200e9);
    g.setPasid(3, 0);
    settle();
    g.w32(PAGE.FSTS.at, 0xff);
    const invalidate = (sid: number, pasid: number | null) => {
      if (pasid === null) g.submit(0x3n | (BigInt(sid) << 32n), BigInt(DATA));
      else g.submit(0x8n | (BigInt(sid) << 16n) | (BigInt(pasid) << 32n), BigInt(DATA));
    };
    const error = () => {
      settle();
      const out = [g.r32(PAGE.FSTS.at) & 0x40, g.r32(PAGE.IQERCD.at + 4) & 0xffff];
      g.w32(PAGE.FSTS.at, 0xff);
      return out;
    };
    return { g, slices, invalidate, error };
  }

  test.each([true, false])('names the slice it was for, or the function (the function is the guest’s: %s)', (whose) => {
    const m = silent(whose);
    for (const [sid, pasid] of [
      [0x18, 3],
      [0x10, 3],
      [0x18, null],
      [0x10, null],
      ...(whose
        ? ([
            [0x20, 3],
            [0x20, null],
          ] as const)
        : []),
    ] as const) {
      m.invalidate(sid, pasid);
      expect([sid, pasid, m.error()]).toEqual([sid, pasid, [0x40, sid]]);
    }
  });

  test.each([true, false])('names a slice that went meanwhile (the function is the guest’s: %s)', (whose) => {
    for (const pasid of [3, null]) {
      const m = silent(whose);
      m.invalidate(0x18, pasid);
      m.slices[1]!.remove();
      expect(m.error()).toEqual([0x40, 0x18]);
    }
  });
});

describe('the split between the guest’s PASIDs and the host’s', () => {
  const pss = (g: Intel) => Number((g.r64(PAGE.ECAP.at) >> 35n) & 0x1fn) + 1;

  test('caps what the guest is shown: ECAP, and what VCMD gives out', () => {
    const g = new Intel({ layer: new PasidLayer(new PasidSpace(10, 100)) });
    expect(pss(g)).toBe(3);
    g.boot(0x10);
    const given = Array.from({ length: 8 }, () => g.vcmd(1n));
    expect(given.filter(([status]) => status === 0).map(([, pasid]) => pasid)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    g.accelerator(0x10, 'global');
    g.setPasid(9, 0);
    expect([g.dma(0x10, 9, DATA), g.unit.device.hostPasids(0x10, 9)]).toEqual([-1, []]);
  });

  test('leaves more than the guest has bits for alone, and is refused where it leaves none', () => {
    expect(pss(new Intel())).toBe(8);
    expect(() => new Intel({ layer: new PasidLayer(new PasidSpace(1, 100)) })).toThrow(
      /leaves the guest none: begin it at 2/,
    );
  });

  test('a PASID of a slice is nobody else’s: the function cannot set it up for itself', () => {
    const g = new Intel();
    g.boot(0x10, 0x18);
    const parent = g.unit.addFunction([0x18], [hostRid(0x18)], { name: 'parent', pasidBits: 20 });
    const slice = g.unit.addSlice(0x10, parent, 40);
    g.setPasid(40, 0);
    g.setPasid(3, 1);
    expect(g.unit.device.hostPasids(0x18, 40)).toEqual([]);
    expect(() => g.unit.addSlice(0x20, parent, 40)).toThrow(/another slice has the PASID/);
    slice.remove();
    expect(() => g.unit.addSlice(0x20, parent, 3)).toThrow(/the function or another slice has the PASID/);
  });
});

describe('after a migration', () => {
  const moved = (from: Intel, to: Intel) => {
    const ram = new Uint8Array(0x100_0000);
    from.vm.memory.guest.readBytes(0, ram);
    to.vm.memory.guest.writeBytes(0, ram);
    to.unit.load(JSON.parse(JSON.stringify(from.unit.save())));
  };
  const elsewhere = () => {
    const layer = new PasidLayer(new PasidSpace(0x4000, 0x4100));
    layer.space.open().allocate();
    return layer;
  };

  test('the first thing may be an ENQCMD: the processor has the twin at once, and it translates', () => {
    const a = new Intel();
    a.boot(0x10);
    a.accelerator(0x10, 'global');
    const [, local] = a.vcmd(1n);
    a.setPasid(local, 0);
    const b = new Intel({ layer: elsewhere() });
    const card = b.accelerator(0x10, 'global');
    moved(a, b);
    expect(b.layer.cpu.entries).toEqual([[local, 0x4001]]);
    expect(b.layer.cpu.enqcmd(card.accelerator, 0, fill(0x77), local)).toBe(ENQUEUE.ACCEPTED);
    expect(b.load32(dataOf(0))).toBe(0x77);
  });

  test('a slice has its real PASID at once: its mediator can program it', () => {
    const make = (layer: PasidLayer) => {
      const g = new Intel({ layer });
      const parent = g.unit.addFunction([0x99], [hostRid(0x99)], { name: 'parent', pasidBits: 20 });
      g.unit.addSlice(0x10, parent, 40);
      return g;
    };
    const a = make(new PasidLayer(new PasidSpace(0x1000, 0x1100)));
    a.boot(0x10);
    a.setPasid(3, 0);
    const b = make(elsewhere());
    moved(a, b);
    const [real] = b.unit.device.hostPasids(0x10, 3);
    expect(real).toBe(0x4001);
    expect(b.dma(0x99, real!, DATA)).toBe(dataOf(0));
  });
});

test('a PASID the guest made present without an invalidation is paired when the processor misses it', () => {
  const g = new Intel();
  g.boot(0x10);
  const card = g.accelerator(0x10, 'global');
  // VT-d §6.1: what becomes present needs no invalidation without caching mode.
  g.store(0x31_2000 + 64 * 3, 0x49n, 5n, BigInt(g.space(0)), 0n);
  expect(g.layer.cpu.entries).toEqual([]);
  expect(g.layer.cpu.enqcmd(card.accelerator, 0, fill(0x55), 3)).toBe(ENQUEUE.ACCEPTED);
  expect(g.load32(dataOf(0))).toBe(0x55);
});

test('several hear of pairings, each from the moment it listens, with those that are there already', () => {
  const g = new Intel();
  g.boot(0x10);
  g.accelerator(0x10, 'global');
  const heard: string[][] = [[], []];
  const listen = (n: number) =>
    g.layer.globals.listen((local, global) => heard[n]!.push(`${local}>${global.toString(16)}`));
  const stop = listen(0);
  g.setPasid(3, 0);
  listen(1);
  g.setPasid(4, 0);
  stop();
  g.setPasid(3, -1);
  expect(heard).toEqual([
    ['3>1000', '4>1001'],
    ['3>1000', '4>1001', '3>-1'],
  ]);
  expect(g.layer.cpu.entries).toEqual([[4, 0x1001]]);
});
