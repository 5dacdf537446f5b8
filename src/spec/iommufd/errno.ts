/** Linux 7.2, include/uapi/asm-generic/errno-base.h and errno.h: error numbers. */

/** Linux errno numbers (asm-generic) as the verbs return them negated: `return -E.INVAL`. */
export const E = {
  PERM: 1,
  NOENT: 2,
  INTR: 4,
  IO: 5,
  TOOBIG: 7,
  BADF: 9,
  AGAIN: 11,
  NOMEM: 12,
  ACCES: 13,
  FAULT: 14,
  BUSY: 16,
  EXIST: 17,
  NODEV: 19,
  INVAL: 22,
  MFILE: 24,
  NOTTY: 25,
  NOSPC: 28,
  SPIPE: 29,
  RANGE: 34,
  DEADLK: 35,
  OVERFLOW: 75,
  BADE: 52,
  BADFD: 77,
  MSGSIZE: 90,
  NXIO: 6,
  OPNOTSUPP: 95,
  ADDRINUSE: 98,
  TIMEDOUT: 110,
  INPROGRESS: 115,
  CANCELED: 125,
} as const;

const NAMES = new Map<number, string>(
  Object.entries(E).map(([name, number]) => [number, name === 'TOOBIG' ? 'E2BIG' : `E${name}`]),
);

/** `EINVAL` for -22; 'ok' for 0 and counts. */
export function errnoName(result: number): string {
  return result >= 0 ? 'ok' : (NAMES.get(-result) ?? `errno ${-result}`);
}
