import type { TraceEvent } from '../../../src/trace/index.ts';
import type { Parked } from './parked.ts';

/** Events between two checkpoints, if the recording is long enough for several. */
const EVENTS = 2_000;
/** Machines that stand ready at most; each has what its guest stored, and the tables of its host. */
const MOST = 20;
/**
 * Bytes of guest RAM of all of them. What no guest stored to takes no memory but addresses, and a browser gives one process
 * some 15 GiB of these.
 */
const MOST_RAM = 6 * 2 ** 30;
/** Events that are replayed between two looks at whether somebody asks for a state. */
const SLICE = 2_000;

/**
 * Machines that stand at events of a recording, so that the state before any event is a short replay away. A machine cannot be
 * copied and its host keeps no snapshot, so a checkpoint is a machine: whoever asks takes the nearest one before his event and
 * moves it on; `mend` brings one back to where it is missing, in small steps, when nothing else is to be done. The longest way
 * without a machine is halved first, so that after a short while no state is far away.
 */
export class Checkpoints {
  readonly #make: () => Parked;
  readonly #events: readonly TraceEvent[];
  #most: number;
  readonly #machines: Parked[];
  /** The one on its way to the beginning of a segment. */
  #travelling: { readonly machine: Parked; readonly to: number } | null = null;

  /** @param events may become more. @param make a machine at the first event. @param ram of each (bytes). @param standing machines there are already. */
  constructor(make: () => Parked, events: readonly TraceEvent[], ram: number, standing: readonly Parked[] = []) {
    this.#machines = [...standing];
    this.#make = make;
    this.#most = Math.max(2, Math.min(MOST, Math.floor(MOST_RAM / ram)));
    this.#events = events;
  }

  /** How many machines there are. */
  get ready(): number {
    return this.#machines.length + (this.#travelling === null ? 0 : 1);
  }

  /** Events of each segment, of as many as there are by now. Every segment is to have a machine in it. */
  get #segment(): number {
    return Math.max(EVENTS, Math.ceil(this.#events.length / this.#most));
  }

  /** A machine at the first event. Where there is no memory for one more, fewer stand ready from now on. */
  #fresh(): Parked {
    try {
      return this.#make();
    } catch (e) {
      if (this.ready === 0) throw e;
      this.#most = Math.max(1, Math.min(this.#most, this.ready) - 1);
      if (this.#travelling === null) this.#machines.pop();
      else this.#travelling = null;
      return this.#fresh();
    }
  }

  #segmentOf(position: number): number {
    return Math.floor(position / this.#segment);
  }

  /** The machine as it is before event `n`. It is valid until the next call of anything here. */
  at(n: number): Parked {
    let found: Parked | null = null;
    for (const m of this.#machines) if (m.position <= n && m.position >= (found?.position ?? 0)) found = m;
    const way = this.#travelling;
    if (way !== null && way.machine.position <= n && way.machine.position > (found?.position ?? -1)) {
      found = way.machine;
      this.#machines.push(found);
      this.#travelling = null;
    }
    if (found === null) {
      found = this.#fresh();
      this.#machines.push(found);
    }
    found.forward(this.#events, n);
    return found;
  }

  /** One step towards a machine in every segment. @returns false: there is one in each. */
  mend(): boolean {
    const way = this.#travelling ?? this.#start();
    if (way === null) return false;
    way.machine.forward(this.#events, Math.min(way.to, way.machine.position + SLICE));
    if (way.machine.position < way.to) {
      this.#travelling = way;
    } else {
      this.#machines.push(way.machine);
      this.#travelling = null;
    }
    return true;
  }

  /** Sends a machine to a segment that has none: one that is not needed where it stands, or a new one. */
  #start(): { machine: Parked; to: number } | null {
    const bySegment = new Map<number, Parked[]>();
    for (const m of this.#machines) {
      const s = this.#segmentOf(m.position);
      bySegment.set(s, [...(bySegment.get(s) ?? []), m]);
    }
    for (const here of bySegment.values()) here.sort((a, b) => a.position - b.position);
    const goal = this.#middleOfLongest(bySegment);
    if (goal < 0) return this.#thin(bySegment);
    let spare: Parked | null = null;
    for (const [s, here] of bySegment)
      if (s < goal && here.length > 1 && here.at(-1)!.position > (spare?.position ?? -1)) spare = here.at(-1)!;
    const machine = spare ?? this.#fresh();
    if (spare !== null) this.#machines.splice(this.#machines.indexOf(spare), 1);
    return { machine, to: Math.min(goal * this.#segment, this.#events.length) };
  }

  /** The middle one of the longest row of segments without a machine; -1: each has one. */
  #middleOfLongest(bySegment: ReadonlyMap<number, unknown>): number {
    let [best, length, run] = [-1, 0, 0];
    const count = Math.ceil(this.#events.length / this.#segment);
    for (let s = 0; s < count; s++) {
      run = bySegment.has(s) ? 0 : run + 1;
      if (run > length) [best, length] = [s, run];
    }
    return best < 0 ? -1 : best - Math.floor(length / 2);
  }

  /** Every segment has one: machines beyond that go. */
  #thin(bySegment: ReadonlyMap<number, readonly Parked[]>): null {
    for (const here of bySegment.values())
      for (const m of here.slice(1)) this.#machines.splice(this.#machines.indexOf(m), 1);
    return null;
  }
}
