import { describe, expect, test } from 'vitest';
import { hostRid } from '../../../src/lib/pci/rids.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { CD, cfgiSte, GuestDriver, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, type RigOptions, space, Tables } from './rig.ts';

const PAGE = 0x4040_5000;
const BYPASS_STE = 9n;
const ILL = 0x0100_0000;

/** Lets a method of an object refuse. @returns mends it. */
function refusing(of: object, name: string, errno: number): () => void {
  const at = of as Record<string, unknown>;
  const real = at[name];
  at[name] = () => -errno;
  return () => {
    at[name] = real;
  };
}

function guest(o: RigOptions = {}) {
  const rig = new Rig(o);
  const { g } = rig;
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, PAGE);
  const fn = rig.plug(8);
  return { rig, g, tables, ste, fn };
}

test('a stream whose new entry was refused is saved, and has what its entry says where it is loaded', () => {
  const { rig, g, ste, fn } = guest();
  g.ste(8, ste);
  g.setUp(5);
  g.run(cfgiSte(8), sync);
  const mend = refusing(fn.vfio, 'attach', E.NOMEM);
  g.ste(8, BYPASS_STE);
  expect(g.run(cfgiSte(8), sync) & ILL).toBe(ILL);
  mend();
  const [unit] = rig.units;
  unit!.load(JSON.parse(JSON.stringify(unit!.save())));
  expect(rig.dma(8, PAGE)).toBe(PAGE);
});

describe('linux-only, where nobody is asked on first use', () => {
  test('a switch that waited for the host is over where a host has room', () => {
    const { rig, g, ste } = guest({ linuxOnly: true });
    g.ste(8, ste);
    const mend = refusing(rig.vm.iommufd, 'vdeviceAlloc', E.NOMEM);
    g.setUp(5);
    expect(g.r(PAGE0.CR0ACK.at) & 1).toBe(0);
    const state = JSON.parse(JSON.stringify(rig.units[0]!.save()));
    mend();
    rig.units[0]!.load(state);
    expect([g.r(PAGE0.CR0ACK.at) & 1, rig.dma(8, 0x5000)]).toEqual([1, PAGE]);
  });

  test('what was refused before a reset takes nothing from the next driver', () => {
    const { rig, g, ste } = guest({ linuxOnly: true });
    g.setUp(5);
    g.ste(8, ste);
    const mend = refusing(rig.vm.iommufd, 'vdeviceAlloc', E.NOMEM);
    expect(g.run(cfgiSte(8), sync)).toBe(ILL);
    mend();
    rig.units[0]!.reset();
    const next = new GuestDriver(g.smmu, rig.vm.memory.guest);
    next.setUp(5);
    expect(rig.dma(8, 0x5000)).toBe(PAGE);
    next.run(sync);
    expect(rig.dma(8, 0x5000)).toBe(PAGE);
  });
});

test('a RESUME that the host refuses is an error, and the transaction is there for the next one', () => {
  const { rig, g, ste } = guest({ properties: { profile: 'arch', stall: true }, canStall: () => true });
  const resumed: unknown[] = [];
  rig.units[0]!.endpoints.to = { invalidate: () => false, pageResponse() {}, resumed: (...a) => resumed.push(a) };
  g.setUp(5, 7, 8);
  // CD.S
  g.put(CD, (0x11n << 48n) | 0x7204_c000_0019n);
  g.ste(8, ste);
  g.run(cfgiSte(8), sync);
  expect(rig.dma(8, 0x6000)).toBe('STALLED');
  const stag = g.event(0)[1]! & 0xffffn;
  const mend = refusing(rig.vm.upcalls, 'respond', E.IO);
  const at = g.prod;
  expect(g.run([(8n << 32n) | 0x2044n, stag])).toBe(ILL + at);
  mend();
  g.w(PAGE0.GERRORN.at, g.r(PAGE0.GERROR.at));
  rig.vm.clock.settle(100_000);
  expect([g.r(PAGE0.CMDQ_CONS.at) & 0xff_ffff, resumed.length]).toEqual([at + 1, 1]);
});

test('a function that the host does not let go is gone all the same, and its StreamID is free', () => {
  const { rig, g, ste, fn } = guest();
  g.ste(8, ste);
  g.setUp(5);
  g.run(cfgiSte(8), sync);
  expect(rig.dma(8, 0x5000)).toBe(PAGE);
  for (const verb of ['attach', 'detach']) refusing(fn.vfio, verb, E.IO);
  fn.remove();
  expect(rig.dma(8, 0x5000)).toBe('ABORT');
  rig.plug(8);
  expect(rig.dma(8, 0x5000)).toBe(PAGE);
});

test('a SubstreamID means what it meant while SMMUEN=0 is not in force yet', () => {
  const rig = new Rig({ properties: { profile: 'arch', ssidsize: 8 } });
  const { g } = rig;
  const [own, other] = [new Tables(g, 0x4080_0000), new Tables(g, 0x4090_0000)];
  const cds = 0x4050_0000;
  own.context(cds, 0x11);
  other.context(cds + 64 * 5, 0x15);
  own.map(0x5000, 0x4200_0000);
  other.map(0x5000, 0x4210_0000);
  const sids = Array.from({ length: 240 }, (_, i) => 8 + i);
  for (const sid of sids) {
    rig.plug(sid, 0, { pasidBits: 8 });
    // S1CDMax 8, S1DSS: requests without a SubstreamID use CD 0
    g.ste(sid, BigInt(cds) | 0xbn | (8n << 59n), 2n);
  }
  g.setUp(8);
  while ((g.r(PAGE0.CR0ACK.at) & 1) === 0);
  const { translate } = rig.units[0]!;
  const dma = (sid: number, ssid: number) => {
    const r = translate.translate(hostRid(sid), ssid, 0x5000, 0, ACCESS.WRITE, AT.UNTRANSLATED);
    return r === DMA.OK ? rig.vm.memory.gpaOf(translate.out) : 'ABORT';
  };
  const both = (sid: number) => [dma(sid, NO_PASID), dma(sid, 5)];
  for (const sid of sids) expect(both(sid)).toEqual([0x4200_0000, 0x4210_0000]);
  rig.vm.defer = () => {};
  g.w(PAGE0.CR0.at, 0xc);
  const seen = sids.map((sid) => dma(sid, 5));
  expect(new Set(seen)).toEqual(new Set(['ABORT', 0x4210_0000]));
  while ((g.r(PAGE0.CR0ACK.at) & 1) !== 0);
  expect(new Set(sids.map((sid) => dma(sid, 5)))).toEqual(new Set(['ABORT']));
});
