import type { ProfileName } from '../../src/lib/profile/profile.ts';
import type { Cut } from './bed.ts';

/** One value that a field of an identification register can show, and what a machine is made with to show it. */
export interface Shown<P> {
  readonly value: number;
  readonly properties: P;
}

/** A promise that a vIOMMU makes in an identification register, with the test that it is kept. */
export interface CapabilityRow<P, M> {
  /** Register and field as `src/spec` names them. */
  readonly register: string;
  readonly field: string;
  /** Section of the architecture that says what the field promises. */
  readonly section: string;
  /** What a driver may rely on when it reads the field. */
  readonly promise: string;
  /** Every value that some properties show, in each profile where some do. */
  readonly shown: readonly Shown<P>[];
  /** Where the chain is cut for the test that the test fails. */
  readonly cut: Cut | ((value: number) => Cut);
  /** Fails unless the promise is kept on a machine that shows `value`. */
  readonly run: (machine: M, value: number, properties: P) => void;
}

/** The profile of the machine that shows a value: the beds make one of `arch` where nothing is said. */
export function profileOf({ properties }: Shown<object>): ProfileName {
  return (properties as { readonly profile?: ProfileName }).profile ?? 'arch';
}

/** The cut of a row for one of its values. */
export function cutOf<P, M>(row: CapabilityRow<P, M>, value: number): Cut {
  return typeof row.cut === 'function' ? row.cut(value) : row.cut;
}
