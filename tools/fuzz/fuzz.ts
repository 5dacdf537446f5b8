import { Random } from '../oracle/random.ts';
import { minimize } from './minimize.ts';
import { type FuzzInput, type FuzzTarget, kindOf, type Plant, UNPLANTED } from './target.ts';

/** How much is tried. */
export interface FuzzOptions {
  readonly seed: number;
  /** Milliseconds; Infinity: as many inputs as `inputs` says. */
  readonly milliseconds?: number;
  /** Inputs at most. */
  readonly inputs?: number;
  /** Steps of an input. Default: the target's. */
  readonly length?: number;
  /** Milliseconds that cutting a failing input may take (30,000). */
  readonly cutting?: number;
  readonly plant?: Plant;
  /** Hears how far it is, about once in ten seconds. */
  readonly progress?: (inputs: number, steps: number, cost: number) => void;
}

/** What was found, cut. */
export interface Found {
  /** Which input of the seed. */
  readonly index: number;
  readonly error: string;
  readonly input: FuzzInput;
  /** Steps before cutting. */
  readonly before: number;
}

export interface FuzzResult {
  readonly inputs: number;
  readonly steps: number;
  /** The highest cost seen; 0: the target has none. */
  readonly cost: number;
  readonly found: Found | null;
}

/** The seed of input number `index`: each can be made without those before it. */
function seedOf(seed: number, index: number): number {
  return Math.imul(seed ^ 0x6a09_e667, 0x9e37_79b1) ^ Math.imul(index + 1, 0x85eb_ca6b);
}

/** Input number `index` of a seed. For a search, the one it starts from. */
export function inputOf(target: FuzzTarget, seed: number, index: number, length = target.length): FuzzInput {
  const rnd = new Random(seedOf(seed, index));
  for (let i = 0; i < 8; i++) rnd.next();
  return target.generate(rnd, length);
}

/** Runs one input. @returns what is wrong, in words; null: nothing. */
export async function tried(target: FuzzTarget, input: FuzzInput, plant: Plant = UNPLANTED): Promise<string | null> {
  return (await once(target, input, plant)).error;
}

async function once(
  target: FuzzTarget,
  input: FuzzInput,
  plant: Plant,
): Promise<{ error: string | null; cost: number }> {
  try {
    const { cost = 0 } = await target.run(input, plant);
    return { error: null, cost };
  } catch (e) {
    const why = e instanceof Error ? (e.name === 'Finding' ? e.message : (e.stack ?? e.message)) : String(e);
    return { error: `${kindOf(e)}\n${why}`, cost: 0 };
  }
}

/** Tries inputs until one fails or the time is over, and cuts the failing one. */
export async function fuzz(target: FuzzTarget, o: FuzzOptions): Promise<FuzzResult> {
  const { seed, plant = UNPLANTED, inputs = Number.POSITIVE_INFINITY } = o;
  const start = performance.now();
  const end = start + (o.milliseconds ?? Number.POSITIVE_INFINITY);
  const climbing = new Random(seedOf(seed, -1));
  let steps = 0;
  let done = 0;
  let cost = 0;
  let told = start;
  let best: FuzzInput | null = null;
  for (let index = 0; index < inputs && performance.now() < end; index++) {
    const climb: boolean = target.mutate !== undefined && best !== null && !climbing.chance(15);
    const input: FuzzInput = climb ? target.mutate!(best!, climbing) : inputOf(target, seed, index, o.length);
    const run = await once(target, input, plant);
    steps += input.steps.length;
    done++;
    if (run.error !== null) {
      const kind = run.error.split('\n')[0]!;
      const same = async (i: FuzzInput) => (await once(target, i, plant)).error?.split('\n')[0] === kind;
      const cut = await minimize(input, same, { runs: 3000, milliseconds: o.cutting ?? 30_000 });
      const error = (await once(target, cut, plant)).error ?? run.error;
      return { inputs: index + 1, steps, cost, found: { index, error, input: cut, before: input.steps.length } };
    }
    if (run.cost > cost) [cost, best] = [run.cost, input];
    if (o.progress !== undefined && performance.now() - told > 10_000) {
      told = performance.now();
      o.progress(index + 1, steps, cost);
    }
  }
  return { inputs: done, steps, cost, found: null };
}
