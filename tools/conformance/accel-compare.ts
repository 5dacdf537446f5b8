import type { AccelKind, AccelStep } from './accel-script.ts';
import type { AccelSide } from './accel-sides.ts';

/** What is seen of a side after a step. */
export interface Observed {
  /** Replies that are not plain OK, and the registers that are compared. */
  readonly registers: string;
  /** What the function reads at each probed address. */
  readonly probes: string;
  /** What it is attached to. */
  readonly attached: string;
  /** Invalidations the host was asked for, in order. */
  readonly invalidations: readonly string[];
}

/** A difference that is known and argued in docs/accel-differences.md. */
export interface KnownDifference {
  readonly row: string;
  /** Whether it is this one. @param before what both had before the step. */
  is(step: AccelStep, ours: Observed, theirs: Observed, before: Observed): boolean;
}

const same = (a: Observed, b: Observed, what: readonly (keyof Observed)[]) =>
  what.every((k) => String(a[k]) === String(b[k]));
const EFFECTS = ['registers', 'probes', 'attached'] as const;

/** Differences that scripts meet. What they avoid is in the document, too. */
export const KNOWN: Readonly<Record<AccelKind['name'], readonly KnownDifference[]>> = {
  smmuv3: [
    {
      row: 'unchanged-ste',
      is: (_step, ours, theirs, before) =>
        same(ours, theirs, EFFECTS) &&
        ours.attached === before.attached &&
        ours.invalidations.every((i) => i.startsWith('6 8 ')) &&
        theirs.invalidations.length === 0,
    },
  ],
  vtd: [
    {
      row: 'iotlb-forwarded',
      is: (step, ours, theirs) =>
        step.name === 'IOTLB' && same(ours, theirs, EFFECTS) && theirs.invalidations.length === 0,
    },
  ],
};

/** Does a step on a side. */
export async function observe(side: AccelSide, kind: AccelKind, step: AccelStep): Promise<Observed> {
  const refused = (await side.run(step.requests)).filter((r) => r !== 'OK');
  const values = await side.run(kind.reads.map((r) => r.request));
  const registers = values.map((v, i) => (BigInt(v.split(' ')[1] ?? '0') & kind.reads[i]!.mask).toString(16));
  const probes = kind.probes.map((p) => side.probe(p)).join(' ');
  return {
    registers: [...refused, ...registers].join(' '),
    probes,
    attached: side.operations.attached,
    invalidations: side.operations.take(),
  };
}

/** Brings a side to where a script begins. */
export async function begin(side: AccelSide, kind: AccelKind): Promise<void> {
  await side.run(kind.prelude);
  for (const p of kind.probes) side.probe(p);
  side.operations.take();
}

/** @returns '' the same; the row of a known difference; null: neither. */
export function judge(
  kind: AccelKind,
  step: AccelStep,
  ours: Observed,
  theirs: Observed,
  before: Observed,
): string | null {
  if (same(ours, theirs, [...EFFECTS, 'invalidations'])) return '';
  return KNOWN[kind.name].find((k) => k.is(step, ours, theirs, before))?.row ?? null;
}
