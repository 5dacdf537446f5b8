import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { cfgiSte, nhVa, RAM, STRTAB, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, space } from './rig.ts';

const SIDS = [8, 9, 16];
const RAM_BYTES = 0xc0_0000;
const S2_L1 = 0x4060_0000;
const EVENTQ_PROD = 0x100a8;
const EVENTQ_CONS = 0x100ac;

type Action =
  | { readonly kind: 'configure'; readonly sid: number; readonly as: number; readonly vmid: number }
  | { readonly kind: 'map'; readonly space: number; readonly page: number; readonly to: number }
  | { readonly kind: 'dma'; readonly sid: number; readonly page: number; readonly write: boolean }
  | { readonly kind: 'consume' | 'toggle' | 'gbpa' };

const action: fc.Arbitrary<Action> = fc.oneof(
  fc.record({
    kind: fc.constant('configure' as const),
    sid: fc.constantFrom(...SIDS),
    as: fc.nat(6),
    vmid: fc.constantFrom(0, 7),
  }),
  fc.record({ kind: fc.constant('map' as const), space: fc.nat(2), page: fc.nat(7), to: fc.nat(8) }),
  fc.record({ kind: fc.constant('dma' as const), sid: fc.constantFrom(...SIDS), page: fc.nat(7), write: fc.boolean() }),
  fc.record({ kind: fc.constantFrom('consume' as const, 'toggle' as const, 'gbpa' as const) }),
);

/** What a guest that keeps the rules does; the answer is everything it and its devices saw. */
function perform(rig: Rig, a: Action): unknown {
  const { g } = rig;
  switch (a.kind) {
    case 'configure': {
      const s2 = [0n, 0x040c_0059_0000_0000n | BigInt(a.vmid), BigInt(S2_L1)];
      const entries = [
        [space(g, 0, 0x11).ste, 0n, BigInt(a.vmid), 0n],
        [space(g, 1, 0x12).ste, 0n, BigInt(a.vmid), 0n],
        [9n, 0n, 0n, 0n],
        [1n, 0n, 0n, 0n],
        [0n, 0n, 0n, 0n],
        [0xdn, ...s2],
        [space(g, 2, 0x13).ste | 4n, ...s2],
      ];
      g.ste(a.sid, ...entries[a.as]!);
      return g.run(cfgiSte(a.sid), [(BigInt(a.vmid) << 32n) | 0x28n, 0], sync);
    }
    case 'map': {
      const { tables } = space(g, a.space, 0x11 + a.space);
      const iova = a.page * 0x1000;
      if (a.to === 8) tables.unmap(iova);
      else tables.map(iova, RAM + 0x50_0000 + a.to * 0x1000);
      return g.run(nhVa(0, 0x11 + a.space, iova), nhVa(7, 0x11 + a.space, iova), sync);
    }
    case 'dma':
      return rig.dma(a.sid, a.page * 0x1000 + 0x10, a.write ? 2 : 1);
    case 'consume': {
      const prod = g.r(EVENTQ_PROD);
      const events = [0, 1, 2, 3].map((i) => g.event(i).join());
      g.w(EVENTQ_CONS, prod);
      g.w(PAGE0.GERRORN.at, g.r(PAGE0.GERROR.at));
      return events;
    }
    case 'toggle':
      g.w(PAGE0.CR0.at, g.r(PAGE0.CR0.at) ^ 1);
      return g.r(PAGE0.CR0ACK.at);
    case 'gbpa':
      g.w(PAGE0.GBPA.at, (g.r(PAGE0.GBPA.at) ^ 0x10_0000) | 0x8000_0000);
      return g.r(PAGE0.GBPA.at);
  }
}

function machine(): Rig {
  const rig = new Rig({ properties: { profile: 'arch' }, ram: RAM_BYTES });
  for (const sid of SIDS) rig.plug(sid);
  return rig;
}

test('a guest cannot tell that its machine was saved and went on somewhere else', () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 30 }), fc.array(action, { maxLength: 30 }), (before, after) => {
      const here = machine();
      here.g.put(S2_L1, 0x4000_04fdn, 0x4000_04fdn);
      here.g.setUp(5, 2, 5);
      for (const a of before) perform(here, a);
      const saved = JSON.parse(JSON.stringify(here.units[0]!.save()));
      const there = machine();
      const bytes = new Uint8Array(RAM_BYTES);
      here.vm.memory.guest.readBytes(RAM, bytes);
      there.vm.memory.guest.writeBytes(RAM, bytes);
      there.units[0]!.load(saved);
      there.g.goOn(here.g);
      for (const a of after) expect(perform(there, a), JSON.stringify(a)).toEqual(perform(here, a));
      expect(there.units[0]!.device.save().registers).toEqual(here.units[0]!.device.save().registers);
      expect(there.g.get(STRTAB)).toBe(here.g.get(STRTAB));
    }),
    { numRuns: 30 },
  );
});

test('a machine that goes back to an earlier state sees nothing of what happened in between', () => {
  const rig = machine();
  const { g } = rig;
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, RAM + 0x50_0000);
  g.put(S2_L1, 0x4000_04fdn, 0x4000_04fdn);
  g.ste(8, ste, 0n, 0n, 0n);
  g.ste(9, 0xdn, 0n, 0x040c_0059_0000_0007n, BigInt(S2_L1));
  g.setUp(5, 2, 5);
  g.run(cfgiSte(8), cfgiSte(9), sync);
  const seen = () => [rig.dma(8, 0x5000), rig.dma(8, 0x6000), rig.dma(9, RAM + 0x50_0000)];
  const first = seen();
  const saved = JSON.parse(JSON.stringify(rig.units[0]!.save()));
  const bytes = new Uint8Array(RAM_BYTES);
  rig.vm.memory.guest.readBytes(RAM, bytes);
  tables.map(0x5000, RAM + 0x51_0000);
  tables.map(0x6000, RAM + 0x52_0000);
  g.put(S2_L1, 0n, 0n);
  g.run([0x30, 0], sync);
  expect(seen()).not.toEqual(first);
  rig.vm.memory.guest.writeBytes(RAM, bytes);
  rig.units[0]!.load(saved);
  expect(seen()).toEqual(first);
});
