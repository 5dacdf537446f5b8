/** One measured operation. */
export interface BenchCase {
  readonly name: string;
  /** Most this may cost, as a multiple of the reference walk; absent: shown only. */
  readonly atMost?: number;
  /** Most heap it may take per operation, bytes; absent: shown only. */
  readonly heapAtMost?: number;
  /**
   * Builds what is measured.
   * @returns runs the operation `ops` times; called often, must not allocate per operation.
   */
  setup(): Prepared | Promise<Prepared>;
}

export interface Prepared {
  /** Operations per call of `run`. */
  readonly ops: number;
  run(): void;
}

export interface Measured {
  readonly name: string;
  /** CPU time per operation, nanoseconds: the median of the rounds. */
  readonly ns: number;
  /** `ns` over the reference walk of the same rounds. */
  readonly ratio: number;
  readonly perSecond: number;
  readonly atMost: number | null;
  /** Heap taken per operation, bytes. */
  readonly heap: number;
  readonly heapAtMost: number | null;
}

const ROUND_NS = 25_000_000;
const WARM_NS = 150_000_000;

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
 * Heap bytes per operation: growth over one long run. A collection inside it shows as a smaller or negative growth, so the
 * largest of several runs counts.
 */
function heapPerOp(p: Prepared, calls: number): number {
  let most = 0;
  for (let n = 0; n < 5; n++) {
    const before = process.memoryUsage().heapUsed;
    spent(p, calls);
    most = Math.max(most, process.memoryUsage().heapUsed - before);
  }
  return most / (calls * p.ops);
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? 0;
}

/** Measures `c` and the reference in turns, so that both see the same machine. */
export async function measure(c: BenchCase, reference: Prepared, rounds: number): Promise<Measured> {
  const p = await c.setup();
  const calls = calibrate(p);
  const refCalls = calibrate(reference);
  const own: number[] = [];
  const ref: number[] = [];
  for (let round = 0; round < rounds; round++) {
    ref.push(spent(reference, refCalls) / (refCalls * reference.ops));
    own.push(spent(p, calls) / (calls * p.ops));
  }
  const ns = median(own);
  return {
    name: c.name,
    ns,
    ratio: ns / median(ref),
    perSecond: 1e9 / ns,
    atMost: c.atMost ?? null,
    heap: heapPerOp(p, calls),
    heapAtMost: c.heapAtMost ?? null,
  };
}
