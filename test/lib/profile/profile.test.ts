import { expect, test } from 'vitest';
import { ViommuError } from '../../../src/core/errors.ts';
import { deviationsOf, PROFILES, type ProfileName, profileNamed } from '../../../src/lib/profile/profile.ts';

const ROWS = {
  staleError: 'An error is gone when acknowledged (§1.2). QEMU: it stays.',
  rawRegisters: 'Reserved bits read 0 (§1.3). QEMU: as written.',
} as const;

test('every row is on under qemu-11.1 and off under arch', () => {
  expect(PROFILES.map((p) => deviationsOf(ROWS, p))).toEqual([
    { staleError: true, rawRegisters: true },
    { staleError: false, rawRegisters: false },
  ]);
});

test('single rows are changed on top of a profile', () => {
  expect(deviationsOf(ROWS, 'arch', { rawRegisters: true })).toEqual({ staleError: false, rawRegisters: true });
  expect(deviationsOf(ROWS, 'qemu-11.1', { rawRegisters: false })).toEqual({ staleError: true, rawRegisters: false });
});

test.each([
  [() => profileNamed('best'), "no profile 'best': qemu-11.1 or arch"],
  [() => deviationsOf(ROWS, 'qemu-9' as ProfileName), "no profile 'qemu-9': qemu-11.1 or arch"],
  [() => deviationsOf(ROWS, 'arch', { fast: true } as object), "no deviation 'fast': staleError, rawRegisters"],
  [() => deviationsOf(ROWS, 'arch', { toString: true } as object), "no deviation 'toString': staleError, rawRegisters"],
  [
    () => deviationsOf(ROWS, 'arch', { staleError: 'on' } as object),
    "deviation 'staleError' is true or false, not 'on'",
  ],
])('what is not there is refused with EINVAL that names it and what there is', (act, message) => {
  expect(act).toThrow(ViommuError);
  expect(act).toThrow(message);
  expect(act).toThrow(expect.objectContaining({ code: 'EINVAL', blame: 'caller' }));
});
