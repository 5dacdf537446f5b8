import { LANE } from '../../../src/history/index.ts';
import { align } from './align.ts';
import type { TraceSession } from './session.ts';
import { hex } from './streams.ts';

/** What one run did, as another is aligned with it: its commands, faults and resets in order. */
export interface RunStep {
  /** Number of the moment. */
  readonly n: number;
  readonly event: number;
  /** What is aligned: name, and stream if it names one. */
  readonly key: string;
  /** What it says beyond that: words, error. */
  readonly says: string;
  /** What came of it: host operations with their results, hardware commands, interrupts. */
  readonly effects: string;
  /** A digest of what was accessed between it and the next step: streams and addresses. */
  readonly asked: number;
  /** A digest of what became of those accesses. */
  readonly answered: number;
}

/** A line of a comparison. */
export interface CompareLine {
  readonly a: RunStep | null;
  readonly b: RunStep | null;
  /**
   * `only`: the other run has nothing there. `effects`: the same command came to something else. `accesses`: the same accesses
   * that followed it did. `words`: the command says something else, and came to the same.
   */
  readonly how: 'same' | 'words' | 'effects' | 'accesses' | 'only';
}

/** Two runs side by side. */
export interface Comparison {
  readonly lines: readonly CompareLine[];
  /** Index of the first line that differs in more than words; -1: none does. */
  readonly first: number;
  readonly differing: number;
}

const ALIGNED: ReadonlySet<string> = new Set([LANE.COMMANDS, LANE.FAULTS]);
/** Values of host operations that only name objects: another run counts them otherwise. */
const EFFECT_KEYS: ReadonlySet<string> = new Set(['result', 'error', 'entries', 'done', 'type', 'flags']);

interface Draft extends Pick<RunStep, 'n' | 'event' | 'key' | 'says'> {
  readonly effects: string[];
  asked: number;
  answered: number;
}

/** Folds a text into a digest of 32 bits (FNV-1a). */
function folded(digest: number, text: string): number {
  let d = digest;
  for (let n = 0; n < text.length; n++) d = Math.imul(d ^ text.charCodeAt(n), 0x0100_0193);
  return d;
}

/** The steps of a run. */
export function stepsOf({ moments: m }: TraceSession): RunStep[] {
  const steps: Draft[] = [{ n: -1, event: 0, key: 'start', says: '', effects: [], asked: 0, answered: 0 }];
  /** By moment: which step it came of; 0: none. */
  const owner = new Int32Array(m.length);
  for (let n = 0; n < m.length; n++) {
    const lane = m.lanes.list[m.lane.at(n)]!;
    const name = m.names.list[m.name.at(n)]!;
    const last = steps.at(-1)!;
    if (lane === LANE.ACCESSES) {
      for (const [key, v] of m.args(n))
        if (key === 'iova' || key === 'device') last.asked = folded(last.asked, `${v},`);
        else if (key === 'out' || key === 'refused' || key === 'perm' || key === 'got')
          last.answered = folded(last.answered, `${v},`);
      continue;
    }
    if (ALIGNED.has(lane) || name === 'machine reset') {
      const stream = m.subject.at(n);
      const says = [...m.args(n)].map(([k, v]) => `${k} ${v}`).join(', ');
      const key = stream < 0 ? name : `${name} ${hex(stream)}`;
      owner[n] = steps.push({ n, event: m.event.at(n), key, says, effects: [], asked: 0, answered: 0 }) - 1;
      continue;
    }
    const cause = m.cause.at(n);
    const from = cause < 0 ? 0 : owner[cause]!;
    if (from === 0) continue;
    owner[n] = from;
    const kept = [...m.args(n)].filter(([k]) => EFFECT_KEYS.has(k)).map(([k, v]) => `${k} ${v}`);
    steps[from]!.effects.push(kept.length === 0 ? name : `${name}(${kept.join(', ')})`);
  }
  return steps.map((s) => ({ ...s, effects: s.effects.join(' · ') }));
}

function differenceOf(a: RunStep, b: RunStep): CompareLine['how'] {
  if (a.effects !== b.effects) return 'effects';
  if (a.asked === b.asked && a.answered !== b.answered) return 'accesses';
  return a.says === b.says ? 'same' : 'words';
}

/** Aligns the steps of two runs. */
export function compareRuns(a: readonly RunStep[], b: readonly RunStep[]): Comparison {
  const pairs = align(
    a.map((s) => s.key),
    b.map((s) => s.key),
  );
  const lines = pairs.map(([x, y]): CompareLine => {
    const [left, right] = [a[x] ?? null, b[y] ?? null];
    return { a: left, b: right, how: left === null || right === null ? 'only' : differenceOf(left, right) };
  });
  const differs = (l: CompareLine) => l.how !== 'same' && l.how !== 'words';
  return { lines, first: lines.findIndex(differs), differing: lines.filter(differs).length };
}
