import { expect, test } from 'vitest';
import { vtdFeatures, vtdIdentity } from '../../../devices/vtd/identity.ts';
import { type VtdDeviationName, vtdDeviations } from '../../../devices/vtd/profile.ts';
import { type VtdProperties, vtdDefaults } from '../../../devices/vtd/properties.ts';
import { QemuTables } from '../../../devices/vtd/qemu/tables.ts';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { VtdContext, VtdRegime } from '../../../src/lib/walk/vtd-regime.ts';

/** Reason and FPD of a lookup under QEMU's table with one switch turned off. */
function look(
  off: VtdDeviationName | null,
  dir: number,
  q0: number,
  q3 = 0,
  context = 1,
  q1 = 0,
  unit: Partial<VtdProperties> = {},
): [number, boolean] {
  const memory = new AddressSpace();
  memory.addRam(0, 0x1_0000, ramBacking(0x1_0000));
  memory.store64(0x1000, 0x2001, 0);
  memory.store64(0x2200, 0x3000 | context, 0);
  memory.store64(0x3000, 0x4000 | dir, 0);
  memory.store64(0x4000, q0, 0);
  memory.store64(0x4008, q1, 0);
  memory.store64(0x4018, q3, 0);
  const properties = { ...vtdDefaults(), scalableMode: true, fsts: true, ...unit };
  const deviations = vtdDeviations('qemu-11.1', off === null ? {} : { [off]: false });
  const features = vtdFeatures(vtdIdentity(properties, deviations), properties);
  const t = new QemuTables(memory, features, deviations);
  const c = new VtdContext();
  if (t.context(0x1000, true, 0x10, c) && t.pasid(c, 0, new VtdRegime())) return [0, false];
  return [t.reason, t.fpd];
}

test('PWSNP and PGSNP are no reserved bits of a unit that has them', () => {
  const reserved = (unit: Partial<VtdProperties>, q1: number): boolean =>
    look('pasidReservedUnchecked', 1, 0x49, 0, 1, q1, unit)[0] === 0x5a;
  expect([reserved({}, 0x80_0000), reserved({ pageWalkCoherency: true }, 0x80_0000)]).toEqual([true, false]);
  expect([reserved({}, 0x100_0000), reserved({ snoopControl: true }, 0x100_0000)]).toEqual([true, false]);
  expect(reserved({ pageWalkCoherency: true }, 0x100_0000)).toBe(true);
});

test('each switch of the table readers acts alone', () => {
  expect([look(null, 1, 0), look('typeBeforePresent', 1, 0)]).toEqual([
    [0x5b, false],
    [0x59, false],
  ]);
  expect([look(null, 2, 0), look('fpdNeedsValid', 2, 0)]).toEqual([
    [0x51, false],
    [0x51, true],
  ]);
  expect([look(null, 1, 0x4a), look('fpdNeedsValid', 1, 0x4a)]).toEqual([
    [0x59, false],
    [0x59, true],
  ]);
  expect([look(null, 5, 0x49), look('pasidReservedUnchecked', 5, 0x49)]).toEqual([
    [0, false],
    [0x52, false],
  ]);
  expect([look(null, 1, 0x49, 1), look('pasidReservedUnchecked', 1, 0x49, 1)]).toEqual([
    [0, false],
    [0x5a, false],
  ]);
  expect([look(null, 1, 0x49, 0, 2), look('legacyCodes', 1, 0x49, 0, 2)]).toEqual([
    [2, true],
    [0x41, true],
  ]);
});
