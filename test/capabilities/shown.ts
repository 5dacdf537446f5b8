import { smmuv3Identity } from '../../devices/smmuv3/identity.ts';
import { smmuv3Deviations } from '../../devices/smmuv3/profile.ts';
import { checkSmmuv3Properties, type Smmuv3Properties, smmuv3Defaults } from '../../devices/smmuv3/properties.ts';
import { vtdIdentity } from '../../devices/vtd/identity.ts';
import { vtdDeviations } from '../../devices/vtd/profile.ts';
import { checkVtdProperties, type VtdProperties, vtdDefaults } from '../../devices/vtd/properties.ts';
import { toBigint } from '../../src/core/bits.ts';
import type { RegisterTable } from '../../src/core/registers.ts';
import type { ProfileName } from '../../src/lib/profile/profile.ts';
import { PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { PAGE } from '../../src/spec/vtd/registers.ts';

/** Values of fields as `REGISTER.FIELD=value`; a bit outside of every field as `REGISTER bit n`. */
export type Shows = Set<string>;

/** Adds what a register's value shows: every field, and every bit that is in none. */
export function showRegister(into: Shows, table: RegisterTable, name: string, value: bigint): void {
  let rest = value;
  for (const [field, [at, bits]] of Object.entries(table[name]!.fields ?? {})) {
    const mask = ((1n << BigInt(bits)) - 1n) << BigInt(at);
    into.add(`${name}.${field}=${(value & mask) >> BigInt(at)}`);
    rest &= ~mask;
  }
  for (let bit = 0n; rest !== 0n; bit++, rest >>= 1n) if ((rest & 1n) !== 0n) into.add(`${name} bit ${bit}`);
}

type Choices<P> = { readonly [K in keyof P]?: readonly P[K][] };

/** Every combination of the choices, with what is not chosen as in `from`. */
export function* combinations<P extends object>(from: P, choices: Choices<P>): Generator<P> {
  const names = Object.keys(choices) as (keyof P)[];
  const at = names.map(() => 0);
  for (;;) {
    const made = { ...from };
    names.forEach((name, i) => {
      made[name] = choices[name]![at[i]!]!;
    });
    yield made;
    let i = 0;
    for (; i < names.length; i++) {
      at[i]!++;
      if (at[i]! < choices[names[i]!]!.length) break;
      at[i] = 0;
    }
    if (i === names.length) return;
  }
}

export const SWITCH = [false, true] as const;

/** What the identification registers of a vSMMUv3 show in a profile, over every combination of properties. */
export function smmuv3Shows(profile: ProfileName): Shows {
  const shows: Shows = new Set();
  const choices: Choices<Smmuv3Properties> = {
    stage: ['1', '2', 'nested'],
    accel: SWITCH,
    ril: SWITCH,
    ats: SWITCH,
    oas: [32, 36, 40, 42, 44, 48],
    ssidsize: [0, 8],
    pri: SWITCH,
    pps: SWITCH,
    stall: SWITCH,
    msi: SWITCH,
    httu: [0, 1, 2],
  };
  // QEMU has SubstreamIDs with accel=on only.
  const widths = { accel: SWITCH, ssidsize: Array.from({ length: 21 }, (_, n) => n) };
  const from = smmuv3Defaults(profile);
  for (const p of [...combinations(from, choices), ...combinations(from, widths)]) {
    if (!possible(() => checkSmmuv3Properties(p))) continue;
    const id = smmuv3Identity(p, smmuv3Deviations(profile));
    for (const [name, value] of Object.entries(id)) {
      showRegister(shows, PAGE0, name.toUpperCase(), BigInt(value >>> 0));
    }
  }
  return shows;
}

/** The same of a vVT-d: CAP, ECAP, and VCCAP where there is one. */
export function vtdShows(profile: ProfileName): Shows {
  const shows: Shows = new Set();
  const pairs = new Set<string>();
  const choices: Choices<VtdProperties> = {
    awBits: [39, 48, 57],
    scalableMode: SWITCH,
    fsts: SWITCH,
    fs1gp: SWITCH,
    pasidBits: [0, 8],
    svm: SWITCH,
    deviceIotlb: SWITCH,
    intremap: SWITCH,
    eim: SWITCH,
    cachingMode: SWITCH,
    snoopControl: SWITCH,
    dmaTranslation: SWITCH,
    queuedInvalidation: SWITCH,
    pageWalkCoherency: SWITCH,
    postedInterrupts: SWITCH,
    esirtps: SWITCH,
  };
  const widths = { scalableMode: [true], pasidBits: Array.from({ length: 21 }, (_, n) => n) };
  const from = vtdDefaults(profile);
  for (const p of [...combinations(from, choices), ...combinations(from, widths)]) {
    if (!possible(() => checkVtdProperties(p))) continue;
    const id = vtdIdentity(p, vtdDeviations(profile));
    const words = [id.capLo, id.capHi, id.ecapLo, id.ecapHi].join(' ');
    if (pairs.has(words)) continue;
    pairs.add(words);
    showRegister(shows, PAGE, 'CAP', BigInt.asUintN(64, toBigint(id.capLo, id.capHi)));
    showRegister(shows, PAGE, 'ECAP', BigInt.asUintN(64, toBigint(id.ecapLo, id.ecapHi)));
    if (id.virtualCommands) shows.add('VCCAP.PAS=1');
  }
  return shows;
}

/** Whether properties go together. */
export function possible(check: () => unknown): boolean {
  const { stackTraceLimit } = Error;
  // Most combinations are refused, and nobody reads where.
  Error.stackTraceLimit = 0;
  try {
    check();
    return true;
  } catch {
    return false;
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}
