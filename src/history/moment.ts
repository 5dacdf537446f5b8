/** Where a moment is shown: who did it, or what it is about. */
export const LANE = {
  MEMORY: 'guest memory',
  REGISTERS: 'registers',
  COMMANDS: 'commands',
  HOST: 'host operations',
  HARDWARE: 'hardware',
  ACCESSES: 'accesses',
  FAULTS: 'faults',
  PAGE_REQUESTS: 'page requests',
  INTERRUPTS: 'interrupts',
  NOTES: 'notes',
} as const;
/** A value of `LANE`. */
export type Lane = (typeof LANE)[keyof typeof LANE];

/** What is told about a moment: numbers as numbers, addresses and 64-bit values as `0x…` text. */
export type MomentArgs = { readonly [name: string]: string | number };

/** One thing that happened on a machine while a recording was replayed on it. */
export interface Moment {
  /** Its number, from 0 in the order of happening. */
  readonly n: number;
  /** Number of the recording's event it happened at. */
  readonly event: number;
  /** Where it is shown. */
  readonly lane: Lane;
  /** StreamID or requester id it is about; -1: none. */
  readonly stream: number;
  /** What happened, in a few words: the name of a command, verb, register. */
  readonly name: string;
  /** The rest of it. */
  readonly args: MomentArgs;
  /** Number of the moment that made this one happen; -1: nothing known. Always smaller than `n`. */
  readonly cause: number;
}
