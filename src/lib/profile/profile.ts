import { ViommuError } from '../../core/errors.ts';

/** `qemu-11.1` answers as QEMU 11.1's device does, `arch` as the architecture says. */
export type ProfileName = 'qemu-11.1' | 'arch';

/** The profiles there are. */
export const PROFILES: readonly ProfileName[] = ['qemu-11.1', 'arch'];

/**
 * The table of a device: one row per way in which QEMU leaves the architecture. A row's name says what QEMU does; its text
 * says the architecture's rule with its section, then QEMU's way. Nothing else separates the profiles.
 */
export type DeviationRows = Readonly<Record<string, string>>;

/** For each row of a table, whether the device goes QEMU's way (true) or the architecture's (false). */
export type Deviations<Rows extends DeviationRows> = { readonly [Row in keyof Rows]: boolean };

/** @throws ViommuError `EINVAL` (blame `caller`) for a name that is no profile's; it lists those there are. */
export function profileNamed(name: string): ProfileName {
  const profile = PROFILES.find((p) => p === name);
  if (profile === undefined) {
    throw new ViommuError('EINVAL', 'caller', `no profile '${name}': ${PROFILES.join(' or ')}`);
  }
  return profile;
}

/**
 * The rows of `profile`, all of them on for `qemu-11.1` and off for `arch`, with single rows changed by `override`.
 * @throws ViommuError `EINVAL` (blame `caller`) for a profile or a row that is not there, or a row set to anything but true or
 *   false; it names the value and those there are.
 */
export function deviationsOf<Rows extends DeviationRows>(
  rows: Rows,
  profile: ProfileName,
  override: Partial<Deviations<Rows>> = {},
): Deviations<Rows> {
  const qemu = profileNamed(profile) === 'qemu-11.1';
  const chosen: Record<string, boolean> = {};
  for (const row of Object.keys(rows)) chosen[row] = qemu;
  for (const [row, on] of Object.entries(override)) {
    if (on === undefined) continue;
    if (!Object.hasOwn(rows, row)) {
      throw new ViommuError('EINVAL', 'caller', `no deviation '${row}': ${Object.keys(rows).join(', ')}`);
    }
    if (typeof on !== 'boolean') {
      throw new ViommuError('EINVAL', 'caller', `deviation '${row}' is true or false, not '${String(on)}'`);
    }
    chosen[row] = on;
  }
  return chosen as Deviations<Rows>;
}
