import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { UNPLANTED } from '../fuzz/target.ts';
import { actionsOf, QUEUES, stepsOf, TO_REGISTERS } from '../fuzz/targets/machine.ts';
import { LINES, World } from '../fuzz/world.ts';
import { Random } from '../oracle/random.ts';

/** What hostile guests came to. */
export interface HostileResult {
  readonly accesses: number;
  /** Machines, each with one command line and one profile. */
  readonly machines: number;
  /** Milliseconds of processor time of the dearest single access, and whose. */
  readonly worst: number;
  readonly worstOf: string;
  /** Bytes by which the heap of the fastest growing machine has grown from a fifth of its accesses to its end. */
  readonly growth: number;
  readonly seconds: number;
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

function heap(): number {
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/**
 * Hostile guests on every board, command line and profile, each with windows in guest space and engines aimed at themselves.
 * @throws whatever is wrong: an exception of a handler, memory of another VM that was reached.
 */
export function hostileAccesses(total: number, seed: number, progress: (done: number) => void): HostileResult {
  const start = performance.now();
  const rnd = new Random(seed);
  const kinds = LINES.flatMap((line) => ['qemu-11.1', 'arch'].map((profile) => ({ line, profile })));
  let [accesses, worst, worstOf, growth] = [0, 0, '', 0];
  for (const { line, profile } of kinds) {
    const share = Math.ceil(total / kinds.length);
    const config = { line, profile, timed: rnd.below(2), fill: rnd.next() };
    const world = new World({ config, steps: [] }, UNPLANTED, { measure: true });
    let base = 0;
    for (let done = 0; done < share; ) {
      const steps = actionsOf(rnd, line, Math.min(500, share - done), rnd.chance(50) ? QUEUES : TO_REGISTERS);
      for (const s of steps) world.step(s);
      world.seen.length = 0;
      done += steps.length;
      accesses += steps.length;
      if (base === 0 && done >= share / 5) base = heap();
      if (accesses % 100_000 < steps.length) progress(accesses);
    }
    growth = Math.max(growth, heap() - base);
    world.check();
    if (world.cost > worst) [worst, worstOf] = [world.cost, `${line}, ${profile}`];
  }
  return { accesses, machines: kinds.length, worst, worstOf, growth, seconds: (performance.now() - start) / 1000 };
}

/** Failures that a machine goes through, by kind. */
export function failuresSurvived(runs: number, seed: number): { readonly failed: number; readonly accesses: number } {
  const rnd = new Random(seed);
  let [failed, accesses] = [0, 0];
  for (let run = 0; run < runs; run++) {
    const input = stepsOf(rnd, 400, QUEUES);
    const failures = {
      seed: rnd.next() >>> 1,
      memory: 0.05,
      ids: 0.05,
      commands: 0.05,
      fetches: 0.01,
      queues: 0.1,
      lostCompletions: 0.1,
      lateCompletions: 0.1,
      doubledCompletions: 0.1,
    };
    const world = new World(input, UNPLANTED, { failures });
    for (const s of input.steps) world.step(s);
    world.check();
    accesses += input.steps.length;
    for (const c of Object.values(world.machine.vm!.failures!.counts())) failed += c.failed;
  }
  return { failed, accesses };
}
