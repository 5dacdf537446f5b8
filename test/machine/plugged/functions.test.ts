import { describe, expect, test } from 'vitest';
import { Bridge } from '../../../bus/bridge.ts';
import { PAGE_FAULT } from '../../../devices/endpoints/requester.ts';
import type { Shell } from '../../../devices/endpoints/shell.ts';
import { addAcs } from '../../../src/lib/pci/standard.ts';
import { ACCESS, AT, ATS, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { Upstream } from '../../../src/ports/pci.ts';
import { PRG } from '../../../src/spec/pcie/messages.ts';
import { DATA, DOORBELL, KINDS, probe, Rig, VA } from './rig.ts';

/** What the host kernel says the function can do. */
function info(rig: Rig, rid: number) {
  const command = {
    flags: 0,
    devId: rig.machine.unit.functionOf(rid)!.vfio.devId,
    dataLen: 0,
    data: null,
    dataType: 0,
    outMaxPasidLog2: 0,
    outCapabilities: 0n,
  };
  expect(rig.machine.vm.iommufd.getHwInfo(command)).toBe(0);
  return { bits: command.outMaxPasidLog2, capabilities: command.outCapabilities };
}
/** IOMMU_HW_CAP_PCI_PASID_EXEC and _PRIV. */
const EXEC = 2n;
const PRIV = 4n;

for (const kind of KINDS) {
  describe(`what a function behind a ${kind} is`, () => {
    test('what it sends under a PASID beyond its own width goes nowhere, and it says so', () => {
      const rig = new Rig(kind);
      const fn = probe({ pasid: { width: 2 }, ats: {}, pri: { capacity: 32 } });
      const none = probe({ ats: {}, pri: { capacity: 32 } });
      rig.plug(fn, 0x08);
      rig.plug(none, 0x10);
      const [pa] = rig.space(0x08, [3]);
      expect(rig.reaches(fn, pa!, 3)).toBe(true);
      rig.said.length = 0;
      const clock = rig.machine.vm.clock;
      const tries: [Shell, number][] = [
        [fn, 4],
        [fn, 0x10_0003],
        [fn, 2 ** 31],
        [fn, -2],
        [none, 0],
        [none, 3],
      ];
      for (const [of, pasid] of tries) {
        const outcomes = [rig.write(of, 1, pasid), of.memory.read(pasid, VA, 0, new Uint8Array(4), 0, 4)];
        of.memory.writeLater({ clock, flight: 1, pasid, lo: VA, hi: 0, bytes: new Uint8Array(4) }, (r) =>
          outcomes.push(r),
        );
        clock.advance(1);
        expect([pasid, outcomes]).toEqual([pasid, [DMA.ABORT, DMA.ABORT, DMA.ABORT]]);
        expect(of.memory.refusal).toMatch(of === fn ? /PASID -?\d+: .* 0 to 3, by the width/ : /no PASID capability/);
        expect(of.memory.pageRequest(pasid, VA, 0, ACCESS.READ, () => {})).toBe(false);
        // The same without the kit.
        const up = of.upstream!;
        expect(up.write(pasid, VA, 0, ACCESS.WRITE, AT.UNTRANSLATED, new Uint8Array(4), 0, 4)).toBe(DMA.ABORT);
        expect(up.translationRequest(pasid, VA, 0, ACCESS.READ)).toBe(ATS.UR);
      }
      expect(rig.said.filter((s) => s.what === 'fault' || (s.what === 'translate' && !s.hit))).toEqual([]);
      expect(rig.reaches(fn, pa!, 3)).toBe(true);
    });

    test('its PASIDs are as wide as its own capability says, with the permissions it has', () => {
      const rig = new Rig(kind);
      const wide = probe({ pasid: { width: 8, exec: true } });
      const narrow = probe({ pasid: { width: 4, priv: true } });
      const none = probe();
      rig.plug(wide, 0x08);
      rig.plug(narrow, 0x10);
      rig.plug(none, 0x18);
      expect(info(rig, 0x08).bits).toBe(8);
      expect(info(rig, 0x08).capabilities & (EXEC | PRIV)).toBe(EXEC);
      expect(info(rig, 0x10).bits).toBe(4);
      expect(info(rig, 0x10).capabilities & (EXEC | PRIV)).toBe(PRIV);
      expect(info(rig, 0x18).bits).toBe(0);

      const pasids = [NO_PASID, 3, 200];
      const pages = [0x08, 0x10].map((rid, i) => rig.space(rid, pasids, 4 * i));
      expect(pasids.map((p, i) => rig.reaches(wide, pages[0]![i]!, p))).toEqual([true, true, true]);
      // 200 does not fit into 4 bits: it does not leave the function, whoever owns the PASID table.
      expect(pasids.map((p, i) => rig.reaches(narrow, pages[1]![i]!, p))).toEqual([true, true, false]);
    });

    test('functions that no port keeps apart are one group of the host; those below ports with ACS are not', () => {
      const rig = new Rig(kind);
      const ports = [new Bridge({ kind: 'root', acs: false }), new Bridge({ kind: 'root' })];
      const fns = ports.map((port, i) => {
        rig.machine.plug(port, 0x08 * (i + 1));
        rig.number(0, 0x08 * (i + 1), i + 1);
        // The second of each comes first: the name of a group does not follow from who was there first.
        return [1, 0].map((devfn) => {
          const fn = probe();
          addAcs(fn.config, 0);
          rig.plug(fn, devfn, port, i + 1);
          return fn;
        });
      });
      const group = (rid: number) => rig.machine.unit.functionOf(rid)!.device.group;
      expect(group(0x100)).toBe(group(0x101));
      expect(group(0x200)).not.toBe(group(0x201));

      const apart = [0x200, 0x201].map((rid, i) => rig.space(rid, [NO_PASID], i)[0]!);
      expect(apart.map((pa, i) => rig.reaches(fns[1]![1 - i]!, pa))).toEqual([true, true]);

      // One group has one address space: the function that would bring a second one stays blocked.
      const [pa, other] = [0x100, 0x101].map((rid, i) => rig.space(rid, [NO_PASID], 2 + i)[0]!);
      expect([rig.reaches(fns[0]![1]!, pa!), rig.reaches(fns[0]![0]!, other!)]).toEqual([true, false]);
      expect(rig.reaches(fns[0]![1]!, pa!)).toBe(true);
    });

    test('functions of one device without access control are one group, whoever was there first', () => {
      const rig = new Rig(kind);
      for (const devfn of [0x09, 0x08, 0x10]) rig.plug(probe(), devfn);
      const group = (rid: number) => rig.machine.unit.functionOf(rid)!.device.group;
      expect(group(0x08)).toBe(group(0x09));
      expect(group(0x10)).not.toBe(group(0x08));
    });

    test('it sends under every requester id it was plugged in with, and each is an entry of the guest', () => {
      const rig = new Rig(kind);
      const fn = probe();
      let up: Upstream | null = null;
      fn.onUpstream = (upstream) => {
        up = upstream;
      };
      rig.machine.plug(fn, 0x40, undefined, { aliases: [0x41, 0x43] });
      rig.enable(0, 0x40, fn);
      const [pa] = rig.space(0x40);
      for (const rid of [0x41, 0x43]) rig.guest.share(rid, 0x40);
      const ways = [up!, ...(up! as Upstream).aliases];
      expect(ways.map((w) => w.rid)).toEqual([0x40, 0x41, 0x43]);
      ways.forEach((way, i) => {
        const bytes = new Uint8Array(Int32Array.of(70 + i).buffer);
        expect(way.write(NO_PASID, VA, 0, ACCESS.WRITE, AT.UNTRANSLATED, bytes, 0, 4)).toBe(DMA.OK);
        expect(rig.load(pa!)).toBe(70 + i);
      });
      // The places are taken: nobody else is called like that.
      expect(() => rig.machine.plug(probe(), 0x41)).toThrow(/the slot is taken/);
      expect(() => rig.machine.plug(probe(), 0x50, undefined, { aliases: [0x40] })).toThrow(/the slot is taken/);

      // A fault names the requester id that sent it.
      rig.said.length = 0;
      up!.aliases[1]!.write(NO_PASID, VA + 0x1000, 0, ACCESS.WRITE, AT.UNTRANSLATED, new Uint8Array(4), 0, 4);
      const record = rig.said.find((s) => s.what === (kind === 'vtd' ? 'frcd' : 'record'));
      const words = record !== undefined && 'words' in record ? record.words : [];
      expect(kind === 'vtd' ? words[2]! & 0xffff : words[1]).toBe(0x43);
    });

    test('a function with ATS has one requester id', () => {
      const rig = new Rig(kind);
      const fn = probe({ ats: {} });
      expect(() => rig.machine.plug(fn, 0x40, undefined, { aliases: [0x41] })).toThrow(/probe has ATS/);
      expect(rig.machine.unit.functionOf(0x40)).toBeUndefined();
      rig.plug(fn, 0x40);
      const [pa] = rig.space(0x40);
      expect(rig.reaches(fn, pa!)).toBe(true);
    });

    test('with ATS it caches translations, which the guest invalidates; without, every access is translated', () => {
      const rig = new Rig(kind);
      const [caching, plain] = [probe({ ats: {} }), probe()];
      rig.plug(caching, 0x08);
      rig.plug(plain, 0x10);
      const [a] = rig.space(0x08);
      const [b] = rig.space(0x10, [NO_PASID], 1);
      for (let i = 0; i < 3; i++) expect([rig.reaches(caching, a!), rig.reaches(plain, b!)]).toEqual([true, true]);
      expect([caching.memory.requests, caching.memory.hits, plain.memory.requests]).toEqual([1, 2, 0]);

      const moved = DATA + 0x8000;
      rig.guest.map(0x08, NO_PASID, VA, moved);
      rig.guest.invalidate(0x08, NO_PASID, VA);
      expect(rig.guest.sync()).toBe(true);
      expect([rig.reaches(caching, a!), rig.reaches(caching, moved)]).toEqual([false, true]);
    });

    test('with PRI it asks the guest for a page, and goes on when the guest has mapped it', () => {
      const rig = new Rig(kind);
      const fn = probe({ ats: {}, pri: { capacity: 8 }, pasid: { width: 8 } });
      rig.plug(fn, 0x08);
      rig.space(0x08, [NO_PASID, 5]);
      const va = VA + 0x1000;
      expect(rig.write(fn, 1, 5, va)).toBe(PAGE_FAULT);
      let answer = -1;
      fn.memory.pageRequest(5, va, 0, ACCESS.WRITE, (code) => {
        answer = code;
      });
      const requests = rig.guest.requests();
      expect(requests).toMatchObject([{ sid: 0x08, pasid: 5, address: va, write: true }]);
      rig.guest.map(0x08, 5, va, DATA + 0x9000);
      rig.guest.respond(requests[0]!, true);
      rig.guest.sync();
      expect(answer).toBe(PRG.SUCCESS);
      expect(rig.write(fn, 9, 5, va)).toBe(DMA.OK);
      expect(rig.load(DATA + 0x9000)).toBe(9);
    });
  });
}

test('a message says which function sent it, as an interrupt controller with device ids asks', () => {
  const rig = new Rig('smmuv3');
  const port = new Bridge({ kind: 'root' });
  rig.machine.plug(port, 0x08);
  rig.number(0, 0x08, 2);
  const fn = probe();
  rig.plug(fn, 0, port, 2);
  rig.guest.function(0x200, [NO_PASID]);
  rig.guest.map(0x200, NO_PASID, VA, DOORBELL);
  expect(rig.write(fn, 33, NO_PASID, VA + 0x40)).toBe(DMA.OK);
  rig.machine.interrupts.flush();
  expect(rig.messages).toEqual([[DOORBELL + 0x40, 33, 0x200]]);
});
