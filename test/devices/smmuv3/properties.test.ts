import { describe, expect, test } from 'vitest';
import { smmuv3Identity } from '../../../devices/smmuv3/identity.ts';
import { smmuv3Deviations } from '../../../devices/smmuv3/profile.ts';
import { smmuv3Defaults, smmuv3Properties } from '../../../devices/smmuv3/properties.ts';
import { smmuv3Features } from '../../../src/lib/check/smmuv3-features.ts';
import { parseQemuArgs } from '../../../src/lib/qemu-args/qemu-args.ts';

const of = (line: string, profile: 'arch' | 'qemu-11.1' = 'qemu-11.1') =>
  smmuv3Properties(parseQemuArgs(line), profile);
const features = (line: string, profile: 'arch' | 'qemu-11.1' = 'qemu-11.1') => {
  const [p] = of(line, profile);
  const id = smmuv3Identity(p!, smmuv3Deviations(profile));
  return smmuv3Features(id.idr0, id.idr1, id.idr3, id.idr5);
};

describe('a QEMU command line orders SMMUs in QEMU’s words', () => {
  test('-M virt,iommu=smmuv3 has both stages whatever -global says; -device has stage 1 unless told', () => {
    expect(of('-M virt,iommu=smmuv3 -global arm-smmuv3.stage=1')).toMatchObject([{ stage: 'nested', oas: 44 }]);
    expect(of('-machine virt -device arm-smmuv3,primary-bus=pcie.0')).toMatchObject([{ stage: '1' }]);
    for (const stage of ['1', '2', 'nested']) {
      expect(of(`-M virt -device arm-smmuv3,primary-bus=pcie.0,stage=${stage}`)).toMatchObject([{ stage }]);
    }
    expect(of('-M virt -device e1000e')).toEqual([]);
  });

  test('several, in order, each over its root bus', () => {
    const two = of('-M virt -device arm-smmuv3,primary-bus=pcie.0,id=a -device arm-smmuv3,primary-bus=pcie.1,id=b');
    expect(two.map((p) => [p.id, p.primaryBus])).toEqual([
      ['a', 'pcie.0'],
      ['b', 'pcie.1'],
    ]);
  });

  test('accelerated properties show in the identity registers', () => {
    const f = features('-M virt -device arm-smmuv3,accel=on,ril=off,ats=on,oas=48,ssidsize=16,msi-gpa=0x8090000');
    expect(f).toMatchObject({ s1p: true, s2p: false, ril: false, ats: true, oas: 48, ssidSize: 16 });
    expect(of('-device arm-smmuv3,msi-gpa=0x8090000')[0]!.msiGpa).toBe(0x809_0000);
  });

  test('auto leaves the default, and the default is QEMU’s', () => {
    const auto = of('-device arm-smmuv3,ril=auto,ats=auto,oas=auto,ssidsize=auto')[0]!;
    expect(auto).toEqual(smmuv3Defaults());
    expect(features('-device arm-smmuv3')).toMatchObject({ ril: true, ats: false, oas: 44, ssidSize: 0, msi: false });
  });

  test('the arch profile adds what QEMU does not have, by properties of ours', () => {
    const f = features('-device arm-smmuv3,stage=nested,ats=on,pri=on,stall=on,ssidsize=20', 'arch');
    expect(f).toMatchObject({ msi: true, pri: true, stallModel: 0, cd2l: true, atsRecErr: true, ssidSize: 20 });
  });

  test.each([
    ['stage=3', /'stage' must be 1, 2 or nested/],
    ['oas=45', /'oas' must be/],
    ['ssidsize=21', /'ssidsize' is a number from 0 to 20/],
    ['ats=perhaps', /'ats' is on or off/],
    ['accel=on,stage=nested', /'stage' must be 1 with accel=on/],
    ['stages=1', /no property 'stages'/],
  ])('%s is refused by name', (text, why) => {
    expect(() => of(`-device arm-smmuv3,${text}`)).toThrow(why);
  });
});
