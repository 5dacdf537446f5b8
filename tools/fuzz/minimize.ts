import type { FuzzInput, Step } from './target.ts';

/** How long cutting may take. */
export interface Effort {
  /** Runs at most. */
  readonly runs: number;
  /** Milliseconds at most. */
  readonly milliseconds: number;
}

/**
 * Cuts an input that fails: steps are left out, halves first, and numbers become small, as long as it fails in the same way.
 * @param fails whether an input still does.
 */
export async function minimize(
  input: FuzzInput,
  fails: (input: FuzzInput) => Promise<boolean>,
  effort: Effort,
): Promise<FuzzInput> {
  const end = performance.now() + effort.milliseconds;
  let runs = 0;
  const more = (): boolean => runs < effort.runs && performance.now() < end;
  let best = input;
  const accept = async (steps: readonly Step[]): Promise<boolean> => {
    runs++;
    const candidate = { config: best.config, steps };
    if (!(await fails(candidate))) return false;
    best = candidate;
    return true;
  };
  for (let size = best.steps.length; size >= 1 && more(); size = Math.floor(size / 2)) {
    for (let at = Math.max(0, best.steps.length - size); more(); ) {
      await accept([...best.steps.slice(0, at), ...best.steps.slice(at + size)]);
      if (at === 0) break;
      at = Math.max(0, Math.min(at, best.steps.length) - size);
    }
  }
  for (let i = 0; i < best.steps.length && more(); i++) {
    for (let j = 1; j < best.steps[i]!.length && more(); j++) await smaller(i, j);
  }
  return best;

  async function smaller(i: number, j: number): Promise<void> {
    const put = (value: number): Promise<boolean> =>
      accept(best.steps.map((s, k) => (k === i ? s.map((v, l) => (l === j ? value : v)) : s)));
    const value = best.steps[i]![j];
    if (typeof value !== 'number' || value === 0 || (await put(0))) return;
    // The smallest number of the form value / 2^n that still does.
    for (let v = Math.trunc(value / 2); v !== 0 && more(); v = Math.trunc(v / 2)) if (!(await put(v))) break;
  }
}
