import { hex } from '../../src/core/errors.ts';
import { type Finding, RULE, RULE_IDS, type RuleId, SEVERITIES, type Severity } from '../../src/sanitize/index.ts';
import type { TraceHeader } from '../../src/trace/index.ts';
import { table } from '../cli/table.ts';

/** Which findings are wanted. */
export interface Filter {
  /** Null: all rules. */
  readonly only: ReadonlySet<RuleId> | null;
  readonly ignore: ReadonlySet<RuleId>;
  readonly atLeast: Severity;
}

/** What the sanitizer says of one recording. */
export interface Sanitized {
  readonly file: string;
  readonly header: TraceHeader;
  readonly events: number;
  readonly seconds: number;
  /** Those that were wanted. */
  readonly findings: readonly Finding[];
  /** Rules that could not be judged, by reason; only those that were wanted. */
  readonly unjudged: ReadonlyMap<string, readonly RuleId[]>;
}

export function wanted(rule: RuleId, filter: Filter): boolean {
  if (filter.ignore.has(rule) || (filter.only !== null && !filter.only.has(rule))) return false;
  return SEVERITIES.indexOf(RULE[rule].severity) <= SEVERITIES.indexOf(filter.atLeast);
}

/** One object per finding, for programs. */
export function findingJson(s: Sanitized, f: Finding, at: string | null): object {
  return {
    trace: s.file,
    rule: f.rule,
    severity: f.severity,
    iommu: s.header.iommu,
    stream: f.stream,
    device: f.device,
    pasid: f.pasid,
    iova: f.iova === null ? null : hex(f.iova),
    events: f.events,
    last: f.last,
    count: f.count,
    message: f.message,
    ...(f.pc === null ? {} : { pc: hex(f.pc), at }),
  };
}

function count(s: Sanitized, severity: Severity): number {
  return s.findings.filter((f) => f.severity === severity).length;
}

/** What there is in all, and what was not judged, for programs. */
export function summaryJson(s: Sanitized): object {
  const byRule: Record<string, number> = {};
  for (const f of s.findings) byRule[f.rule] = (byRule[f.rule] ?? 0) + 1;
  return {
    trace: s.file,
    iommu: s.header.iommu,
    findings: s.findings.length,
    errors: count(s, 'error'),
    warnings: count(s, 'warning'),
    hints: count(s, 'hint'),
    byRule,
    notJudged: Object.fromEntries(s.unjudged),
    events: s.events,
    seconds: Math.round(s.seconds * 1000) / 1000,
  };
}

function subject(f: Finding): string {
  const parts: string[] = [];
  if (f.stream !== null) parts.push(`stream ${hex(f.stream)}${f.device === null ? '' : ` (${f.device})`}`);
  if (f.pasid !== null) parts.push(`PASID ${f.pasid}`);
  if (f.iova !== null) parts.push(`IOVA ${hex(f.iova)}`);
  return parts.join(', ');
}

function plural(n: number, word: string): string {
  return `${n} ${word}${n === 1 ? '' : 's'}`;
}

/** One recording, as lines to read. @param at where the store of a finding was made, in words. */
export function lines(s: Sanitized, at: (f: Finding) => string | null): string[] {
  const { findings } = s;
  const parts = SEVERITIES.filter((v) => count(s, v) > 0).map((v) => plural(count(s, v), v));
  const out = [`${s.file}: ${findings.length === 0 ? 'no findings' : parts.join(', ')}`];
  for (const [n, f] of findings.entries()) {
    const times = f.count === 1 ? '' : `, ${f.count} times, the last at ${f.last}`;
    const where = at(f);
    out.push(
      `  ${n + 1}. ${f.severity} ${f.rule} (${section(f.rule, s.header.iommu)})${subject(f) === '' ? '' : `: ${subject(f)}`}`,
      `     ${f.events.length === 1 ? 'event' : 'events'} ${f.events.join(', ')}${times}${where === null ? '' : `, by ${where}`}`,
      `     ${f.message}`,
    );
  }
  for (const [why, rules] of s.unjudged) out.push(`  not judged (${why}): ${rules.join(', ')}`);
  return out;
}

function section(rule: RuleId, iommu: TraceHeader['iommu']): string {
  const text = iommu === 'smmuv3' ? RULE[rule].smmuv3 : RULE[rule].vtd;
  return `${iommu === 'smmuv3' ? 'IHI 0070' : 'VT-d'} ${text ?? ''}`.trim();
}

/** Every rule as an object, for programs. */
export function rulesJson(): string[] {
  return RULE_IDS.map((id) => JSON.stringify({ rule: id, ...RULE[id] }));
}

/** Every rule with its sections. */
export function ruleLines(): string[] {
  const rows = RULE_IDS.map((id) => {
    const r = RULE[id];
    return [
      id,
      r.severity,
      r.smmuv3 === null ? '-' : `IHI 0070 ${r.smmuv3}`,
      r.vtd === null ? '-' : `VT-d ${r.vtd}`,
      r.finds,
    ];
  });
  const head = ['rule', 'severity', 'SMMUv3', 'VT-d', 'finds'];
  const widths = head.map((h, n) => Math.max(h.length, ...rows.map((r) => r[n]!.length)));
  return [head, ...rows].map((r) => r.map((c, n) => (n === 4 ? c : c.padEnd(widths[n]!))).join('  '));
}

/** A row of the table of several recordings. */
export interface SanitizedRow {
  readonly file: string;
  readonly events: number;
  readonly seconds: number;
  readonly counts: Readonly<Record<Severity, number>>;
}

export const summaryTable = (all: readonly SanitizedRow[]): string[] =>
  table([
    ['recording', 'events', 'errors', 'warnings', 'hints', 'seconds'],
    ...all.map((s) => [
      s.file.replace(/\.ndjson\.gz$/, ''),
      `${s.events}`,
      ...SEVERITIES.map((v) => `${s.counts[v]}`),
      s.seconds.toFixed(2),
    ]),
  ]);
