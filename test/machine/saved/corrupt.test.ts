import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ViommuError } from '../../../src/core/errors.ts';
import { cfgiSte, RAM, sync } from '../../devices/smmuv3/guest.ts';
import { Guest, READ } from '../../devices/vtd/guest.ts';
import { Rig, space } from '../smmuv3/rig.ts';
import { corruption } from './corrupt.ts';

/** How many corruptions of each state: more by the environment. */
const RUNS = Number(process.env.VIOMMU_STATE_CORRUPTIONS ?? 600);
const SEED = Number(process.env.VIOMMU_STATE_SEED ?? 20);

interface Saver {
  save(): unknown;
  load(state: never): void;
}

const SIDS = [8, 9, 16, 24];

function smmuv3(profile: 'qemu-11.1' | 'arch', on: boolean): Saver {
  const rig = new Rig({ properties: { profile }, ram: 0xc0_0000 });
  for (const sid of SIDS) rig.plug(sid);
  const { g } = rig;
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, RAM + 0x50_0000);
  g.put(0x4060_0000, 0x4000_04fdn, 0x4000_04fdn);
  g.ste(8, ste, 0n, 0n, 0n);
  g.ste(9, 0xdn, 0n, 0x040c_0059_0000_0007n, BigInt(0x4060_0000));
  g.ste(16, 9n, 0n, 0n, 0n);
  g.setUp(5, 2, 5);
  g.run(cfgiSte(8), cfgiSte(9), cfgiSte(16), sync);
  rig.dma(8, 0x6000);
  if (!on) g.w(0x20, 0);
  return rig.units[0]!.device;
}

function vtd(profile: 'qemu-11.1' | 'arch', legacy: boolean): Saver {
  const extra = 'scalable-mode=on,fsts=on,pasid-bits=8,svm=on,device-iotlb=on';
  const g = new Guest(legacy ? 'device-iotlb=on,caching-mode=on' : extra, profile, { ramBytes: 16 << 20 });
  for (const rid of [0x10, 0x11, 0x80]) g.vtd.addDevice({ rid, vfio: g.host.vfio(rid) });
  g.queueOn(true);
  g.host.pending = 1;
  g.submit(0x7_0000_0025n, 0x20_0000n);
  if (profile === 'arch' || legacy) g.host.dma(0x10, -1, 0x5000, READ);
  return g.vtd;
}

const DEVICES: readonly [string, () => Saver][] = (['qemu-11.1', 'arch'] as const).flatMap((p) => [
  [`a vSMMUv3 that translates, ${p}`, () => smmuv3(p, true)] as [string, () => Saver],
  [`a vSMMUv3 that does not, ${p}`, () => smmuv3(p, false)] as [string, () => Saver],
  [`a vVT-d, legacy, ${p}`, () => vtd(p, true)] as [string, () => Saver],
  [`a vVT-d, scalable, ${p}`, () => vtd(p, false)] as [string, () => Saver],
]);

describe.each(DEVICES)('%s', (_, make) => {
  test('a state with one field changed is refused by the name of a field, or is a state that is saved again the same', () => {
    const device = make();
    const good = structuredClone(device.save());
    let refused = 0;
    fc.assert(
      fc.property(corruption(good), ({ path, state }) => {
        const before = structuredClone(device.save());
        try {
          device.load(state as never);
        } catch (e) {
          if (!(e instanceof ViommuError)) throw e;
          expect(['EINVAL', 'E_VERSION'], e.message).toContain(e.code);
          refused++;
          // The field, the list it is in, or the object that has one too many; or two fields that do not agree, both named.
          const field = path.replace(/(\.\d+)+$/, '');
          expect(e.message.includes(field) || String(e.at.at).endsWith('.more'), `${path}: ${e.message}`).toBe(true);
          expect(device.save(), path).toStrictEqual(before);
          return;
        }
        expect(device.save(), path).toStrictEqual(state);
      }),
      { numRuns: RUNS, seed: SEED, endOnFailure: true },
    );
    expect(refused).toBeGreaterThan(RUNS / 4);
    device.load(good as never);
    expect(device.save()).toEqual(good);
  });
});
