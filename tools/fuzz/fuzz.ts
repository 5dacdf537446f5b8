import { Random } from '../oracle/random.ts';
import { belongs, type Shard, WHOLE } from '../shard/shard.ts';
import { InputsRan } from './fuzz-report.ts';
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
  /** Only these inputs of the seed. */
  readonly shard?: Shard;
  /** Also says which inputs ran (`ran`, `peaks` of the result). */
  readonly detailed?: boolean;
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
  /** Which inputs ran, with their steps, and which were dearer than those before them. Empty unless asked for. */
  readonly ran: InputsRan['runs'];
  readonly peaks: readonly (readonly [index: number, milliseconds: number])[];
}

/** Inputs of a search that begins anew after them: what one machine does of it in one piece. */
const CLIMB = 500;

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
  const piece = target.mutate === undefined ? 1 : CLIMB;
  const ran = new InputsRan();
  const peaks: [number, number][] = [];
  let climbing = new Random(seedOf(seed, -1));
  let steps = 0;
  let done = 0;
  let cost = 0;
  let told = start;
  let best: FuzzInput | null = null;
  let bestCost = 0;
  for (let index = 0; index < inputs && performance.now() < end; index++) {
    if (!belongs(o.shard ?? WHOLE, Math.floor(index / piece))) continue;
    if (piece > 1 && index % piece === 0) {
      climbing = new Random(seedOf(seed, -1 - index / piece));
      best = null;
      bestCost = 0;
    }
    const climb: boolean = target.mutate !== undefined && best !== null && !climbing.chance(15);
    const input: FuzzInput = climb ? target.mutate!(best!, climbing) : inputOf(target, seed, index, o.length);
    const run = await once(target, input, plant);
    steps += input.steps.length;
    done++;
    if (o.detailed === true) ran.add(index, input.steps.length);
    if (run.error !== null) {
      const kind = run.error.split('\n')[0]!;
      const same = async (i: FuzzInput) => (await once(target, i, plant)).error?.split('\n')[0] === kind;
      const cut = await minimize(input, same, { runs: 3000, milliseconds: o.cutting ?? 30_000 });
      const error = (await once(target, cut, plant)).error ?? run.error;
      const found = { index, error, input: cut, before: input.steps.length };
      return { inputs: done, steps, cost, found, ran: ran.runs, peaks };
    }
    if (run.cost > bestCost) [bestCost, best] = [run.cost, input];
    if (run.cost > cost) {
      cost = run.cost;
      if (o.detailed === true) peaks.push([index, cost]);
    }
    if (o.progress !== undefined && performance.now() - told > 10_000) {
      told = performance.now();
      o.progress(index + 1, steps, cost);
    }
  }
  return { inputs: done, steps, cost, found: null, ran: ran.runs, peaks };
}
