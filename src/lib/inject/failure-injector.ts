import type { Clock } from '../../ports/clock.ts';
import type { AtsPort } from '../../ports/dma.ts';
import { FAILURE_STEP, type FailurePlan, type FailureStep } from '../../ports/failures.ts';
import { HW_ERROR, type HwPort } from '../../ports/hw.ts';
import type { Memory } from '../../ports/memory.ts';
import { FailingCompletions } from './failing-completions.ts';
import { FailingMemory } from './failing-memory.ts';
import {
  checkFailureOptions,
  FAILURE_KINDS,
  type FailureKind,
  type FailureOptions,
  failureKindOf,
} from './failure-options.ts';
import { FailNth, SeededFailures } from './failure-plans.ts';
import { FaultyHw } from './faulty-hw.ts';

/** How often a kind of step was asked about, and how often it failed. */
export interface FailureCount {
  /** Steps there were while failures were on. */
  readonly asked: number;
  /** Of these, how many failed. */
  readonly failed: number;
}

/** Lets the internal steps of one machine fail, by chance from a seed, or exactly the n-th. */
export class FailureInjector implements FailurePlan {
  /** Nothing fails, and nothing is counted, while it is false. */
  on: boolean;
  /** The last step that failed; null: none has. */
  last: FailureStep | null = null;
  /** Nanoseconds a late completion is late. */
  readonly delay: number;
  readonly #chances = new Map<FailureKind, SeededFailures>();
  readonly #counts = new Map<FailureKind, { asked: number; failed: number }>();
  #nth: FailNth | null = null;
  #kinds: ReadonlySet<FailureKind> = new Set(FAILURE_KINDS);

  /** @throws ViommuError `EINVAL` names what is wrong with the options. */
  constructor(options: FailureOptions) {
    const { seed, delay = 1_000_000, construction = false } = checkFailureOptions(options);
    this.delay = delay;
    this.on = construction;
    if (options.nth !== undefined) this.nth(options.nth);
    for (const [i, kind] of FAILURE_KINDS.entries()) {
      const share = options[kind] ?? 0;
      if (share > 0) this.#chances.set(kind, new SeededFailures(seed, share, null, i));
      this.#counts.set(kind, { asked: 0, failed: 0 });
    }
  }

  /**
   * From now on exactly the n-th step fails, counted from here, and nothing by chance.
   * @param n from 1; 0: none does. @param kinds which are counted; default: all.
   * @returns the plan: it knows how many steps are left, and which one failed.
   */
  nth(n: number, kinds: readonly FailureKind[] = FAILURE_KINDS): FailNth {
    const plan = new FailNth(n);
    this.#nth = plan;
    this.#kinds = new Set(kinds);
    return plan;
  }

  /** Goes back from `nth` to the shares of the options. */
  byChance(): void {
    this.#nth = null;
  }

  /** What was asked and what failed so far, by kind. */
  counts(): Readonly<Record<FailureKind, FailureCount>> {
    return Object.fromEntries([...this.#counts].map(([k, c]) => [k, { ...c }])) as Record<FailureKind, FailureCount>;
  }

  fails(step: FailureStep): boolean {
    if (!this.on) return false;
    const kind = failureKindOf(step);
    const count = this.#counts.get(kind)!;
    count.asked++;
    const fails =
      this.#nth === null
        ? (this.#chances.get(kind)?.fails(step) ?? false)
        : this.#kinds.has(kind) && this.#nth.fails(step);
    if (!fails) return false;
    count.failed++;
    this.last = step;
    return true;
  }

  /** @internal Stands between a kernel driver and its IOMMU. @param words 32-bit words of a command. */
  hw(hw: HwPort, words: number): HwPort {
    const faulty = new FaultyHw(hw, { commandWords: words });
    faulty.inject({
      match: () => this.fails(FAILURE_STEP.COMMAND),
      error: HW_ERROR.ILLEGAL,
      times: Number.POSITIVE_INFINITY,
    });
    return faulty;
  }

  /** @internal Stands between whoever fetches from memory and that memory. */
  memory(memory: Memory): Memory {
    return new FailingMemory(memory, this);
  }

  /** @internal Stands between functions and the unit that waits for their completions. */
  completions(ats: AtsPort, clock: Clock): AtsPort {
    return new FailingCompletions(ats, this, clock);
  }
}
