import { type BenchCase, type Measured, type Prepared, type SampledCase, type TimedCase, titleOf } from './case.ts';
import { ReferenceWalk } from './reference.ts';

const ROUND_NS = 25_000_000;
const WARM_NS = 500_000_000;
/** Runs for the heap that are looked at, after as many for the compiler, whose own objects come and go in them. */
const HEAP_RUNS = 8;
/** Operations of a run for the heap: enough that what the run itself takes (some hundred bytes) is little for each of them. */
const HEAP_OPS = 40_000;
/** MiB that new objects have before the young generation is collected; a run for the heap fits in, up to 800 bytes per operation. */
const YOUNG_MIB = 32;

/** What a process that measures is started with: a collection can be asked for, and none comes by itself in a run for the heap. */
export const MEASURING: readonly string[] = [
  '--expose-gc',
  '--max-old-space-size=6144',
  `--min-semi-space-size=${YOUNG_MIB}`,
  `--max-semi-space-size=${YOUNG_MIB}`,
];

/** CPU nanoseconds of `calls` calls. */
function spent(p: Prepared, calls: number): number {
  const before = process.cpuUsage();
  for (let n = 0; n < calls; n++) p.run();
  const used = process.cpuUsage(before);
  return (used.user + used.system) * 1000;
}

/** How many calls make a round long enough for the clock, judged when the code has become warm. */
function calibrate(p: Prepared): number {
  for (let ns = 0; ns < WARM_NS; ) ns += spent(p, 1);
  for (let calls = 1; ; calls *= 2) {
    const ns = spent(p, calls);
    if (ns >= ROUND_NS / 4) return Math.max(1, Math.ceil((calls * ROUND_NS) / ns));
  }
}

/**
 * Frees what nobody holds; the process was started with `--expose-gc`. Storage of typed arrays is freed beside the program, and the
 * next collection waits for it.
 */
export function collect(): void {
  for (let n = 0; n < 3; n++) (globalThis as { gc?: () => void }).gc?.();
}

/**
 * Heap bytes that an operation takes, kept or not: the growth over runs so short that nothing is collected inside, the largest but
 * one of several (the compiler may finish something in one of them). The process was started with `MEASURING`.
 * @param most calls in a run, so that a slow operation does not take minutes.
 */
export function heapPerOp(p: Prepared, most = Number.POSITIVE_INFINITY): number {
  const calls = Math.max(1, Math.min(most, Math.ceil(HEAP_OPS / p.ops)));
  const grown: number[] = [];
  for (let n = 0; n < 2 * HEAP_RUNS; n++) {
    collect();
    const before = process.memoryUsage().heapUsed;
    spent(p, calls);
    grown.push(process.memoryUsage().heapUsed - before);
  }
  const [, second = 0] = grown.slice(HEAP_RUNS).sort((a, b) => b - a);
  return Math.max(0, second) / (calls * p.ops);
}

/** Median and quartiles. */
export function spread(values: readonly number[]): { value: number; low: number; high: number } {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (part: number) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? 0;
  return { value: at(0.5), low: at(0.25), high: at(0.75) };
}

/** Measures a case and the reference in turns, so that both see the same machine. */
export async function measure(c: BenchCase, rounds: number): Promise<Measured> {
  const reference = new ReferenceWalk();
  const base = { title: titleOf(c), path: c.path, name: c.name, n: c.n ?? null };
  return 'unit' in c
    ? { ...base, ...(await sampled(c, reference)) }
    : { ...base, ...(await timed(c, reference, rounds)) };
}

async function timed(c: TimedCase, reference: Prepared, rounds: number) {
  const p = await c.setup();
  const calls = calibrate(p);
  const refCalls = calibrate(reference);
  const own: number[] = [];
  const ref: number[] = [];
  for (let round = 0; round < rounds; round++) {
    ref.push(spent(reference, refCalls) / (refCalls * reference.ops));
    own.push(spent(p, calls) / (calls * p.ops));
  }
  const heap = heapPerOp(p, calls);
  return { unit: 'ns' as const, ...spread(own), walk: spread(ref).value, heap, hot: c.hot === true };
}

async function sampled(c: SampledCase, reference: Prepared) {
  const refCalls = calibrate(reference);
  const own: number[] = [];
  const ref: number[] = [];
  for (let n = 0; n < c.samples; n++) {
    ref.push(spent(reference, refCalls) / (refCalls * reference.ops));
    own.push(await c.sample());
  }
  return { unit: c.unit, ...spread(own), walk: spread(ref).value, heap: null, hot: false };
}
