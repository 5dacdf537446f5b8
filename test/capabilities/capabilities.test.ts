import { describe, expect, test } from 'vitest';
import type { RegisterTable } from '../../src/core/registers.ts';
import { PROFILES, type ProfileName } from '../../src/lib/profile/profile.ts';
import { PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { PAGE } from '../../src/spec/vtd/registers.ts';
import type { Bed, Cut } from './bed.ts';
import { type CapabilityRow, cutOf, profileOf } from './row.ts';
import { type Shows, smmuv3Shows, vtdShows } from './shown.ts';
import { smmuv3Bed } from './smmuv3/machine.ts';
import { SMMUV3_ROWS } from './smmuv3/rows.ts';
import { vtdBed } from './vtd/machine.ts';
import { VTD_ROWS } from './vtd/rows.ts';

/** Runs every row on a machine for each of its values, and again with its chain cut. */
function rows<P extends object>(
  list: readonly CapabilityRow<P, Bed>[],
  bed: (shape: P, cut?: Cut) => Bed,
  table: RegisterTable,
): void {
  describe.each(list.map((row) => [`${row.register}.${row.field}`, row] as const))('%s', (_, row) => {
    describe.each(row.shown.map((s) => [s.value, JSON.stringify(s.properties), s.properties] as const))(
      '%i (%s)',
      (value, _, properties) => {
        test(row.promise, () => {
          const machine = bed(properties);
          const r = table[row.register]!;
          const [at, bits] = r.fields![row.field]!;
          const word = r.size === 8 ? machine.r64(r.at) : BigInt(machine.r(r.at));
          expect(Number((word >> BigInt(at)) & ((1n << BigInt(bits)) - 1n)), 'what the register shows').toBe(value);
          row.run(machine, value, properties);
        });

        test('fails when the chain is cut', () => {
          let failure: Error | null = null;
          try {
            row.run(bed(properties, cutOf(row, value)), value, properties);
          } catch (error) {
            failure = error as Error;
          }
          expect(failure?.name, failure === null ? 'nobody noticed' : failure.message).toBe('AssertionError');
        });
      },
    );
  });
}

/** Fields that say something where they are 0, in the profiles that show it. */
const ZERO_COUNTS = ['IDR0.STALL_MODEL=0', 'IDR5.OAS=0', 'CAP.NFR=0', 'ECAP.PSS=0'];

/** Compares what a profile can show with what the rows show in this profile. */
function complete<P extends object>(list: readonly CapabilityRow<P, Bed>[], profile: ProfileName, shows: Shows): void {
  const shown = [...shows].filter((s) => !s.endsWith('=0') || ZERO_COUNTS.includes(s)).sort();
  const tested = new Set(
    list.flatMap((row) =>
      row.shown.filter((s) => profileOf(s) === profile).map((s) => `${row.register}.${row.field}=${s.value}`),
    ),
  );
  expect(
    shown.filter((s) => !tested.has(s)),
    `shown in ${profile} without a row`,
  ).toEqual([]);
  expect(
    [...tested].filter((s) => !shows.has(s)),
    `a row for what is never shown in ${profile}`,
  ).toEqual([]);
  const names = list.map((row) => `${row.register}.${row.field}`);
  expect(names.length, 'one row for each field').toBe(new Set(names).size);
}

describe('vSMMUv3', () => {
  test.each(PROFILES)('%s: every bit that its registers can show has a row, and every row can be shown', (profile) => {
    complete(SMMUV3_ROWS, profile, smmuv3Shows(profile));
  });

  test('registers without a row read 0', () => {
    const machine = smmuv3Bed({ stage: 'nested', ats: true, pri: true, ssidsize: 20, httu: 2 });
    for (const name of ['IDR2', 'IDR4', 'IIDR'] as const) expect([name, machine.r(PAGE0[name].at)]).toEqual([name, 0]);
  });

  rows(SMMUV3_ROWS, smmuv3Bed, PAGE0);
});

describe('vVT-d', () => {
  test.each(PROFILES)('%s: every bit that its registers can show has a row, and every row can be shown', (profile) => {
    complete(VTD_ROWS, profile, vtdShows(profile));
  });

  test('registers without a row read 0', () => {
    const machine = vtdBed({ scalableMode: true, fsts: true, pasidBits: 8, deviceIotlb: true, svm: true });
    for (const name of ['PERFCAP', 'ECMD', 'ECRSP'] as const)
      expect([name, machine.r64(PAGE[name].at)]).toEqual([name, 0n]);
  });

  rows(VTD_ROWS, vtdBed, PAGE);
});
