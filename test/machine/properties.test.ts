import { describe, expect, test } from 'vitest';
import { type Smmuv3Properties, smmuv3Defaults } from '../../devices/smmuv3/properties.ts';
import { type VtdProperties, vtdDefaults } from '../../devices/vtd/properties.ts';
import { ViommuError } from '../../src/core/errors.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import { Vm } from '../../src/machine/vm.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';
import { probe } from './plugged/rig.ts';

const irq = { pulse() {}, level() {}, message: () => true };
const vm = () => new Vm({ ram: [{ base: 0x4000_0000, bytes: 1 << 20 }] });

const smmuv3 = (p: object, on = vm()) =>
  new Smmuv3Unit(on, { name: 's', properties: p as Smmuv3Properties, irq, doorbell: 0x809_0000 });
const vtd = (p: object, on = vm()) => new VtdUnit(on, { name: 'v', properties: p as VtdProperties, irq });

/** What is thrown; it must be ours, and blame who ordered the device. */
function refusal(make: () => unknown): string {
  try {
    make();
  } catch (error) {
    expect(error).toBeInstanceOf(ViommuError);
    expect((error as ViommuError).blame).toBe('caller');
    expect((error as ViommuError).code).toBe('E_PROFILE');
    return (error as ViommuError).message;
  }
  return 'nothing';
}

describe('a vSMMUv3 with a property it cannot have is not made', () => {
  test.each<[object, RegExp]>([
    [{ ssidsize: 40 }, /'ssidsize' is a number from 0 to 20 .*40/],
    [{ ssidsize: -1 }, /'ssidsize' is a number from 0 to 20/],
    [{ ssidsize: 1.5 }, /'ssidsize' is a number from 0 to 20/],
    [{ httu: 7 }, /'httu' is a number from 0 to 2 .*7/],
    [{ oas: 99 }, /'oas' must be 32, 36, 40, 42, 44, 48 .*99/],
    [{ stage: '3' }, /'stage' must be 1, 2, nested .*'3'/],
    [{ ats: 'on' }, /'ats' is true or false .*'on'/],
    [{ msiGpa: 2 ** 53 }, /'msi-gpa' is a number/],
    [{ msiGpa: Number.NaN }, /'msi-gpa' is a number/],
    [{ profile: 'qemu-9' }, /'x-profile' must be qemu-11.1, arch .*'qemu-9'/],
    [{ stages: '1' }, /no property 'stages'; it has profile, .*stage/],
    [{ stage: undefined }, /'stage' is missing: take it from smmuv3Defaults\(\)/],
    [{ accel: true, stage: 'nested' }, /'stage' must be 1 with accel=on/],
    [{ pri: true }, /'pri' needs ats=on/],
  ])('%o in either profile', (bad, message) => {
    for (const profile of ['qemu-11.1', 'arch'] as const) {
      expect(refusal(() => smmuv3({ ...smmuv3Defaults(profile), ...bad }))).toMatch(message);
    }
  });

  test.each<[Partial<Smmuv3Properties>, RegExp]>([
    [{ ssidsize: 8 }, /'ssidsize' must be 0: it can only be set with accel=on, or in the profile arch .*8/],
    [{ oas: 48 }, /'oas' must be 44: it can only be set with accel=on/],
    [{ ril: false }, /'ril' must be true: it can only be set with accel=on/],
    [{ accel: true, oas: 40 }, /'oas' must be 44 or 48 with accel=on/],
  ])('%o as QEMU refuses it, and not in the profile arch', (bad, message) => {
    expect(refusal(() => smmuv3({ ...smmuv3Defaults('qemu-11.1'), ...bad }))).toMatch(message);
    expect(() => smmuv3({ ...smmuv3Defaults('arch'), ...bad })).not.toThrow();
  });

  test('SubstreamIDs without a stage 1 are refused', () => {
    expect(refusal(() => smmuv3({ ...smmuv3Defaults('arch'), stage: '2', ssidsize: 8 }))).toMatch(
      /'ssidsize' must be 0/,
    );
  });
});

