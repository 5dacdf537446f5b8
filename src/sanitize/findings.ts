import type { RuleId, Severity } from './rules.ts';
import { RULE } from './rules.ts';

/** One thing a driver did wrong, with how often. */
export interface Finding {
  /** Which rule. */
  readonly rule: RuleId;
  /** The rule's severity. */
  readonly severity: Severity;
  /** Requester id or StreamID; null: no single one. */
  readonly stream: number | null;
  /** The function's name in the recording. */
  readonly device: string | null;
  /** PASID or SubstreamID; null: none, or no single one. */
  readonly pasid: number | null;
  /** First byte of the page the first one is about; null: it is about no page. */
  readonly iova: bigint | null;
  /** Numbers of the events between which something is missing: the first is the guest's store or command that mattered. */
  readonly events: readonly number[];
  /** Where the last one of the same kind ended. */
  readonly last: number;
  /** How often, at least 1. */
  readonly count: number;
  /** One sentence that says what to do. */
  readonly message: string;
  /** Program counter of the guest's store that mattered, where the recording has it. */
  readonly pc: bigint | null;
}

/** What a rule says when it found something. */
export interface Found {
  /** StreamID or requester id. */
  readonly stream?: number | undefined;
  /** PASID or SubstreamID. */
  readonly pasid?: number | undefined;
  /** Input page: IOVA / 4096. */
  readonly page?: number | undefined;
  /** Numbers of the events between which something is missing. */
  readonly events: readonly number[];
  /** One sentence that says what to do. */
  readonly message: string;
  /** Findings with the same rule, stream, PASID and kind are one. */
  readonly kind?: string | undefined;
}

interface Group {
  readonly rule: RuleId;
  readonly first: Found;
  readonly pc: bigint | null;
  last: number;
  count: number;
}

/** Collects what the rules find: the same thing again is counted, not repeated. */
export class Findings {
  readonly #groups = new Map<string, Group>();
  readonly #unjudged = new Map<string, Set<RuleId>>();
  /** Names a stream. */
  device: (stream: number) => string | null = () => null;
  /** Program counter of a store event. */
  pc: (event: number) => bigint | null = () => null;

  /** A rule found something. */
  add(rule: RuleId, found: Found): void {
    const key = `${rule}|${found.stream ?? ''}|${found.pasid ?? ''}|${found.kind ?? ''}`;
    const group = this.#groups.get(key);
    const end = found.events.at(-1) ?? 0;
    if (group === undefined) {
      const pc = found.events.length === 0 ? null : this.pc(found.events[0]!);
      this.#groups.set(key, { rule, first: found, pc, last: end, count: 1 });
    } else {
      group.count++;
      group.last = end;
    }
  }

  /** The rule could not be judged on these events. @param why a short clause. */
  cannotJudge(rule: RuleId, why: string): void {
    let rules = this.#unjudged.get(why);
    if (rules === undefined) {
      rules = new Set();
      this.#unjudged.set(why, rules);
    }
    rules.add(rule);
  }

  /** Nothing can be said by these rules: what they found so far came from what was not told. @param why a short clause. */
  withdraw(rules: readonly RuleId[], why: string): void {
    for (const rule of rules) this.cannotJudge(rule, why);
    for (const [key, group] of this.#groups) if (rules.includes(group.rule)) this.#groups.delete(key);
  }

  /** Rules that were not judged, by reason. */
  unjudged(): ReadonlyMap<string, ReadonlySet<RuleId>> {
    return this.#unjudged;
  }

  /** In the order in which each was first met. */
  list(): Finding[] {
    return [...this.#groups.values()].map(({ rule, first, pc, last, count }) => ({
      rule,
      severity: RULE[rule].severity,
      stream: first.stream ?? null,
      device: first.stream === undefined ? null : this.device(first.stream),
      pasid: first.pasid ?? null,
      iova: first.page === undefined ? null : BigInt(first.page) << 12n,
      events: first.events,
      last,
      count,
      message: first.message,
      pc,
    }));
  }
}
