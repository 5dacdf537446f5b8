import type { Measured } from './case.ts';
import { GATES, type Gate, HOT_HEAP, REFERENCE_WALK_NS } from './gates.ts';

/** What became of a gate. */
export interface Verdict {
  readonly title: string;
  readonly figure: string;
  readonly atMost: string;
  readonly ok: boolean;
  readonly because: string;
}

/** What became of all gates. */
export interface Judgement {
  readonly verdicts: readonly Verdict[];
  /** Gates that a row is missing for, by the title of the row they judge. */
  readonly unmeasured: readonly string[];
}

/** A figure as it would be on the machine of the gates. Bytes and ratios are the same everywhere. */
export function scaled(m: Measured): number {
  return m.unit === 'ns' || m.unit === 'ms' ? (m.value * REFERENCE_WALK_NS) / m.walk : m.value;
}

/** Every gate whose rows were measured, and the heap of every hot path. */
export function judge(rows: readonly Measured[], gates: readonly Gate[] = GATES): Judgement {
  const byTitle = new Map(rows.map((m) => [m.title, m]));
  const verdicts: Verdict[] = [];
  const unmeasured: string[] = [];
  for (const { title, of, atMost, because } of gates) {
    const m = byTitle.get(title);
    const base = of === undefined ? undefined : byTitle.get(of);
    if (m === undefined || (of !== undefined && base === undefined)) {
      unmeasured.push(title);
      continue;
    }
    const figure = base === undefined ? scaled(m) : scaled(m) / scaled(base);
    const unit = base === undefined ? m.unit : 'x';
    verdicts.push({ title, figure: words(figure, unit), atMost: words(atMost, unit), ok: figure <= atMost, because });
  }
  for (const { title, heap, hot } of rows) {
    if (!hot || heap === null) continue;
    const [figure, atMost] = [words(heap, 'B'), words(HOT_HEAP, 'B')];
    verdicts.push({ title, figure, atMost, ok: heap <= HOT_HEAP, because: 'a hot path allocates nothing' });
  }
  return { verdicts, unmeasured };
}

/** A figure with its unit, in about three digits. */
export function words(value: number, unit: Measured['unit']): string {
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return unit === 'x' ? `${value.toFixed(2)}x` : `${value.toFixed(digits)} ${unit}`;
}
