import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { dearest } from '../fuzz/dearest.ts';
import { type FuzzInput, type Step, UNPLANTED } from '../fuzz/target.ts';
import { actionsOf, FLOODS, QUEUES, stepsOf, TO_REGISTERS } from '../fuzz/targets/machine.ts';
import { LINES, World } from '../fuzz/world.ts';
import { Random } from '../oracle/random.ts';

/** What hostile guests came to. */
export interface HostileResult {
  readonly accesses: number;
  /** Machines, each with a command line and a profile. */
  readonly machines: number;
  /** Milliseconds of the dearest single access, see `dearest`, and whose. */
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

/** Bytes of the host's table pages: they have a limit of their own (`tablePages`), and come with what the guest maps. */
function kernelPages(world: World): number {
  return world.machine.vm!.hostMemory.kernelBytes;
}

/** Accesses of one machine at most: what seems dear is played again from its start. */
const PART = 250_000;
/** Milliseconds above which an access is played again. */
const SUSPECT_MS = 10;

/** What hostile guests do. */
export interface HostileOptions {
  /** Accesses in all. */
  readonly total: number;
  readonly seed: number;
  /** Milliseconds after which no further machine is begun. */
  readonly milliseconds?: number;
  readonly progress?: (done: number) => void;
}

/** One machine. @returns the dearest access, and bytes by which its heap has grown behind a fifth of them. */
function machine(
  config: FuzzInput['config'],
  accesses: number,
  seed: number,
): { ms: number; of: string; growth: number } {
  let growth: number | null = null;
  const dear = new Map<number, Step>();
  const { ms, at } = dearest(SUSPECT_MS, (hear) => {
    const rnd = new Random(seed);
    const world = new World({ config, steps: [] }, UNPLANTED);
    let base = 0;
    for (let done = 0; done < accesses; ) {
      const length = Math.min(500, accesses - done);
      const steps = actionsOf(rnd, String(config.line), length, rnd.pick([QUEUES, FLOODS, TO_REGISTERS, TO_REGISTERS]));
      for (const [i, s] of steps.entries()) {
        const took = world.timed(s);
        if (took > SUSPECT_MS) dear.set(done + i, s);
        if (hear(took)) return;
      }
      world.seen.length = 0;
      done += steps.length;
      if (growth === null && base === 0 && done >= accesses / 5) base = heap() - kernelPages(world);
    }
    growth ??= heap() - kernelPages(world) - base;
    world.check();
  });
  const step = dear.get(at);
  return { ms, of: step === undefined ? '' : `, ${JSON.stringify(step)}`, growth: growth! };
}

/**
 * Hostile guests on every board, command line and profile, each with windows in guest space and engines aimed at themselves.
 * @throws whatever is wrong: an exception of a handler, memory of another VM that was reached.
 */
export function hostileAccesses(o: HostileOptions): HostileResult {
  const start = performance.now();
  const kinds = LINES.flatMap((line) => ['qemu-11.1', 'arch'].map((profile) => ({ line, profile })));
  const rounds = Math.ceil(o.total / (kinds.length * PART));
  const each = Math.ceil(o.total / (kinds.length * rounds));
  const rnd = new Random(o.seed);
  let [accesses, machines, worst, worstOf, growth] = [0, 0, 0, '', 0];
  for (let i = 0; i < rounds * kinds.length; i++) {
    if (i > 0 && performance.now() - start > (o.milliseconds ?? Number.POSITIVE_INFINITY)) break;
    const kind = kinds[i % kinds.length]!;
    const run = machine({ ...kind, timed: rnd.below(2), fill: rnd.next() }, each, rnd.next());
    accesses += each;
    machines++;
    growth = Math.max(growth, run.growth);
    if (run.ms > worst) [worst, worstOf] = [run.ms, `${kind.line}, ${kind.profile}${run.of}`];
    o.progress?.(accesses);
  }
  return { accesses, machines, worst, worstOf, growth, seconds: (performance.now() - start) / 1000 };
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
