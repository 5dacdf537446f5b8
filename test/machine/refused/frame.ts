import { expect } from 'vitest';
import type { Random } from '../../../tools/oracle/random.ts';
import type { Nth } from './nth.ts';

/** Pages that a space may map, and pages of data each has. */
export const PAGES = 3;
/** Space of a subject that sees memory as it is. */
export const PASS = -1;
/** An access that reached nothing. */
export const ABORT = -2;

/** How a doorbell ended: everything is done, or the guest was told that it is not; `silent` must not happen. */
export type Rung = 'done' | 'told' | 'silent';

/**
 * A guest with its machine: subjects (a function's requester, one of its PASIDs, a slice) that send, and spaces that they can be
 * pointed at. Stores and announcements are apart, as they are for a driver.
 */
export interface RefusedMachine {
  readonly nth: Nth;
  /** Says what it is. */
  readonly name: string;
  /** The source id of each subject, as records have it. */
  readonly sids: readonly number[];
  readonly spaces: number;
  /** Whether a subject can see memory as it is. */
  canPass(subject: number): boolean;
  /** Nobody hears of what is sent later: refusals are told at commands only. */
  readonly deaf: boolean;
  /** Data page number `n` of a space. */
  data(space: number, n: number): number;
  /** Input page `n`. */
  input(n: number): number;
  /** Stores a mapping (null: none) of input page `n`; nothing is invalidated. */
  map(space: number, n: number, to: number | null): void;
  /** Stores what a subject is pointed at (null: nothing valid). */
  point(subject: number, space: number | null): void;
  /** Queues what announces a mapping. */
  mapped(space: number, n: number, users: readonly number[]): void;
  /** Queues what announces that a subject was pointed elsewhere. @param before what it was pointed at. */
  pointed(subject: number, before: number | null): void;
  /** Rings with a completion request behind. */
  sync(): Rung;
  /** Acknowledges what was told, and goes on where it stopped. */
  again(): Rung;
  /** Switches translation off or on: what the tables say counts without an announcement. @returns 'told': it is not acknowledged. */
  toggle(on: boolean): Rung;
  /** A write of a subject to input page `n`. @returns the guest-physical page it reached, or ABORT. */
  write(subject: number, n: number): number;
  /** Source ids of the records since the last call. */
  records(): number[];
}

/** Plays a guest on a machine, and holds it against what its tables say. */
export class RefusedScript {
  readonly #m: RefusedMachine;
  readonly #rnd: Random;
  readonly #space: (number | null)[];
  readonly #maps: (number | null)[][];
  /** The guest was told at a command since the last time that everything was right. */
  #told = false;
  /** Something failed since then. */
  #hits = 0;

  constructor(m: RefusedMachine, rnd: Random) {
    this.#m = m;
    this.#rnd = rnd;
    this.#space = m.sids.map(() => null);
    this.#maps = Array.from({ length: m.spaces }, () => new Array<number | null>(PAGES).fill(null));
  }

  #expected(subject: number, n: number): number {
    const space = this.#space[subject]!;
    if (space === null) return ABORT;
    return space === PASS ? this.#m.input(n) : (this.#maps[space]![n] ?? ABORT);
  }

  get #failed(): boolean {
    return this.#m.nth.hits > this.#hits;
  }

  /** Everything queued is done in the end; whenever it is not, the guest is told, and something has failed. */
  #sync(): void {
    const { nth } = this.#m;
    let rung = this.#m.sync();
    for (let tries = 0; rung !== 'done'; tries++) {
      expect([this.#m.name, rung, this.#failed]).toEqual([this.#m.name, 'told', true]);
      this.#told = true;
      if (tries === 2) nth.mend();
      expect(tries).toBeLessThan(4);
      rung = this.#m.again();
    }
  }

  #toggle(): void {
    const m = this.#m;
    for (const on of [false, true]) {
      let rung = m.toggle(on);
      for (let tries = 0; rung !== 'done'; tries++) {
        expect([m.name, 'switch', on, rung, this.#failed]).toEqual([m.name, 'switch', on, 'told', true]);
        this.#told = true;
        if (tries === 2) m.nth.mend();
        expect(tries).toBeLessThan(4);
        rung = m.toggle(on);
      }
    }
  }

  /** After a completed sync: an access reaches what the tables say, or nothing, and then the guest has been told. */
  #write(subject: number, n: number, exact = false): void {
    const m = this.#m;
    const expected = this.#expected(subject, n);
    const got = m.write(subject, n);
    const told = m.records().includes(m.sids[subject]!);
    const says = [m.name, m.nth.hits, exact, subject, n, this.#space[subject]];
    if (got !== ABORT || exact) expect([...says, got]).toEqual([...says, expected]);
    else if (expected !== ABORT) expect([...says, 'failed', this.#failed]).toEqual([...says, 'failed', true]);
    if (got === ABORT && !m.deaf) expect([...says, 'record', told]).toEqual([...says, 'record', true]);
    if (got === ABORT && m.deaf && expected !== ABORT) expect([...says, this.#told]).toEqual([...says, true]);
  }

  #users(space: number): number[] {
    return this.#space.flatMap((s, i) => (s === space ? [i] : []));
  }

  #map(): void {
    const space = this.#rnd.below(this.#m.spaces);
    const n = this.#rnd.below(PAGES);
    const to = this.#rnd.chance(25) ? null : this.#m.data(space, this.#rnd.below(4));
    this.#maps[space]![n] = to;
    this.#m.map(space, n, to);
    this.#m.mapped(space, n, this.#users(space));
  }

  #point(subject = this.#rnd.below(this.#m.sids.length)): void {
    const m = this.#m;
    const before = this.#space[subject]!;
    const draw = this.#rnd.below(10);
    const space = draw === 0 ? null : draw === 1 && m.canPass(subject) ? PASS : this.#rnd.below(m.spaces);
    this.#space[subject] = space;
    m.point(subject, space);
    m.pointed(subject, before);
  }

  /** Mended, the next invalidations put everything right: each access is exactly what the tables say. */
  #heal(): void {
    const m = this.#m;
    m.nth.mend();
    this.#map();
    this.#sync();
    // What the guest was told at a command it may announce again; nothing else is asked of it.
    if (this.#told) for (let i = 0; i < m.sids.length; i++) m.pointed(i, this.#space[i]!);
    if (this.#told) this.#sync();
    m.records();
    for (let i = 0; i < m.sids.length; i++) for (let n = 0; n < PAGES; n++) this.#write(i, n, true);
    this.#told = false;
    this.#hits = m.nth.hits;
  }

  /** @param n the n-th failure; 0: none. @param steps things the guest does. @returns how many there were to fail. */
  run(n: number, steps: number): number {
    const m = this.#m;
    const rnd = this.#rnd;
    for (let space = 0; space < m.spaces; space++) {
      for (let p = 0; p < PAGES; p++) {
        this.#maps[space]![p] = m.data(space, p);
        m.map(space, p, m.data(space, p));
      }
    }
    for (let i = 0; i < m.sids.length; i++) this.#point(i);
    this.#sync();
    m.nth.arm(n);
    for (let step = 0; step < steps; step++) {
      const draw = rnd.below(100);
      if (draw < 45) this.#map();
      else if (draw < 92) this.#point();
      else this.#toggle();
      if (rnd.chance(30)) this.#map();
      this.#sync();
      for (let i = 0; i < 4; i++) this.#write(rnd.below(m.sids.length), rnd.below(PAGES));
    }
    const { count } = m.nth;
    this.#heal();
    return count;
  }
}
