import { toBigint } from '../core/bits.ts';

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

/** An address or a value of 64 bits: `lo` and `hi` are its words, signed or not. */
export interface ToldHex {
  /** Low word. */
  readonly lo: number;
  /** High word. */
  readonly hi: number;
}

/** A value as it is told, before it is written out: a number, a text, an address, the words of a command or record. */
export type ToldValue = number | string | ToldHex | readonly number[];

/** What is told about a moment, by name and in order. */
export type ToldArgs = { readonly [name: string]: ToldValue };

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

/** A moment whose values have not been written out: for readers that keep numbers, or look at few moments. */
export interface ToldMoment extends Omit<Moment, 'args'> {
  /** The rest of it. */
  readonly args: ToldArgs;
}

function written(value: ToldValue): string | number {
  if (typeof value !== 'object') return value;
  if ('lo' in value) return `0x${toBigint(value.lo, value.hi).toString(16)}`;
  return value.map((w) => (w >>> 0).toString(16).padStart(8, '0')).join(' ');
}

/** A moment with its values written out. */
export function momentOf({ n, event, lane, stream, name, args, cause }: ToldMoment): Moment {
  const texts: { [key: string]: string | number } = {};
  for (const key in args) texts[key] = written(args[key]!);
  return { n, event, lane, stream, name, args: texts, cause };
}
