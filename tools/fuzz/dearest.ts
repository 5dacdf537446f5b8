/** How often an access that seems dear is played again: what a compiler or a collector took of it comes in one play only. */
const PLAYS = 3;

/** Hears the milliseconds of each access of a play, in order. @returns whether the play may end here. */
export type Hear = (ms: number) => boolean;

/** The dearest access of a sequence. */
export interface Dearest {
  /** Milliseconds: of the access, the least of its plays. */
  readonly ms: number;
  /** Its number. */
  readonly at: number;
}

/**
 * What the dearest access of a sequence costs, whatever else the process does meanwhile: accesses above `suspect` milliseconds are
 * played again, from the start, and count as the least that was seen.
 * @param play plays the same sequence each time, and tells of each access.
 */
export function dearest(suspect: number, play: (hear: Hear) => void): Dearest {
  const suspects = new Map<number, number>();
  let [ms, at, n] = [0, 0, 0];
  play((cost) => {
    if (cost > suspect) suspects.set(n, cost);
    else if (cost > ms) [ms, at] = [cost, n];
    n++;
    return false;
  });
  for (let plays = 1; plays < PLAYS && suspects.size > 0; plays++) {
    const last = Math.max(...suspects.keys());
    n = 0;
    play((cost) => {
      const least = suspects.get(n);
      if (least !== undefined) suspects.set(n, Math.min(cost, least));
      return n++ === last;
    });
    for (const [i, least] of suspects) {
      if (least > suspect) continue;
      suspects.delete(i);
      if (least > ms) [ms, at] = [least, i];
    }
  }
  for (const [i, least] of suspects) if (least > ms) [ms, at] = [least, i];
  return { ms, at };
}

/** Milliseconds for which a thread can have used the processor: no more than passed, and no more than the process used. */
export class Stopwatch {
  #wall = 0;
  #used = 0;

  start(): void {
    this.#used = used();
    this.#wall = performance.now();
  }

  get ms(): number {
    const wall = performance.now() - this.#wall;
    return Math.min(wall, used() - this.#used);
  }
}

function used(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