describe('a vVT-d with a property it cannot have is not made', () => {
  test.each<[object, RegExp]>([
    [{ awBits: 45 }, /supported values for aw-bits are: 39, 48 .*45/],
    [{ awBits: 400 }, /'aw-bits' is a number from 0 to 255 .*400/],
    [{ scalableMode: true, pasidBits: 40 }, /Maximum supported PASID size is 20: pasid-bits .*40/],
    [{ scalableMode: true, pasidBits: -4 }, /'pasid-bits' is a number/],
    [{ scalableMode: true, pasidBits: 7.5 }, /'pasid-bits' is a number/],
    [{ intremap: 'auto' }, /'intremap' is true or false .*'auto'/],
    [{ profile: 'best' }, /'x-profile' must be qemu-11.1, arch .*'best'/],
    [{ flts: true }, /no property 'flts'; it has profile, awBits/],
    [{ svm: undefined }, /'svm' is missing: take it from vtdDefaults\(\)/],
  ])('%o in either profile', (bad, message) => {
    for (const profile of ['qemu-11.1', 'arch'] as const) {
      expect(refusal(() => vtd({ ...vtdDefaults(profile), ...bad }))).toMatch(message);
    }
  });
});

test('a refused unit leaves nothing behind: the host kernel hears of no IOMMU', () => {
  const on = vm();
  const known: unknown[] = [];
  on.kernel.addIommu = (iommu) => void known.push(iommu);
  expect(() => smmuv3({ ...smmuv3Defaults(), httu: 7 }, on)).toThrow();
  expect(() => vtd({ ...vtdDefaults(), pasidBits: 40 }, on)).toThrow();
  expect(known).toEqual([]);
});

describe('a saved state', () => {
  const UNITS = [
    ['smmuv3', () => smmuv3(smmuv3Defaults('arch')), () => smmuv3({ ...smmuv3Defaults('arch'), ssidsize: 8 })],
    ['vtd', () => vtd(vtdDefaults('arch')), () => vtd({ ...vtdDefaults('arch'), cachingMode: true })],
  ] as const;
  const refused = (unit: Smmuv3Unit | VtdUnit, state: unknown) => {
    const before = JSON.stringify(unit.save());
    let code = '';
    try {
      unit.load(state);
    } catch (error) {
      expect(error).toBeInstanceOf(ViommuError);
      code = (error as ViommuError).code;
    }
    expect(JSON.stringify(unit.save())).toBe(before);
    return code;
  };

  test.each(UNITS)(
    'of a %s is taken by the same machine only, and what is refused changes nothing',
    (_, make, other) => {
      const unit = make();
      const good = JSON.parse(JSON.stringify(unit.save()));
      expect(refused(unit, good)).toBe('');
      expect(refused(other(), good)).toBe('EINVAL');
      for (const [, another] of UNITS) if (another !== make) expect(refused(another(), good)).toBe('EINVAL');
      expect(refused(unit, { ...good, version: 99 })).toBe('E_VERSION');
      expect(refused(unit, { ...good, functions: [8] })).toBe('EINVAL');
      for (const nothing of [{}, null, undefined, 7, []]) expect(refused(unit, nothing)).toBe('EINVAL');
      for (const member of Object.keys(good)) {
        const { [member]: _left, ...rest } = good;
        expect([member, refused(unit, rest)]).toEqual([member, member === 'version' ? 'E_VERSION' : 'EINVAL']);
      }
      const file = 'registers' in good ? 'registers' : 'regs';
      expect(refused(unit, { ...good, [file]: [1, 2, 3] })).toBe('EINVAL');
      expect(refused(unit, { ...good, [file]: good[file].map(String) })).toBe('EINVAL');
    },
  );
});

describe('a function with PASIDs that no function has', () => {
  const bits = [21, 40, -1, 7.5, Number.NaN];

  test.each([
    ['smmuv3', () => smmuv3({ ...smmuv3Defaults('arch'), ssidsize: 8 })],
    ['vtd', () => vtd({ ...vtdDefaults('arch'), scalableMode: true, fsts: true, pasidBits: 8 })],
  ] as const)('is not taken behind a %s, and its requester id stays free', (_, make) => {
    const unit = make();
    for (const pasidBits of bits) {
      const add = () => unit.addFunction([8], [8], { name: 'wide', pasidBits });
      expect(add).toThrow(`wide: pasidBits is 0 (no PASIDs) to 20 (pasidBits=${pasidBits})`);
    }
    expect(() => unit.addFunction([8], [8], { name: 'good', pasidBits: 20 })).not.toThrow();
  });

  test('cannot be made from the kit either', () => {
    for (const width of [...bits, 0]) {
      expect(() => probe({ pasid: { width } })).toThrow(
        `PASIDs have 1 to 20 bits: give another width, or no PASIDs (width=${width})`,
      );
    }
  });
});
