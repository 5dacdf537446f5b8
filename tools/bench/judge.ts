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

/** A figure as it would be on the machine of the gates. Bytes and ratios are the same everywhere. */
export function scaled(m: Measured): number {
  return m.unit === 'ns' || m.unit === 'ms' ? (m.value * REFERENCE_WALK_NS) / m.walk : m.value;
}

/** Every gate whose rows were measured, and the heap of every hot path. */
export function judge(rows: readonly Measured[], gates: readonly Gate[] = GATES): Verdict[] {
  const byTitle = new Map(rows.map((m) => [m.title, m]));
  const verdicts = gates.flatMap((g) => {
    const m = byTitle.get(g.title);
    const base = g.of === undefined ? undefined : byTitle.get(g.of);
    if (m === undefined || (g.of !== undefined && base === undefined)) return [];
    const figure = base === undefined ? scaled(m) : scaled(m) / scaled(base);
    const unit = base === undefined ? m.unit : 'x';
    const { title, atMost, because } = g;
    return [{ title, figure: words(figure, unit), atMost: words(atMost, unit), ok: figure <= atMost, because }];
  });
  const heaps = rows.filter((m) => m.hot && m.heap !== null);
  return [
    ...verdicts,
    ...heaps.map((m) => ({
      title: m.title,
      figure: words(m.heap!, 'B'),
      atMost: words(HOT_HEAP, 'B'),
      ok: m.heap! <= HOT_HEAP,
      because: 'a hot path allocates nothing',
    })),
  ];
}

/** A figure with its unit, in about three digits. */
export function words(value: number, unit: Measured['unit']): string {
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return unit === 'x' ? `${value.toFixed(2)}x` : `${value.toFixed(digits)} ${unit}`;
}
