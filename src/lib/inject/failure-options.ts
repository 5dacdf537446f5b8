import { ViommuError } from '../../core/errors.ts';
import { FAILURE_STEP, type FailureStep } from '../../ports/failures.ts';
import { parseOption } from '../qemu-args/qemu-args.ts';

/** What can be made to fail in a machine, by the name its share has in `FailureOptions`. */
export type FailureKind =
  | 'memory'
  | 'ids'
  | 'commands'
  | 'fetches'
  | 'queues'
  | 'lostCompletions'
  | 'lateCompletions'
  | 'doubledCompletions';

/**
 * Which internal steps of a machine fail. Shares lie between 0 (never, the default) and 1 (always). Each kind draws from a
 * generator of its own, so that the same seed and the same run give the same failures, whatever else is switched on.
 */
export interface FailureOptions extends Partial<Readonly<Record<FailureKind, number>>> {
  /** An integer that a number holds exactly (`Number.isSafeInteger`), negative ones as well. Every bit of it counts. */
  readonly seed: number;
  /** Share of the host's internal steps that find no memory: the verb answers ENOMEM, and nothing has happened. */
  readonly memory?: number;
  /** Share of VMIDs, ASIDs and domain ids that cannot be had. */
  readonly ids?: number;
  /** Share of commands of the kernel's driver that the physical IOMMU refuses. */
  readonly commands?: number;
  /** Share of loads from tables and queues in memory that the bus aborts. */
  readonly fetches?: number;
  /** Share of records and page requests that find the guest's queue (VT-d: fault recording register) full. */
  readonly queues?: number;
  /** Share of completions of device-TLB invalidations that never arrive. */
  readonly lostCompletions?: number;
  /** Share of them that arrive `delay` later. */
  readonly lateCompletions?: number;
  /** Share of them that arrive twice. */
  readonly doubledCompletions?: number;
  /** Nanoseconds a late completion is late (1,000,000). */
  readonly delay?: number;
  /** Exactly the n-th step fails (from 1), of whatever kind, and no share counts. See also `FailureInjector.nth`. */
  readonly nth?: number;
  /**
   * Steps fail while the machine is made, too. Default: from the moment on at which it stands; a `Vm` of one's own, from the
   * moment on at which its constructor returns.
   */
  readonly construction?: boolean;
}

/** The kinds, in the order in which messages name them. */
export const FAILURE_KINDS: readonly FailureKind[] = [
  'memory',
  'ids',
  'commands',
  'fetches',
  'queues',
  'lostCompletions',
  'lateCompletions',
  'doubledCompletions',
];

/** The kind a step is of. */
export function failureKindOf(step: FailureStep): FailureKind {
  switch (step) {
    case FAILURE_STEP.ID:
      return 'ids';
    case FAILURE_STEP.COMMAND:
      return 'commands';
    case FAILURE_STEP.FETCH:
      return 'fetches';
    case FAILURE_STEP.QUEUE:
      return 'queues';
    case FAILURE_STEP.COMPLETION_LOST:
      return 'lostCompletions';
    case FAILURE_STEP.COMPLETION_LATE:
      return 'lateCompletions';
    case FAILURE_STEP.COMPLETION_DOUBLED:
      return 'doubledCompletions';
    default:
      return 'memory';
  }
}

/** @throws ViommuError `EINVAL` names what is no integer, no share, or not known. */
export function checkFailureOptions(options: FailureOptions): FailureOptions {
  const fail = (what: string, found: unknown): never => {
    throw new ViommuError('EINVAL', 'caller', what, { found: String(found) });
  };
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (name === 'seed') {
      if (!Number.isSafeInteger(value)) fail('failures: `seed` is an integer below 2^53', value);
    } else if (name === 'construction') {
      if (typeof value !== 'boolean') fail('failures: `construction` is true or false', value);
    } else if (name === 'nth') {
      if (!(Number.isSafeInteger(value) && Number(value) >= 1)) fail('failures: `nth` is an integer from 1 on', value);
    } else if (name === 'delay') {
      if (!(typeof value === 'number' && value >= 0 && Number.isFinite(value)))
        fail('failures: `delay` is a number of nanoseconds', value);
    } else if (!FAILURE_KINDS.some((k) => k === name)) {
      fail(`failures: there is no '${name}': seed, nth, construction, delay, ${FAILURE_KINDS.join(', ')}`, value);
    } else if (!(typeof value === 'number' && value >= 0 && value <= 1)) {
      fail(`failures: '${name}' is a share between 0 and 1`, value);
    }
  }
  if (options.seed === undefined) fail('failures: `seed` is missing', undefined);
  return options;
}

/**
 * Options from a command line: `seed=1,memory=0.01,lostCompletions=0.1`.
 * @throws ViommuError `EINVAL` as `checkFailureOptions`.
 */
export function parseFailureOptions(text: string): FailureOptions {
  const found: Record<string, number | boolean> = {};
  for (const [name, value] of parseOption(`,${text}`, '').props) {
    found[name] = name === 'construction' ? value === 'on' : Number(value === 'on' ? Number.NaN : value);
  }
  return checkFailureOptions(found as unknown as FailureOptions);
}
