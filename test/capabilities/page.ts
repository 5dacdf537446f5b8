import type { RegisterTable } from '../../src/core/registers.ts';
import { PROFILES } from '../../src/lib/profile/profile.ts';
import { PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import { PAGE } from '../../src/spec/vtd/registers.ts';
import type { Cut } from './bed.ts';
import { type CapabilityRow, cutOf, profileOf, type Shown } from './row.ts';
import { SMMUV3_ROWS } from './smmuv3/rows.ts';
import { VTD_ROWS } from './vtd/rows.ts';

const WORDS: Readonly<Record<keyof Cut, string>> = {
  device: 'device made otherwise',
  hardware: 'hardware made otherwise',
  store: 'stores of the guest',
  register: 'register writes',
  reads: 'register reads',
  lost: 'commands to the hardware',
  deaf: 'messages to functions',
  bus: 'requests on the bus',
  silent: 'interrupts',
  cached: 'stores held in a cache',
};

/** A row without what only its test knows. */
export type AnyRow = CapabilityRow<object, never>;

/** Position of a field in the register, for the order of the page. */
function bits(table: RegisterTable, row: AnyRow): string {
  const [at, count] = table[row.register]!.fields![row.field]!;
  return count === 1 ? String(at) : `${at + count - 1}:${at}`;
}

function order(table: RegisterTable, row: AnyRow): number {
  const r = table[row.register]!;
  return r.at * 64 + r.fields![row.field]![0];
}

/** Values in order, runs of them shortened. */
function list(some: Iterable<number>): string {
  const all = [...new Set(some)].sort((a, b) => a - b);
  const run = all.length > 2 && all.at(-1)! - all[0]! === all.length - 1;
  return run ? `${all[0]} to ${all.at(-1)}` : all.join(', ');
}

/** The values: those of every profile, or those of each one where they differ. */
function values(shown: readonly Shown<object>[]): string {
  const each = PROFILES.map((profile) => list(shown.filter((s) => profileOf(s) === profile).map((s) => s.value)));
  if (new Set(each).size === 1) return each[0]!;
  return PROFILES.flatMap((profile, i) => (each[i] === '' ? [] : [`${profile}: ${each[i]}`])).join('; ');
}

function cuts(row: AnyRow): string {
  const names = row.shown.flatMap(({ value }) => Object.keys(cutOf(row, value)) as (keyof Cut)[]);
  return [...new Set(names)].map((name) => WORDS[name]).join('; ');
}

function table(rows: readonly AnyRow[], registers: RegisterTable): string {
  const sorted = [...rows].sort((a, b) => order(registers, a) - order(registers, b));
  const lines = sorted.map((row) =>
    [
      `| \`${row.register}.${row.field}\` [${bits(registers, row)}]`,
      values(row.shown),
      `§${row.section}`,
      row.promise,
      `${cuts(row)} |`,
    ].join(' | '),
  );
  return [
    '| bit | values | section | what it promises | where the chain of its test is broken |',
    '|---|---|---|---|---|',
    ...lines,
  ].join('\n');
}

/** The text of docs/capabilities.md. */
export function page(): string {
  return `# Capabilities

Every bit of an identification register that some profile and some properties of a vIOMMU show, with what it promises. Each row has a
test that runs from a guest program through the vIOMMU, the host and the physical IOMMU to a function and back
(\`test/capabilities\`), in each profile for each value of the second column: where profiles are named there, each has the values behind
its name, and one that is not named has none; where none is named, all have the same. The test is run again with the chain broken at the
places in the last column, one or several of them at once, and has to fail. Another test compares the rows with the registers of every
combination of properties, in each profile by itself: a value that a profile can show has a row that runs in this profile, and what a
row shows can be shown.

This page is written by \`npm run docs:capabilities\`.

## vSMMUv3 (Arm IHI 0070, issue G.b)

IDR2, IDR4 and IIDR read 0.

${table(SMMUV3_ROWS as unknown as readonly AnyRow[], PAGE0)}

## vVT-d (Intel D51397, revision 5.10)

PERFCAP and the enhanced commands (ECMD) are not there and read 0.

${table(VTD_ROWS as unknown as readonly AnyRow[], PAGE)}
`;
}
